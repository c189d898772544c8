//! Drivers: futures that move bytes between a stream and the state machine.

mod addresses;
mod clock;
mod dial;
mod dial_plan;
mod open;
mod poll_loop;
mod pump;
mod reconnect;
mod security;
#[cfg(feature = "tcp")]
mod tcp;
mod timer;
mod transport;

#[cfg(feature = "evented")]
pub(crate) use addresses::LastAddresses;
pub use clock::Clock;
pub use dial::{Dial, dial};
#[cfg(feature = "evented")]
pub(crate) use dial_plan::{Address, AttemptId, DialPlan, DialStep};
pub use open::Driver;
#[cfg(feature = "evented")]
pub(crate) use poll_loop::{PollLoop, Polled, handle_time_without_stream, turn_without_stream};
#[cfg(feature = "evented")]
pub(crate) use pump::{Interest, Pump, Turn};
pub use reconnect::DialDriver;
#[cfg(feature = "evented")]
pub(crate) use security::Security;
#[cfg(feature = "evented")]
pub(crate) use tcp::configure;
pub use transport::Transport;
