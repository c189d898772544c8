//! The sizes of the large publishes of one channel. They show which publish the broker refused
//! because of its size.

use crate::error::Error;
use crate::machine::ids::PromiseId;
use crate::machine::request::arguments::COPIED_BODY;
use std::collections::VecDeque;

/// The largest number of stored sizes. They use 16 KiB.
const MAX_SIZES: usize = 1024;

/// The sizes of the bodies of at least [`COPIED_BODY`] bytes, by delivery tag. Recording the size
/// of each small body would slow down small publishes, and no broker is known to refuse those.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// Each tag with its size, in ascending order. Confirmed publishes stay until they are old.
    sizes: VecDeque<(u64, u64)>,
    /// Sizes of publishes up to this tag are no longer stored.
    forgotten: u64,
}

impl Sizes {
    /// Adds a publish, with a higher tag than those before.
    #[inline]
    pub(crate) fn add(&mut self, tag: u64, size: usize) {
        if size >= COPIED_BODY {
            self.add_large(tag, size as u64);
        }
    }

    fn add_large(&mut self, tag: u64, size: u64) {
        if self.sizes.len() >= MAX_SIZES
            && let Some((oldest, _)) = self.sizes.pop_front()
        {
            self.forgotten = oldest;
        }
        self.sizes.push_back((tag, size));
    }

    /// Returns the tag of the only unconfirmed publish with the size that the broker has refused.
    pub(crate) fn refused(&self, error: &Error, unconfirmed: &[(u64, PromiseId)]) -> Option<u64> {
        let size = refused_size(error).filter(|size| *size >= COPIED_BODY as u64)?;
        if unconfirmed.first()?.0 <= self.forgotten {
            return None;
        }
        let is_unconfirmed = |tag: u64| {
            let place = unconfirmed.binary_search_by_key(&tag, |(tag, _)| *tag);
            place.is_ok()
        };
        let mut refused = self
            .sizes
            .iter()
            .filter(|(tag, of_tag)| *of_tag == size && is_unconfirmed(*tag));
        let (tag, _) = refused.next()?;
        refused.next().is_none().then_some(*tag)
    }
}

/// Returns the size of the message over which the broker has closed a channel.
///
/// These are RabbitMQ's texts, from 3.8 and before: `message size 5 is larger than configured max
/// size 4`, `message size 5 larger than max size 4`. LavinMQ's text begins in the same way. The
/// size is that of the body.
fn refused_size(error: &Error) -> Option<u64> {
    let (Error::PreconditionFailed(fault) | Error::ContentTooLarge(fault)) = error else {
        return None;
    };
    let name = fault.code.name().unwrap_or_default();
    let text = fault.text.strip_prefix(name).unwrap_or(&fault.text);
    let text = text.strip_prefix(" - ").unwrap_or(text);
    let size = text.strip_prefix("message size ")?.split(' ').next()?;
    size.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::machine::promises::Promises;
    use crate::protocol::MethodId;

    fn refusal(code: u16, text: &str) -> Error {
        Fault::reported_by_broker(code, text, MethodId::NONE).into()
    }

    #[test]
    fn size_is_read_from_each_text() {
        let new = "PRECONDITION_FAILED - message size 70000 is larger than configured max size 9";
        let old = "PRECONDITION_FAILED - message size 70000 larger than max size 9";
        for text in [new, old, "message size 70000 exceeds max size 9"] {
            assert_eq!(refused_size(&refusal(406, text)), Some(70_000), "{text}");
            assert_eq!(refused_size(&refusal(404, text)), None);
        }
        let large = refusal(311, "CONTENT_TOO_LARGE - message size 70000");
        assert_eq!(refused_size(&large), Some(70_000));
        for text in [
            "message size ",
            "message size x",
            "message size 99999999999999999999",
        ] {
            assert_eq!(refused_size(&refusal(406, text)), None, "{text}");
        }
    }

    #[test]
    fn forgotten_sizes_identify_no_publish() {
        let (mut promises, mut sizes) = (Promises::default(), Sizes::default());
        let last = MAX_SIZES as u64 + 2;
        let unconfirmed: Vec<_> = (1..=last).map(|tag| (tag, promises.open())).collect();
        for (tag, _) in &unconfirmed {
            sizes.add(*tag, COPIED_BODY + *tag as usize);
        }
        let text = format!("message size {} ..", COPIED_BODY as u64 + last);
        let error = refusal(406, &text);
        assert_eq!(sizes.sizes.len(), MAX_SIZES);
        assert_eq!(sizes.refused(&error, &unconfirmed), None);
        assert_eq!(sizes.refused(&error, &unconfirmed[1..]), None);
        assert_eq!(sizes.refused(&error, &unconfirmed[2..]), Some(last));
    }
}
