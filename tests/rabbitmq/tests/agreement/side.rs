//! One of the two brokers, with its two clients and their unsettled messages.

use crate::Failure;
use crate::answers::{self, outcome};
use crate::script::{Argument, EXCHANGES, How, NAMED_BY_THE_BROKER, QUEUES, Request, Target};
use futures_lite::FutureExt;
use puka::{Client, Consumer, Delivery, Error, HeadersMatch, Options, Overflow};
use puka_test_broker::{Config, Server};
use puka_test_rabbitmq::major_and_minor;
use std::collections::BTreeMap;
use std::time::Duration;

/// The timeout for a delivery that may not arrive.
const BRIEFLY: Duration = Duration::from_millis(15);
/// The timeout for a delivery that has arrived on the other side.
const PATIENTLY: Duration = Duration::from_secs(10);

const NOTHING: &str = "no delivery";

struct Consumed {
    queue: usize,
    exclusive: bool,
    consumer: Consumer,
}

pub(crate) struct Side {
    clients: [Client; 2],
    prefix: String,
    /// The names that the broker has generated, the newest one last.
    made_up: Vec<String>,
    held: Vec<Delivery>,
    consumers: Vec<Consumed>,
    /// The existing queues, each with the client that may access it.
    there: BTreeMap<usize, usize>,
}

impl Side {
    pub(crate) async fn in_memory(prefix: &str) -> Result<Self, Failure> {
        let server = Server::new(Config::default());
        let client = || async {
            let options = Options::default().allow_foreign_user_id(true);
            let (client, driver) = puka::open(server.connect(), puka_smol::Clock, options);
            smol::spawn(driver).detach();
            client.connect().await?;
            Ok::<_, Error>(client)
        };
        Ok(Self::new(prefix, [client().await?, client().await?]))
    }

    pub(crate) async fn rabbitmq(prefix: &str, url: &str) -> Result<Self, Failure> {
        let options = Options::from_uri(url)?.allow_foreign_user_id(true);
        let clients = [
            puka_smol::connect_with(options.clone()).await?,
            puka_smol::connect_with(options).await?,
        ];
        Ok(Self::new(prefix, clients))
    }

    /// Returns the major and minor version of the broker at this URL.
    pub(crate) async fn version(url: &str) -> Result<(u32, u32), Failure> {
        let client = puka_smol::connect(url).await?;
        let properties = client.server_properties();
        client.close().await?;
        let version = properties.version();
        major_and_minor(&version).ok_or_else(|| format!("the version is {version:?}").into())
    }

    fn new(prefix: &str, clients: [Client; 2]) -> Self {
        Self {
            clients,
            prefix: prefix.to_owned(),
            made_up: vec![format!("{prefix}-not-yet")],
            held: Vec::new(),
            consumers: Vec::new(),
            there: BTreeMap::new(),
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn consumers(&self) -> usize {
        self.consumers.len()
    }

    pub(crate) fn is_consumed(&self, queue: usize) -> bool {
        self.consumers
            .iter()
            .any(|consumed| consumed.queue == queue)
    }

    pub(crate) fn is_exclusively_consumed(&self, queue: usize) -> bool {
        self.consumers
            .iter()
            .any(|consumed| consumed.queue == queue && consumed.exclusive)
    }

    fn queue(&self, number: usize) -> String {
        match self.made_up.last() {
            Some(made_up) if number == NAMED_BY_THE_BROKER => made_up.clone(),
            _ => format!("{}-q{number}", self.prefix),
        }
    }

    fn exchange(&self, number: usize) -> String {
        format!("{}-x{number}", self.prefix)
    }

    /// Sends a request. Returns the reply.
    pub(crate) async fn ask(&mut self, request: &Request) -> String {
        let answer = match request {
            Request::QueueDeclare { .. } => self.queue_declare(request).await,
            Request::QueueDelete {
                client,
                queue,
                if_unused,
                if_empty,
            } => {
                let delete = self.clients[*client].queue_delete(self.queue(*queue));
                outcome(delete.if_unused(*if_unused).if_empty(*if_empty).await)
            }
            Request::QueuePurge { client, queue } => {
                outcome(self.clients[*client].queue_purge(self.queue(*queue)).await)
            }
            Request::QueueBind { .. } => self.queue_bind(request).await,
            Request::ExchangeDeclare { .. } => self.exchange_declare(request).await,
            Request::Reserved {
                exchange,
                delete: false,
            } => outcome(
                self.clients[0]
                    .exchange_declare(*exchange)
                    .durable(true)
                    .await,
            ),
            Request::Reserved {
                exchange,
                delete: true,
            } => outcome(self.clients[0].exchange_delete(*exchange).await),
            Request::ExchangeDelete {
                exchange,
                if_unused,
            } => {
                let delete = self.clients[0].exchange_delete(self.exchange(*exchange));
                outcome(delete.if_unused(*if_unused).await)
            }
            Request::ExchangeBind {
                destination,
                source,
                key,
                unbind,
            } => {
                let (destination, source) = (self.exchange(*destination), self.exchange(*source));
                if *unbind {
                    let unbind = self.clients[0].exchange_unbind(destination, source);
                    outcome(unbind.routing_key(*key).await)
                } else {
                    outcome(
                        self.clients[0]
                            .exchange_bind(destination, source)
                            .routing_key(*key)
                            .await,
                    )
                }
            }
            Request::Publish { .. } => outcome(self.publish(request).await),
            Request::Get {
                client,
                queue,
                no_ack,
            } => {
                let got = self.clients[*client]
                    .basic_get(self.queue(*queue))
                    .no_ack(*no_ack)
                    .await;
                match got {
                    Ok(Some(delivery)) => {
                        let answer = answers::delivery(&delivery);
                        self.held.extend(Some(delivery).filter(|_| !no_ack));
                        answer
                    }
                    other => outcome(other),
                }
            }
            Request::Settle { held, how } => outcome(settle(self.held.remove(*held), *how)),
            Request::Consume { .. } => self.consume(request).await,
            Request::Take { consumer } => self.take(*consumer, BRIEFLY).await,
            Request::Cancel {
                consumer,
                drop: false,
            } => {
                let mut consumed = self.consumers.remove(*consumer);
                let cancelled = consumed.consumer.cancel().await;
                let mut rest = Vec::new();
                while let Some(item) = consumed.consumer.next().await {
                    rest.push(item.map_or_else(
                        |error| answers::error(&error),
                        |one| answers::delivery(&one),
                    ));
                }
                let end = consumed.consumer.ended().map(std::mem::discriminant);
                format!("{} {rest:?} {end:?}", outcome(cancelled.map(drop)))
            }
            Request::Cancel {
                consumer,
                drop: true,
            } => {
                drop(self.consumers.remove(*consumer));
                "dropped".to_owned()
            }
        };
        self.without_names(answer)
    }

    fn without_names(&self, answer: String) -> String {
        self.made_up
            .iter()
            .fold(answer, |answer, name| answer.replace(name, "made up"))
    }

    async fn queue_declare(&mut self, request: &Request) -> String {
        let Request::QueueDeclare {
            client,
            queue,
            passive,
            durable,
            exclusive,
            auto_delete,
            argument,
        } = request
        else {
            return String::new();
        };
        let is_made_up = *queue == NAMED_BY_THE_BROKER;
        let name = if is_made_up && !passive {
            String::new()
        } else {
            self.queue(*queue)
        };
        let declare = self.clients[*client]
            .queue_declare(name)
            .passive(*passive)
            .durable(*durable);
        let declare = declare.exclusive(*exclusive).auto_delete(*auto_delete);
        let declare = match argument {
            None => declare,
            Some(Argument::MaxLength(messages)) => declare.max_length(*messages),
            Some(Argument::RejectPublish(messages)) => declare
                .max_length(*messages)
                .overflow(Overflow::RejectPublish),
            Some(Argument::MaxLengthBytes(bytes)) => declare.max_length_bytes(*bytes),
            Some(Argument::DeadLetter { queue, max_length }) => {
                let declare = declare.dead_letter("", self.queue(*queue).as_str());
                match max_length {
                    Some(messages) => declare.max_length(*messages),
                    None => declare,
                }
            }
            Some(Argument::MaxPriority(priority)) => declare.max_priority(*priority),
            Some(Argument::MessageTtl) => declare.message_ttl(Duration::from_secs(3600)),
            Some(Argument::Wrong) => declare.argument("x-max-length", "two"),
            Some(Argument::WrongType) => declare.argument("x-queue-type", "round"),
            Some(Argument::Unknown) => declare.argument("x-unknown", 1),
        };
        match declare.await {
            Ok(declared) => {
                if is_made_up {
                    self.made_up.push(declared.name);
                }
                self.there.entry(*queue).or_insert(*client);
                format!(
                    "{} messages, {} consumers",
                    declared.message_count, declared.consumer_count
                )
            }
            Err(error) => answers::error(&error),
        }
    }

    async fn queue_bind(&self, request: &Request) -> String {
        let Request::QueueBind {
            client,
            queue,
            exchange,
            key,
            header,
            unbind,
        } = request
        else {
            return String::new();
        };
        let (client, queue, exchange) = (
            &self.clients[*client],
            self.queue(*queue),
            self.exchange(*exchange),
        );
        if *unbind {
            let unbind = client.queue_unbind(queue, exchange).routing_key(*key);
            return outcome(match header {
                Some(colour) => {
                    unbind
                        .headers_match(HeadersMatch::Any)
                        .argument("colour", *colour)
                        .await
                }
                None => unbind.await,
            });
        }
        let bind = client.queue_bind(queue, exchange).routing_key(*key);
        outcome(match header {
            Some(colour) => {
                bind.headers_match(HeadersMatch::Any)
                    .argument("colour", *colour)
                    .await
            }
            None => bind.await,
        })
    }

    async fn exchange_declare(&self, request: &Request) -> String {
        let Request::ExchangeDeclare {
            exchange,
            kind,
            passive,
            durable,
            auto_delete,
            internal,
            alternate,
        } = request
        else {
            return String::new();
        };
        let declare = self.clients[0]
            .exchange_declare(self.exchange(*exchange))
            .exchange_type(*kind);
        let declare = declare
            .passive(*passive)
            .durable(*durable)
            .auto_delete(*auto_delete);
        let declare = declare.internal(*internal);
        outcome(match alternate {
            Some(alternate) => declare.alternate_exchange(&self.exchange(*alternate)).await,
            None => declare.await,
        })
    }

    async fn publish(&self, request: &Request) -> Result<(), Error> {
        let Request::Publish {
            to,
            mandatory,
            persistent,
            priority,
            header,
            copy,
            foreign_user,
            body,
        } = request
        else {
            return Ok(());
        };
        let (exchange, key) = match to {
            Target::Queue(queue) => (String::new(), self.queue(*queue)),
            Target::Exchange(exchange, key) => (self.exchange(*exchange), (*key).to_owned()),
        };
        let copy = copy.map(|queue| self.queue(queue));
        let publish = self.clients[0].basic_publish(exchange, key, format!("message {body}"));
        let mut publish = publish.mandatory(*mandatory).persistent(*persistent);
        if let Some(priority) = priority {
            publish = publish.priority(*priority);
        }
        if let Some(colour) = header {
            publish = publish.header("colour", *colour);
        }
        if let Some(copy) = &copy {
            publish = publish.cc(&[copy]);
        }
        if *foreign_user {
            publish = publish.user_id("somebody");
        }
        publish.await
    }

    async fn consume(&mut self, request: &Request) -> String {
        let Request::Consume {
            client,
            queue,
            prefetch_count,
            no_ack,
            exclusive,
        } = request
        else {
            return String::new();
        };
        let consume = self.clients[*client]
            .basic_consume(self.queue(*queue))
            .prefetch_count(*prefetch_count);
        match consume.no_ack(*no_ack).exclusive(*exclusive).await {
            Ok(consumer) => {
                self.consumers.push(Consumed {
                    queue: *queue,
                    exclusive: *exclusive,
                    consumer,
                });
                "started".to_owned()
            }
            Err(error) => answers::error(&error),
        }
    }

    async fn take(&mut self, consumer: usize, limit: Duration) -> String {
        let timeout = async {
            smol::Timer::after(limit).await;
            None
        };
        let next = async { Some(self.consumers[consumer].consumer.next().await) };
        match next.or(timeout).await {
            None => NOTHING.to_owned(),
            Some(Some(Ok(delivery))) => {
                let answer = answers::delivery(&delivery);
                self.held.push(delivery);
                answer
            }
            Some(end) => {
                let consumed = self.consumers.remove(consumer);
                let end = end
                    .and_then(Result::err)
                    .map(|error| answers::error(&error));
                format!(
                    "{end:?} {:?}",
                    consumed.consumer.ended().map(std::mem::discriminant)
                )
            }
        }
    }

    /// Takes a delivery again if none has arrived.
    pub(crate) async fn again(&mut self, consumer: usize, answer: String) -> String {
        if answer != NOTHING {
            return answer;
        }
        let answer = self.take(consumer, PATIENTLY).await;
        self.without_names(answer)
    }

    /// Returns the number of ready messages and of consumers of every existing queue.
    pub(crate) async fn counts(&mut self) -> BTreeMap<usize, String> {
        let mut asked = Vec::new();
        for (queue, client) in &self.there {
            let declare = self.clients[*client]
                .queue_declare(self.queue(*queue))
                .passive(true);
            asked.push((*queue, declare.send()));
        }
        let mut counts = BTreeMap::new();
        for (queue, declare) in asked {
            let count = match declare.await {
                Ok(found) => format!(
                    "{} ready, {} consumers",
                    found.message_count, found.consumer_count
                ),
                Err(error) => {
                    if let Error::NotFound(_) = error {
                        self.there.remove(&queue);
                        continue;
                    }
                    answers::error(&error)
                }
            };
            counts.insert(queue, count);
        }
        counts
    }

    pub(crate) async fn clean_up(&mut self) -> Result<(), Failure> {
        self.held.clear();
        self.consumers.clear();
        for queue in 0..QUEUES {
            for client in &self.clients {
                drop(client.queue_delete(self.queue(queue)).await);
            }
        }
        for exchange in 0..EXCHANGES {
            self.clients[0]
                .exchange_delete(self.exchange(exchange))
                .await?;
        }
        for client in &self.clients {
            client.close().await?;
        }
        Ok(())
    }
}

fn settle(delivery: Delivery, how: How) -> Result<(), Error> {
    match how {
        How::Ack => delivery.ack(),
        How::AckMultiple => delivery.ack_multiple(),
        How::Reject { requeue } => delivery.reject(requeue),
        How::NackMultiple { requeue } => delivery.nack(true, requeue),
        How::Drop => {
            drop(delivery);
            Ok(())
        }
    }
}
