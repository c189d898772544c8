//! The client API: the client, its requests, and the types that they resolve to.

#[macro_use]
mod request;
mod arguments;
mod builder;
mod consume;
mod consume_multi;
mod consumer;
mod delivery;
mod exchange;
mod get;
mod handle;
mod notices;
mod outcome;
mod promise;
mod publish;
mod queue;
mod root;
mod rpc;
mod settle;
mod transaction;

pub use arguments::{
    DeadLetterKey, DeadLetterStrategy, DelayedRetry, HeadersMatch, LeaderLocator, Overflow,
    QueueType, StreamOffset,
};
pub use consume::{BasicCancel, BasicConsume, BasicQos};
pub use consume_multi::{BasicConsumeMulti, ConsumeQueue};
pub use consumer::Consumer;
pub use delivery::Delivery;
pub use exchange::{ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind};
pub use get::BasicGet;
#[cfg(feature = "evented")]
pub(crate) use handle::{Handle, WeakHandle};
pub use notices::Notices;
pub use promise::Promise;
pub use publish::BasicPublish;
pub use queue::{QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind};
pub use request::RequestFuture;
pub use root::Client;
pub use rpc::Rpc;
pub use transaction::{BeginTransaction, Transaction};
