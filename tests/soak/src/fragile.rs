//! Entities that do not outlive their connection, so each recovery must restore them.

use crate::{Failure, Outcome, within};
use puka::{Client, Consumer, Error};
use puka_test_rabbitmq::{major_and_minor, unique};
use smol::Timer;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Returns the type of exchange to put before the queues, and the routing key to bind them with.
///
/// It is a topic exchange if the broker does not lose its bindings. RabbitMQ 4.0.5 stores the
/// routes of topic exchanges in separate tables, and changes them after the transaction that
/// changes the binding. When an auto-delete exchange or queue is declared again while that of the
/// last connection is being deleted, the late change deletes the new route. The broker still lists
/// the binding, and binding again changes nothing. With six clients, one of 100 to 500 recoveries
/// ended this way, and none of 900 with a direct or headers exchange, on 3.10.8, on 4.3.6, or on
/// 4.0.5 with Khepri, which is the only store since 4.3.
fn exchange_type(client: &Client) -> Result<(&'static str, &'static str), Failure> {
    let properties = client.server_properties();
    let version = properties.version();
    let version = major_and_minor(&version).ok_or_else(|| format!("the version is {version:?}"))?;
    let keeps_topics = version <= (3, 10) || version >= (4, 3);
    Ok(if keeps_topics {
        ("topic", "ping.#")
    } else {
        ("direct", "ping.pong")
    })
}

/// Sends a request again while the broker allows no channel for it.
pub(crate) async fn unlimited<T, R>(request: impl Fn() -> R) -> Result<T, Error>
where
    R: IntoFuture<Output = Result<T, Error>>,
{
    loop {
        match request().await {
            Err(Error::ChannelLimit) => Timer::after(Duration::from_millis(100)).await,
            outcome => return outcome,
        };
    }
}

/// An auto-delete exchange that is bound to another exchange, and two queues behind them: an
/// exclusive one that the broker has named, and an auto-delete one. Each queue has a consumer.
#[derive(Debug)]
pub struct Fragile {
    client: Client,
    source: String,
    /// The first name of the server-named queue.
    first_name: String,
    consumers: Vec<Consumer>,
    pings: usize,
    /// The broker refuses channels at the moment.
    pub is_limited: bool,
}

impl Fragile {
    /// Declares the entities.
    pub async fn set_up(client: &Client) -> Result<Self, Failure> {
        let (source, target) = (unique("source"), unique("target"));
        client
            .exchange_declare(&source)
            .exchange_type("fanout")
            .await?;
        let (exchange_type, routing_key) = exchange_type(client)?;
        client
            .exchange_declare(&target)
            .exchange_type(exchange_type)
            .auto_delete(true)
            .await?;
        client.exchange_bind(&target, &source).await?;
        let first_name = client.queue_declare("").exclusive(true).await?.name;
        let fleeting = unique("fleeting");
        client.queue_declare(&fleeting).auto_delete(true).await?;
        let mut consumers = Vec::new();
        for queue in [&first_name, &fleeting] {
            client
                .queue_bind(queue, &target)
                .routing_key(routing_key)
                .await?;
            consumers.push(client.basic_consume(queue).prefetch_count(10).await?);
        }
        Ok(Self {
            client: client.clone(),
            source,
            first_name,
            consumers,
            pings: 0,
            is_limited: false,
        })
    }

    /// The first name of the server-named queue.
    #[must_use]
    pub fn first_name(&self) -> &str {
        &self.first_name
    }

    /// Checks that a message reaches both queues, and that the first name of the server-named queue
    /// is mapped to the queue.
    pub async fn check(&mut self) -> Outcome {
        within(LIMIT, "a ping", self.ping()).await??;
        let find = || self.client.queue_declare(&self.first_name).passive(true);
        let name = within(LIMIT, "a channel", unlimited(find)).await??.name;
        let current = self.client.current_name(&self.first_name);
        if name == current {
            Ok(())
        } else {
            Err(format!("{name} is not {current}").into())
        }
    }

    async fn ping(&mut self) -> Outcome {
        self.pings += 1;
        let body = format!("ping {}", self.pings);
        loop {
            let ping = self
                .client
                .basic_publish(&self.source, "ping.pong", &body)
                .mandatory(true);
            match ping.await {
                Ok(()) => break,
                Err(Error::Unconfirmed(_)) => {}
                // The limit is probed again later, and until then not everything is restored.
                Err(Error::ChannelLimit | Error::NoRoute(_)) if self.is_limited => {
                    Timer::after(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(format!("{body}: {error}").into()),
            }
        }
        for consumer in &mut self.consumers {
            loop {
                let delivery = consumer
                    .next()
                    .await
                    .ok_or("a fragile consumer has ended")??;
                let is_it = delivery.body() == body.as_bytes();
                // A stale delivery is delivered again.
                let acknowledged = delivery.ack();
                if is_it && acknowledged.is_ok() {
                    break;
                }
            }
        }
        Ok(())
    }
}
