//! The topology that is declared again after a loss, against simple sets; and a recovery in
//! which any step may fail.

use super::input::Input;
use super::little::{Field, LittleFrame};
use super::peer::{Peer, method, short};
use puka::machine::{
    ConnectionState, Consume, ConsumerId, ListenerId, Notice, PromiseId, Recovered, Reply,
};
use puka::protocol::method::{basic, channel, connection, exchange, queue};
use puka::protocol::{Method, TableRef};
use puka::{Error, Options, Recovery};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "amq.fanout"];

/// Destination, source and routing key, and whether the destination is a queue.
type Binding = (bool, &'static str, &'static str, &'static str);

/// The entities that a broker would still have, each with its name and whether it is auto-deleted.
#[derive(Debug, Default)]
struct Model {
    exchanges: BTreeMap<&'static str, bool>,
    queues: BTreeMap<&'static str, bool>,
    bindings: BTreeSet<Binding>,
    consumers: Vec<(ConsumerId, &'static str)>,
}

impl Model {
    /// Removes bindings, then the exchanges that are auto-deleted with their last binding, and so
    /// on.
    fn unbind(&mut self, goes: impl Fn(&Binding) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.bindings)
            .into_iter()
            .partition::<Vec<_>, _>(goes);
        self.bindings = kept.into_iter().collect();
        for (.., source, _) in gone {
            let is_used = self.bindings.iter().any(|binding| binding.2 == source);
            if self.exchanges.get(source) == Some(&true) && !is_used {
                self.delete_exchange(source);
            }
        }
    }

    fn delete_exchange(&mut self, name: &'static str) {
        self.exchanges.remove(name);
        // The bindings to a deleted source do not decide which destinations are auto-deleted.
        self.bindings.retain(|binding| binding.2 != name);
        self.unbind(|binding| !binding.0 && binding.1 == name);
    }

    fn delete_queue(&mut self, name: &'static str) {
        self.queues.remove(name);
        self.unbind(|binding| binding.0 && binding.1 == name);
    }

    fn entities(&self) -> usize {
        self.exchanges.len() + self.queues.len() + self.bindings.len()
    }

    /// Describes all entities in the same way as the function [`told`].
    fn told(&self) -> BTreeSet<String> {
        let exchanges = self.exchanges.keys().map(|name| format!("exchange {name}"));
        let queues = self.queues.keys().map(|name| format!("queue {name}"));
        let bindings = self
            .bindings
            .iter()
            .map(|(is_queue, to, from, key)| match is_queue {
                true => format!("queue {to} bound to {from} by {key}"),
                false => format!("exchange {to} bound to {from} by {key}"),
            });
        exchanges.chain(queues).chain(bindings).collect()
    }
}

/// Describes what a frame declares.
fn told(frame: &LittleFrame) -> Option<String> {
    let (id, fields) = frame.method();
    let text = |place: usize| String::from_utf8_lossy(Field::bytes(&fields[place])).into_owned();
    Some(match id {
        (40, 10) => format!("exchange {}", text(1)),
        (50, 10) => format!("queue {}", text(1)),
        (40, 30) => format!("exchange {} bound to {} by {}", text(1), text(2), text(3)),
        (50, 20) => format!("queue {} bound to {} by {}", text(1), text(2), text(3)),
        (60, 20) => format!("consume {}", text(1)),
        _ => return None,
    })
}

struct Run<'a> {
    peer: Peer,
    input: Input<'a>,
    model: Model,
    listener: ListenerId,
}

impl<'a> Run<'a> {
    fn new(input: Input<'a>, recovery: Recovery) -> Self {
        let mut peer = Peer::dialled(Options::default().recovery(recovery.seed(7)));
        let listener = peer.machine.listen();
        peer.pass(Duration::from_secs(1), true);
        Self {
            peer,
            input,
            model: Model::default(),
            listener,
        }
    }

    fn name(&mut self) -> &'static str {
        self.input.one_of(&NAMES).expect("the array is not empty")
    }

    fn ask<'m>(&mut self, request: impl Into<Method<'m>>) -> Reply {
        let promise = self
            .peer
            .machine
            .request(request)
            .expect("there is capacity");
        self.answered(promise)
    }

    fn answered(&mut self, promise: PromiseId) -> Reply {
        self.peer.serve();
        match self.peer.machine.fetch(promise) {
            Some(Ok(reply)) => reply,
            other => panic!("unexpected result from an honest broker: {other:?}"),
        }
    }

    /// Declares, binds or deletes an entity.
    fn change(&mut self) {
        let (name, other, key) = (self.name(), self.name(), self.name());
        let goes = self.input.flag();
        let arguments = TableRef::EMPTY;
        match self.input.below(10) {
            0 | 1 => {
                self.ask({
                    let (exchange, r#type) = (short(name.as_bytes()), short(b"fanout"));
                    let (passive, durable, internal, nowait) = (false, false, false, false);
                    let auto_delete = goes;
                    exchange::Declare {
                        exchange,
                        r#type,
                        passive,
                        durable,
                        auto_delete,
                        internal,
                        nowait,
                        arguments,
                    }
                });
                if !name.starts_with("amq.") {
                    self.model.exchanges.insert(name, goes);
                }
            }
            2 | 3 => {
                self.ask({
                    let (passive, durable, exclusive, nowait) = (false, false, false, false);
                    let (queue, auto_delete) = (short(name.as_bytes()), goes);
                    queue::Declare {
                        queue,
                        passive,
                        durable,
                        exclusive,
                        auto_delete,
                        nowait,
                        arguments,
                    }
                });
                self.model.queues.insert(name, goes);
            }
            4 | 5 => self.bind(name, other, key, goes),
            6 => self.unbind(name, other, key, goes),
            7 if goes => {
                self.ask({
                    let queue = short(name.as_bytes());
                    queue::Delete {
                        queue,
                        if_unused: false,
                        if_empty: false,
                        nowait: false,
                    }
                });
                self.model.delete_queue(name);
            }
            7 => {
                self.ask({
                    let exchange = short(name.as_bytes());
                    exchange::Delete {
                        exchange,
                        if_unused: false,
                        nowait: false,
                    }
                });
                self.model.delete_exchange(name);
            }
            8 => self.consume(name),
            _ if !self.model.consumers.is_empty() => {
                let place = self.input.below(self.model.consumers.len());
                let (id, queue) = self.model.consumers.remove(place);
                let promise = self.peer.machine.cancel(id).expect("the consumer is live");
                self.answered(promise);
                self.peer.machine.drop_consumer(id);
                let is_used = self
                    .model
                    .consumers
                    .iter()
                    .any(|(_, other)| *other == queue);
                if self.model.queues.get(queue) == Some(&true) && !is_used {
                    self.model.delete_queue(queue);
                }
            }
            _ => self.refuse(name),
        }
    }

    fn bind(&mut self, to: &'static str, from: &'static str, key: &'static str, is_queue: bool) {
        let arguments = TableRef::EMPTY;
        self.ask({
            let (to, from, routing_key) = (
                short(to.as_bytes()),
                short(from.as_bytes()),
                short(key.as_bytes()),
            );
            if is_queue {
                Method::from(queue::Bind {
                    queue: to,
                    exchange: from,
                    routing_key,
                    nowait: false,
                    arguments,
                })
            } else {
                Method::from(exchange::Bind {
                    destination: to,
                    source: from,
                    routing_key,
                    nowait: false,
                    arguments,
                })
            }
        });
        self.model.bindings.insert((is_queue, to, from, key));
    }

    fn unbind(&mut self, to: &'static str, from: &'static str, key: &'static str, is_queue: bool) {
        let arguments = TableRef::EMPTY;
        self.ask({
            let (to, from, routing_key) = (
                short(to.as_bytes()),
                short(from.as_bytes()),
                short(key.as_bytes()),
            );
            if is_queue {
                Method::from(queue::Unbind {
                    queue: to,
                    exchange: from,
                    routing_key,
                    arguments,
                })
            } else {
                Method::from(exchange::Unbind {
                    destination: to,
                    source: from,
                    routing_key,
                    nowait: false,
                    arguments,
                })
            }
        });
        self.model
            .unbind(|binding| *binding == (is_queue, to, from, key));
    }

    fn consume(&mut self, queue: &'static str) {
        if self.model.consumers.len() == 8 {
            return;
        }
        let consume = Consume {
            queue: short(queue.as_bytes()),
            tag: "",
            prefetch_count: 10,
            no_local: false,
            no_ack: false,
            exclusive: false,
            arguments: TableRef::EMPTY,
            resubscribe: None,
            on_drop: puka::OnDrop::default(),
        };
        let promise = self
            .peer
            .machine
            .consume(&consume)
            .expect("there is capacity");
        let Reply::Consumer(id) = self.answered(promise) else {
            panic!("expected a consumer")
        };
        self.model.consumers.push((id, queue));
    }

    /// Gets from a queue that no longer exists.
    fn refuse(&mut self, name: &'static str) {
        let get = basic::Get {
            queue: short(name.as_bytes()),
            no_ack: true,
        };
        let promise = self.peer.machine.request(get).expect("there is capacity");
        loop {
            self.peer.drain();
            let next = self.peer.unanswered.front();
            let asked = next
                .filter(|frame| frame.kind == 1)
                .map(|frame| (frame.channel, frame.id()));
            match asked {
                Some((number, (60, 70))) => {
                    self.peer.unanswered.pop_front();
                    self.close_channel(number, 404);
                    break;
                }
                _ => assert!(self.peer.reply(), "the get was not sent"),
            }
            self.peer.arrive(usize::MAX);
        }
        self.peer.serve();
        assert!(matches!(
            self.peer.machine.fetch(promise),
            Some(Err(Error::NotFound(_)))
        ));
        self.model.delete_queue(name);
    }

    fn close_channel(&mut self, number: u16, code: u16) {
        self.peer.closed.insert(number);
        let reply_text = short(b"NO - so");
        self.peer.feed(&method(
            number,
            &channel::Close {
                reply_code: code,
                reply_text,
                class_id: 0,
                method_id: 0,
            },
        ));
    }

    /// Loses the connection. Returns what an honest broker is asked to declare until the next one
    /// is open.
    fn lose(&mut self) -> Vec<String> {
        self.peer.lose();
        while self.peer.machine.poll_dial(self.peer.now).is_none() {
            let next = self
                .peer
                .machine
                .tend(self.peer.now)
                .expect("a reconnect is scheduled");
            self.peer.now = self.peer.now.max(next);
            self.peer.machine.handle_timeout(self.peer.now);
        }
        self.peer.redial();
        let mut asked = Vec::new();
        loop {
            self.peer.drain();
            let Some(frame) = self.peer.unanswered.front() else {
                if self.peer.reply() {
                    self.peer.arrive(usize::MAX);
                    continue;
                }
                return asked;
            };
            if frame.kind == 1 {
                asked.extend(told(frame));
            }
            self.peer.reply();
            self.peer.arrive(usize::MAX);
        }
    }

    fn check_all_is_declared(&mut self, asked: &[String]) {
        let (consumes, entities): (Vec<_>, Vec<_>) =
            asked.iter().partition(|told| told.starts_with("consume"));
        let declared: BTreeSet<String> = entities.iter().map(|told| (*told).clone()).collect();
        assert_eq!(declared, self.model.told());
        assert_eq!(
            entities.len(),
            declared.len(),
            "an entity was declared twice: {entities:?}"
        );
        assert_eq!(consumes.len(), self.model.consumers.len());
        assert!(
            asked
                .iter()
                .rev()
                .take(consumes.len())
                .all(|told| told.starts_with("consume")),
            "{asked:?}"
        );
        for (place, told) in asked.iter().enumerate() {
            let Some((to, rest)) = told.split_once(" bound to ") else {
                continue;
            };
            let from = format!("exchange {}", rest.split(' ').next().unwrap_or_default());
            let later = asked.get(place..).unwrap_or_default();
            assert!(
                !later.contains(&from) && !later.iter().any(|told| told == to),
                "{told} was declared before what it binds"
            );
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.peer.machine.state(), ConnectionState::Open)
    }

    fn report(&mut self) -> Option<Box<Recovered>> {
        let notices = std::iter::from_fn(|| self.peer.machine.take_notice(self.listener));
        notices
            .filter_map(|notice| {
                if let Notice::Recovered(report) = notice {
                    Some(report)
                } else {
                    None
                }
            })
            .last()
    }
}

/// After any changes, exactly the existing entities are declared again, in a valid order.
pub fn topology(data: &[u8]) {
    let mut run = Run::new(Input::new(data), Recovery::default());
    let mut losses = 0;
    while !run.input.is_empty() && losses < 4 {
        if run.input.below(16) == 15 {
            let asked = run.lose();
            run.check_all_is_declared(&asked);
            losses += 1;
        }
        run.change();
    }
    let asked = run.lose();
    run.check_all_is_declared(&asked);
    assert!(run.is_open());
    let report = run.report().expect("the recovery has a report");
    assert_eq!(
        (report.entities, report.consumers),
        (run.model.entities(), run.model.consumers.len())
    );
    assert!(report.failed.is_empty(), "{report:?}");
}

/// Whichever step of a replay fails, recovery ends: open, with a report of what is missing, or
/// closed.
pub fn recovery(data: &[u8]) {
    let mut input = Input::new(data);
    let strict = input.flag();
    let recovery = Recovery::default()
        .strict(strict)
        .max_attempts(input.flag().then_some(5));
    let changes = input.below(40);
    let mut run = Run::new(input, recovery);
    for _ in 0..changes {
        run.change();
    }
    run.peer.lose();
    let waiting = run.peer.machine.request(basic::Get {
        queue: short(b"q"),
        no_ack: true,
    });
    while !run.input.is_empty() && !run.peer.machine.is_closed() {
        run.stumble();
    }
    run.peer.pass(Duration::from_secs(600), true);
    if !run.peer.machine.is_closed() {
        assert!(
            run.is_open(),
            "not recovered with an honest broker: {:?}",
            run.peer.machine
        );
        // Without a report the loss was never noticed.
        let report = run.report();
        if let Some(report) = report {
            let of_consumers = report
                .failed
                .iter()
                .filter(|(what, _)| what.starts_with("consumer"))
                .count();
            let of_entities = report.failed.len() - of_consumers;
            let (declared, there) = (report.entities + of_entities, run.model.entities());
            // An auto-delete queue was deleted if its last consumer could not be restarted.
            let has_lost_one = run.model.consumers.iter().any(|(id, _)| {
                run.peer
                    .machine
                    .consumer(*id)
                    .and_then(|it| it.ended())
                    .is_some()
            });
            assert!(
                declared == there || has_lost_one && declared < there,
                "{there} {report:?}"
            );
        }
        let promise = run.peer.machine.request(basic::Get {
            queue: short(b"q"),
            no_ack: true,
        });
        run.answered(promise.expect("there is capacity"));
    }
    let closed = run.peer.machine.close();
    run.peer.pass(Duration::from_secs(60), true);
    for promise in waiting.into_iter().chain([closed]) {
        assert!(
            run.peer.machine.fetch(promise).is_some(),
            "a promise has no result"
        );
    }
    for (id, _) in std::mem::take(&mut run.model.consumers) {
        assert!(
            run.peer
                .machine
                .consumer(id)
                .and_then(|it| it.ended())
                .is_some(),
            "a consumer has not ended"
        );
        run.peer.machine.drop_consumer(id);
    }
    assert!(
        run.peer.machine.is_idle() && run.peer.machine.is_over(),
        "{:?}",
        run.peer.machine
    );
}

impl Run<'_> {
    /// Answers the client, or fails in some way.
    fn stumble(&mut self) {
        let now = self.peer.now;
        if self.peer.machine.is_down() {
            match self.peer.machine.poll_dial(now) {
                Some(_) if self.input.below(4) == 0 => {
                    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                    self.peer.machine.handle_dial_failure(now, refused.into());
                }
                Some(_) => self.peer.redial(),
                None => {
                    let next = self.peer.machine.tend(now);
                    self.peer.now = next.map_or(now, |next| next.max(now));
                    self.peer.machine.handle_timeout(self.peer.now);
                }
            }
            return;
        }
        self.peer.drain();
        let asked = self
            .peer
            .unanswered
            .front()
            .filter(|frame| frame.kind == 1 && frame.channel > 0);
        let asked = asked
            .map(|frame| (frame.channel, frame.id()))
            .filter(|(_, id)| *id != (20, 41));
        match (self.input.below(16), asked) {
            (0 | 1, Some((number, _))) if !self.peer.closed.contains(&number) => {
                self.peer.unanswered.pop_front();
                let code = [404, 403, 405, 406][self.input.below(4)];
                self.close_channel(number, code);
            }
            (2, _) => {
                let seconds = self.input.byte() % 64;
                self.peer.pass(Duration::from_secs(seconds.into()), false);
            }
            (3, _) => self.peer.lose(),
            (4, _) => {
                let reply_code = [320, 541, 504, 530][self.input.below(4)];
                let reply_text = short(b"CONNECTION_FORCED - so");
                self.peer.feed(&method(
                    0,
                    &connection::Close {
                        reply_code,
                        reply_text,
                        class_id: 0,
                        method_id: 0,
                    },
                ));
            }
            _ => {
                self.peer.reply();
                self.peer.arrive(usize::MAX);
            }
        }
    }
}
