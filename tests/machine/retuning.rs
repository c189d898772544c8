//! A recovery with a broker whose limits are lower than those of the one before.

use crate::peer::{Peer, Sent, ack, consume, declare, method, publish, reply_to, short, tune};
use crate::restoring::{ask, describe_all, options, report};
use puka::machine::{ConnectionState, Publish, Reply};
use puka::protocol::method::{basic, connection, queue};
use puka::protocol::{FrameKind, Table};
use puka::{Broken, Ended, Error};

/// Returns a table that fits RabbitMQ's usual frames, and not those of [`small_frames`].
fn long_table() -> Table {
    let mut table = Table::new();
    table.insert("long", "x".repeat(10_000).as_str()).unwrap();
    table
}

fn small_frames() -> connection::Tune {
    tune(2047, 4096, 60)
}

fn dialled() -> Peer {
    Peer::dialled(options(|recovery| recovery.republish_unconfirmed(3)))
}

fn reconnect(peer: &mut Peer, tune: connection::Tune) {
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune);
}

/// Serves as a broker that confirms the first publish on each channel.
fn serve(peer: &mut Peer) -> Vec<Sent> {
    peer.serve_with(
        |sent| match sent.kind == FrameKind::Method && sent.is(basic::Publish::ID) {
            true => Some(method(sent.channel, &ack(1, false))),
            false => reply_to(sent),
        },
    )
}

#[test]
fn consumer_too_large_for_the_frames_ends() {
    let mut peer = dialled();
    let arguments = long_table();
    let (large, ..) = peer.consumer(&puka::machine::Consume {
        arguments: arguments.as_ref(),
        ..consume("q")
    });
    let (small, ..) = peer.consumer(&consume("q"));
    let listener = peer.machine.listen();
    reconnect(&mut peer, small_frames());
    assert_eq!(describe_all(&peer.serve()), ["consume q"]);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let ended = peer.machine.consumer(large).and_then(|it| it.ended());
    assert!(
        matches!(
            ended,
            Some(Ended::ChannelClosed(Error::InvalidArgument { .. }))
        ),
        "{ended:?}"
    );
    assert!(!peer.has_ended(small));
    let report = report(&mut peer, listener);
    assert_eq!((report.consumers, report.failed.len()), (1, 1));
}

#[test]
fn republished_messages_fit_smaller_frames() {
    let mut peer = dialled();
    let headers = long_table();
    let body = vec![7; 20_000];
    let large = peer.machine.publish(&publish("", &body[..])).unwrap();
    let with_headers = Publish {
        headers: Some(headers.as_ref()),
        ..publish("headers", "x")
    };
    let refused = peer.machine.publish(&with_headers).unwrap();
    peer.serve();
    reconnect(&mut peer, small_frames());
    let sent = serve(&mut peer);
    let bodies = sent
        .iter()
        .filter(|sent| sent.kind == FrameKind::Body)
        .map(|sent| sent.payload.len());
    assert_eq!(bodies.collect::<Vec<_>>(), [4088, 4088, 4088, 4088, 3648]);
    peer.expect_done(large);
    let error = peer.error(refused);
    assert!(matches!(&error, Error::Unconfirmed(cause)
        if matches!(**cause, Error::InvalidArgument { .. })));
}

#[test]
fn entity_too_large_for_the_frames_is_reported() {
    let mut peer = dialled();
    let arguments = long_table();
    ask(
        &mut peer,
        queue::Declare {
            arguments: arguments.as_ref(),
            ..declare("large")
        },
    );
    ask(&mut peer, declare("small"));
    let listener = peer.machine.listen();
    reconnect(&mut peer, small_frames());
    assert_eq!(describe_all(&peer.serve()), ["queue small"]);
    let report = report(&mut peer, listener);
    assert!(
        matches!(&report.failed[..], [(_, Error::InvalidArgument { .. })]),
        "{report:?}"
    );
}

#[test]
fn everything_takes_turns_on_the_only_channel() {
    let mut peer = dialled();
    let published =
        ["", "x", "y"].map(|exchange| peer.machine.publish(&publish(exchange, "x")).unwrap());
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.take();
    reconnect(&mut peer, tune(1, 131_072, 60));
    let sent = serve(&mut peer);
    assert!(sent.iter().all(|sent| sent.channel == 1), "{sent:?}");
    published
        .into_iter()
        .for_each(|promise| peer.expect_done(promise));
    assert!(matches!(peer.machine.fetch(declared), Some(Ok(Reply::Queue(it))) if it.name == *"q"));
    let _ = short("q");
}
