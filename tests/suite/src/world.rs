//! What a case is given: a broker, names of its own, and a deadline.

use crate::{Runtime, bare};
use futures_lite::FutureExt;
use futures_lite::io::{AsyncRead, AsyncWrite};
use puka::{Client, Clock, Driver, Error, Options};
use puka_test_broker::{Config, Pattern, Server, User};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How long a case may take, which is far more than any needs.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// What a case gives.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A broker.
#[derive(Clone)]
pub enum Target {
    /// One of our own, in this process.
    InMemory(Server),
    /// A RabbitMQ node, by its URL.
    RabbitMq(String),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL has a password.
        f.write_str(if let Self::InMemory(_) = self { "InMemory" } else { "RabbitMq" })
    }
}

impl Target {
    /// A fresh broker in memory. Besides `guest` it has the user `limited` with the password `limited`, who may only touch
    /// what begins with `open`.
    pub fn in_memory() -> Result<Self, Box<dyn std::error::Error>> {
        let mut limited = User::new("limited", "limited");
        let open = Pattern::Prefix("open".into());
        (limited.configure, limited.write, limited.read) = (open.clone(), open.clone(), open);
        let users = vec![User::new("guest", "guest"), limited];
        Ok(Self::InMemory(Server::new(Config { users, ..Config::default() })))
    }

    /// The RabbitMQ node that all tests share.
    pub fn rabbitmq() -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self::RabbitMq(puka_test_rabbitmq::shared_url()?))
    }
}

/// Any stream of octets.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What a case has: a broker and names of its own.
#[derive(Debug)]
pub struct World<R> {
    target: Target,
    names: RefCell<Vec<String>>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> World<R> {
    /// The broker.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl<R: Runtime> World<R> {
    /// The broker in memory, if it is that.
    #[must_use]
    pub fn in_memory(&self) -> Option<&Server> {
        match &self.target {
            Target::InMemory(server) => Some(server),
            Target::RabbitMq(_) => None,
        }
    }

    /// Options for the broker.
    pub fn options(&self) -> Result<Options, Error> {
        match &self.target {
            Target::InMemory(_) => Ok(Options::default()),
            Target::RabbitMq(url) => Options::from_uri(url),
        }
    }

    /// A client that is connected.
    pub async fn client(&self) -> Result<Client, Error> {
        self.client_with(|options| options).await
    }

    /// A client that is connected, with other options.
    pub async fn client_with(&self, set: impl FnOnce(Options) -> Options) -> Result<Client, Error> {
        let options = set(self.options()?);
        let Target::InMemory(server) = &self.target else { return R::connect(options).await };
        let (client, driver) = puka::open(server.connect(), R::clock(), options);
        R::spawn(async { drop(driver.await) });
        client.connect().await?;
        Ok(client)
    }

    /// A client, and the driver for the case to poll, or not.
    pub async fn open(
        &self,
        set: impl FnOnce(Options) -> Options,
    ) -> Result<(Client, Driver<Box<dyn Io>, R::Clock>), Error> {
        let options = set(self.options()?);
        let io: Box<dyn Io> = match &self.target {
            Target::InMemory(server) => Box::new(server.connect()),
            Target::RabbitMq(_) => Box::new(bare::dial(&options).await?),
        };
        Ok(puka::open(io, R::clock(), options))
    }

    /// A name that nobody else uses. The queue or exchange of that name is deleted when the case is over.
    pub fn name(&self, stem: &str) -> String {
        let name = puka_test_rabbitmq::unique(stem);
        self.names.borrow_mut().push(name.clone());
        name
    }

    /// A queue with a name of its own, for this connection only.
    pub async fn queue(&self, client: &Client) -> Result<String, Error> {
        Ok(client.queue_declare(self.name("queue")).exclusive(true).await?.name)
    }

    /// A queue with a name of its own, which all connections can use.
    pub async fn shared_queue(&self, client: &Client) -> Result<String, Error> {
        Ok(client.queue_declare(self.name("queue")).await?.name)
    }

    /// A queue with so many messages: `0`, `1`, `2` and so on.
    pub async fn filled_queue(&self, client: &Client, messages: usize) -> Result<String, Error> {
        let queue = self.shared_queue(client).await?;
        let publishes: Vec<_> =
            (0..messages).map(|n| client.basic_publish("", &queue, n.to_string()).send()).collect();
        for publish in publishes {
            publish.await?;
        }
        Ok(queue)
    }

    /// Messages in the queue that are ready.
    pub async fn ready(&self, client: &Client, queue: &str) -> Result<u32, Error> {
        Ok(client.queue_declare(queue).passive(true).await?.message_count)
    }

    /// Asks until so many messages of the queue are ready, for what other channels or connections do takes its time.
    pub async fn until_ready(&self, client: &Client, queue: &str, messages: u32) -> Result<(), Error> {
        while self.ready(client, queue).await? != messages {}
        Ok(())
    }

    /// Limits the time for a step of a case.
    pub async fn within<T>(&self, limit: Duration, step: impl Future<Output = T>) -> Option<T> {
        within::<R, T>(limit, step).await
    }

    /// Deletes what the case has left behind.
    async fn clean_up(&self) -> Result<(), Error> {
        if self.in_memory().is_some() {
            return Ok(());
        }
        let client = self.client().await?;
        let names = self.names.take();
        let queues: Vec<_> = names.iter().map(|name| client.queue_delete(name).send()).collect();
        for deleted in queues {
            // Another connection may have it for itself; then it goes with that.
            drop(deleted.await);
        }
        // One by one: RabbitMQ 3.10 crashes a channel when two exchanges are deleted at once and one is bound to the other.
        for name in &names {
            client.exchange_delete(name).await?;
        }
        client.close().await
    }
}

async fn within<R: Runtime, T>(limit: Duration, step: impl Future<Output = T>) -> Option<T> {
    let step = async { Some(step.await) };
    let timeout = async {
        R::clock().sleep_until(Instant::now() + limit).await;
        None
    };
    step.or(timeout).await
}

/// Runs a case. [`tests`](crate::tests) calls it.
pub fn run<R: Runtime>(
    name: &str,
    target: Result<Target, Box<dyn std::error::Error>>,
    case: impl AsyncFnOnce(&World<R>) -> Outcome,
) -> Outcome {
    let world = World { target: target?, names: RefCell::default(), runtime: PhantomData };
    R::block_on(async {
        let outcome = within::<R, _>(DEADLINE, case(&world)).await;
        let cleaned = within::<R, _>(DEADLINE, world.clean_up()).await;
        outcome.ok_or_else(|| format!("{name} takes longer than {DEADLINE:?}"))??;
        cleaned.ok_or_else(|| format!("cleaning up behind {name} takes longer than {DEADLINE:?}"))??;
        Ok(())
    })
}
