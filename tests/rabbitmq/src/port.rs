//! Ports on 127.0.0.1, each for one user, in this process or another.
//!
//! The server binds its TCP ports itself, seconds after they were chosen and again after a restart,
//! so finding a free port is not enough. A [`Port`] binds the *UDP* port of the same number as its
//! claim: only one user of this module can have it, and the kernel releases it when a process ends
//! in any way. The numbers are below those that the kernel uses for outgoing connections. If
//! another program binds the same number, the server fails, and the start is repeated with other
//! ports.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use crate::error::NodeError;

const FIRST: u16 = 26_000;
const COUNT: u16 = 6_000;

/// A TCP port on 127.0.0.1, claimed until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a free port.
    pub(crate) fn claim() -> Result<Self, NodeError> {
        let start = random() % u64::from(COUNT);
        (0..COUNT)
            .filter_map(|i| u16::try_from((start + u64::from(i)) % u64::from(COUNT)).ok())
            .find_map(|offset| Self::try_claim(FIRST + offset))
            .ok_or(NodeError::NoFreePort {
                first: FIRST,
                last: FIRST + COUNT - 1,
            })
    }

    fn try_claim(number: u16) -> Option<Self> {
        let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        let port = Self {
            number,
            _claim: claim,
        };
        (!port.is_taken()).then_some(port)
    }

    /// Returns `true` if a process listens on the port, on 127.0.0.1 or on every address.
    pub(crate) fn is_taken(&self) -> bool {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.number)).is_err()
    }

    /// Returns the number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Returns an unpredictable number, from the keys that the standard library generates for hash
/// maps.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_port_is_reusable_only_after_its_drop() -> Result<(), NodeError> {
        let port = Port::claim()?;
        assert!(Port::try_claim(port.number()).is_none());
        let number = port.number();
        drop(port);
        let port = Port::try_claim(number).ok_or(NodeError::NoFreePort {
            first: number,
            last: number,
        })?;
        assert!(!port.is_taken());
        let stranger =
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).map_err(NodeError::io("binding"))?;
        assert!(port.is_taken());
        drop((port, stranger));
        Ok(())
    }
}
