//! What the measurements have in common: a broker that costs almost nothing, in memory or behind a socket, and how one measures.

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
