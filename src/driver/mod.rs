//! Drivers: futures that move bytes between a stream and the state machine.

mod timer;
mod clock;
mod dial;
mod dial_plan;
mod pump;
mod reconnect;
mod rounds;
mod security;
mod driver;
mod transport;

pub use clock::Clock;
pub use dial::{Dial, dial};
#[cfg(feature = "evented")]
pub(crate) use dial_plan::{Address, DialPlan, DialStep};
#[cfg(feature = "evented")]
pub(crate) use pump::{Pump, Turn, Wishes};
pub use reconnect::DialDriver;
#[cfg(feature = "evented")]
pub(crate) use rounds::{Polled, Rounds, tend, turn_without_stream};
#[cfg(feature = "evented")]
pub(crate) use security::Security;
pub use driver::Driver;
pub use transport::Transport;
