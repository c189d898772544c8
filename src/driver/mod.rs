//! Pumps a byte stream: octets from it into the machine, and from the machine into it.

mod clock;
mod stream;

pub use clock::Clock;
pub use stream::Driver;
