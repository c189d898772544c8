//! Dialling and its faults: refused dials, refused logins, silence, and cuts inside the handshake.

use crate::injector::RefusalKind;
use crate::plan::{Feature, PlantedFault};
use crate::session::connection_reset;
use crate::transport::Transport;
use crate::violation::Checked;
use crate::world::World;
use puka::Error;
use puka::machine::{Dialled, Dialling};
use std::time::Duration;

/// The maximum duration of a dial.
const MAX_DIAL_TIME: Duration = Duration::from_secs(3);

impl World {
    /// Begins to dial the endpoints in turn. The broker is at one of them.
    pub(crate) fn dial(&mut self, client: usize, mut dialling: Dialling) -> Checked {
        let slow = !self.faults_stopped
            && self.plan.has(Feature::Refused)
            && self.network_random.chance(10);
        let (plan, home) = (self.plan, self.broker_endpoint);
        let endpoints = plan.endpoints().len();
        let answers = |endpoint: &usize| *endpoint == home || plan.speaks_http(*endpoint);
        if plan.planted_fault == PlantedFault::KeptEndpoint
            && let Some(endpoint) = (0..endpoints).find(|it| *it != home && plan.speaks_http(*it))
        {
            dialling.first = endpoint;
        }
        let order = (0..endpoints).map(|offset| (dialling.first + offset) % endpoints);
        let (attempts, endpoint) = (1..)
            .zip(order)
            .find(|(_, it)| answers(it))
            .unwrap_or((1, home));
        let time = if slow {
            MAX_DIAL_TIME
        } else {
            self.network_random.micros(0..20_000) * attempts
        };
        let now = self.now;
        let at = now + time;
        self.note(client, || format!("dials, for {time:?}"));
        if let Some(session) = self.session(client) {
            session.begin_dial(at, endpoint);
            session.attempts.record(now, endpoints)?;
        }
        Ok(())
    }

    /// Completes a dial that is due.
    pub(crate) fn complete_dial(&mut self, client: usize) -> Checked {
        let now = self.now;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if !session.end_due_dial(now) {
            return Ok(());
        }
        let refuses = !self.faults_stopped && self.plan.has(Feature::Refused);
        let error = if self.unreachable_until > now || refuses && self.network_random.chance(25) {
            Some(Error::from(std::io::Error::from(
                std::io::ErrorKind::ConnectionRefused,
            )))
        } else if refuses && self.network_random.chance(10) {
            Some(Error::Timeout {
                what: "dialling",
                after: MAX_DIAL_TIME,
            })
        } else if refuses && self.network_random.chance(5) {
            Some(Error::ConnectionBroken(connection_reset()))
        } else {
            None
        };
        match error {
            Some(error) => {
                self.note(client, || format!("the dial fails: {error}"));
                if let Some(session) = self.session(client) {
                    session.expect_break("not dialled");
                    session.machine.handle_dial_failure(now, error);
                }
            }
            None => self.open_transport(client),
        }
        self.handle_events(client)
    }

    /// Opens the transport that a client has dialled.
    fn open_transport(&mut self, client: usize) {
        let transport = self.new_transport();
        self.note(client, || format!("has transport {}", transport.number));
        let (now, home) = (self.now, self.broker_endpoint);
        if let Some(session) = self.session(client) {
            let endpoint = session.dialled_endpoint();
            session.use_transport(transport);
            if endpoint != home {
                // The broker may have moved since the dial began.
                session.refuse_login(RefusalKind::Http);
            }
            let dialled = Dialled::new(endpoint, false);
            session.machine.handle_dialled(now, dialled);
        }
        if self.plan.planted_fault == PlantedFault::Resurrection {
            self.resurrect(client);
        }
        if !self.faults_stopped {
            self.inject_dial_fault(client);
        }
    }

    /// Opens a transport to the broker.
    pub(crate) fn new_transport(&mut self) -> Transport {
        self.transports += 1;
        let broker = self.broker.connect(self.now);
        Transport::new(self.transports, &self.plan, broker, self.now)
    }

    /// Applies a random fault to a transport that has not carried anything yet.
    fn inject_dial_fault(&mut self, client: usize) {
        let (plan, now) = (self.plan, self.now);
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return;
        };
        let random = &mut self.network_random;
        let mut chance = |feature, percent| plan.has(feature) && random.chance(percent);
        let (cut, slow) = (chance(Feature::Cut, 30), chance(Feature::Stall, 20));
        let (silent, refused) = (chance(Feature::Silence, 8), chance(Feature::Refused, 8));
        let (after, time, up) = (
            random.within(1..2500),
            random.millis(0..6000),
            random.chance(50),
        );
        if plan.has(Feature::Refusals) && random.chance(10) && session.next_refusals.0 == 0 {
            let kinds = [RefusalKind::Login, RefusalKind::VirtualHost];
            let kind = *random.pick(&kinds).unwrap_or(&RefusalKind::Login);
            session.next_refusals = (random.within(1..7), kind);
        }
        let refuses = session.next_refusals.0 > 0;
        if !(cut || slow || silent || refused || refuses) {
            return;
        }
        session.expect_break("a fault while dialling");
        self.faults += 1;
        if refuses && plan.planted_fault == PlantedFault::GivenUp {
            session.machine.handle_loss(puka::Broken::DriverDropped);
            return;
        }
        if refuses {
            session.next_refusals.0 -= 1;
            session.refuse_login(session.next_refusals.1);
            return;
        }
        let Some(transport) = session.transport_mut() else {
            return;
        };
        if cut {
            let wire = if up {
                &mut transport.up
            } else {
                &mut transport.down
            };
            wire.cut_after = Some(after);
        }
        if slow {
            transport.down.read_at = now + time;
        }
        if silent {
            transport.silence();
        }
        if refused {
            transport.injector.refuse_login(RefusalKind::Login);
        }
    }
}
