//! The ledger: the outcome of every message, by its number.

use puka::Error;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The outcome of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The broker has confirmed the message.
    Confirmed,
    /// The outcome is unknown.
    Unconfirmed,
    /// Any other error.
    Failed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    fate: Option<Fate>,
    /// Whether the client may republish the message.
    may_repeat: bool,
    /// The numbers of deliveries with and without a mark (redelivered or republished).
    marked: u32,
    unmarked: u32,
    republished: bool,
    acknowledged: bool,
    /// The broker was killed before it confirmed the message, so it may have lost it.
    is_excused: bool,
}

impl Entry {
    fn is_delivered(&self) -> bool {
        self.marked + self.unmarked > 0
    }

    /// Returns `true` if the broker must still deliver the message.
    fn is_owed(&self) -> bool {
        let is_promised = match self.fate {
            Some(Fate::Confirmed) => true,
            _ => self.is_delivered() && !self.is_excused,
        };
        is_promised && !self.acknowledged
    }
}

/// The outcome of every message. The number of a message is its index.
#[derive(Debug, Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    entries: Vec<Entry>,
    stale: u64,
    unknown: u64,
    errors: BTreeMap<String, u64>,
}

/// The sums of a ledger.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The number of published messages.
    pub published: usize,
    /// The number of confirmed messages.
    pub confirmed: usize,
    /// The number of messages with an unknown outcome.
    pub unconfirmed: usize,
    /// The number of messages that failed in another way.
    pub failed: usize,
    /// The number of messages without an outcome.
    pub pending: usize,
    /// The number of delivered messages.
    pub delivered: usize,
    /// The number of messages that were delivered more than once.
    pub repeated: usize,
    /// The number of stale deliveries.
    pub stale: u64,
    /// The messages that were confirmed and never delivered.
    pub lost_confirmed: Vec<usize>,
    /// The messages that were delivered, never acknowledged, and not delivered again, except those
    /// that were unconfirmed when the broker was killed.
    pub lost_unacknowledged: Vec<usize>,
    /// The messages that were delivered more than once without a mark.
    pub unmarked_repeats: Vec<usize>,
    /// The messages that were republished although that was not requested.
    pub unasked_republishes: Vec<usize>,
    /// The number of deliveries that were never published.
    pub unknown: u64,
    /// The errors, each with its count.
    pub errors: BTreeMap<String, u64>,
}

impl Account {
    /// Returns `true` if no message was lost, and none was delivered twice unmarked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost() == 0 && self.twice() == 0 && self.unknown == 0
    }

    /// Returns the number of lost messages.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost_confirmed.len() + self.lost_unacknowledged.len()
    }

    /// Returns the number of messages that were wrongly delivered twice, or without a mark.
    #[must_use]
    pub fn twice(&self) -> usize {
        self.unmarked_repeats.len() + self.unasked_republishes.len()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            published,
            confirmed,
            unconfirmed,
            failed,
            delivered,
            repeated,
            stale,
            ..
        } = self;
        write!(
            f,
            "published {published}: confirmed {confirmed}, unconfirmed {unconfirmed}, failed \
             {failed}, pending {}; delivered {delivered}, repeated and marked {repeated}, stale \
             {stale}; lost confirmed {}, lost unacknowledged {}, repeated and not marked {}, \
             republished unasked {}, unknown {}",
            self.pending,
            self.lost_confirmed.len(),
            self.lost_unacknowledged.len(),
            self.unmarked_repeats.len(),
            self.unasked_republishes.len(),
            self.unknown,
        )
    }
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. Returns its number.
    pub(crate) fn publish(&self, may_repeat: bool) -> usize {
        let mut book = self.book();
        book.entries.push(Entry {
            may_repeat,
            ..Entry::default()
        });
        book.entries.len() - 1
    }

    /// The outcome of a publish.
    pub(crate) fn end(&self, number: usize, outcome: &Result<(), Error>) {
        let mut book = self.book();
        let fate = match outcome {
            Ok(()) => Fate::Confirmed,
            Err(Error::Unconfirmed(_)) => Fate::Unconfirmed,
            Err(error) => {
                book.note(&format!("publish: {error}"));
                Fate::Failed
            }
        };
        if let Some(entry) = book.entries.get_mut(number) {
            entry.fate = Some(fate);
        }
    }

    /// Records a delivery.
    pub(crate) fn deliver(&self, number: Option<usize>, redelivered: bool, republished: bool) {
        let mut book = self.book();
        let Some(entry) = number.and_then(|number| book.entries.get_mut(number)) else {
            book.unknown += 1;
            return;
        };
        entry.republished |= republished;
        if redelivered || republished {
            entry.marked += 1;
        } else {
            entry.unmarked += 1;
        }
    }

    /// Records that a delivery was settled, or could not be settled.
    pub(crate) fn settle(&self, number: Option<usize>, outcome: &Result<(), Error>) {
        let mut book = self.book();
        match outcome {
            Ok(()) => {
                if let Some(entry) = number.and_then(|number| book.entries.get_mut(number)) {
                    entry.acknowledged = true;
                }
            }
            Err(Error::Stale) => book.stale += 1,
            Err(error) => book.note(&format!("settle: {error}")),
        }
    }

    /// Records an error that is not the outcome of a publish.
    pub(crate) fn note(&self, error: &str) {
        self.book().note(error);
    }

    /// Records that the broker was killed: messages that were neither confirmed nor acknowledged
    /// may be lost.
    pub fn excuse(&self) {
        for entry in &mut self.book().entries {
            entry.is_excused |= entry.fate != Some(Fate::Confirmed) && !entry.acknowledged;
        }
    }

    /// Returns `true` if every publish has an outcome, every confirmed message was delivered, and
    /// every delivered message was acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.book()
            .entries
            .iter()
            .all(|entry| entry.fate.is_some() && !entry.is_owed())
    }

    /// Returns the number of acknowledged messages.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.book()
            .entries
            .iter()
            .filter(|entry| entry.acknowledged)
            .count()
    }

    /// Returns the sums.
    #[must_use]
    pub fn account(&self) -> Account {
        let book = self.book();
        let mut account = Account {
            published: book.entries.len(),
            stale: book.stale,
            unknown: book.unknown,
            errors: book.errors.clone(),
            ..Account::default()
        };
        for (number, entry) in book.entries.iter().enumerate() {
            match entry.fate {
                None => account.pending += 1,
                Some(Fate::Confirmed) => account.confirmed += 1,
                Some(Fate::Unconfirmed) => account.unconfirmed += 1,
                Some(Fate::Failed) => account.failed += 1,
            }
            account.delivered += usize::from(entry.is_delivered());
            account.repeated += usize::from(entry.marked + entry.unmarked > 1);
            if entry.is_owed() {
                let lost = if entry.is_delivered() {
                    &mut account.lost_unacknowledged
                } else {
                    &mut account.lost_confirmed
                };
                lost.push(number);
            }
            if entry.unmarked > 1 {
                account.unmarked_repeats.push(number);
            }
            if entry.republished && !entry.may_repeat {
                account.unasked_republishes.push(number);
            }
        }
        account
    }
}

impl Book {
    fn note(&mut self, error: &str) {
        *self.errors.entry(error.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_detects_lost_and_repeated_messages() {
        let ledger = Ledger::default();
        for _ in 0..6 {
            ledger.publish(false);
        }
        for number in 0..5 {
            ledger.end(number, &Ok(()));
        }
        ledger.end(5, &Err(Error::Unconfirmed(Error::Closed.into())));
        // 0 is lost, 1 was delivered and never settled, 2 was delivered twice, 3 twice and marked,
        // 4 was republished, 5 may be lost.
        ledger.deliver(Some(1), false, false);
        ledger.settle(Some(1), &Err(Error::Stale));
        for (number, marks) in [(2, [false, false]), (3, [false, true])] {
            for mark in marks {
                ledger.deliver(Some(number), mark, false);
                ledger.settle(Some(number), &Ok(()));
            }
        }
        ledger.deliver(Some(4), false, true);
        assert!(!ledger.is_settled());
        ledger.settle(Some(4), &Ok(()));
        ledger.deliver(Some(6), false, false);
        let account = ledger.account();
        assert_eq!(account.lost_confirmed, [0]);
        assert_eq!(account.lost_unacknowledged, [1]);
        assert_eq!(account.unmarked_repeats, [2]);
        assert_eq!(account.unasked_republishes, [4]);
        assert_eq!(
            (account.unknown, account.stale, account.repeated),
            (1, 1, 2)
        );
        assert!(!account.is_clean());
        // The broker must deliver a message that it confirmed after it was killed.
        ledger.publish(true);
        ledger.deliver(Some(6), false, false);
        ledger.excuse();
        assert_eq!(ledger.account().lost_unacknowledged, [1]);
        ledger.end(6, &Ok(()));
        assert_eq!(ledger.account().lost_unacknowledged, [1, 6]);
        assert!(Ledger::default().account().is_clean());
    }
}
