//! The random requests: every kind, with all flags, valid and invalid.

use crate::random::Random;
use crate::side::Side;

/// The number of queues. The broker names the last one.
pub(crate) const QUEUES: usize = 5;
pub(crate) const NAMED_BY_THE_BROKER: usize = QUEUES - 1;
pub(crate) const EXCHANGES: usize = 5;

/// The maximum number of unsettled messages.
const HELD: usize = 6;
/// The maximum number of consumers.
const CONSUMERS: usize = 3;

const KEYS: &[&str] = &["", "a", "b", "a.b", "a.b.c"];
const PATTERNS: &[&str] = &["", "a", "b", "a.b", "a.*", "#", "#.b", "*.b.#"];
const TYPES: &[&str] = &["direct", "direct", "fanout", "topic", "headers"];

/// Unusual arguments of queues.
const ARGUMENTS: &[Option<Argument>] = &[
    None,
    Some(Argument::MaxLength(2)),
    Some(Argument::RejectPublish(2)),
    Some(Argument::MaxLengthBytes(20)),
    Some(Argument::DeadLetter {
        queue: 1,
        max_length: None,
    }),
    Some(Argument::MaxPriority(3)),
    Some(Argument::MessageTtl),
    Some(Argument::Wrong),
    Some(Argument::WrongType),
    Some(Argument::Unknown),
];

/// The usual arguments of a queue, by its number.
const USUAL: &[Option<Argument>; QUEUES] = &[
    None,
    Some(Argument::RejectPublish(3)),
    Some(Argument::DeadLetter {
        queue: 0,
        max_length: None,
    }),
    Some(Argument::DeadLetter {
        queue: 2,
        max_length: Some(2),
    }),
    None,
];

/// The destination of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A queue, through the default exchange.
    Queue(usize),
    Exchange(usize, &'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum Argument {
    MaxLength(u64),
    RejectPublish(u64),
    MaxLengthBytes(u64),
    /// Dead-letters to another queue.
    DeadLetter {
        queue: usize,
        max_length: Option<u64>,
    },
    MaxPriority(u8),
    MessageTtl,
    /// A text instead of a number.
    Wrong,
    /// An unknown type of queue.
    WrongType,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Ack,
    AckMultiple,
    Reject { requeue: bool },
    NackMultiple { requeue: bool },
    Drop,
}

/// A request, with one of two clients if that matters.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    QueueDeclare {
        client: usize,
        queue: usize,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        argument: Option<Argument>,
    },
    QueueDelete {
        client: usize,
        queue: usize,
        if_unused: bool,
        if_empty: bool,
    },
    QueuePurge {
        client: usize,
        queue: usize,
    },
    QueueBind {
        client: usize,
        queue: usize,
        exchange: usize,
        key: &'static str,
        header: Option<&'static str>,
        unbind: bool,
    },
    ExchangeDeclare {
        exchange: usize,
        kind: &'static str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        alternate: Option<usize>,
    },
    /// A declare or delete of an exchange that clients must not declare or delete.
    Reserved {
        exchange: &'static str,
        delete: bool,
    },
    ExchangeDelete {
        exchange: usize,
        if_unused: bool,
    },
    ExchangeBind {
        destination: usize,
        source: usize,
        key: &'static str,
        unbind: bool,
    },
    Publish {
        to: Target,
        mandatory: bool,
        persistent: bool,
        priority: Option<u8>,
        header: Option<&'static str>,
        copy: Option<usize>,
        foreign_user: bool,
        body: usize,
    },
    Get {
        client: usize,
        queue: usize,
        no_ack: bool,
    },
    Settle {
        held: usize,
        how: How,
    },
    Consume {
        client: usize,
        queue: usize,
        prefetch_count: u16,
        no_ack: bool,
        exclusive: bool,
    },
    Take {
        consumer: usize,
    },
    Cancel {
        consumer: usize,
        drop: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Script {
    random: Random,
    bodies: usize,
}

impl Script {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, bodies: 0 }
    }

    fn client(&mut self) -> usize {
        usize::from(self.random.one_in(8))
    }

    fn queue(&mut self) -> usize {
        self.random.below(QUEUES)
    }

    fn exchange(&mut self) -> usize {
        self.random.below(EXCHANGES)
    }

    fn header(&mut self) -> Option<&'static str> {
        self.random.of(&[None, Some("red"), Some("blue")])
    }

    /// Returns the next request. Both sides have the same state, so one of them suffices to choose
    /// it.
    pub(crate) fn next(&mut self, side: &Side) -> Request {
        loop {
            let request = match self.random.below(100) {
                0..14 => self.queue_declare(),
                14..17 => self.queue_delete(),
                17..19 => Request::QueuePurge {
                    client: self.client(),
                    queue: self.queue(),
                },
                19..27 => self.queue_bind(),
                27..34 => self.exchange_declare(),
                34..36 => Request::ExchangeDelete {
                    exchange: self.exchange(),
                    if_unused: self.random.one_in(2),
                },
                36..38 => Request::Reserved {
                    exchange: self.random.of(&["", "amq.direct", "amq.mine"]),
                    delete: self.random.one_in(2),
                },
                38..42 => self.exchange_bind(),
                42..64 => self.publish(),
                64..74 => self.get(),
                74..84 => self.settle(side.held()),
                84..88 => self.consume(),
                88..97 => Request::Take {
                    consumer: self.random.below(side.consumers().max(1)),
                },
                _ => Request::Cancel {
                    consumer: self.random.below(side.consumers().max(1)),
                    drop: self.random.one_in(2),
                },
            };
            if Self::is_decided(&request, side) {
                return request;
            }
        }
    }

    /// Returns `true` if a request has only one correct reply. A broker may choose which of several
    /// consumers receives a message. RabbitMQ 3.10 fails at an unknown type of a queue that it
    /// should name.
    fn is_decided(request: &Request, side: &Side) -> bool {
        match request {
            Request::QueueDeclare {
                queue: NAMED_BY_THE_BROKER,
                argument: Some(Argument::WrongType),
                ..
            } => false,
            Request::Get { .. } => side.held() < HELD,
            Request::Settle { .. } => side.held() > 0,
            Request::Take { .. } => side.consumers() > 0 && side.held() < HELD,
            Request::Cancel { .. } => side.consumers() > 0,
            Request::Consume {
                queue, exclusive, ..
            } => {
                side.consumers() < CONSUMERS
                    && (!side.is_consumed(*queue)
                        || *exclusive
                        || side.is_exclusively_consumed(*queue))
            }
            _ => true,
        }
    }

    fn queue_declare(&mut self) -> Request {
        let queue = self.queue();
        let random = &mut self.random;
        // Usually a queue is declared identically, because otherwise the scripts would see little
        // but 406.
        let argument = if random.one_in(3) {
            random.of(ARGUMENTS)
        } else {
            USUAL[queue].clone()
        };
        Request::QueueDeclare {
            passive: random.one_in(5),
            durable: random.one_in(4),
            exclusive: random.one_in(6),
            auto_delete: random.one_in(5),
            argument,
            client: self.client(),
            queue,
        }
    }

    fn queue_delete(&mut self) -> Request {
        Request::QueueDelete {
            client: self.client(),
            queue: self.queue(),
            if_unused: self.random.one_in(2),
            if_empty: self.random.one_in(2),
        }
    }

    fn queue_bind(&mut self) -> Request {
        Request::QueueBind {
            client: self.client(),
            queue: self.queue(),
            exchange: self.exchange(),
            key: self.random.of(PATTERNS),
            header: self.header(),
            unbind: self.random.one_in(4),
        }
    }

    fn exchange_declare(&mut self) -> Request {
        let alternate = if self.random.one_in(4) {
            Some(self.exchange())
        } else {
            None
        };
        let exchange = self.exchange();
        let random = &mut self.random;
        // Usually an exchange is declared identically, because otherwise the scripts would see
        // little but 406.
        let kind = if random.one_in(4) {
            random.of(TYPES)
        } else {
            TYPES[exchange]
        };
        Request::ExchangeDeclare {
            exchange,
            kind,
            passive: random.one_in(5),
            durable: random.one_in(6),
            auto_delete: random.one_in(6),
            internal: random.one_in(8),
            alternate,
        }
    }

    fn exchange_bind(&mut self) -> Request {
        Request::ExchangeBind {
            destination: self.exchange(),
            source: self.exchange(),
            key: self.random.of(PATTERNS),
            unbind: self.random.one_in(4),
        }
    }

    fn publish(&mut self) -> Request {
        self.bodies += 1;
        let to = if self.random.one_in(2) {
            Target::Queue(self.queue())
        } else {
            Target::Exchange(self.exchange(), self.random.of(KEYS))
        };
        let copy = if self.random.one_in(8) {
            Some(self.queue())
        } else {
            None
        };
        Request::Publish {
            to,
            copy,
            header: self.header(),
            mandatory: self.random.one_in(2),
            persistent: self.random.one_in(2),
            priority: self.random.of(&[None, None, Some(0), Some(2), Some(9)]),
            foreign_user: self.random.one_in(25),
            body: self.bodies,
        }
    }

    fn get(&mut self) -> Request {
        Request::Get {
            client: self.client(),
            queue: self.queue(),
            no_ack: self.random.one_in(3),
        }
    }

    fn settle(&mut self, held: usize) -> Request {
        let how = self.random.of(&[
            How::Ack,
            How::Ack,
            How::AckMultiple,
            How::Reject { requeue: true },
            How::Reject { requeue: false },
            How::NackMultiple { requeue: true },
            How::NackMultiple { requeue: false },
            How::Drop,
        ]);
        Request::Settle {
            held: self.random.below(held.max(1)),
            how,
        }
    }

    fn consume(&mut self) -> Request {
        Request::Consume {
            client: self.client(),
            queue: self.queue(),
            prefetch_count: self.random.of(&[0, 1, 2, 3]),
            no_ack: self.random.one_in(5),
            exclusive: self.random.one_in(3),
        }
    }
}
