//! Consumer tags, by which the broker identifies consumers.

use crate::protocol::ShortStr;

/// The part of a tag before its number.
const PREFIX: &str = "puka.";

/// The number of a tag, which is unique on a connection. In a tag, the user's part follows it, for
/// people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagNumber(pub(crate) u64);

impl TagNumber {
    /// Returns the number of a tag, or `None` if this client did not choose the tag.
    #[inline]
    pub(crate) fn of(tag: ShortStr<'_>) -> Option<Self> {
        let mut number = 0_u64;
        for byte in tag.as_bytes().strip_prefix(PREFIX.as_bytes())? {
            match byte {
                b'0'..=b'9' => {
                    number = number
                        .checked_mul(10)?
                        .checked_add(u64::from(byte - b'0'))?
                }
                b'.' => break,
                _ => return None,
            }
        }
        Some(Self(number))
    }

    /// Returns the tag with this number and the user's part.
    pub(crate) fn to_tag(self, users_tag: &str) -> String {
        let separator = if users_tag.is_empty() { "" } else { "." };
        format!("{PREFIX}{}{separator}{users_tag}", self.0)
    }
}

/// A consumer as the broker knows it: one queue with one prefetch count, which is fixed at its
/// start. A [`Consumer`](super::consumer::Consumer) has several tags if it has several queues, or
/// if its prefetch count was raised.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) number: TagNumber,
    pub(crate) prefetch_count: u16,
    /// The index of its subscription in the consumer.
    pub(crate) subscription: u32,
    /// The queue is a stream that is read from an offset.
    pub(crate) by_offset: bool,
    /// `consume-ok` has arrived.
    pub(crate) started: bool,
    /// Another tag replaces it. It is cancelled when that one has started.
    pub(crate) is_replaced: bool,
    /// It was cancelled, and `cancel-ok` is pending.
    pub(crate) cancelled: bool,
}

/// The tags of a consumer that have not ended, the oldest first. Usually there is only one. It is
/// stored inline, because each delivery searches for its tag.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    first: Option<Tag>,
    others: Vec<Tag>,
}

impl Tags {
    pub(crate) fn push(&mut self, tag: Tag) {
        if self.first.is_none() {
            self.first = Some(tag);
        } else {
            self.others.push(tag);
        }
    }

    #[inline]
    pub(crate) fn find(&self, number: TagNumber) -> Option<&Tag> {
        self.iter().find(|tag| tag.number == number)
    }

    /// Removes a tag. Returns `true` if none is left.
    pub(crate) fn remove(&mut self, number: TagNumber) -> bool {
        self.others.retain(|tag| tag.number != number);
        if self.first.take_if(|tag| tag.number == number).is_some() && !self.others.is_empty() {
            self.first = Some(self.others.remove(0));
        }
        self.first.is_none()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.first.iter().chain(&self.others)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tag> {
        self.first.iter_mut().chain(&mut self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tag: &'static str) -> Option<u64> {
        TagNumber::of(ShortStr::literal(tag)).map(|number| number.0)
    }

    #[test]
    fn tag_is_identified_by_its_number() {
        for number in [1, 10, 4_294_967_296, u64::MAX] {
            for users_tag in ["", "orders", "7", "a.b", "."] {
                let tag = TagNumber(number).to_tag(users_tag);
                assert_eq!(
                    TagNumber::of(ShortStr::cut(&tag)),
                    Some(TagNumber(number)),
                    "{tag}"
                );
            }
        }
    }

    #[test]
    fn foreign_tag_has_no_number() {
        for tag in [
            "",
            "puka",
            "puke.1",
            "1",
            "puka.x",
            "puka.1x",
            "puka.-1",
            "puka.18446744073709551616",
        ] {
            assert_eq!(of(tag), None, "{tag}");
        }
    }

    #[test]
    fn oldest_remaining_tag_is_first() {
        let mut tags = Tags::default();
        for number in 1..=3 {
            let number = TagNumber(number);
            tags.push(Tag {
                number,
                prefetch_count: 0,
                subscription: 0,
                by_offset: false,
                started: false,
                is_replaced: false,
                cancelled: false,
            });
        }
        let numbers = |tags: &Tags| tags.iter().map(|tag| tag.number.0).collect::<Vec<_>>();
        assert!(!tags.remove(TagNumber(1)));
        assert_eq!(numbers(&tags), [2, 3]);
        assert!(!tags.remove(TagNumber(4)));
        assert!(!tags.remove(TagNumber(3)));
        assert_eq!(
            tags.find(TagNumber(2)).map(|tag| tag.number),
            Some(TagNumber(2))
        );
        assert!(tags.remove(TagNumber(2)));
        assert!(tags.remove(TagNumber(2)), "no tag is left");
    }
}
