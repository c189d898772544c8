//! Pumps a byte stream: octets from it into the machine, and from the machine into it.

mod clock;
mod pump;
mod stream;

pub use clock::Clock;
#[cfg(feature = "evented")]
pub(crate) use pump::{Pump, Turn, Wishes};
pub use stream::Driver;
