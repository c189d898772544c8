//! Checks of a request before it is queued.

use crate::error::Error;
use crate::machine::handshake::server_properties::{EXCHANGE_BINDINGS, ServerProperties};
use crate::protocol::method::{basic, exchange, queue};
use crate::protocol::{Method, MethodId, ShortStr};

/// Returns `true` if a method is sent without a reply. "If set, the server will not respond to the
/// method. The client should not wait for a reply method" (domain `no-wait`). Without a reply, it
/// would be unknown when its channel is free again.
pub(crate) fn is_nowait(method: &Method<'_>) -> bool {
    use exchange::Method as Exchange;
    use queue::Method as Queue;
    match method {
        Method::Exchange(Exchange::Declare(exchange::Declare { nowait, .. }))
        | Method::Exchange(Exchange::Delete(exchange::Delete { nowait, .. }))
        | Method::Exchange(Exchange::Bind(exchange::Bind { nowait, .. }))
        | Method::Exchange(Exchange::Unbind(exchange::Unbind { nowait, .. }))
        | Method::Queue(Queue::Declare(queue::Declare { nowait, .. }))
        | Method::Queue(Queue::Bind(queue::Bind { nowait, .. }))
        | Method::Queue(Queue::Purge(queue::Purge { nowait, .. }))
        | Method::Queue(Queue::Delete(queue::Delete { nowait, .. })) => *nowait,
        _ => false,
    }
}

/// Checks that a queue name is not empty. "In methods where the queue name may be blank, and that
/// has no specific significance, this refers to the 'current' queue for the channel, meaning the
/// last queue that the client declared on the channel" (domain `queue-name`). Channels are pooled,
/// so that could be a queue which another task of the program declared.
///
/// # Errors
/// [`Error::InvalidArgument`] if the name is empty.
pub(crate) fn check_queue_name(queue: ShortStr<'_>) -> Result<(), Error> {
    if queue.is_empty() {
        return Err(Error::invalid(
            "queue",
            "an empty name is allowed only where a queue is declared",
        ));
    }
    Ok(())
}

/// Returns the queue of a method whose queue name must not be empty. `queue.declare` is not one of
/// them: an empty name asks the broker for a name.
pub(crate) fn queue_of<'a>(method: &Method<'a>) -> Option<ShortStr<'a>> {
    match method {
        Method::Queue(queue::Method::Bind(it)) => Some(it.queue),
        Method::Queue(queue::Method::Unbind(it)) => Some(it.queue),
        Method::Queue(queue::Method::Purge(it)) => Some(it.queue),
        Method::Queue(queue::Method::Delete(it)) => Some(it.queue),
        Method::Basic(basic::Method::Get(it)) => Some(it.queue),
        _ => None,
    }
}

/// Returns an error if the broker does not support a method.
///
/// # Errors
/// [`Error::MissingCapability`] for a binding between exchanges.
pub(crate) fn check_supported(server: &ServerProperties, method: MethodId) -> Result<(), Error> {
    match method {
        exchange::Bind::ID | exchange::Unbind::ID => server.check_capability(EXCHANGE_BINDINGS),
        _ => Ok(()),
    }
}
