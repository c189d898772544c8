//! Queues whose channels crash: the broker closes the connection over a request that needs such a
//! queue.

use crate::broker::Broker;
use crate::fault::{Fault, text};
use crate::state::State;
use puka::protocol::method::{Encode, basic, queue};
use puka::protocol::{Method, MethodId};

/// The next crashes of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crashes {
    /// The number of requests that crash.
    left: usize,
    /// The close names the request. Otherwise it names none, as that of RabbitMQ does.
    names_method: bool,
}

/// Failures of a queue, caused by a test.
impl Broker {
    /// Makes the channel crash over each of the next `times` requests to declare, bind or consume a
    /// queue of this name, which need not exist. The broker closes the connection with 541.
    /// RabbitMQ's close names no method then; with `names_method` it names that of the request.
    pub fn crash_over_queue(&mut self, name: &str, times: usize, names_method: bool) {
        let crashes = Crashes {
            left: times,
            names_method,
        };
        self.state.crashes.insert(name.to_owned(), crashes);
    }

    /// Ends all crashes.
    pub fn end_crashes(&mut self) {
        self.state.crashes.clear();
    }
}

/// Returns a fault and the method that the close names, if the request makes its channel crash.
pub(crate) fn check(state: &mut State, payload: &[u8]) -> Result<(), (Fault, MethodId)> {
    if state.crashes.is_empty() {
        return Ok(());
    }
    let Ok(method) = Method::decode(payload) else {
        return Ok(());
    };
    let name = match &method {
        Method::Queue(queue::Method::Declare(it)) => it.queue,
        Method::Queue(queue::Method::Bind(it)) => it.queue,
        Method::Basic(basic::Method::Consume(it)) => it.queue,
        _ => return Ok(()),
    };
    let crashes = text(name).ok().and_then(|name| state.crashes.get_mut(name));
    let Some(crashes) = crashes.filter(|it| it.left > 0) else {
        return Ok(());
    };
    crashes.left -= 1;
    let named = if crashes.names_method {
        method.id()
    } else {
        MethodId::NONE
    };
    Err((Fault::internal("the channel has crashed"), named))
}
