//! Numbers, roles and limits of channels.

use super::*;

fn channels(max: u16) -> Channels {
    let mut channels = Channels::default();
    channels.set_max(max);
    channels
}

#[test]
fn e29_lowest_free_number_is_used_first() {
    let mut channels = channels(4);
    assert_eq!(
        [0; 3].map(|_| channels.add(Role::Request)),
        [Some(1), Some(2), Some(3)]
    );
    channels.remove(1);
    assert_eq!(channels.add(Role::Request), Some(1));
    channels.remove(3);
    channels.remove_closed_by_server(2);
    let again: Vec<_> = (0..4).map(|_| channels.add(Role::Request)).collect();
    assert_eq!(again, [Some(2), Some(3), Some(4), None]);
    let discards = |number| {
        channels
            .get(number)
            .is_some_and(|channel| channel.discards_until_open)
    };
    assert_eq!(
        [1, 2, 3].map(discards),
        [false, true, false],
        "late frames are for the channel before"
    );
}

#[test]
fn s60_consumers_leave_channels_for_requests_and_publishes() {
    let mut channels = channels(4);
    assert!(channels.add(Role::Consume).is_some());
    assert!(channels.add(Role::Consume).is_some());
    assert_eq!(channels.add(Role::Consume), None);
    assert!(channels.add(Role::Publish).is_some());
    assert!(channels.add(Role::Request).is_some());
    assert_eq!(channels.add(Role::Request), None);
}

#[test]
fn channels_are_counted_by_role() {
    let mut channels = channels(9);
    let roles = [
        Role::Consume,
        Role::Request,
        Role::Request,
        Role::Transaction,
        Role::Publish,
    ];
    let numbers = roles.map(|role| channels.add(role).unwrap());
    assert_eq!((channels.pooled(), channels.is_closing_one()), (2, false));
    channels.put_idle(numbers[1]);
    channels.set_role(numbers[0], Role::Settling);
    channels.set_role(numbers[4], Role::Closing);
    assert_eq!((channels.pooled(), channels.is_closing_one()), (2, true));
    channels.take_idle(Role::Consume);
    channels.remove(numbers[3]);
    channels.remove_closed_by_server(numbers[4]);
    assert_eq!((channels.pooled(), channels.is_closing_one()), (1, false));
    assert!(!channels.set_role(numbers[4], Role::Idle));
    assert_eq!(channels.open(), channels.numbers().count());
    assert_eq!(
        [Role::Settling, Role::Request, Role::Consume].map(|role| channels.count(role)),
        [1, 1, 1]
    );
}

#[test]
fn incarnations_of_a_number_differ() {
    let mut channels = channels(1);
    let first = channels
        .add(Role::Request)
        .and_then(|number| channels.get(number))
        .unwrap()
        .incarnation;
    channels.remove(1);
    let second = channels
        .add(Role::Request)
        .and_then(|number| channels.get(number))
        .unwrap()
        .incarnation;
    assert_ne!(first, second);
}
