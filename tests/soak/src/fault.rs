//! The faults.

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
    /// No bytes pass for a while, in either direction, and there is no error.
    Blackhole,
    /// No bytes pass to the clients.
    BlackholeToClients,
    /// Connections are reset.
    Reset,
    /// The network to the broker has 1 KB/s for a while. Then connections are reset.
    Trickle,
    /// The broker's side of the stream ends.
    HalfClose,
    /// Connections are reset after this many more bytes have passed, usually within a frame, then
    /// after half as many and a quarter.
    ResetAfter(usize),
    /// No connection can be opened for a while.
    Off,
}

impl Fault {
    /// All kinds of faults.
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::ShutDown,
        Self::Freeze,
        Self::StopApp,
        Self::CloseAll,
        Self::Alarm,
        Self::Blackhole,
        Self::BlackholeToClients,
        Self::Reset,
        Self::Trickle,
        Self::HalfClose,
        Self::ResetAfter(1000),
        Self::Off,
    ];

    /// Returns `true` if the fault ends connections.
    #[must_use]
    pub fn breaks(self) -> bool {
        self != Self::Alarm
    }

    /// Returns `true` if the broker loses what it has not written to disk.
    #[must_use]
    pub fn kills(self) -> bool {
        self == Self::Kill
    }

    /// Causes the fault, and ends it.
    pub async fn happen(self, stage: &Stage) -> Outcome {
        let proxy = &stage.proxy;
        match self {
            Self::Kill => {
                // This kills the running server.
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
            Self::BlackholeToClients => {
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
