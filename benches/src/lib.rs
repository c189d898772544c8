//! The common parts of the measurements: a broker that costs almost nothing, in memory or behind a
//! socket, and clocks.

mod link;
mod null;
mod process;
mod sample;
mod serve;
mod world;

pub use link::InMemory;
pub use null::{Null, deliver};
pub use process::{Broker, argument, cpu, number};
pub use sample::{Clock, Sample, median};
pub use serve::{pin, serve};
pub use world::World;
