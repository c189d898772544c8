//! The bad things that happen.

use crate::{Outcome, Stage, until};
use puka_test_rabbitmq::{Node, Rate};
use smol::Timer;
use std::time::Duration;

/// Longer than the two seconds that heartbeats need to detect a silent peer.
const SILENCE: Duration = Duration::from_secs(5);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The node is killed by SIGKILL, and starts again.
    Kill,
    /// The node shuts down by SIGTERM, and starts again.
    ShutDown,
    /// The node is stopped by SIGSTOP, and continues by SIGCONT after heartbeats have detected it.
    Freeze,
    /// `rabbitmqctl stop_app`, and `start_app`.
    StopApp,
    /// `rabbitmqctl close_all_connections`.
    CloseAll,
    /// A memory alarm, for a while.
    Alarm,
    /// Nothing passes for a while, in either direction, without an error.
    Blackhole,
    /// Nothing passes to the clients.
    Deaf,
    /// Connections are reset.
    Reset,
    /// The network to the broker has 1 KB/s for a while, then it is reset.
    Trickle,
    /// The broker's side of the stream ends.
    HalfClose,
    /// Connections are reset after this many more bytes have passed, usually in the middle of a
    /// frame, and then again after half as many.
    ResetAfter(usize),
    /// No connection can be opened for a while.
    Off,
}

impl Fault {
    /// Each kind once.
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::ShutDown,
        Self::Freeze,
        Self::StopApp,
        Self::CloseAll,
        Self::Alarm,
        Self::Blackhole,
        Self::Deaf,
        Self::Reset,
        Self::Trickle,
        Self::HalfClose,
        Self::ResetAfter(1000),
        Self::Off,
    ];

    /// Whether connections are lost by it.
    #[must_use]
    pub fn breaks(self) -> bool {
        self != Self::Alarm
    }

    /// Whether the broker forgets what it has not written down.
    #[must_use]
    pub fn kills(self) -> bool {
        self == Self::Kill
    }

    /// Happens, and is over.
    pub async fn happen(self, stage: &Stage) -> Outcome {
        let proxy = &stage.proxy;
        match self {
            Self::Kill => {
                // It kills what runs.
                stage.node(Node::start_again).await?;
            }
            Self::ShutDown => {
                stage.node(Node::shut_down).await?;
                stage.node(Node::start_again).await?;
            }
            Self::Freeze => {
                stage.node(Node::freeze).await?;
                Timer::after(SILENCE).await;
                stage.node(Node::thaw).await?;
            }
            Self::StopApp => {
                stage.node(|node| node.ctl(&["stop_app"])).await?;
                stage.node(|node| node.ctl(&["start_app"])).await?;
            }
            Self::CloseAll => {
                stage
                    .node(|node| node.close_all_connections("maintenance"))
                    .await?
            }
            Self::Alarm => {
                stage.node(|node| node.set_memory_alarm(true)).await?;
                Timer::after(Duration::from_millis(500)).await;
                stage.node(|node| node.set_memory_alarm(false)).await?;
            }
            Self::Blackhole => {
                proxy.up(Rate::Stopped);
                proxy.down(Rate::Stopped);
                Timer::after(SILENCE).await;
                proxy.clear();
            }
            Self::Deaf => {
                proxy.down(Rate::Stopped);
                Timer::after(SILENCE).await;
                proxy.clear();
            }
            Self::Reset => proxy.reset(),
            Self::Trickle => {
                proxy.up(Rate::Slow(1024));
                Timer::after(Duration::from_secs(2)).await;
                proxy.reset();
                proxy.clear();
            }
            Self::HalfClose => proxy.half_close(),
            Self::ResetAfter(bytes) => {
                for bytes in [bytes, bytes / 2, bytes / 4] {
                    proxy.reset_after(bytes);
                    until(SILENCE, "so many bytes", || !proxy.is_armed()).await?;
                }
            }
            Self::Off => {
                proxy.off();
                Timer::after(Duration::from_secs(1)).await;
                proxy.on();
            }
        }
        Ok(())
    }
}
