//! Pumps a byte stream: octets from it into the machine, and from the machine into it.

mod clock;
mod dial;
mod stream;
mod transport;

pub use clock::Clock;
pub use dial::{Dial, dial};
pub use stream::Driver;
pub use transport::Transport;
