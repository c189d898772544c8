//! The plan of a seed: its features and faults, its number of operations, and its limits.
//!
//! Each seed has a random subset of the features. So most seeds lack a fault that would hide the
//! effects of another one, and every combination of a few features occurs in some seed.

use crate::random::Random;
use crate::wire::Pace;
use puka::{Endpoint, Options, Recovery, Resubscribe};
use puka_test_broker::Config;
use std::time::Duration;

macro_rules! features {
    ($($name:ident),* $(,)?) => {
        /// A feature or fault of a seed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Feature { $($name),* }

        impl Feature {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

features! {
    // Requests.
    Get, Consume, NoAck, Exclusive, Qos, Cancel, Hold, Multiple, Refuse, Mandatory, Burst, Large,
    Churn, Wrong, MissingExchange, Full, Volatile, Abandon,
    // Limits.
    FewChannels, SmallBounds, SmallFrames, Heartbeats,
    // Behaviour of the broker.
    LateConfirms, ApartConfirms, OutsideDelete, Block, Restart,
    // Faults of the network.
    TinyReads, Jitter, Stall, Cut, Silence,
    // Ends of connections and consumers.
    Force, BrokerDrop, Loss, Close,
    // Transactions, calls, server-named queues.
    Transact, Call, ServerNamed,
    // Recovery and its options.
    Recover, Republish, FailFast, Strict,
    // Faults of recovery: a refused login, an internal error, a broker that loses its state, a
    // suspended machine.
    Refused, Internal, Wipe, Sleep,
    // The broker has several addresses, and a restart chooses one of them.
    Moves,
    // Some publishes request no confirm.
    Unconfirmed,
    // Applications name queues by the empty name.
    Nameless,
    // The broker proposes fewer channels to later connections.
    FewerChannels,
    // Stuck queues: they take publishes without confirming them, and do not reply.
    Stuck,
    // Messages are published to server-named queues under all their names, in transactions too.
    Renamed,
    // Late acks: the broker closes the channel, as RabbitMQ does up to 4.2.
    Overdue,
    // A queue is deleted at the moment of a loss.
    DeletedAtLoss,
    // The broker begins contents and does not end them.
    Partial,
    // The broker cancels consumers, which remain until the client confirms, as since RabbitMQ 4.3.
    Expel,
    // The messages of many gets stay unsettled for long.
    Hoard,
    // The leader of a queue moves: the broker cancels its consumers, once or after each restart.
    Leader,
    // Channels crash over requests about a queue, and the broker closes the connection.
    Crash,
    // The broker notices the loss of a connection seconds after the client.
    Linger,
    // Several logins in a row are refused, or the virtual host is missing.
    Refusals,
    // Some endpoints are not brokers.
    Mixed,
    // The broker limits the channels of all clients together, for some time.
    UserLimit,
}

/// A bug that is planted to prove that the simulation notices it. The code between the state
/// machine and the network simulates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedFault {
    None,
    /// An ack of a publish becomes a nack, and a nack an ack.
    SwappedConfirm,
    /// The client does not receive some acks of publishes.
    LostConfirm,
    /// A returned message has the mark of the publish before its own.
    SwappedReturns,
    /// The client does not receive some `queue.declare-ok`.
    LostReply,
    /// The broker does not receive some acks of deliveries.
    LostAck,
    /// Each ack of a delivery covers all deliveries before its own.
    WideAck,
    /// The client receives some frames twice.
    RepeatedBytes,
    /// Deliveries lose their redelivered flag.
    ForgottenRedelivery,
    /// A refused publish completes as confirmed.
    WrongOutcome,
    /// Some completed promises are not fetched.
    LostOutcome,
    /// The client sends some publishes twice.
    RepeatedPublish,
    /// The broker does not receive some `basic.cancel`.
    LostCancel,
    /// The broker does not receive `connection.close`.
    LateClose,
    /// Some frames lose their last byte.
    LostByte,
    /// A `basic.get` names no queue.
    EmptyName,
    /// The client uses the `channel_max` of an earlier connection.
    KeptChannelMax,
    /// Each confirm covers all publishes before its own.
    WideConfirm,
    /// A message to a server-named queue goes to another name.
    OtherName,
    /// The client does not receive the close of a channel over a delivery.
    KeptChannel,
    /// The broker opens no channels while messages of gets are unsettled.
    CrowdedChannels,
    /// Deleted entities are declared again on every connection.
    Resurrection,
    /// The contents that the broker sends never end.
    EndlessContent,
    /// The broker does not receive the client's confirmation of a consumer's end.
    UnansweredCancel,
    /// The client does not bound partly received contents.
    UnboundContents,
    /// A close does not report the requests that it left incomplete.
    SilentClose,
    /// A temporary refusal of a consumer becomes a missing permission.
    RefusedForGood,
    /// The client handles timeouts before it reads.
    HastyTimeout,
    /// The application does not receive the notices of interrupted consumers.
    LostInterruption,
    /// An interrupted consumer ends with another reason.
    OtherCause,
    /// A crashed channel ends the consumers of its connection.
    EndedByCrash,
    /// A delivery of a closed channel is taken once more.
    StaleDelivery,
    /// A refused login ends a recovering client.
    GivenUp,
    /// The client always dials an endpoint that is not a broker.
    KeptEndpoint,
    /// The report of a recovery lists no consumers.
    ShortReport,
    /// The client dials without delays.
    HastyDial,
    /// The client restarts interrupted consumers without delays.
    HastyRestart,
    /// Each delivery is returned to its queue at once.
    ReturnedDeliveries,
}

/// Whether and for how long a consumer is restarted when the broker ends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resubscription {
    /// `None` for never.
    pub(crate) time: Option<Duration>,
    /// A missing queue does not end the consumer.
    pub(crate) waits_for_queue: bool,
}

impl Resubscription {
    /// Returns the option of the client.
    pub(crate) fn policy(self) -> Resubscribe {
        let policy = self
            .time
            .map_or(Resubscribe::never(), Resubscribe::for_time);
        policy.wait_for_queue(self.waits_for_queue)
    }
}

/// A seed, reduced to its first operations and some features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The number of operations.
    pub(crate) ops: usize,
    /// A bit for each feature.
    features: u64,
    pub(crate) planted_fault: PlantedFault,
}

impl Plan {
    /// Returns the whole plan of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::stream(seed, 1);
        let recovers = random.chance(60);
        let faults = recovers || random.chance(75);
        let mut features = 0;
        for &feature in Feature::ALL {
            let percent = match feature {
                Feature::Get | Feature::Consume | Feature::Hold => 75,
                Feature::FewChannels | Feature::SmallBounds | Feature::TinyReads => 20,
                Feature::Block
                | Feature::Restart
                | Feature::Stall
                | Feature::Cut
                | Feature::Silence => {
                    if faults {
                        30
                    } else {
                        0
                    }
                }
                Feature::Recover => {
                    if recovers {
                        100
                    } else {
                        0
                    }
                }
                Feature::Strict => 15,
                Feature::Transact | Feature::Call | Feature::FailFast => 25,
                Feature::Stuck | Feature::UserLimit => 20,
                Feature::Sleep | Feature::Loss => {
                    if faults {
                        15
                    } else {
                        0
                    }
                }
                Feature::Force
                | Feature::BrokerDrop
                | Feature::Refused
                | Feature::Internal
                | Feature::FewerChannels
                | Feature::DeletedAtLoss
                | Feature::Partial
                | Feature::Crash
                | Feature::Linger
                | Feature::Refusals
                | Feature::Wipe => {
                    if faults {
                        30
                    } else {
                        0
                    }
                }
                _ => 45,
            };
            if random.chance(percent) {
                features |= 1 << feature as u32;
            }
        }
        Self {
            seed,
            ops: random.within(200..320),
            features,
            planted_fault: PlantedFault::None,
        }
    }

    /// Returns a plan with exactly these features, for an explicit scenario.
    pub(crate) fn bare(seed: u64, features: &[Feature]) -> Self {
        let features = features
            .iter()
            .fold(0, |all, feature| all | 1 << *feature as u32);
        Self {
            features,
            ops: 0,
            ..Self::new(seed)
        }
    }

    /// Returns the plan with a planted fault.
    pub(crate) fn with(mut self, planted_fault: PlantedFault) -> Self {
        self.planted_fault = planted_fault;
        if planted_fault == PlantedFault::UnboundContents {
            // Few seeds have large contents without an end together with a small bound.
            for feature in [Feature::Partial, Feature::Large, Feature::SmallBounds] {
                self.features |= 1 << feature as u32;
            }
            return self.without(Feature::TinyReads);
        }
        let needed: &[Feature] = match planted_fault {
            PlantedFault::GivenUp => &[Feature::Recover, Feature::Refusals],
            PlantedFault::KeptEndpoint => &[Feature::Recover, Feature::Moves, Feature::Mixed],
            PlantedFault::EndedByCrash => &[Feature::Recover, Feature::Consume, Feature::Crash],
            PlantedFault::HastyDial => &[Feature::Recover, Feature::Refused],
            // Only a process that resumes late, on a connection that the broker keeps, notices.
            PlantedFault::HastyTimeout => &[Feature::Sleep, Feature::Heartbeats],
            PlantedFault::HastyRestart => &[Feature::Consume, Feature::Leader],
            _ => &[],
        };
        for feature in needed {
            self.features |= 1 << *feature as u32;
        }
        if planted_fault == PlantedFault::RefusedForGood {
            // Few seeds have exclusive consumers when a broker does not notice a loss.
            for feature in [
                Feature::Consume,
                Feature::Exclusive,
                Feature::Recover,
                Feature::Silence,
            ] {
                self.features |= 1 << feature as u32;
            }
        }
        self
    }

    /// Returns the plan with its first operations only.
    pub(crate) fn with_ops(mut self, ops: usize) -> Self {
        self.ops = ops;
        self
    }

    /// Returns the plan without a feature.
    pub(crate) fn without(mut self, feature: Feature) -> Self {
        self.features &= !(1 << feature as u32);
        self
    }

    /// Returns `true` if the plan has a feature.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.features & (1 << feature as u32) != 0
    }

    /// Returns the features of the plan.
    pub(crate) fn features(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::ALL
            .iter()
            .copied()
            .filter(|feature| self.has(*feature))
    }

    /// Returns one of the seed's streams of random numbers. The streams are independent of each
    /// other.
    pub(crate) fn random(&self, number: u64) -> Random {
        Random::stream(self.seed, number)
    }

    /// Returns the client's timeout of requests.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Returns the client's timeout of a close.
    pub(crate) fn close_timeout(&self) -> Duration {
        Duration::from_secs(3)
    }

    /// Returns the client's timeout of a handshake.
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(4)
    }

    /// The negotiated timeout of heartbeats, in seconds: the client's, which is the lower one.
    fn heartbeat(&self) -> u16 {
        if self.has(Feature::Heartbeats) { 2 } else { 60 }
    }

    /// Returns the longest suspension after which the broker still keeps the client's connection.
    /// The broker drops the connection two heartbeat timeouts after it last received something.
    /// When the suspension begins, that may be half a timeout and the delays of the network ago.
    pub(crate) fn max_suspension(&self) -> Duration {
        let heartbeat = Duration::from_secs(self.heartbeat().into());
        2 * heartbeat - heartbeat / 2 - Duration::from_millis(500)
    }

    /// Returns how long the client retries a refused consumer, from the end of the handshake.
    pub(crate) fn consumer_retry_time(&self) -> Duration {
        let timeouts = 3 * Duration::from_secs(self.heartbeat().into());
        timeouts.max(Duration::from_secs(30))
    }

    /// Returns how the consumers of all clients are restarted when the broker ends them.
    pub(crate) fn resubscription(&self) -> Resubscription {
        let mut random = self.random(11);
        let time = match random.below(10) {
            0 => None,
            1..4 => Some(Duration::from_secs(5)),
            _ => Some(Duration::from_secs(60)),
        };
        Resubscription {
            time,
            waits_for_queue: time.is_some() && random.chance(20),
        }
    }

    /// Returns the client's limit of outgoing bytes.
    pub(crate) fn outgoing_bytes(&self) -> usize {
        if self.has(Feature::SmallBounds) {
            64 << 10
        } else {
            16 << 20
        }
    }

    /// Returns the maximum size of a message's body.
    pub(crate) fn max_body_bytes(&self) -> usize {
        match (self.has(Feature::Large), self.has(Feature::TinyReads)) {
            (true, false) => 150_000,
            (true, true) => 1_500,
            (false, _) => 300,
        }
    }

    /// Returns `true` if a promise may exceed its deadline without a fault.
    pub(crate) fn may_time_out(&self) -> bool {
        // With small bounds reading pauses until the application takes its deliveries.
        const SLOW: [Feature; 10] = [
            Feature::Block,
            Feature::Stall,
            Feature::Silence,
            Feature::Stuck,
            Feature::Partial,
            Feature::FewChannels,
            Feature::FewerChannels,
            Feature::UserLimit,
            Feature::TinyReads,
            Feature::SmallBounds,
        ];
        SLOW.iter().any(|feature| self.has(*feature))
    }

    /// Returns `true` if there may be fewer channels than a client needs.
    pub(crate) fn has_few_channels(&self) -> bool {
        [
            Feature::FewChannels,
            Feature::FewerChannels,
            Feature::UserLimit,
        ]
        .iter()
        .any(|feature| self.has(*feature))
    }

    /// Returns `true` if the client's limits of counts are small, too, and not only those of bytes.
    pub(crate) fn has_small_counts(&self) -> bool {
        self.has(Feature::SmallBounds) && self.random(2).chance(60)
    }

    /// Returns the number of channels for requests, and for publishes, of a client with few
    /// channels.
    pub(crate) fn small_channel_count(&self) -> u16 {
        self.random(9).within(1..4) as u16
    }

    /// Returns the possible addresses of the broker.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let count = if self.has(Feature::Moves) { 3 } else { 1 };
        (1..=count)
            .map(|port| Endpoint::tcp("broker", port))
            .collect()
    }

    /// Returns `true` if the endpoint with this index speaks HTTP, unless the broker is there.
    pub(crate) fn speaks_http(&self, endpoint: usize) -> bool {
        self.has(Feature::Mixed) && (self.random(12).next() >> endpoint) & 1 == 1
    }

    /// Returns the client's small limit of buffered bytes.
    fn buffered_bytes(&self) -> usize {
        self.random(10).within(1000..100_000)
    }

    /// Returns the bound of partly received contents in bytes, if the client's limits of counts are
    /// small.
    pub(crate) fn max_partial_bytes(&self) -> Option<usize> {
        self.has_small_counts().then(|| self.buffered_bytes())
    }

    /// Returns the options for reconnecting.
    fn recovery(&self, number: usize) -> Recovery {
        let longest = if self.planted_fault == PlantedFault::HastyDial {
            Duration::from_millis(50)
        } else {
            Duration::from_secs(2)
        };
        Recovery::default()
            .retry_first_connect(true)
            .backoff(Duration::from_millis(50), longest)
            .fail_fast(self.has(Feature::FailFast))
            .strict(self.has(Feature::Strict))
            .republish_unconfirmed(self.has(Feature::Republish).then_some(100))
            .seed(self.seed.wrapping_mul(31) + number as u64)
    }

    /// Returns the options of a client, for the session of this number.
    pub(crate) fn options(&self, number: usize) -> Options {
        let mut random = self.random(8);
        let options = Options::default()
            .recovery(self.recovery(number))
            .request_timeout(self.request_timeout())
            .close_timeout(self.close_timeout())
            .handshake_timeout(self.handshake_timeout())
            .heartbeat(self.heartbeat())
            .max_outgoing_bytes(self.outgoing_bytes())
            .frame_max(if self.has(Feature::SmallFrames) {
                4096
            } else {
                131_072
            });
        let options = options.endpoints(self.endpoints()).unwrap();
        let options = if self.has_small_counts() {
            options
                .max_publishes_in_flight(random.within(2..20))
                .max_requests(random.within(2..10))
                .max_buffered_deliveries(random.within(2..10))
                .max_buffered_bytes(if self.planted_fault == PlantedFault::UnboundContents {
                    64 << 20
                } else {
                    self.buffered_bytes()
                })
        } else {
            options
        };
        if self.has(Feature::FewChannels) {
            let few = self.small_channel_count();
            options.request_channels(few).publish_channels(few)
        } else {
            options
        }
    }

    /// Returns the configuration of the broker of this number.
    pub(crate) fn config_of_broker(&self, broker: u64) -> Config {
        let config = self.config();
        Config {
            seed: config.seed.wrapping_add(broker << 32),
            ..config
        }
    }

    /// Returns the `channel_max` that the broker proposes at first.
    pub(crate) fn channel_max(&self) -> u16 {
        if self.has(Feature::FewChannels) {
            self.random(3).within(3..9) as u16
        } else {
            2047
        }
    }

    /// Returns the configuration of the first broker.
    pub(crate) fn config(&self) -> Config {
        let late = Duration::from_millis(if self.has(Feature::LateConfirms) {
            700
        } else {
            0
        });
        Config {
            channel_max: self.channel_max(),
            heartbeat: Duration::from_secs(if self.has(Feature::Heartbeats) { 3 } else { 60 }),
            confirm_delay: Duration::ZERO..late,
            // Only a loop of redeliveries reaches this limit.
            delivery_limit: self.has(Feature::Expel).then_some(100),
            coalesce_confirms: !self.has(Feature::ApartConfirms),
            published_log: usize::MAX,
            published_log_bytes: usize::MAX,
            seed: self.seed,
            ..Config::default()
        }
    }

    /// Returns how the network moves bytes.
    pub(crate) fn pace(&self) -> Pace {
        let mut random = self.random(4);
        Pace {
            max_piece: match (self.has(Feature::TinyReads), random.below(3)) {
                (true, 0) => 1,
                (true, 1) => 15,
                (true, _) => 100,
                (false, 0) => 1000,
                (false, 1) => 9000,
                (false, _) => 200_000,
            },
            pause_percent: if self.has(Feature::TinyReads) { 10 } else { 50 },
            max_pause: if random.chance(50) {
                Duration::from_micros(200)
            } else {
                Duration::ZERO
            },
            max_latency: Duration::from_millis(if self.has(Feature::Jitter) { 30 } else { 1 }),
            capacity: if random.chance(30) { 20_000 } else { 500_000 },
        }
    }
}
