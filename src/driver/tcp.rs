//! The options of a TCP socket, the same for every driver.

use crate::options::Options;
use socket2::{Socket, TcpKeepalive};
use std::io;
use std::time::Duration;

/// The number of unanswered probes after which a connection is lost. Together they take as long as
/// the idle time before the first one.
const PROBES: u32 = 6;

/// Sets `TCP_NODELAY`, keepalive and the user timeout of a socket.
pub(crate) fn configure(socket: &Socket, options: &Options) -> io::Result<()> {
    // A request is written in one piece, so Nagle's algorithm would only delay its last segment.
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = options.get_tcp_keepalive() {
        socket.set_tcp_keepalive(&keepalive(idle))?;
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    if let Some(timeout) = options.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}

fn keepalive(idle: Duration) -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(idle);
    // The others have only settings of the whole system.
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
        windows,
    ))]
    let keepalive = keepalive
        .with_interval((idle / PROBES).max(Duration::from_secs(1)))
        .with_retries(PROBES);
    keepalive
}
