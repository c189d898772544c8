//! The memory that hostile or busy peers make the library allocate, measured in its own process.
//!
//! A counting allocator needs `unsafe`, which this workspace forbids. The kernel counts, too:
//! `VmPeak` is the largest address space that a process ever had, to the page, touched or not. Each
//! test starts this program again for itself alone, with glibc configured to request no more memory
//! from the kernel than it needs, and compares the peak with the size before.

#![cfg(target_os = "linux")]

use crate::peer::{Peer, ack, consume, declare, header, method, publish, raw};
use crate::restoring::{ask, bind, dialled, exchange_declare, serve_naming};
use puka::machine::{ConnectionState, Outgoing, Settle};
use puka::protocol::Properties;
use puka::protocol::method::{channel, queue};
use puka::{Error, Options, Recovery};
use std::collections::VecDeque;
use std::process::Command;

const KIB: u64 = 1 << 10;
const FRAME_MAX: u64 = 131_072;
/// The cost of an attack beyond the limit.
const SLACK: u64 = 64 * KIB;

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * KIB
}

/// Runs the test of this name in its own process, where `scenario` may grow the address space by
/// this many bytes after `prepare` has run.
#[track_caller]
fn grows_by_at_most<T>(
    name: &str,
    most: u64,
    prepare: impl FnOnce() -> T,
    scenario: impl FnOnce(&mut T),
) {
    if std::env::var_os("PUKA_MEASURE").is_some() {
        let mut prepared = prepare();
        // Reading the status allocates, too.
        let before = status("VmSize").max(status("VmSize"));
        let peak_before = status("VmPeak");
        scenario(&mut prepared);
        let peak = status("VmPeak");
        let grown = if peak > peak_before { peak - before } else { 0 };
        assert!(
            grown <= most,
            "it grew by {} KiB, at a limit of {} KiB",
            grown / KIB,
            most / KIB
        );
        let coarse = peak_before - before;
        assert!(
            coarse <= most.max(2 * SLACK),
            "the measure is too coarse: {} KiB",
            coarse / KIB
        );
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("memory::{name}"),
            "--test-threads=1",
            "--nocapture",
        ])
        .env("PUKA_MEASURE", "1")
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TOP_PAD_", "0")
        .env("MALLOC_TRIM_THRESHOLD_", "0")
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{shown}");
    assert!(shown.contains("1 passed"), "it did not run: {shown}");
}

/// Returns a get on channel 1 whose `get-ok` has arrived, so that content follows.
fn got() -> Peer {
    let mut peer = Peer::open(Options::default());
    let _promise = peer.get();
    peer.serve();
    peer.method(1, &crate::peer::get_ok(1));
    peer.feed(&raw(8, 0, b"").repeat(10));
    peer
}

#[test]
fn a01_body_of_1_tib_is_drained_without_storing() {
    grows_by_at_most(
        "a01_body_of_1_tib_is_drained_without_storing",
        2 * FRAME_MAX + SLACK,
        || {
            let body = raw(3, 1, &vec![7; 100_000]);
            (got(), body)
        },
        |(peer, body)| {
            peer.feed(&header(1, 1 << 40, Properties::default()));
            for _ in 0..1000 {
                peer.feed(body);
            }
            assert!(peer.machine.why_closed().is_none());
        },
    );
}

#[test]
fn a02_announced_body_of_16_eib_allocates_nothing() {
    grows_by_at_most(
        "a02_announced_body_of_16_eib_allocates_nothing",
        FRAME_MAX + SLACK,
        got,
        |peer| {
            peer.feed(&header(1, u64::MAX, Properties::default()));
        },
    );
}

#[test]
fn a02_announced_body_at_our_limit_allocates_nothing() {
    grows_by_at_most(
        "a02_announced_body_at_our_limit_allocates_nothing",
        FRAME_MAX + SLACK,
        got,
        |peer| {
            peer.feed(&header(1, 64 << 20, Properties::default()));
            peer.feed(&raw(3, 1, b"x"));
        },
    );
}

/// Returns consumers, each with the channel on which its first delivery has begun.
fn begun(channels: usize, bound: usize) -> (Peer, Vec<u16>) {
    let mut peer = Peer::open(Options::default().max_buffered_bytes(bound));
    let mut numbers = Vec::new();
    for _ in 0..channels {
        let (_, channel, tag) = peer.consumer(&consume("q"));
        peer.method(channel, &crate::peer::deliver(&tag, 1));
        numbers.push(channel);
    }
    (peer, numbers)
}

#[test]
fn contents_that_never_end_stay_within_the_bound() {
    const BOUND: usize = 4 << 20;
    grows_by_at_most(
        "contents_that_never_end_stay_within_the_bound",
        // A body's buffer grows to twice its size, and the old buffer is copied.
        2 * BOUND as u64 + 4 * FRAME_MAX,
        || {
            let body = vec![7; 100_000];
            (begun(20, BOUND), body)
        },
        |((peer, numbers), body)| {
            for number in &*numbers {
                peer.feed(&header(*number, 64 << 20, Properties::default()));
            }
            for _ in 0..600 {
                numbers
                    .iter()
                    .for_each(|number| peer.feed(&raw(3, *number, body)));
            }
            assert!(peer.machine.why_closed().is_none());
        },
    );
}

#[test]
fn announced_sizes_and_properties_stay_within_the_bound() {
    const BOUND: usize = 1 << 20;
    grows_by_at_most(
        "announced_sizes_and_properties_stay_within_the_bound",
        BOUND as u64 + 8 * FRAME_MAX,
        || begun(200, BOUND),
        |(peer, numbers)| {
            let mut headers = puka::protocol::Table::new();
            headers.insert("large", &*vec![7_u8; 60_000]).unwrap();
            for (place, number) in numbers.iter().enumerate() {
                let mut properties = Properties::default();
                if place % 2 == 0 {
                    properties.headers = Some(headers.as_ref().into());
                }
                peer.feed(&header(*number, 16 << 10, properties));
                peer.feed(&raw(3, *number, b"x"));
            }
            assert!(peer.machine.why_closed().is_none());
        },
    );
}

#[test]
fn a05_header_of_an_oversized_frame_allocates_nothing() {
    grows_by_at_most(
        "a05_header_of_an_oversized_frame_allocates_nothing",
        SLACK,
        got,
        |peer| {
            peer.feed(&[3, 0, 1, 1, 0, 0, 0]);
            assert!(peer.machine.is_closed());
        },
    );
}

#[test]
fn a06_first_frame_of_4_gib_allocates_nothing() {
    grows_by_at_most(
        "a06_first_frame_of_4_gib_allocates_nothing",
        SLACK,
        || Peer::new(Options::default()),
        |peer| {
            peer.feed(&[1, 0, 0, 255, 255, 255, 255]);
            assert!(peer.machine.is_closed());
        },
    );
}

#[test]
fn a12_frames_on_65_535_channels_allocate_nothing() {
    grows_by_at_most(
        "a12_frames_on_65_535_channels_allocate_nothing",
        FRAME_MAX + SLACK,
        || Peer::open(Options::default()),
        |peer| {
            for number in 1..=u16::MAX {
                peer.method(number, &channel::OpenOk {});
            }
            assert_eq!(peer.machine.stats().open_channels, 0);
        },
    );
}

#[test]
fn a12_flood_of_unrequested_messages_leaves_nothing_behind() {
    // One delivery is unsettled, so nothing behind it can be removed by its position alone.
    grows_by_at_most(
        "a12_flood_of_unrequested_messages_leaves_nothing_behind",
        2 * FRAME_MAX + SLACK,
        || {
            let mut peer = Peer::open(Options::default());
            let (id, channel, tag) = peer.consumer(&consume("q"));
            peer.deliver(channel, &tag, 1, b"x");
            let unsettled = peer.take_deliveries(id);
            (peer, unsettled)
        },
        |(peer, _unsettled)| {
            for tag in 2..=100_000 {
                peer.content(1, &crate::peer::deliver("unknown", tag), b"");
                if tag % 100 == 0 {
                    peer.take();
                }
            }
            assert!(matches!(
                peer.machine.why_closed(),
                Some(Error::CommandInvalid(_))
            ));
        },
    );
}

#[test]
fn i08_deliveries_settled_behind_an_unsettled_one_are_freed() {
    grows_by_at_most(
        "i08_deliveries_settled_behind_an_unsettled_one_are_freed",
        2 * FRAME_MAX + SLACK,
        || {
            let mut peer = Peer::open(Options::default());
            let (id, channel, tag) = peer.consumer(&consume("q"));
            peer.deliver(channel, &tag, 1, b"x");
            let unsettled = peer.take_deliveries(id);
            (peer, unsettled, id, channel, tag)
        },
        |(peer, _unsettled, id, channel, tag)| {
            for delivery in 2..=100_000 {
                peer.deliver(*channel, tag, delivery, b"x");
                let delivered = peer.take_deliveries(*id).remove(0);
                peer.machine
                    .settle(&delivered, Settle::Ack { multiple: false })
                    .unwrap();
                if delivery % 100 == 0 {
                    peer.take();
                }
            }
        },
    );
}

#[test]
fn e47_never_drained_outbox_costs_only_its_unwritten_bytes() {
    // The transport keeps up, but never finishes: each time there is new output behind a rest.
    grows_by_at_most(
        "e47_never_drained_outbox_costs_only_its_unwritten_bytes",
        1 << 20,
        || {
            let mut peer = Peer::open(Options::default());
            let _first = peer.machine.publish(&publish("", "x")).unwrap();
            peer.serve();
            peer
        },
        |peer| {
            let mut out = Outgoing::default();
            let body = vec![7; 3000];
            for tag in 1..=20_000 {
                let promise = peer.machine.publish(&publish("", &body[..])).unwrap();
                peer.machine.poll_transmit(peer.now, &mut out);
                let bytes = out.len().saturating_sub(100);
                out.advance(bytes);
                peer.machine.handle_transmitted(peer.now, bytes);
                peer.method(1, &crate::peer::ack(tag, false));
                while peer.machine.poll_event().is_some() {}
                if tag > 1 {
                    let _ = peer.machine.fetch(promise);
                }
                peer.machine.abandon(promise);
            }
        },
    );
}

#[test]
fn e05_confirms_and_returns_leave_nothing_behind() {
    grows_by_at_most(
        "e05_confirms_and_returns_leave_nothing_behind",
        2 * FRAME_MAX + SLACK,
        || {
            let mut peer = Peer::open(Options::default());
            let _first = peer.machine.publish(&publish("", "x")).unwrap();
            peer.serve();
            peer
        },
        |peer| {
            // One that is never confirmed, and a hundred thousand confirmed ones behind it.
            for tag in 2..=100_000 {
                let promise = peer.machine.publish(&publish("", "x")).unwrap();
                peer.take();
                peer.method(1, &crate::peer::ack(tag, false));
                peer.expect_done(promise);
            }
        },
    );
}

/// The connection is lost, and recovers with other names for its queues.
fn lose_and_recover(peer: &mut Peer, turn: usize) {
    let unconfirmed = peer.machine.publish(&publish("", "x")).unwrap();
    peer.take();
    peer.reconnect();
    serve_naming(peer, &turn.to_string());
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(matches!(
        peer.machine.fetch(unconfirmed),
        Some(Err(Error::Unconfirmed(_)))
    ));
}

#[test]
fn ten_thousand_recoveries_leave_nothing_behind() {
    grows_by_at_most(
        "ten_thousand_recoveries_leave_nothing_behind",
        SLACK,
        || {
            let mut peer = dialled();
            let mut exclusive = declare("");
            exclusive.exclusive = true;
            ask(&mut peer, exchange_declare("x"));
            ask(&mut peer, exclusive);
            ask(&mut peer, bind("amq.gen-first", "x", "key"));
            let _consumer = peer.consumer(&consume("amq.gen-first"));
            (0..100).for_each(|turn| lose_and_recover(&mut peer, turn));
            peer
        },
        |peer| {
            (100..10_100).for_each(|turn| lose_and_recover(peer, turn));
            assert_eq!(
                &*peer.machine.current_name(b"amq.gen-first"),
                b"amq.gen-10099"
            );
        },
    );
}

#[test]
fn republished_messages_leave_nothing_behind() {
    let turn = |peer: &mut Peer| {
        let promises = [(); 100].map(|()| peer.machine.publish(&publish("", "x")).unwrap());
        peer.serve();
        peer.reconnect();
        peer.serve();
        peer.method(1, &ack(0, true));
        promises
            .into_iter()
            .for_each(|promise| peer.expect_done(promise));
        while peer.machine.poll_event().is_some() {}
    };
    grows_by_at_most(
        "republished_messages_leave_nothing_behind",
        SLACK,
        || {
            let recovery = Recovery::default().seed(7).republish_unconfirmed(1);
            let mut peer = Peer::dialled(Options::default().recovery(recovery));
            (0..20).for_each(|_| turn(&mut peer));
            peer
        },
        |peer| (0..300).for_each(|_| turn(peer)),
    );
}

#[test]
fn s22_ten_thousand_auto_delete_queues_leave_nothing_behind() {
    let turn = |peer: &mut Peer, turn: usize| {
        let name = format!("auto-{turn}");
        let mut auto = declare(&name);
        auto.auto_delete = true;
        ask(peer, auto);
        ask(peer, bind(&name, "amq.direct", "key"));
        let (consumer, ..) = peer.consumer(&consume(&name));
        let cancelled = peer.machine.cancel(consumer).unwrap();
        peer.serve();
        assert!(matches!(peer.machine.fetch(cancelled), Some(Ok(_))));
        peer.machine.drop_consumer(consumer);
        while peer.machine.poll_event().is_some() {}
    };
    grows_by_at_most(
        "s22_ten_thousand_auto_delete_queues_leave_nothing_behind",
        SLACK,
        || {
            let mut peer = dialled();
            (0..100).for_each(|number| turn(&mut peer, number));
            peer
        },
        |peer| {
            (100..10_100).for_each(|number| turn(peer, number));
            peer.reconnect();
            assert!(
                peer.serve()
                    .iter()
                    .all(|sent| { !sent.is(queue::Declare::ID) })
            );
        },
    );
}

#[test]
fn m11_unawaited_publishes_leave_nothing_behind() {
    grows_by_at_most(
        "m11_unawaited_publishes_leave_nothing_behind",
        2 * FRAME_MAX + SLACK,
        || {
            let mut peer = Peer::open(Options::default());
            let first = peer.machine.publish(&publish("", "x")).unwrap();
            peer.serve();
            peer.method(1, &crate::peer::ack(1, false));
            peer.expect_done(first);
            peer
        },
        |peer| {
            let mut it = publish("", "x");
            for tag in 2..=300_000 {
                it.mandatory = tag % 3 == 0;
                let promise = peer.machine.publish(&it).unwrap();
                peer.machine.abandon(promise);
                if tag % 50 == 0 {
                    peer.take();
                    peer.method(1, &crate::peer::ack(tag, true));
                }
            }
            assert!(peer.machine.is_idle());
        },
    );
}

#[test]
fn e48_idle_channel_costs_less_than_a_kibibyte() {
    grows_by_at_most(
        "e48_idle_channel_costs_less_than_a_kibibyte",
        2047 * KIB + SLACK,
        || Peer::open(Options::default().request_channels(2047)),
        |peer| {
            let unsettled: Vec<_> = (0..2000)
                .map(|_| {
                    let promise = peer.machine.request(crate::peer::declare("q")).unwrap();
                    peer.machine.abandon(promise);
                    promise
                })
                .collect();
            assert_eq!(unsettled.len(), 2000);
            while !peer.serve().is_empty() {}
            assert!(peer.machine.stats().open_channels >= 2000);
        },
    );
}

#[test]
fn s62_slow_consumer_of_million_deliveries_stays_bounded() {
    const BOUND: u64 = 1 << 20;
    grows_by_at_most(
        "s62_slow_consumer_of_million_deliveries_stays_bounded",
        // A delivery is counted by its bytes, and these have few.
        4 * BOUND,
        || {
            let mut peer = Peer::open(Options::default().max_buffered_bytes(BOUND as usize));
            let mut it = consume("q");
            it.no_ack = true;
            let (id, channel, tag) = peer.consumer(&it);
            let content = [
                header(channel, 100, Properties::default()),
                raw(3, channel, &[7; 100]),
            ]
            .concat();
            (
                peer,
                id,
                channel,
                tag,
                content,
                VecDeque::with_capacity(10_000),
            )
        },
        |(peer, id, channel, tag, content, taken)| {
            let (mut delivered, mut pauses) = (0, 0);
            while delivered < 1_000_000 {
                if peer.machine.wants_input() {
                    let mut bytes = Vec::new();
                    for _ in 0..100 {
                        delivered += 1;
                        bytes.extend(method(*channel, &crate::peer::deliver(tag, delivered)));
                        bytes.extend(&content[..]);
                    }
                    peer.feed(&bytes);
                    assert!(peer.machine.why_closed().is_none());
                } else {
                    pauses += 1;
                    peer.machine.take_deliveries(*id, 10_000, taken);
                    taken.clear();
                }
            }
            assert!(pauses > 50, "{pauses}");
        },
    );
}

#[test]
fn e47_peer_that_reads_nothing_costs_bounded_memory() {
    const BOUND: usize = 1 << 20;
    grows_by_at_most(
        "e47_peer_that_reads_nothing_costs_bounded_memory",
        3 * BOUND as u64,
        || {
            let mut peer = Peer::open(Options::default().max_outgoing_bytes(BOUND));
            let _first = peer.machine.publish(&publish("", "x")).unwrap();
            peer.serve();
            (peer, vec![7; 1000])
        },
        |(peer, body)| {
            let mut out = Outgoing::default();
            let mut full = 0;
            for _ in 0..100_000 {
                full += usize::from(peer.machine.publish(&publish("", &body[..])).is_err());
                peer.machine.poll_transmit(peer.now, &mut out);
            }
            assert!(full > 90_000, "{full}");
        },
    );
}

#[test]
fn a02_measurement_includes_untouched_allocations() {
    let name = "a02_measurement_includes_untouched_allocations";
    if std::env::var_os("PUKA_MEASURE").is_some() {
        let before = status("VmPeak");
        let kept: Vec<u8> = Vec::with_capacity(1 << 20);
        let freed: Vec<u8> = Vec::with_capacity(8 << 20);
        drop(freed);
        assert!(status("VmPeak") >= before + (9 << 20) && kept.capacity() >= 1 << 20);
        return;
    }
    grows_by_at_most(name, 0, || (), |()| {});
}
