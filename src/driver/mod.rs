//! Pumps a byte stream: octets from it into the machine, and from the machine into it.

mod alarm;
mod clock;
mod dial;
mod pump;
mod redial;
mod stream;
mod transport;

pub use clock::Clock;
pub use dial::{Dial, dial};
#[cfg(feature = "evented")]
pub(crate) use pump::{Pump, TURN, Turn, Wishes};
pub use redial::DialDriver;
pub use stream::Driver;
pub use transport::Transport;
