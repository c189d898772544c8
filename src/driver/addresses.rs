//! The addresses of a host: their order, and which one worked last.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// An address for each endpoint, by the index of the endpoint.
pub(crate) type Addresses = BTreeMap<usize, SocketAddr>;

/// The address of each endpoint over which the connection was open last.
///
/// An address that accepts TCP connections and fails in the AMQP handshake is not stored, because
/// it would be tried before all others.
#[derive(Debug, Default)]
pub(crate) struct LastAddresses {
    open: Addresses,
    /// The endpoint and address of the last transport, of which it is not known yet whether the
    /// connection becomes open.
    dialled: Option<(usize, SocketAddr)>,
}

impl LastAddresses {
    /// Returns the addresses to try first. `was_open` means that the connection over the last
    /// transport was open.
    pub(crate) fn begin_dialling(&mut self, was_open: bool) -> Addresses {
        self.open.extend(self.dialled.take().filter(|_| was_open));
        self.open.clone()
    }

    /// Stores the address of a transport. A Unix socket has none.
    pub(crate) fn record_dialled(&mut self, endpoint: usize, address: Option<SocketAddr>) {
        self.dialled = address.map(|address| (endpoint, address));
    }
}

/// Orders the addresses of a host as RFC 8305 (section 4) does: the families take turns, beginning
/// with the family of the first address. The first address is `preferred` if it is one of them, and
/// otherwise that of the resolver. Each address is returned once.
pub(crate) fn interleave(
    addresses: impl IntoIterator<Item = SocketAddr>,
    preferred: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    if let Some(index) = unique.iter().position(|it| Some(*it) == preferred) {
        unique[..=index].rotate_right(1);
    }
    let begins_with_v6 = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (mut family, mut other): (VecDeque<_>, VecDeque<_>) = unique
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let mut ordered = Vec::new();
    while let Some(address) = family.pop_front() {
        ordered.push(address);
        if !other.is_empty() {
            std::mem::swap(&mut family, &mut other);
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_from_the_first() {
        for (given, preferred, expected) in [
            (&[][..], None, &[][..]),
            (
                &["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"],
                None,
                &["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"],
            ),
            (
                &["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"],
                None,
                &["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"],
            ),
            (
                &["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1"],
                Some("2.2.2.2:1"),
                &["2.2.2.2:1", "[::1]:1", "1.1.1.1:1", "[::2]:1"],
            ),
            (
                &["[::1]:1", "1.1.1.1:1"],
                Some("9.9.9.9:1"),
                &["[::1]:1", "1.1.1.1:1"],
            ),
            (
                &["1.1.1.1:1", "1.1.1.1:1", "2.2.2.2:1"],
                None,
                &["1.1.1.1:1", "2.2.2.2:1"],
            ),
        ] {
            let preferred = preferred.map(|text: &str| text.parse().unwrap());
            let ordered = interleave(addresses(given), preferred);
            assert_eq!(ordered, addresses(expected), "{given:?}");
        }
    }

    #[test]
    fn only_the_address_of_an_open_connection_is_remembered() {
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], 5672)));
        let mut last = LastAddresses::default();
        assert!(last.begin_dialling(false).is_empty());
        last.record_dialled(3, Some(one));
        assert_eq!(last.begin_dialling(true), Addresses::from([(3, one)]));
        last.record_dialled(3, Some(two));
        assert_eq!(last.begin_dialling(false), Addresses::from([(3, one)]));
        last.record_dialled(3, None);
        assert_eq!(last.begin_dialling(true), Addresses::from([(3, one)]));
    }
}
