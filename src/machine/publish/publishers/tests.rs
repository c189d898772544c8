//! Tests of the publish channels.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(16);
const LATE: Duration = Duration::from_secs(17);

fn publish(publishers: &mut Publishers, promises: &mut Promises, channel: u16) -> PromiseId {
    let promise = promises.open();
    publishers.add_in_flight(channel, promise, 0, None);
    promise
}

fn expired(publishers: &mut Publishers, now: Instant) -> Vec<PromiseId> {
    let mut expired = Vec::new();
    publishers.expire(now, |promise| expired.push(promise));
    expired
}

/// Returns the channels that take no more publishes.
fn retired(publishers: &mut Publishers, most: usize, now: Instant) -> Vec<u16> {
    publishers.retire(most, now);
    let is_retired = |channel: &u16| publishers.on(*channel).is_some_and(|it| !it.takes_more());
    (1..=4).filter(is_retired).collect()
}

#[test]
fn no_more_channels_retire_than_are_needed() {
    let mut publishers = Publishers::default();
    let now = Instant::now();
    for channel in 1..=4_u16 {
        publishers.add(&channel.to_be_bytes(), PublishKind::Confirmed, channel, now);
    }
    assert_eq!(retired(&mut publishers, 4, now), [0_u16; 0]);
    let [second, third] = [now + TURN, now + 2 * TURN];
    assert_eq!(retired(&mut publishers, 1, second), [1]);
    assert_eq!(retired(&mut publishers, 1, second), [1]);
    assert_eq!(
        retired(&mut publishers, 1, third),
        [1, 2],
        "the first may be stuck"
    );
    assert_eq!(publishers.resume(1, third), Some(1));
    assert_eq!(retired(&mut publishers, 2, third), [2, 3]);
    assert!(publishers.remove(2).is_some());
    assert_eq!(retired(&mut publishers, 2, third), [3, 4]);
}

#[test]
#[cfg_attr(miri, ignore = "it takes Miri minutes")]
fn deadlines_of_many_channels_come_in_order() {
    let (mut publishers, mut promises) = (Publishers::default(), Promises::default());
    let now = Instant::now();
    let later = now + TIMEOUT / 2;
    for channel in 1..=1000_u16 {
        publishers.add(&channel.to_be_bytes(), PublishKind::Confirmed, channel, now);
    }
    let early: Vec<_> = (1..=3)
        .map(|channel| publish(&mut publishers, &mut promises, channel))
        .collect();
    publishers.stamp(now, TIMEOUT);
    let again = publish(&mut publishers, &mut promises, 1);
    assert_eq!(publishers.unstamped, [1], "no other channel is looked at");
    publishers.stamp(later, TIMEOUT);
    assert!(publishers.confirm(1, 1, false, |_| {}));
    assert!(publishers.confirm(3, 1, false, |_| {}));
    assert_eq!(publishers.deadline(), Some(now + LATE));
    assert_eq!(expired(&mut publishers, now + LATE), [early[1]]);
    assert_eq!(publishers.deadline(), Some(later + LATE));
    assert_eq!(
        publishers.deadlines.len(),
        1,
        "channels without a publish have no entry"
    );
    assert_eq!(expired(&mut publishers, later + LATE), [again]);
    assert_eq!((publishers.deadline(), publishers.in_flight()), (None, 0));
}

#[test]
fn removed_channel_has_no_deadline() {
    let (mut publishers, mut promises) = (Publishers::default(), Promises::default());
    let now = Instant::now();
    publishers.add(b"a", PublishKind::Confirmed, 1, now);
    publish(&mut publishers, &mut promises, 1);
    publishers.stamp(now, TIMEOUT);
    publish(&mut publishers, &mut promises, 1);
    publishers.remove(1);
    assert!(publishers.deadlines.is_empty() && publishers.turns.is_empty());
    // Another publisher uses its number.
    publishers.add(b"b", PublishKind::Confirmed, 1, now);
    publish(&mut publishers, &mut promises, 1);
    publishers.stamp(now + TIMEOUT, TIMEOUT);
    assert_eq!(publishers.deadline(), Some(now + TIMEOUT + LATE));
    assert_eq!(publishers.in_flight(), 1);
}

#[test]
fn channel_that_was_used_longest_ago_is_removed_first() {
    let mut publishers = Publishers::default();
    for channel in 1..=3_u16 {
        let exchange = channel.to_be_bytes();
        publishers.add(&exchange, PublishKind::Confirmed, channel, Instant::now());
    }
    for channel in [2, 1_u16, 3] {
        assert!(
            publishers
                .find(&channel.to_be_bytes(), PublishKind::Confirmed)
                .is_some()
        );
    }
    let removed: Vec<_> = std::iter::from_fn(|| publishers.remove_idle()).collect();
    assert_eq!(removed, [2, 1, 3]);
}

#[test]
fn channel_without_confirms_is_closed_before_the_next() {
    let mut publishers = Publishers::default();
    publishers.add(b"x", PublishKind::Unconfirmed, 1, Instant::now());
    assert_eq!(publishers.remove_idle(), Some(1));
    let kind = PublishKind::Unconfirmed;
    assert!(publishers.is_closing(b"x", kind));
    assert!(!publishers.is_closing(b"y", kind));
    assert!(!publishers.is_closing(b"x", PublishKind::Confirmed));
    publishers.record_closed(1);
    assert!(!publishers.is_closing(b"x", kind));
}
