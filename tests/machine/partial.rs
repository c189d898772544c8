//! Partly received contents on many channels at once.

use crate::peer::{Peer, consume, header, method, raw, tune};
use puka::Options;
use puka::machine::ConsumerId;
use puka::protocol::Properties;

const KIB: usize = 1 << 10;

/// Returns a consumer on each of this many channels, whose first delivery has begun with a content
/// of this size in bytes.
fn begun(options: Options, channels: usize, size: u64) -> (Peer, Vec<(ConsumerId, u16)>) {
    let mut peer = Peer::open_with(options, tune(2047, 131_072, 0));
    let mut consumers = Vec::new();
    for _ in 0..channels {
        let (id, channel, tag) = peer.consumer(&consume("q"));
        peer.feed(&method(channel, &crate::peer::deliver(&tag, 1)));
        peer.feed(&header(channel, size, Properties::default()));
        consumers.push((id, channel));
    }
    (peer, consumers)
}

/// Returns the size of the received body, or of the one that was too large.
fn body(peer: &mut Peer, consumer: ConsumerId) -> Result<usize, u64> {
    let taken = peer.take_deliveries(consumer);
    assert_eq!(taken.len(), 1);
    taken[0]
        .message
        .too_large_body()
        .map_or(Ok(taken[0].message.body().len()), Err)
}

#[test]
fn largest_partly_received_content_is_drained() {
    let options = Options::default().max_buffered_bytes(100 * KIB);
    let (mut peer, consumers) = begun(options, 3, 60 * KIB as u64);
    let [small, large, late] = [0, 1, 2].map(|place| consumers[place]);
    peer.feed(&raw(3, small.1, &[1; 30 * KIB]));
    peer.feed(&raw(3, large.1, &[2; 50 * KIB]));
    peer.feed(&raw(3, late.1, &[3; 30 * KIB]));
    peer.feed(&raw(3, small.1, &[1; 30 * KIB]));
    peer.feed(&raw(3, large.1, &[2; 10 * KIB]));
    peer.feed(&raw(3, late.1, &[3; 30 * KIB]));
    assert_eq!(body(&mut peer, small.0), Ok(60 * KIB));
    assert_eq!(body(&mut peer, large.0), Err(60 * KIB as u64));
    assert_eq!(body(&mut peer, late.0), Ok(60 * KIB));
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn single_content_may_reach_the_message_size() {
    let (mut peer, consumers) = begun(
        Options::default().max_buffered_bytes(10 * KIB),
        1,
        90 * KIB as u64,
    );
    (0..3).for_each(|_| peer.feed(&raw(3, consumers[0].1, &[1; 30 * KIB])));
    assert_eq!(body(&mut peer, consumers[0].0), Ok(90 * KIB));
}

#[test]
fn contents_that_end_count_no_longer() {
    let options = Options::default().max_buffered_bytes(100 * KIB);
    let (mut peer, consumers) = begun(options, 3, 60 * KIB as u64);
    let [ended, first, second] = [0, 1, 2].map(|place| consumers[place]);
    peer.feed(&raw(3, ended.1, &[2; 50 * KIB]));
    peer.feed(&raw(3, ended.1, &[2; 10 * KIB]));
    assert_eq!(body(&mut peer, ended.0), Ok(60 * KIB));
    for _ in 0..2 {
        for (place, (_, channel)) in [first, second].into_iter().enumerate() {
            peer.feed(&raw(3, channel, &vec![3; (30 - 10 * place) * KIB]));
        }
    }
    peer.feed(&raw(3, second.1, &[3; 20 * KIB]));
    assert_eq!(body(&mut peer, first.0), Ok(60 * KIB));
    assert_eq!(body(&mut peer, second.0), Ok(60 * KIB));
}

#[test]
fn content_of_an_overdue_get_counts_no_longer() {
    let options = Options::default()
        .max_buffered_bytes(100 * KIB)
        .heartbeat(0);
    let mut peer = Peer::open_with(options, tune(2047, 131_072, 0));
    let (id, channel, tag) = peer.consumer(&consume("q"));
    let get = peer.get();
    let got = peer.serve().last().unwrap().channel;
    peer.feed(&method(got, &crate::peer::get_ok(1)));
    peer.feed(&header(got, 90 * KIB as u64, Properties::default()));
    peer.feed(&raw(3, got, &[1; 80 * KIB]));
    peer.pass(std::time::Duration::from_secs(31));
    assert!(matches!(peer.error(get), puka::Error::Timeout { .. }));
    peer.serve();
    peer.feed(&method(channel, &crate::peer::deliver(&tag, 1)));
    peer.feed(&header(channel, 60 * KIB as u64, Properties::default()));
    (0..2).for_each(|_| peer.feed(&raw(3, channel, &[1; 30 * KIB])));
    assert_eq!(body(&mut peer, id), Ok(60 * KIB));
}

#[test]
fn sizes_of_begun_contents_are_reported() {
    let (mut peer, consumers) = begun(Options::default(), 3, 60 * KIB as u64);
    let sizes = |peer: &Peer| peer.machine.partly_received().collect::<Vec<_>>();
    let begun = sizes(&peer);
    assert!(
        begun.iter().all(|size| (1..KIB).contains(size)),
        "{begun:?}"
    );
    // A method without its header does not count.
    let (_, channel, tag) = peer.consumer(&consume("q"));
    peer.feed(&method(channel, &crate::peer::deliver(&tag, 1)));
    peer.feed(&raw(3, consumers[1].1, &[1; 30 * KIB]));
    let sizes_now = sizes(&peer);
    assert_eq!(sizes_now.len(), begun.len());
    assert!(
        (30 * KIB..31 * KIB).contains(&sizes_now[1]),
        "{sizes_now:?}"
    );
    peer.feed(&raw(3, consumers[1].1, &[1; 30 * KIB]));
    assert_eq!(sizes(&peer).len(), begun.len() - 1);
}
