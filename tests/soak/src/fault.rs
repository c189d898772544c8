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
    /// The password of the user is changed, connections are closed, and logins are refused until it
    /// is changed back.
    Password,
    /// The user loses access to the virtual host, and connections are closed.
    Permissions,
    /// The processes of all channels are killed. RabbitMQ closes their connections with an internal
    /// error that names no method.
    ChannelCrash,
    /// The user may have only four channels, and connections are closed.
    ChannelLimit,
}

impl Fault {
    /// All kinds of faults.
    pub const ALL: [Self; 17] = [
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
        Self::Password,
        Self::Permissions,
        Self::ChannelCrash,
        Self::ChannelLimit,
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
            Self::Password => {
                let change = |to: &'static str| ["change_password", USER, to];
                refused_while(stage, change("another"), change(USER)).await?;
            }
            Self::Permissions => {
                let grant = ["set_permissions", USER, ".*", ".*", ".*"];
                refused_while(stage, ["clear_permissions", USER], grant).await?;
            }
            Self::ChannelCrash => {
                let kill = "[exit(Channel, kill) || Channel <- rabbit_channel:list()].";
                stage.node(move |node| node.ctl(&["eval", kill])).await?;
            }
            Self::ChannelLimit => {
                let limit = ["set_user_limits", USER, r#"{"max-channels": 4}"#];
                refused_while(stage, limit, ["clear_user_limits", USER, "all"]).await?;
            }
        }
        Ok(())
    }
}

/// The user of the load.
const USER: &str = "guest";

/// How long the operator's mistake lasts.
const MISTAKE: Duration = Duration::from_secs(2);

/// Makes an operator's mistake, closes all connections, and corrects the mistake later.
async fn refused_while<const M: usize, const C: usize>(
    stage: &Stage,
    mistake: [&'static str; M],
    correction: [&'static str; C],
) -> Outcome {
    stage.node(move |node| node.ctl(&mistake)).await?;
    stage
        .node(|node| node.close_all_connections("maintenance"))
        .await?;
    Timer::after(MISTAKE).await;
    stage.node(move |node| node.ctl(&correction)).await?;
    Ok(())
}
