//! An opinionated AMQP 0-9-1 client, tuned to RabbitMQ.

mod client;
mod driver;
mod error;
mod link;
pub mod machine;
mod message;
mod options;
pub mod protocol;
mod uri;

pub use client::{
    BasicCancel, BasicConsume, BasicGet, BasicPublish, BasicQos, Client, Consumer, Delivery, ExchangeBind,
    ExchangeDeclare, ExchangeDelete, ExchangeUnbind, Promise, QueueBind, QueueDeclare, QueueDelete,
    QueuePurge, QueueUnbind, Sending,
};
pub use driver::{Clock, Driver};
pub use error::{Broken, Error, Fault, Peer};
pub use machine::{Body, Ended, Queue, ServerProperties};
pub use message::{Message, Returned};
pub use options::Options;
pub use uri::{AuthMechanism, Uri, UriError, UriPart};

use futures_io::{AsyncRead, AsyncWrite};

/// Opens a connection over any byte stream: gives the client, and the driver to poll wherever futures are polled.
pub fn open<Io, C>(io: Io, clock: C, options: Options) -> (Client, Driver<Io, C>)
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Clock,
{
    let link = link::Link::new(machine::Connection::new(clock.now(), options));
    (Client::new(link.clone()), Driver::new(io, clock, link))
}
