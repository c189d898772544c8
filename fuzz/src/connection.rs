//! A connection under any series of steps of its user, its broker, its transport and its clock.

use super::input::Input;
use super::peer::{Peer, method, raw, short};
use puka::machine::{
    Body, Consume, ConsumerId, ConsumerSettings, Delivered, ListenerId, PromiseId, Publish, Reply,
    Settle, TransactionId,
};
use puka::protocol::method::{basic, channel, connection, exchange, queue};
use puka::protocol::{ContentHeader, Properties, ShortStr, TableRef, frame};
use puka::{Error, Options, Recovery};
use std::collections::VecDeque;
use std::time::Duration;

const NAMES: [&[u8]; 4] = [b"", b"a", b"b", b"amq.gen-1"];

struct Run<'a> {
    peer: Peer,
    input: Input<'a>,
    promises: Vec<PromiseId>,
    consumers: Vec<ConsumerId>,
    transactions: Vec<TransactionId>,
    listeners: Vec<ListenerId>,
    held: Vec<Delivered>,
    tags: u64,
}

/// Every promise completes once, nothing is left at the end, and a strict broker accepts
/// everything that is written.
pub fn connection(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.below(3);
    let options = Options::default()
        .request_channels(3)
        .publish_channels(2)
        .channel_max([0, 4, 9][choice])
        .frame_max(4096)
        .max_requests(20)
        // The first is above the size up to which frames leave in the order of the calls, the
        // others are below it.
        .max_outgoing_bytes([400_000, 20_000, 20_000][choice])
        .max_publishes_in_flight(20)
        .max_message_size(10_000)
        .max_buffered_deliveries(8)
        .max_buffered_bytes(20_000);
    let republish = input.flag().then_some(2);
    let recovery = Recovery::default()
        .seed(7)
        .retry_first_connect(true)
        .strict(input.flag())
        .fail_fast(input.flag())
        .max_records(12)
        .republish_unconfirmed(republish);
    let peer = match input.flag() {
        true => Peer::dialled(options.recovery(recovery)),
        false => Peer::new(options.recovery(None)),
    };
    let mut run = Run {
        peer,
        input,
        promises: Vec::new(),
        consumers: Vec::new(),
        transactions: Vec::new(),
        listeners: Vec::new(),
        held: Vec::new(),
        tags: 0,
    };
    run.peer.pass(Duration::from_secs(1), true);
    for _ in 0..600 {
        if run.input.is_empty() {
            break;
        }
        run.step();
    }
    run.end();
}

impl Run<'_> {
    fn name(&mut self) -> ShortStr<'static> {
        short(self.input.one_of(&NAMES).expect("the array is not empty"))
    }

    fn step(&mut self) {
        match self.input.below(32) {
            0..=5 => self.ask(),
            6 => self.publish(),
            7 => self.publish(),
            8 => self.of_consumer(),
            9 => self.of_consumer(),
            10 => self.settle(),
            11 => self.settle(),
            12 => self.collect(),
            13 => self.transact(),
            14 => self.listen(),
            15..=18 => {
                let count = 1 + self.input.below(16);
                let _ = (0..count).all(|_| self.peer.reply());
            }
            19 => self.mischief(),
            20 => self.speak(),
            21 => self.speak(),
            22 => {
                let most = usize::from(self.input.byte()) * 16;
                self.peer.write(most);
            }
            23 => self.peer.drain(),
            24 => {
                let most = self.input.below(64);
                self.peer.arrive(most);
            }
            25 => self.peer.arrive(usize::MAX),
            26 => self.peer.serve(),
            27 => {
                let time = Duration::from_millis(u64::from(self.input.byte()) * 20);
                self.peer.pass(time, true);
            }
            28 => {
                let time = Duration::from_secs(self.input.byte().into());
                self.peer.pass(time, false);
            }
            29 if self.input.below(4) == 0 => self.peer.lose(),
            30 if self.input.below(8) == 0 => self.promises.push(self.peer.machine.close()),
            31 => self.dial(),
            _ => self.peer.serve(),
        }
        let bytes = self.peer.machine.stats().open_channels;
        assert!(bytes <= 2047);
    }

    fn dial(&mut self) {
        if self.peer.machine.poll_dial(self.peer.now).is_none() {
            return;
        }
        if self.input.flag() {
            self.peer.redial();
        } else {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            self.peer
                .machine
                .handle_dial_failure(self.peer.now, Error::from(refused));
        }
    }

    fn ask(&mut self) {
        let (name, other) = (self.name(), self.name());
        let [a, b] = [self.input.flag(), self.input.flag()];
        let arguments = TableRef::EMPTY;
        let machine = &mut self.peer.machine;
        let asked = match self.input.below(14) {
            0..=2 => machine.request(queue::Declare {
                queue: name,
                passive: false,
                durable: a,
                exclusive: b,
                auto_delete: !a,
                nowait: false,
                arguments,
            }),
            3 => machine.request(queue::Delete {
                queue: name,
                if_unused: a,
                if_empty: b,
                nowait: false,
            }),
            4 => machine.request(exchange::Declare {
                exchange: name,
                r#type: short(b"fanout"),
                passive: false,
                durable: a,
                auto_delete: b,
                internal: false,
                nowait: false,
                arguments,
            }),
            5 => machine.request(queue::Bind {
                queue: name,
                exchange: other,
                routing_key: name,
                nowait: false,
                arguments,
            }),
            6 => machine.request(queue::Unbind {
                queue: name,
                exchange: other,
                routing_key: name,
                arguments,
            }),
            7 => machine.request(exchange::Delete {
                exchange: name,
                if_unused: a,
                nowait: false,
            }),
            8 | 9 => machine.request(basic::Get {
                queue: name,
                no_ack: a,
            }),
            10 => machine.update_secret(b"secret", short(b"why")),
            11 => Ok(machine.connect()),
            _ => {
                let consume = Consume {
                    queue: name,
                    tag: "",
                    prefetch_count: self.input.byte().into(),
                    no_local: false,
                    no_ack: a,
                    exclusive: b,
                    arguments,
                    resubscribe: None,
                    on_drop: puka::OnDrop::default(),
                };
                if self.input.flag() {
                    machine.consume(&consume)
                } else {
                    machine.consume_multi(
                        &[
                            consume,
                            Consume {
                                queue: other,
                                ..consume
                            },
                        ],
                        &ConsumerSettings {
                            prefetch_count: 3,
                            no_ack: a,
                            resubscribe: None,
                            on_drop: puka::OnDrop::default(),
                        },
                    )
                }
            }
        };
        self.promises.extend(asked);
    }

    fn publish(&mut self) {
        let exchange = self.name();
        let mandatory = self.input.flag();
        let size = usize::from(self.input.byte()) * if self.input.below(4) == 0 { 40 } else { 1 };
        let publish = Publish {
            exchange,
            routing_key: short(b"key"),
            mandatory,
            immediate: false,
            properties: &Properties::NONE,
            headers: None,
            body: Body::from(vec![7; size]),
        };
        let sent = match (self.transactions.last(), self.input.below(8)) {
            (Some(id), 0..=3) => self.peer.machine.publish_in(*id, &publish),
            (_, 4) => self
                .peer
                .machine
                .call(&publish, Some(Duration::from_secs(5))),
            (_, 5) => self.peer.machine.publish_unconfirmed(&publish),
            _ => self.peer.machine.publish(&publish),
        };
        self.promises.extend(sent);
        if size > 5000 {
            // Several publishes, so that channels have to take turns.
            let sent = (0..15).map_while(|_| self.peer.machine.publish(&publish).ok());
            self.promises.extend(sent);
        }
    }

    fn of_consumer(&mut self) {
        let choice = self.input.below(8);
        let Some(id) = self.input.one_of(&self.consumers).copied() else {
            return;
        };
        let machine = &mut self.peer.machine;
        match choice {
            0 => self.promises.extend(machine.cancel(id)),
            1 => {
                self.consumers.retain(|other| *other != id);
                machine.drop_consumer(id);
            }
            2 => self
                .promises
                .extend(machine.qos(id, self.input.byte().into())),
            3 => self.promises.extend(machine.recover(id)),
            _ => self.take(id),
        }
    }

    fn take(&mut self, id: ConsumerId) {
        let mut taken = VecDeque::new();
        self.peer
            .machine
            .take_deliveries(id, 1 + self.input.below(8), &mut taken);
        self.held.extend(taken);
    }

    fn settle(&mut self) {
        if self.held.is_empty() {
            self.collect();
            self.consumers
                .clone()
                .into_iter()
                .for_each(|id| self.take(id));
        }
        if self.held.is_empty() {
            return;
        }
        let place = self.input.below(self.held.len().min(256));
        let delivered = self.held.swap_remove(place);
        let multiple = self.input.below(4) == 0;
        let how = match self.input.below(4) {
            0 => Settle::Ack { multiple },
            1 => Settle::Nack {
                multiple,
                requeue: self.input.flag(),
            },
            2 => Settle::Reject { requeue: false },
            _ => return self.peer.machine.give_back(&delivered),
        };
        let _ = self.peer.machine.settle(&delivered, how);
        if self.input.below(8) == 0 {
            assert!(
                self.peer.machine.settle(&delivered, how).is_err() || delivered.is_settled(),
                "settled twice"
            );
        }
    }

    fn collect(&mut self) {
        for promise in std::mem::take(&mut self.promises) {
            if self.input.below(16) == 15 {
                self.peer.machine.abandon(promise);
                continue;
            }
            match self.peer.machine.fetch(promise) {
                None => self.promises.push(promise),
                Some(Ok(Reply::Consumer(id))) => self.consumers.push(id),
                Some(Ok(Reply::Transaction(id))) => self.transactions.push(id),
                Some(Ok(Reply::Delivery(Some(got)))) => self.held.push(got.delivered),
                Some(_) => assert!(self.peer.machine.fetch(promise).is_none(), "fetched twice"),
            }
        }
    }

    fn transact(&mut self) {
        let choice = self.input.below(4);
        let asked = match self.transactions.pop() {
            None => self.peer.machine.transaction(),
            Some(id) => match choice {
                0 => self.peer.machine.commit(id),
                1 => self.peer.machine.rollback(id),
                2 => return self.peer.machine.drop_transaction(id),
                _ => {
                    self.transactions.push(id);
                    self.peer.machine.get_in(
                        id,
                        basic::Get {
                            queue: short(b"a"),
                            no_ack: false,
                        },
                    )
                }
            },
        };
        self.promises.extend(asked);
    }

    fn listen(&mut self) {
        match self.input.below(3) {
            0 => self.listeners.push(self.peer.machine.listen()),
            1 => self
                .listeners
                .pop()
                .into_iter()
                .for_each(|id| self.peer.machine.stop_listening(id)),
            _ => {
                for id in &self.listeners {
                    while self.peer.machine.take_notice(*id).is_some() {}
                }
            }
        }
    }

    /// Sends something that a broker may send unprompted, about known channels and consumers.
    fn speak(&mut self) {
        self.peer.drain();
        let open = self.peer.channels();
        let Some(number) = self.input.one_of(&open).copied() else {
            return;
        };
        let bytes = match self.input.below(12) {
            0..=3 => self.delivery(number),
            4 => {
                let tag = 1 + self.input.below(4) as u64;
                let multiple = self.input.flag();
                self.peer.dishonest = true;
                if self.input.flag() {
                    method(
                        number,
                        &basic::Ack {
                            delivery_tag: tag,
                            multiple,
                        },
                    )
                } else {
                    method(
                        number,
                        &basic::Nack {
                            delivery_tag: tag,
                            multiple,
                            requeue: false,
                        },
                    )
                }
            }
            5 if self.peer.observer.is_open(number) && self.peer.closed.insert(number) => {
                let code = [404, 403, 405, 406, 311][self.input.below(5)];
                let (class_id, method_id) = (50, 10);
                let reply_text = short(b"NOT_FOUND - no");
                method(
                    number,
                    &channel::Close {
                        reply_code: code,
                        reply_text,
                        class_id,
                        method_id,
                    },
                )
            }
            6 => method(
                number,
                &channel::Flow {
                    active: self.input.flag(),
                },
            ),
            7 => method(
                0,
                &connection::Blocked {
                    reason: short(b"low on memory"),
                },
            ),
            8 => method(0, &connection::Unblocked {}),
            9 => {
                let tag = short(self.input.bytes(3));
                method(
                    number,
                    &basic::Cancel {
                        consumer_tag: tag,
                        nowait: false,
                    },
                )
            }
            10 => raw(8, 0, b""),
            _ if self.input.below(16) == 0 => {
                let code = [320, 541, 504, 403][self.input.below(4)];
                let (class_id, method_id) = (0, 0);
                let reply_text = short(b"CONNECTION_FORCED - so");
                method(
                    0,
                    &connection::Close {
                        reply_code: code,
                        reply_text,
                        class_id,
                        method_id,
                    },
                )
            }
            _ => Vec::new(),
        };
        self.peer.say(&bytes);
    }

    /// Returns a message, usually for an existing consumer.
    fn delivery(&mut self, number: u16) -> Vec<u8> {
        self.tags += 1;
        let (delivery_tag, redelivered) = (self.tags, self.input.flag());
        let (exchange, routing_key) = (ShortStr::EMPTY, short(b"key"));
        let consumers = self.peer.consumers();
        let choice = self.input.below(8);
        let (number, tag) = match self.input.one_of(&consumers) {
            Some((number, tag)) if choice > 2 => (*number, tag.clone()),
            _ => (number, b"nobody's".to_vec()),
        };
        let mut bytes = match choice {
            0 => {
                self.peer.dishonest = true;
                let message_count = 0;
                method(
                    number,
                    &basic::GetOk {
                        delivery_tag,
                        redelivered,
                        exchange,
                        routing_key,
                        message_count,
                    },
                )
            }
            1 => {
                self.peer.dishonest = true;
                let reply_text = short(b"NO_ROUTE");
                method(
                    number,
                    &basic::Return {
                        reply_code: 312,
                        reply_text,
                        exchange,
                        routing_key,
                    },
                )
            }
            _ => {
                let consumer_tag = short(&tag);
                let it = basic::Deliver {
                    consumer_tag,
                    delivery_tag,
                    redelivered,
                    exchange,
                    routing_key,
                };
                method(number, &it)
            }
        };
        let body =
            vec![7; usize::from(self.input.byte()) * if self.input.below(8) == 0 { 50 } else { 1 }];
        let header = ContentHeader {
            body_size: body.len() as u64,
            properties: Properties::default(),
        };
        frame::content_header(&mut bytes, number, u32::MAX, &header)
            .expect("frame_max is unlimited");
        frame::body(&mut bytes, number, 4096, &body);
        bytes
    }

    /// Sends something that no broker sends.
    fn mischief(&mut self) {
        self.peer.dishonest = true;
        let (kind, channel) = (
            [1, 1, 1, 2, 3, 8, 4][self.input.below(7)],
            u16::from(self.input.byte() % 12),
        );
        let length = self.input.below(48);
        let payload = self.input.bytes(length);
        self.peer.say(&raw(kind, channel, payload));
        if self.input.below(8) == 0 {
            let length = self.input.below(16);
            self.peer.say(self.input.bytes(length));
        }
    }

    fn end(mut self) {
        self.promises.push(self.peer.machine.close());
        let served = self.input.flag();
        self.peer.pass(Duration::from_secs(300), served);
        for promise in std::mem::take(&mut self.promises) {
            match self.peer.machine.fetch(promise) {
                Some(Ok(Reply::Consumer(id))) => self.consumers.push(id),
                Some(Ok(Reply::Transaction(id))) => self.transactions.push(id),
                Some(_) => assert!(self.peer.machine.fetch(promise).is_none()),
                None => panic!("{promise:?} has no result: {:?}", self.peer.machine),
            }
        }
        for id in std::mem::take(&mut self.consumers) {
            assert!(
                self.peer
                    .machine
                    .consumer(id)
                    .and_then(|it| it.ended())
                    .is_some(),
                "a consumer has not ended"
            );
            self.peer.machine.drop_consumer(id);
        }
        for id in std::mem::take(&mut self.transactions) {
            self.peer.machine.drop_transaction(id);
        }
        let machine = &mut self.peer.machine;
        assert!(machine.is_idle(), "the machine is not idle: {machine:?}");
        assert!(
            machine.is_over() && machine.poll_timeout().is_none(),
            "the connection has not ended: {machine:?}"
        );
    }
}
