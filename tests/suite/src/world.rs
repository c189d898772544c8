//! The environment of a case: a broker, unique names, and a deadline.

use crate::{Runtime, bare};
use futures_lite::FutureExt;
use futures_lite::io::{AsyncRead, AsyncWrite};
use puka::{Client, Clock, Driver, Error, Options};
use puka_test_broker::{Config, Pattern, Server, User};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// The time limit of a case, which is far more than any needs.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The result of a case.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A broker.
#[derive(Clone)]
pub enum Target {
    /// A broker in memory, in this process.
    InMemory(Server),
    /// A RabbitMQ node, by its URI.
    RabbitMq(String),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URI contains a password.
        f.write_str(if let Self::InMemory(_) = self {
            "InMemory"
        } else {
            "RabbitMq"
        })
    }
}

impl Target {
    /// Creates a broker in memory. Besides `guest` it has the user `limited` with the password
    /// `limited`, who may only access names with the prefix `open`.
    pub fn in_memory() -> Result<Self, Box<dyn std::error::Error>> {
        let mut limited = User::new("limited", "limited");
        let open = Pattern::Prefix("open".into());
        (limited.configure, limited.write, limited.read) = (open.clone(), open.clone(), open);
        let users = vec![User::new("guest", "guest"), limited];
        Ok(Self::InMemory(Server::new(Config {
            users,
            ..Config::default()
        })))
    }

    /// Returns the RabbitMQ node that all tests share.
    pub fn rabbitmq() -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self::RabbitMq(puka_test_rabbitmq::shared_url()?))
    }
}

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The environment of a case: a broker and unique names.
#[derive(Debug)]
pub struct World<R> {
    target: Target,
    names: RefCell<Vec<String>>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> World<R> {
    /// Returns the broker.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl<R: Runtime> World<R> {
    /// Returns the broker in memory, if it is one.
    #[must_use]
    pub fn in_memory(&self) -> Option<&Server> {
        match &self.target {
            Target::InMemory(server) => Some(server),
            Target::RabbitMq(_) => None,
        }
    }

    /// Returns options for the broker.
    pub fn options(&self) -> Result<Options, Error> {
        match &self.target {
            Target::InMemory(_) => Ok(Options::default()),
            Target::RabbitMq(url) => Options::from_uri(url),
        }
    }

    /// Returns a connected client.
    pub async fn client(&self) -> Result<Client, Error> {
        self.client_with(|options| options).await
    }

    /// Returns a connected client with other options.
    pub async fn client_with(&self, set: impl FnOnce(Options) -> Options) -> Result<Client, Error> {
        let options = set(self.options()?);
        let Target::InMemory(server) = &self.target else {
            return R::connect(options).await;
        };
        let (client, driver) = puka::open(server.connect(), R::clock(), options);
        R::spawn(async { drop(driver.await) });
        client.connect().await?;
        Ok(client)
    }

    /// Returns a client, and the driver for the case to poll, or not.
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

    /// Returns a unique name. The queue or exchange with that name is deleted at the end of the
    /// case.
    pub fn name(&self, stem: &str) -> String {
        let name = puka_test_rabbitmq::unique(stem);
        self.names.borrow_mut().push(name.clone());
        name
    }

    /// Declares an exclusive queue with a unique name.
    pub async fn queue(&self, client: &Client) -> Result<String, Error> {
        Ok(client
            .queue_declare(self.name("queue"))
            .exclusive(true)
            .await?
            .name)
    }

    /// Declares a queue with a unique name, which all connections can use.
    pub async fn shared_queue(&self, client: &Client) -> Result<String, Error> {
        Ok(client.queue_declare(self.name("queue")).await?.name)
    }

    /// Declares a queue and publishes this many messages to it: `0`, `1`, `2` and so on.
    pub async fn filled_queue(&self, client: &Client, messages: usize) -> Result<String, Error> {
        let queue = self.shared_queue(client).await?;
        let publishes: Vec<_> = (0..messages)
            .map(|n| client.basic_publish("", &queue, n.to_string()).send())
            .collect();
        for publish in publishes {
            publish.await?;
        }
        Ok(queue)
    }

    /// Returns the number of ready messages.
    pub async fn ready(&self, client: &Client, queue: &str) -> Result<u32, Error> {
        Ok(client
            .queue_declare(queue)
            .passive(true)
            .await?
            .message_count)
    }

    /// Polls until this many messages of the queue are ready, because work of other channels or
    /// connections takes some time.
    pub async fn until_ready(
        &self,
        client: &Client,
        queue: &str,
        messages: u32,
    ) -> Result<(), Error> {
        while self.ready(client, queue).await? != messages {}
        Ok(())
    }

    /// Limits the time for a step of a case.
    pub async fn within<T>(&self, limit: Duration, step: impl Future<Output = T>) -> Option<T> {
        within::<R, T>(limit, step).await
    }

    /// Deletes the entities that the case has left.
    async fn clean_up(&self) -> Result<(), Error> {
        if self.in_memory().is_some() {
            return Ok(());
        }
        let client = self.client().await?;
        let names = self.names.take();
        let queues: Vec<_> = names
            .iter()
            .map(|name| client.queue_delete(name).send())
            .collect();
        for deleted in queues {
            // It may be exclusive to another connection, which deletes it.
            drop(deleted.await);
        }
        // One by one: RabbitMQ 3.10 crashes a channel if two exchanges are deleted at once and one
        // is bound to the other.
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
    let world = World {
        target: target?,
        names: RefCell::default(),
        runtime: PhantomData,
    };
    R::block_on(async {
        let outcome = within::<R, _>(DEADLINE, case(&world)).await;
        let cleaned = within::<R, _>(DEADLINE, world.clean_up()).await;
        outcome.ok_or_else(|| format!("{name} took longer than {DEADLINE:?}"))??;
        cleaned
            .ok_or_else(|| format!("cleaning up behind {name} took longer than {DEADLINE:?}"))??;
        Ok(())
    })
}
