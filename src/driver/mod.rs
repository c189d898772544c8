//! Drivers: futures that move bytes between a stream and the state machine.

mod alarm;
mod clock;
mod dial;
mod dial_plan;
mod pump;
mod redial;
mod rounds;
mod security;
mod stream;
mod transport;

pub use clock::Clock;
pub use dial::{Dial, dial};
#[cfg(feature = "evented")]
pub(crate) use dial_plan::{Address, DialPlan, DialStep};
#[cfg(feature = "evented")]
pub(crate) use pump::{Pump, Turn, Wishes};
pub use redial::DialDriver;
#[cfg(feature = "evented")]
pub(crate) use rounds::{Polled, Rounds, tend, turn_without_stream};
#[cfg(feature = "evented")]
pub(crate) use security::Security;
pub use stream::Driver;
pub use transport::Transport;
