//! The names of server-named queues. The broker gives such a queue another name in each recovery.
//!
//! A program may still use an earlier name, which is replaced with the current one in every
//! outgoing method.

use crate::machine::recovery::bindings::Name;
use crate::protocol::method::basic;
use crate::protocol::{Array, ShortStr, Table, TableRef, Value};
use std::collections::{BTreeMap, VecDeque};

/// The maximum number of earlier names of a queue that are stored in addition to its first. Without
/// a limit, their number would grow with each loss of the connection.
const MAX_RECENT: usize = 16;

/// Maps earlier names of queues to current ones.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The current name by each earlier name.
    current: BTreeMap<Name, Name>,
    /// The earlier names by the current name, the first name in front.
    earlier: BTreeMap<Name, VecDeque<Name>>,
}

impl Names {
    /// Returns `true` if every queue has its first name.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Returns the current name of a queue, by one of its earlier names.
    pub(crate) fn get(&self, name: &[u8]) -> Option<ShortStr<'_>> {
        self.current.get(name).map(Name::as_short_str)
    }

    /// Records that the broker has given a queue another name.
    pub(crate) fn rename(&mut self, from: ShortStr<'_>, to: ShortStr<'_>) {
        let mut earlier = self.earlier.remove(from.as_bytes()).unwrap_or_default();
        self.take_over(to);
        earlier.retain(|name| name.as_short_str() != to);
        earlier.push_back(from.into());
        if earlier.len() > MAX_RECENT + 1
            && let Some(oldest) = earlier.remove(1)
        {
            self.current.remove(&oldest);
        }
        for name in &earlier {
            self.current.insert(name.clone(), to.into());
        }
        self.earlier.insert(to.into(), earlier);
    }

    /// Records that a queue has this name now, even if another queue had it earlier.
    pub(crate) fn take_over(&mut self, name: ShortStr<'_>) {
        if let Some(owner) = self.current.remove(name.as_bytes())
            && let Some(earlier) = self.earlier.get_mut(&owner)
        {
            earlier.retain(|earlier| earlier.as_short_str() != name);
        }
    }

    /// Removes the earlier names of a deleted queue.
    pub(crate) fn forget(&mut self, current: &[u8]) {
        for name in self.earlier.remove(current).unwrap_or_default() {
            self.current.remove(&name);
        }
    }

    /// Replaces earlier queue names in a publish to the default exchange, where a routing key is
    /// the name of a queue. Returns the headers if they change: `CC` and `BCC` contain routing
    /// keys, too.
    pub(crate) fn update_publish<'n>(
        &'n self,
        publish: &mut basic::Publish<'n>,
        headers: Option<TableRef<'_>>,
    ) -> Option<Table> {
        if !publish.exchange.is_empty() {
            return None;
        }
        if let Some(current) = self.get(publish.routing_key.as_bytes()) {
            publish.routing_key = current;
        }
        let headers = headers?;
        let is_renamed = |value| matches!(value, Value::String(key) if self.get(key).is_some());
        let copies = ["CC", "BCC"]
            .into_iter()
            .filter_map(|name| headers.get(name)?.as_array());
        if !copies.flatten().any(is_renamed) {
            return None;
        }
        Some(with_replaced_arrays(headers, |name, value| match value {
            Value::Array(keys) if matches!(name, b"CC" | b"BCC") => {
                let mut renamed = Array::new();
                for key in keys {
                    // The key was in an array before, at the same depth, so it fits.
                    let _ = renamed.push(self.with_current_name(key));
                }
                Some(renamed)
            }
            _ => None,
        }))
    }

    /// Returns the arguments of a queue with the current name of its dead-letter queue, or `None`
    /// if they do not change.
    pub(crate) fn dead_letter_arguments(&self, arguments: TableRef<'_>) -> Option<Table> {
        let current = self.get(dead_letter_queue(arguments)?)?;
        Some(with_dead_letter_queue(arguments, current.as_bytes()))
    }

    /// Returns a routing key with the current name of its queue.
    fn with_current_name<'n>(&'n self, key: Value<'n>) -> Value<'n> {
        match key {
            Value::String(name) => Value::String(self.get(name).map_or(name, ShortStr::as_bytes)),
            key => key,
        }
    }
}

/// The argument with the routing key of a queue's dead letters.
const DEAD_LETTER_KEY: &str = "x-dead-letter-routing-key";

/// Returns the queue to which a queue with these arguments sends its dead letters, if they name
/// one. They name a queue only with the default exchange, where a routing key is the name of a
/// queue.
pub(crate) fn dead_letter_queue<'a>(arguments: TableRef<'a>) -> Option<&'a [u8]> {
    let Some(Value::String(b"")) = arguments.get("x-dead-letter-exchange") else {
        return None;
    };
    if let Value::String(queue) = arguments.get(DEAD_LETTER_KEY)? {
        Some(queue)
    } else {
        None
    }
}

/// Returns the same arguments with another dead-letter queue.
pub(crate) fn with_dead_letter_queue(arguments: TableRef<'_>, queue: &[u8]) -> Table {
    arguments.with_value(DEAD_LETTER_KEY, Value::String(queue))
}

/// Returns a table in which the values for which `replace` returns an array are replaced by it.
fn with_replaced_arrays<'a>(
    table: TableRef<'a>,
    replace: impl Fn(&[u8], Value<'a>) -> Option<Array>,
) -> Table {
    let mut replaced = Table::new();
    for (name, value) in table {
        let pushed = match replace(name.as_bytes(), value) {
            Some(array) => replaced.push(name, Value::from(&array)),
            None => replaced.push(name, value),
        };
        // The value was in a table before, at the same depth, so it fits.
        let _ = pushed;
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &str) -> ShortStr<'_> {
        ShortStr::new(name).unwrap_or_default()
    }

    #[test]
    fn every_recent_name_leads_to_the_current() {
        let mut names = Names::default();
        names.rename(short("1"), short("2"));
        names.rename(short("2"), short("3"));
        for name in [b"1", b"2"] {
            assert_eq!(names.get(name), Some(short("3")));
        }
        assert_eq!(names.get(b"3"), None);
        names.forget(b"3");
        assert!(names.is_empty() && names.earlier.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn earlier_names_are_bounded() {
        let mut names = Names::default();
        for n in 0..1000 {
            names.rename(short(&n.to_string()), short(&(n + 1).to_string()));
        }
        assert_eq!(names.current.len(), MAX_RECENT + 1);
        assert_eq!(
            names.get(b"0"),
            Some(short("1000")),
            "the first name is kept"
        );
        assert_eq!(names.get(b"999"), Some(short("1000")));
        assert_eq!(names.get(b"500"), None);
        names.forget(b"1000");
        assert!(names.is_empty() && names.earlier.is_empty());
    }

    #[test]
    fn name_belongs_to_its_current_queue() {
        let mut names = Names::default();
        names.rename(short("a"), short("b"));
        names.rename(short("b"), short("a"));
        assert_eq!((names.get(b"a"), names.get(b"b")), (None, Some(short("a"))));
        // Another broker gives this name to another queue.
        names.rename(short("x"), short("b"));
        assert_eq!((names.get(b"b"), names.get(b"x")), (None, Some(short("b"))));
        names.rename(short("a"), short("c"));
        assert_eq!((names.get(b"b"), names.get(b"a")), (None, Some(short("c"))));
        names.take_over(short("a"));
        assert_eq!(names.get(b"a"), None);
        names.forget(b"c");
        names.forget(b"b");
        assert!(names.is_empty() && names.earlier.is_empty());
    }
}
