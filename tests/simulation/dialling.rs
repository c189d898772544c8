//! Dialling, and what may go wrong with it: refusals, silence, cuts inside the handshake.

use crate::ledger::Checked;
use crate::line::Line;
use crate::plan::{Feature, Mischief};
use crate::session::reset;
use crate::world::World;
use puka::Error;
use puka::machine::Dialling;
use std::time::Duration;

/// How long a dial may take.
const DEADLINE: Duration = Duration::from_secs(3);

impl World {
    /// A client begins to dial the endpoints in turn, at all but one of which nobody is.
    pub(crate) fn dial(&mut self, client: usize, dialling: Dialling) {
        let slow = !self.calm && self.plan.has(Feature::Refused) && self.network.chance(10);
        let endpoints = self.plan.endpoints().len();
        let tries = (self.home + endpoints - dialling.first) % endpoints + 1;
        let time = if slow {
            DEADLINE
        } else {
            self.network.micros(0..20_000) * u32::try_from(tries).unwrap()
        };
        let at = self.now + time;
        self.note(client, || format!("dials, for {time:?}"));
        if let Some(session) = self.session(client) {
            session.dialling = Some(at);
        }
    }

    /// Dialling has come to its end, if it has.
    pub(crate) fn dialled(&mut self, client: usize) -> Checked {
        let now = self.now;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if session.dialling.is_none_or(|at| at > now) || session.finished {
            return Ok(());
        }
        session.dialling = None;
        let refuses = !self.calm && self.plan.has(Feature::Refused);
        let error = if self.away_until > now || refuses && self.network.chance(25) {
            Some(Error::from(std::io::Error::from(
                std::io::ErrorKind::ConnectionRefused,
            )))
        } else if refuses && self.network.chance(10) {
            Some(Error::Timeout {
                what: "dialling",
                after: DEADLINE,
            })
        } else if refuses && self.network.chance(5) {
            Some(Error::ConnectionBroken(reset()))
        } else {
            None
        };
        match error {
            Some(error) => {
                self.note(client, || format!("can't be dialled: {error}"));
                if let Some(session) = self.session(client) {
                    session.doubt("not dialled");
                    session.dial_fails(now, error);
                }
            }
            None => self.connected(client),
        }
        self.events(client)
    }

    fn connected(&mut self, client: usize) {
        let line = self.new_line();
        self.note(client, || format!("has line {}", line.number));
        let (now, home) = (self.now, self.home);
        if let Some(session) = self.session(client) {
            session.link(line);
            session.machine.handle_dialled(now, home, false);
        }
        if self.plan.mischief == Mischief::Resurrection {
            self.resurrect(client);
        }
        if !self.calm {
            self.bewitch(client);
        }
    }

    pub(crate) fn new_line(&mut self) -> Line {
        self.lines += 1;
        let broker = self.broker.connect(self.now);
        Line::new(self.lines, &self.plan, broker, self.now)
    }

    /// What may happen to a line before it has said a word.
    fn bewitch(&mut self, client: usize) {
        let (plan, now) = (self.plan, self.now);
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return;
        };
        let random = &mut self.network;
        let mut chance = |feature, percent| plan.has(feature) && random.chance(percent);
        let (cut, slow) = (chance(Feature::Cut, 30), chance(Feature::Stall, 20));
        let (silent, refused) = (chance(Feature::Silence, 8), chance(Feature::Refused, 8));
        let (after, time, up) = (
            random.within(1..2500),
            random.millis(0..6000),
            random.chance(50),
        );
        if !(cut || slow || silent || refused) {
            return;
        }
        session.doubt("bewitched");
        self.faults += 1;
        let Some(line) = &mut session.line else {
            return;
        };
        if cut {
            let wire = if up { &mut line.up } else { &mut line.down };
            wire.cut_after = Some(after);
        }
        if slow {
            line.down.read_at = now + time;
        }
        if silent {
            line.silence();
        }
        if refused {
            line.meddler.refuse();
        }
    }
}
