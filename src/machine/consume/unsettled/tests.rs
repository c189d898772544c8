//! Tests of settling.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug)]
enum Step {
    Deliver {
        gap: u64,
    },
    Settle {
        back: u64,
        multiple: bool,
        acks: bool,
    },
    MarkUnwanted {
        back: u64,
    },
    ReturnUnwanted,
    Flush,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let multiple = prop::bool::weighted(0.1);
    let step = prop_oneof![
        20 => (1..3_u64).prop_map(|gap| Step::Deliver { gap }),
        20 => (0..30_u64, multiple, prop::bool::weighted(0.8))
            .prop_map(|(back, multiple, acks)| Step::Settle { back, multiple, acks }),
        3 => (0..30_u64).prop_map(|back| Step::MarkUnwanted { back }),
        1 => Just(Step::ReturnUnwanted),
        3 => Just(Step::Flush),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..400)
}

/// Settles a delivery, or all up to it, as the broker does.
fn settled(awaited: &mut BTreeSet<u64>, tag: u64, multiple: bool) {
    assert!(awaited.contains(&tag), "{tag} is settled already");
    awaited.retain(|awaited| {
        if multiple {
            *awaited > tag
        } else {
            *awaited != tag
        }
    });
}

/// Writes the queued acks. Afterwards the broker and the client agree on what is unsettled.
fn flush(unsettled: &mut Unsettled, awaited: &mut BTreeSet<u64>, expected: &BTreeSet<u64>) {
    unsettled.flush(|tag, multiple| settled(awaited, tag, multiple));
    assert_eq!(awaited, expected);
}

/// Returns the unwanted deliveries. Without `basic.nack`, no frame may cover several.
fn return_unwanted(unsettled: &mut Unsettled, awaited: &mut BTreeSet<u64>) {
    let may_cover = awaited.len().is_multiple_of(2);
    unsettled.return_unwanted(may_cover, |tag, multiple| {
        assert!(may_cover || !multiple);
        settled(awaited, tag, multiple);
    });
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn flush_leaves_the_unsettled_deliveries_to_the_broker(steps in steps()) {
        let mut unsettled = Unsettled::default();
        let (mut last, mut awaited, mut expected) = (0, BTreeSet::new(), BTreeSet::new());
        let mut unwanted = BTreeSet::new();
        for step in steps {
            match step {
                Step::Deliver { gap } => {
                    last += gap;
                    prop_assert!(unsettled.deliver(last, false));
                    awaited.insert(last);
                    expected.insert(last);
                }
                Step::Settle { back, multiple, acks } => {
                    let tag = last.saturating_sub(back);
                    if unwanted.contains(&tag) {
                        continue;
                    }
                    if multiple && !acks {
                        // The connection does the same. Otherwise the nack would cover deliveries
                        // whose ack is not written yet.
                        flush(&mut unsettled, &mut awaited, &expected);
                    }
                    let write = |tag, multiple| settled(&mut awaited, tag, multiple);
                    let was_unsettled =
                        if acks {
                            unsettled.ack(tag, multiple)
                        } else {
                            unsettled.settle_at_once(tag, multiple, write)
                        };
                    prop_assert_eq!(was_unsettled, expected.contains(&tag));
                    if was_unsettled {
                        let is_settled = |other: &u64| *other == tag || multiple && *other < tag;
                        expected.retain(|tag| unwanted.contains(tag) || !is_settled(tag));
                    }
                }
                Step::MarkUnwanted { back } => {
                    let tag = last.saturating_sub(back);
                    unsettled.mark_unwanted(tag);
                    unwanted.extend(Some(tag).filter(|tag| expected.contains(tag)));
                }
                Step::ReturnUnwanted => {
                    flush(&mut unsettled, &mut awaited, &expected);
                    return_unwanted(&mut unsettled, &mut awaited);
                    expected.retain(|expected| !unwanted.contains(expected));
                    unwanted.clear();
                    prop_assert_eq!(&awaited, &expected);
                }
                Step::Flush => flush(&mut unsettled, &mut awaited, &expected),
                Step::Forget => {
                    unsettled.forget();
                    expected.clear();
                    unwanted.clear();
                    awaited.clear();
                }
            }
            prop_assert_eq!(unsettled.count(), expected.len());
            prop_assert_eq!(unsettled.unwanted(), unwanted.len());
        }
        flush(&mut unsettled, &mut awaited, &expected);
    }
}

fn delivered(tags: impl IntoIterator<Item = u64>) -> Unsettled {
    let mut unsettled = Unsettled::default();
    for tag in tags {
        assert!(unsettled.deliver(tag, false));
    }
    unsettled
}

fn flushed(unsettled: &mut Unsettled) -> Vec<(u64, bool)> {
    let mut acks = Vec::new();
    unsettled.flush(|tag, multiple| acks.push((tag, multiple)));
    acks
}

#[test]
fn acks_that_cover_all_tags_are_one_frame() {
    let mut unsettled = delivered(1..=5);
    for tag in [2, 1, 3] {
        unsettled.ack(tag, false);
    }
    assert_eq!(flushed(&mut unsettled), [(3, true)]);
    assert_eq!(flushed(&mut unsettled), []);
    unsettled.ack(4, false);
    assert_eq!(flushed(&mut unsettled), [(4, false)]);
    assert_eq!(unsettled.count(), 1);
}

#[test]
fn ack_behind_an_unsettled_delivery_is_a_frame() {
    let mut unsettled = delivered(1..=5);
    for tag in [5, 1, 3] {
        unsettled.ack(tag, false);
    }
    assert_eq!(
        flushed(&mut unsettled),
        [(1, false), (5, false), (3, false)]
    );
    unsettled.ack(2, false);
    assert_eq!(flushed(&mut unsettled), [(2, false)]);
    unsettled.ack(4, false);
    assert_eq!(flushed(&mut unsettled), [(4, false)]);
    assert_eq!(unsettled.count(), 0);
    assert!(unsettled.deliveries.is_empty());
}

#[test]
fn rejected_delivery_does_not_keep_acks_apart() {
    let mut unsettled = delivered(1..=4);
    unsettled.ack(1, false);
    unsettled.settle_at_once(2, false, |_, _| {});
    unsettled.ack(3, false);
    assert_eq!(flushed(&mut unsettled), [(3, true)]);
    assert!(unsettled.is_unsettled(4) && !unsettled.is_unsettled(3));
}

#[test]
fn nack_of_several_leaves_unwanted_deliveries_out() {
    for unwanted in [&[1, 2][..], &[1], &[2], &[]] {
        let mut unsettled = delivered(1..=3);
        unwanted
            .iter()
            .for_each(|tag| unsettled.mark_unwanted(*tag));
        let mut nacks = Vec::new();
        assert!(unsettled.settle_at_once(3, true, |tag, multiple| nacks.push((tag, multiple))));
        let mut expected: Vec<_> = (1..=3)
            .filter(|tag| !unwanted.contains(tag))
            .map(|tag| (tag, false))
            .collect();
        if unwanted.is_empty() {
            expected = vec![(3, true)];
        }
        assert_eq!(nacks, expected);
        assert_eq!(
            (unsettled.count(), unsettled.unwanted()),
            (unwanted.len(), unwanted.len())
        );
    }
}

#[test]
fn tags_may_have_gaps_but_never_go_back() {
    let mut unsettled = delivered([1, 4, u64::MAX - 1]);
    assert!(!unsettled.deliver(4, false));
    assert!(unsettled.is_unsettled(4) && !unsettled.is_unsettled(2));
    unsettled.ack(u64::MAX - 1, true);
    assert_eq!(flushed(&mut unsettled), [(u64::MAX - 1, true)]);
    assert_eq!(unsettled.count(), 0);
}

#[test]
fn gaps_wider_than_32_bits_are_searched() {
    const GAP: u64 = 1 << 32;
    let tags = [1, 1 + GAP, 2 + GAP, 2 + 2 * GAP];
    for tag in tags {
        let mut unsettled = delivered(tags);
        assert!(unsettled.ack(tag, false), "{tag}");
        assert_eq!(flushed(&mut unsettled), [(tag, false)]);
        assert_eq!(unsettled.count(), 3);
        assert!(!unsettled.ack(tag - 1, false) || tags.contains(&(tag - 1)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "it takes Miri minutes")]
fn memory_is_bounded_behind_an_unsettled_delivery() {
    let mut unsettled = delivered([1]);
    for tag in 2..10_000 {
        assert!(unsettled.deliver(tag, false));
        if tag % 2 == 0 {
            unsettled.settle_at_once(tag, false, |_, _| {});
        } else {
            unsettled.ack(tag, false);
            assert_eq!(flushed(&mut unsettled), [(tag, false)]);
        }
    }
    assert!(
        unsettled.deliveries.len() <= SPARSE + 3,
        "{}",
        unsettled.deliveries.len()
    );
    assert!(unsettled.is_unsettled(1));
}

#[test]
fn delivery_without_ack_is_never_unsettled() {
    let mut unsettled = Unsettled::default();
    assert!(unsettled.deliver(1, true));
    assert!(!unsettled.is_unsettled(1));
    assert_eq!(unsettled.count(), 0);
}

#[test]
fn unwanted_delivery_can_be_settled() {
    let mut unsettled = Unsettled::default();
    for tag in 1..=2 {
        assert!(unsettled.deliver(tag, false));
        unsettled.mark_unwanted(tag);
    }
    assert!(unsettled.ack(1, false));
    assert_eq!((unsettled.unwanted(), unsettled.count()), (1, 1));
    assert!(unsettled.settle_at_once(2, false, |_, _| {}));
    assert_eq!((unsettled.unwanted(), unsettled.count()), (0, 0));
}

#[test]
fn few_settled_deliveries_stay_behind_an_unsettled_one() {
    let mut unsettled = Unsettled::default();
    for tag in 1..=3 {
        assert!(unsettled.deliver(tag, false));
    }
    assert!(unsettled.ack(3, false));
    let most = 2 * (2 + 1) + SPARSE as u64;
    for tag in 4..=most {
        assert!(unsettled.deliver(tag, false));
        assert!(unsettled.settle_at_once(tag, false, |_, _| {}));
    }
    assert_eq!(unsettled.deliveries.len() as u64, most);
    assert!(unsettled.deliver(most + 1, false));
    assert!(unsettled.settle_at_once(most + 1, false, |_, _| {}));
    assert_eq!(unsettled.deliveries.len(), 3);
}
