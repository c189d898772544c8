//! Conversion of the state machine's replies to the types that requests resolve to.

use super::consumer::Consumer;
use super::delivery::{Delivery, Origin};
use super::handle::Handle;
use super::promise::Outcome;
use super::{Client, Transaction};
use crate::error::Error;
use crate::machine::{Queue, Reply, ServerProperties};
use crate::message::{Message, Returned};

macro_rules! outcomes {
    ($($ty:ty: $reply:pat, $handle:pat => $value:expr;)*) => {
        $(
            impl Outcome for $ty {
                fn from_reply(reply: Reply, handle: &Handle) -> Result<Self, Error> {
                    match (reply, handle) {
                        ($reply, $handle) => Ok($value),
                        (other, _) => {
                            let why = format!("{other:?} is not a reply to this request");
                            Err(Error::invalid("reply", why))
                        }
                    }
                }
            }
        )*
    };
}

impl Outcome for () {
    #[inline]
    fn from_reply(_: Reply, _: &Handle) -> Result<Self, Error> {
        Ok(())
    }
}

outcomes! {
    ServerProperties: Reply::Connected(properties), _ => *properties;
    Queue: Reply::Queue(queue), _ => *queue;
    u32: Reply::Count(count), _ => count;
    String: Reply::Cancelled(tag), _ => tag.into();
    Option<Delivery>: Reply::Delivery(got), handle =>
        got.map(|got| {
            let origin = Origin {
                handle: handle.clone(),
                queues: Vec::new(),
                message_count: Some(got.message_count),
            };
            Delivery::new(got.delivered, origin.into())
        });
    Consumer: Reply::Consumer(id), handle => Consumer::new(id, handle.clone());
    Transaction: Reply::Transaction(id), handle =>
        Transaction::new(Client::with_handle(handle.clone()), id);
    Message: Reply::Message(message), _ => *message;
    Vec<Returned>: Reply::Committed(returned), _ => returned;
}
