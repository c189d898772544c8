//! Correlation ids of calls, which cannot be guessed.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Makes correlation ids and checks those of replies.
///
/// The correlation id is the only check on a reply: some brokers key the consumers of direct
/// reply-to by their tag, and may route a reply to another client. If ids could be guessed (they
/// were 1, 2, 3, ..), a program that serves one call could reply to other calls of the same caller.
/// An id is therefore the call's number followed by 128 bits that depend on a secret key.
///
/// The bits are two outputs of the standard library's SipHash, a keyed hash designed for input that
/// an attacker chooses, with a key from the operating system. It needs no further dependency and no
/// storage per call, and each id costs two hashes of 24 bytes.
#[derive(Debug, Default)]
pub(crate) struct CallIds {
    key: RandomState,
}

impl CallIds {
    /// Returns the id of a call, by the incarnation of its channel and its number.
    pub(crate) fn id(&self, incarnation: u64, number: u64) -> String {
        let [high, low] = [0_u64, 1].map(|half| self.key.hash_one((half, incarnation, number)));
        format!("{number}.{high:016x}{low:016x}")
    }

    /// Returns the number of the call with this id, or `None` if the id was not made here.
    pub(crate) fn number(&self, incarnation: u64, id: &[u8]) -> Option<u64> {
        let (number, _) = std::str::from_utf8(id).ok()?.split_once('.')?;
        let number = number.parse().ok()?;
        (self.id(incarnation, number).as_bytes() == id).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_id_encodes_its_number() {
        let ids = CallIds::default();
        for number in [1, 2, 1 << 40, u64::MAX] {
            assert_eq!(ids.number(7, ids.id(7, number).as_bytes()), Some(number));
        }
    }

    #[test]
    fn ids_have_nothing_in_common_but_the_number() {
        let ids = CallIds::default();
        let secret = |ids: &CallIds, incarnation, number| {
            ids.id(incarnation, number)
                .split_once('.')
                .unwrap()
                .1
                .to_owned()
        };
        let secrets = [
            secret(&ids, 1, 1),
            secret(&ids, 1, 2),
            secret(&ids, 2, 1),
            secret(&CallIds::default(), 1, 1),
        ];
        for (place, one) in secrets.iter().enumerate() {
            assert_eq!(one.len(), 32, "128 bits");
            assert_ne!(one[..16], one[16..]);
            assert!(secrets[..place].iter().all(|other| other != one));
        }
    }

    #[test]
    fn altered_call_id_has_no_number() {
        let ids = CallIds::default();
        let id = ids.id(7, 12);
        let (number, secret) = id.split_once('.').unwrap();
        let zeros = "0".repeat(32);
        let guesses = [
            format!("13.{secret}"),
            format!("+{number}.{secret}"),
            format!("0{number}.{secret}"),
            format!("{number}.{}", secret.to_uppercase() + " "),
            format!("{number}.{zeros}"),
            format!("{number}{secret}"),
            number.to_owned(),
            String::new(),
            String::from("."),
        ];
        for guess in guesses {
            assert_eq!(ids.number(7, guess.as_bytes()), None, "{guess}");
        }
        assert_eq!(ids.number(8, id.as_bytes()), None, "of another channel");
        assert_eq!(ids.number(7, &[0xff, b'.', b'1']), None);
    }
}
