//! Options of TCP sockets.

use super::Options;
use std::time::Duration;

/// The longest idle time. Linux accepts at most 32 767 seconds.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// The shortest idle time. Systems count whole seconds, and refuse 0.
const MIN_KEEPALIVE: Duration = Duration::from_secs(1);

/// The longest user timeout. Linux stores milliseconds in 31 bits.
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The shortest user timeout. Linux takes 0 for its default.
const MIN_USER_TIMEOUT: Duration = Duration::from_millis(1);

/// The options of a TCP socket.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
        }
    }
}

impl Options {
    /// Sets after which idle time the system probes whether the broker's host is still there (TCP
    /// keepalive), or disables that with `None`; 60 s by default. At least a second and at most
    /// 32 767 s; other values are changed to that.
    ///
    /// Six probes follow, each after a sixth of this time, and at least a second. So a connection
    /// to a host that is gone is lost after twice this time: by default after two minutes, which
    /// is as long as two of the default [heartbeats](Self::heartbeat). Without heartbeats, this is
    /// the only way to notice a silent loss while nothing is sent. The probes also keep the
    /// connection in the tables of firewalls and load balancers, which forget idle connections
    /// after 4 minutes or more, and often without telling either side.
    ///
    /// OpenBSD and some smaller systems have only settings for the whole system instead of the
    /// number of probes and their interval.
    #[must_use]
    pub fn tcp_keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = idle.into();
        self.tcp.keepalive = idle.map(|idle| idle.clamp(MIN_KEEPALIVE, MAX_KEEPALIVE));
        self
    }

    /// Sets how long sent bytes may be without an acknowledgement of the broker's host before the
    /// system closes the connection (`TCP_USER_TIMEOUT`), or leaves that to the system with `None`,
    /// the default; Linux then gives up after about 15 minutes. At most 24 days. Only Linux,
    /// Android and Fuchsia have this option; it has no effect on other systems.
    ///
    /// It is off by default, because Linux also closes the connection if the broker's host
    /// acknowledges everything and the broker does not read. RabbitMQ does not read from
    /// publishers while it is low on memory or disk space, which may take hours (with a timeout of
    /// 3 s and a peer that does not read, Linux 6.18 closed the connection after 3.3 s). With
    /// [heartbeats](Self::heartbeat), a host that is gone is noticed in any case. Set this option
    /// if heartbeats are disabled and such a loss must be noticed sooner than after 15 minutes.
    #[must_use]
    pub fn tcp_user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        self.tcp.user_timeout = timeout.map(|it| it.clamp(MIN_USER_TIMEOUT, MAX_USER_TIMEOUT));
        self
    }

    /// Returns the idle time after which TCP keepalive begins, if it is enabled.
    #[must_use]
    pub fn get_tcp_keepalive(&self) -> Option<Duration> {
        self.tcp.keepalive
    }

    /// Returns the user timeout of TCP, if it is set.
    #[must_use]
    pub fn get_tcp_user_timeout(&self) -> Option<Duration> {
        self.tcp.user_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_within_what_systems_accept() {
        let options = Options::default();
        assert_eq!(options.get_tcp_keepalive(), Some(Duration::from_secs(60)));
        assert_eq!(options.get_tcp_user_timeout(), None);
        for (time, keepalive, timeout) in [
            (Duration::ZERO, MIN_KEEPALIVE, MIN_USER_TIMEOUT),
            (Duration::MAX, MAX_KEEPALIVE, MAX_USER_TIMEOUT),
        ] {
            let options = Options::default()
                .tcp_keepalive(time)
                .tcp_user_timeout(time);
            assert_eq!(options.get_tcp_keepalive(), Some(keepalive));
            assert_eq!(options.get_tcp_user_timeout(), Some(timeout));
        }
        assert_eq!(
            Options::default().tcp_keepalive(None).get_tcp_keepalive(),
            None
        );
    }
}
