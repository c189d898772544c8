//! Probes: requests that must succeed on a sound connection when nothing else is pending.

use crate::violation::{Checked, ensure};
use crate::world::World;
use std::time::Duration;

impl World {
    /// Checks that a client can declare a queue, publish to it, and get the message.
    pub(crate) fn probe(&mut self, client: usize) -> Checked {
        self.declare(client, "probe", [false, true])?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        // Nothing is in flight that could prevent it.
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish when nothing is pending".into()
        })?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", false)?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))
    }

    /// Checks that requests and publishes get channels although as many messages of gets are
    /// unsettled as the client allows.
    pub(crate) fn probe_hoarding(&mut self, client: usize) -> Checked {
        for _ in 0..12 {
            self.publish_this(client, ("", "probe"), (false, false), 20, true)?;
        }
        self.run_for(Duration::from_secs(2))?;
        for _ in 0..12 {
            self.get_from(client, "probe", false)?;
        }
        self.run_for(Duration::from_secs(2))?;
        self.declare(client, "probe", [false, true])?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish while messages are unsettled".into()
        })?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", true)?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))
    }
}
