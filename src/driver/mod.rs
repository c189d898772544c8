//! Drivers: futures that move bytes between a stream and the state machine.

mod clock;
mod dial;
mod dial_plan;
mod open;
mod pump;
mod reconnect;
mod rounds;
mod security;
mod timer;
mod transport;

pub use clock::Clock;
pub use dial::{Dial, dial};
#[cfg(feature = "evented")]
pub(crate) use dial_plan::{Address, DialPlan, DialStep};
pub use open::Driver;
#[cfg(feature = "evented")]
pub(crate) use pump::{Interest, Pump, Turn};
pub use reconnect::DialDriver;
#[cfg(feature = "evented")]
pub(crate) use rounds::{Polled, Rounds, tend, turn_without_stream};
#[cfg(feature = "evented")]
pub(crate) use security::Security;
pub use transport::Transport;
