//! Connections that publish and consume during the faults.

use crate::fragile::unlimited;
use crate::ledger::{Account, Ledger};
use crate::work::{Acknowledging, Control, consume, publish};
use crate::{Failure, Fragile, Outcome, until, within};
use puka::{Client, ConnectionState, Notice, Options, Recovery};
use puka_test_rabbitmq::unique;
use smol::Task;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The timeout of a recovery, including a slow start of the broker.
const RECOVERY: Duration = Duration::from_secs(60);

/// The timeout until every published message is acknowledged.
const SETTLING: Duration = Duration::from_secs(60);

/// Three connections: two publish, of which the second republishes unconfirmed messages and also
/// consumes, and the third only consumes.
#[derive(Debug)]
pub struct Load {
    /// The outcome of every message.
    pub ledger: Arc<Ledger>,
    /// The entities that do not outlive the first connection.
    pub fragile: Fragile,
    links: Vec<Link>,
    control: Arc<Control>,
    publishers: Vec<Task<()>>,
    consumers: Vec<Task<()>>,
    queue: String,
}

#[derive(Debug)]
struct Link {
    client: Client,
    _listening: Task<()>,
}

impl Link {
    async fn connect(options: Options, ledger: &Arc<Ledger>) -> Result<Self, Failure> {
        let client = puka_smol::connect_with(options).await?;
        let (mut notices, ledger) = (client.notices(), ledger.clone());
        let listening = smol::spawn(async move {
            while let Some(notice) = notices.next().await {
                if let Notice::Recovered(report) = notice {
                    for (what, error) in &report.failed {
                        ledger.note(&format!("not recovered: {what}: {error}"));
                    }
                }
            }
        });
        Ok(Self {
            client,
            _listening: listening,
        })
    }
}

/// Returns options with which a fault is noticed soon.
pub(crate) fn hasty(options: Options, republishes: Option<u32>) -> Options {
    let recovery = Recovery::default()
        .backoff(Duration::from_millis(50), Duration::from_millis(500))
        .republish_unconfirmed(republishes);
    options
        .heartbeat(2)
        .dial_timeout(Duration::from_secs(3))
        .handshake_timeout(Duration::from_secs(3))
        .request_timeout(Duration::from_secs(60))
        .recovery(recovery)
}

impl Load {
    /// Declares a durable queue of this type, and starts to publish to it and to consume from it.
    pub async fn start(options: Options, queue_type: puka::QueueType) -> Result<Self, Failure> {
        let ledger = Arc::new(Ledger::default());
        let once = Link::connect(hasty(options.clone(), None), &ledger).await?;
        let again = Link::connect(hasty(options.clone(), Some(100)), &ledger).await?;
        let taker = Link::connect(hasty(options, None), &ledger).await?;
        let (queue, exchange) = (unique("load"), unique("load"));
        // Each connection declares the entities that it uses. If they were deleted, the first
        // connection that recovers must not wait for the others.
        for client in [&once.client, &again.client, &taker.client] {
            client
                .queue_declare(&queue)
                .durable(true)
                .queue_type(queue_type)
                .await?;
            client.exchange_declare(&exchange).durable(true).await?;
            client
                .queue_bind(&queue, &exchange)
                .routing_key("to")
                .await?;
        }
        let fragile = Fragile::set_up(&once.client).await?;
        let control = Arc::new(Control::default());
        let mut load = Self {
            ledger,
            fragile,
            links: vec![once, again, taker],
            control,
            publishers: Vec::new(),
            consumers: Vec::new(),
            queue,
        };
        let routes = [
            (String::new(), load.queue.clone()),
            (exchange, "to".to_owned()),
        ];
        for (link, may_repeat) in load.links.iter().zip([false, true]) {
            for route in &routes {
                let (client, ledger) = (link.client.clone(), load.ledger.clone());
                let publishing = publish(
                    client,
                    ledger,
                    load.control.clone(),
                    route.clone(),
                    may_repeat,
                );
                load.publishers.push(smol::spawn(publishing));
            }
        }
        let takers = [
            (2, Acknowledging::Late),
            (2, Acknowledging::Together),
            (1, Acknowledging::Late),
        ];
        for (link, how) in takers {
            let Some(link) = load.links.get(link) else {
                continue;
            };
            let consumer = link
                .client
                .basic_consume(&load.queue)
                .prefetch_count(50)
                .await?;
            load.consumers
                .push(smol::spawn(consume(consumer, load.ledger.clone(), how)));
        }
        Ok(load)
    }

    /// Returns the connections: one publishes without republishing, one republishes, one only
    /// consumes.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.links.iter().map(|link| &link.client)
    }

    /// Returns the number of recoveries of each connection.
    #[must_use]
    pub fn recoveries(&self) -> Vec<u64> {
        self.clients()
            .map(|client| client.counters().opened.saturating_sub(1))
            .collect()
    }

    /// Waits until this many more messages have been acknowledged.
    pub async fn flows(&self, messages: usize) -> Outcome {
        let wanted = self.ledger.acknowledged() + messages;
        until(SETTLING, "a flow of messages", || {
            self.ledger.acknowledged() >= wanted
        })
        .await
        .map_err(|error| self.explain(&error))
    }

    /// Waits until every connection has recovered more often than before, and is open.
    pub async fn recovers_from(&self, before: &[u64]) -> Outcome {
        until(RECOVERY, "a recovery", || {
            let more = self
                .recoveries()
                .into_iter()
                .zip(before)
                .all(|(now, before)| now > *before);
            more && self.is_open()
        })
        .await
        .map_err(|error| self.explain(&error))
    }

    /// Waits until every connection is open.
    pub async fn opens(&self) -> Outcome {
        until(RECOVERY, "a recovery", || self.is_open())
            .await
            .map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &Failure) -> Failure {
        let states: Vec<ConnectionState> = self.clients().map(Client::state).collect();
        let account = self.ledger.account();
        format!(
            "{error}: {states:?}, {:?} recoveries, {account}, {:?}",
            self.recoveries(),
            account.errors
        )
        .into()
    }

    fn is_open(&self) -> bool {
        self.clients()
            .all(|client| matches!(client.state(), ConnectionState::Open))
    }

    /// Stops publishing, waits until every message is delivered and acknowledged, and checks that
    /// the fragile entities are restored.
    pub async fn comes_to_rest(&mut self) -> Result<Account, Failure> {
        self.control.is_paused.store(true, Ordering::Release);
        let resting = || self.control.resting.load(Ordering::Acquire) == self.publishers.len();
        let rested = until(SETTLING, "the last publish", resting).await;
        let ledger = self.ledger.clone();
        let settled = until(SETTLING, "the last ack", || ledger.is_settled()).await;
        let account = self.ledger.account();
        if rested.is_err() || settled.is_err() || !account.is_clean() {
            return Err(format!("{rested:?} {settled:?}: {account}\n{account:?}").into());
        }
        self.fragile
            .check()
            .await
            .map_err(|error| format!("{error}\n{account:?}"))?;
        self.is_empty().await?;
        Ok(account)
    }

    /// Waits until the queue is empty.
    async fn is_empty(&self) -> Outcome {
        let Some(client) = self.clients().next() else {
            return Ok(());
        };
        let empty = async {
            let find = || client.queue_declare(&self.queue).passive(true);
            while unlimited(find).await?.message_count > 0 {
                smol::Timer::after(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        within(SETTLING, "emptying the queue", empty).await?
    }

    /// Continues to publish after a rest.
    pub fn goes_on(&self) {
        self.control.is_paused.store(false, Ordering::Release);
    }

    /// Stops publishing, closes everything, and returns the account of the messages.
    pub async fn ends(mut self) -> Result<Account, Failure> {
        let account = self.comes_to_rest().await?;
        self.control.is_over.store(true, Ordering::Release);
        for publisher in self.publishers.drain(..) {
            publisher.await;
        }
        for link in &self.links {
            within(SETTLING, "a close", link.client.close()).await??;
        }
        for consumer in self.consumers.drain(..) {
            within(SETTLING, "the end of a consumer", consumer).await?;
        }
        let account_now = self.ledger.account();
        if account_now.is_clean() {
            Ok(account)
        } else {
            Err(format!("after the close: {account_now:?}").into())
        }
    }
}
