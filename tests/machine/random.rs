//! Invariants under random steps of both sides: every promise completes once, and nothing is left
//! behind.
//!
//! A failing seed is in the message; `PUKA_SEED=n` replays it alone.

use crate::peer::{
    Peer, Sent, ack, channel_close, consume, declare, deliver, get_ok, publish, reply_to,
};
use puka::machine::{ConsumerId, Delivered, PromiseId, Reply, Settle};
use puka::protocol::method::{basic, channel, connection};
use puka::{Broken, Options};
use std::collections::BTreeMap;
use std::time::Duration;

struct Random(u64);

impl Random {
    /// xorshift64*
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.below(all.len())).cloned()
    }
}

/// The server's view of a channel.
#[derive(Default)]
struct Channel {
    tags: Vec<String>,
    deliveries: u64,
    published: u64,
    confirmed: u64,
    confirms: bool,
    got: usize,
}

struct Run {
    peer: Peer,
    random: Random,
    channels: BTreeMap<u16, Channel>,
    unanswered: Vec<Sent>,
    promises: Vec<PromiseId>,
    consumers: Vec<ConsumerId>,
    unsettled: Vec<Delivered>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let options = Options::default()
            .request_channels(3)
            .publish_channels(2)
            .channel_max(8)
            .max_buffered_deliveries(5);
        Self {
            peer: Peer::open(options),
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            channels: BTreeMap::new(),
            unanswered: Vec::new(),
            promises: Vec::new(),
            consumers: Vec::new(),
            unsettled: Vec::new(),
        }
    }

    fn ask(&mut self) {
        let requested = match self.random.below(9) {
            0 => self.peer.machine.request(declare("q")),
            1 => Ok(self.peer.get()),
            2 => self.peer.machine.consume(&consume("q")),
            3..6 => {
                let exchange = self.random.one_of(&["a", "b", "c"]).unwrap();
                let mut it = publish(exchange, "x");
                it.mandatory = self.random.below(2) == 0;
                self.peer.machine.publish(&it)
            }
            6 => match self.random.one_of(&self.consumers) {
                Some(id) => self.peer.machine.cancel(id),
                None => return,
            },
            7 => match self.random.one_of(&self.consumers) {
                Some(id) => {
                    self.unsettled.extend(self.peer.take_deliveries(id));
                    return;
                }
                None => return,
            },
            _ => {
                if let Some(id) = self.random.one_of(&self.consumers) {
                    self.consumers.retain(|other| *other != id);
                    self.peer.machine.drop_consumer(id);
                }
                return;
            }
        };
        self.promises.extend(requested);
    }

    fn settle(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let place = self.random.below(self.unsettled.len());
        let delivered = self.unsettled.swap_remove(place);
        let multiple = self.random.below(4) == 0;
        let how = match self.random.below(3) {
            0 => Settle::Ack { multiple },
            1 => Settle::Nack {
                multiple,
                requeue: true,
            },
            _ => Settle::Reject { requeue: false },
        };
        let _ = self.peer.machine.settle(&delivered, how);
    }

    fn collect(&mut self) {
        let mut rest = Vec::new();
        for promise in std::mem::take(&mut self.promises) {
            if self.random.below(20) == 0 {
                self.peer.machine.abandon(promise);
                continue;
            }
            match self.peer.machine.fetch(promise) {
                None => rest.push(promise),
                Some(Ok(Reply::Consumer(id))) => self.consumers.push(id),
                Some(Ok(Reply::Delivery(Some(got)))) => self.unsettled.push(got.delivered),
                Some(_) => {}
            }
        }
        self.promises = rest;
    }

    /// The server receives the state machine's output.
    fn read(&mut self) {
        for sent in self.peer.take() {
            if sent.is(channel::CloseOk::ID) {
                self.channels.remove(&sent.channel);
                continue;
            }
            let name = sent.name();
            let channel = self.channels.entry(sent.channel).or_default();
            if sent.is(channel::Open::ID) {
                *channel = Channel::default();
            } else if sent.is(basic::Publish::ID) {
                channel.published += 1;
            } else if sent.is(basic::Consume::ID) {
                channel.tags.push(crate::peer::tag_of(&sent));
            } else if sent.is(basic::Cancel::ID) {
                let tag = crate::peer::tag_of(&sent);
                channel.tags.retain(|other| *other != tag);
            } else if sent.is(basic::Get::ID) {
                channel.got += 1;
            } else if name.ends_with("confirm.select") {
                channel.confirms = true;
            }
            self.unanswered.push(sent);
        }
    }

    fn serve(&mut self) {
        if !self.peer.machine.wants_input() {
            return;
        }
        if self.random.below(3) > 0 && !self.unanswered.is_empty() {
            let count = 1 + self.random.below(self.unanswered.len());
            for sent in self.unanswered.drain(..count).collect::<Vec<_>>() {
                self.reply(&sent);
            }
            return;
        }
        // Only tags that were answered so far may be named.
        let silent = self
            .unanswered
            .iter()
            .map(|sent| sent.channel)
            .collect::<Vec<_>>();
        let open: Vec<u16> = self
            .channels
            .keys()
            .copied()
            .filter(|number| *number != 0 && !silent.contains(number))
            .collect();
        let Some(number) = self.random.one_of(&open) else {
            return;
        };
        match self.random.below(8) {
            0 if self.random.below(4) == 0 => {
                self.channels.remove(&number);
                self.peer.method(number, &channel_close(404, "NOT_FOUND"));
            }
            1 => {
                let it = channel::Flow {
                    active: self.random.below(2) == 0,
                };
                self.peer.method(number, &it);
            }
            2 => self.peer.method(
                0,
                &connection::Blocked {
                    reason: crate::peer::short("?"),
                },
            ),
            3 => self.peer.method(0, &connection::Unblocked {}),
            _ => self.confirm_or_deliver(number),
        }
    }

    fn confirm_or_deliver(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if channel.confirms && channel.confirmed < channel.published {
            channel.confirmed += 1 + self
                .random
                .below((channel.published - channel.confirmed) as usize)
                as u64;
            let tag = channel.confirmed;
            self.peer.method(number, &ack(tag, true));
        } else if let Some(tag) = self.random.one_of(&channel.tags) {
            channel.deliveries += 1;
            let it = deliver(&tag, channel.deliveries);
            self.peer.content(number, &it, b"x");
        }
    }

    fn reply(&mut self, sent: &Sent) {
        // A channel that the server has closed carries nothing until it is opened again.
        let Some(channel) = self.channels.get_mut(&sent.channel) else {
            return;
        };
        if sent.is(basic::Get::ID) {
            if self.random.below(2) == 0 {
                channel.deliveries += 1;
                self.peer
                    .content(sent.channel, &get_ok(channel.deliveries), b"x");
            } else {
                self.peer.method(sent.channel, &basic::GetEmpty {});
            }
        } else if let Some(bytes) = reply_to(sent) {
            self.peer.feed(&bytes);
            if sent.is(channel::Close::ID) {
                self.channels.remove(&sent.channel);
            }
        }
    }

    fn end(mut self, seed: u64) {
        assert!(
            self.peer.machine.why_closed().is_none(),
            "seed {seed}: {:?}",
            self.peer.machine.why_closed()
        );
        if seed.is_multiple_of(2) {
            self.promises.push(self.peer.machine.close());
            self.peer.pass(Duration::from_secs(60));
        } else {
            self.peer.machine.handle_loss(Broken::Eof);
        }
        for promise in std::mem::take(&mut self.promises) {
            assert!(
                self.peer.machine.fetch(promise).is_some(),
                "seed {seed}: a promise is incomplete"
            );
            assert!(self.peer.machine.fetch(promise).is_none());
        }
        self.consumers
            .iter()
            .for_each(|id| assert!(self.peer.has_ended(*id), "seed {seed}"));
        for id in std::mem::take(&mut self.consumers) {
            self.peer.machine.drop_consumer(id);
        }
        assert!(
            self.peer.machine.is_idle(),
            "seed {seed}: {:?}",
            self.peer.machine
        );
        assert!(
            self.peer.machine.is_over() && self.peer.machine.poll_timeout().is_none(),
            "seed {seed}"
        );
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..300 {
        match run.random.below(6) {
            0 | 1 => run.ask(),
            2 => run.settle(),
            3 => run.collect(),
            _ => {}
        }
        run.read();
        run.serve();
        let time = run.random.below(400) as u64;
        run.peer.pass(Duration::from_millis(time));
        run.read();
    }
    run.collect();
    run.end(seed);
}

#[test]
fn v01_random_steps_complete_every_promise_once() {
    match std::env::var("PUKA_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => run(seed),
        None => (0..300).for_each(run),
    }
}
