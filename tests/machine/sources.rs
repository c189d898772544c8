//! The queues of a consumer: how each ends, and what is recorded about it.

use crate::peer::{
    Peer, Sent, channel_close, consume, declare, method, reply_to, shared, short, tag_of, tune,
};
use puka::machine::{ConnectionState, Consume, ConsumerId, Notice, Reply, Settle};
use puka::protocol::method::{basic, queue};
use puka::protocol::{FrameKind, Method};
use puka::{Broken, Ended, Error, Options, Resubscribe};
use std::collections::BTreeSet;

fn dialled() -> Peer {
    let recovery = puka::Recovery::default().seed(7);
    Peer::dialled(Options::default().recovery(recovery.resubscribe(Resubscribe::never())))
}

fn declare_auto_delete(peer: &mut Peer, name: &str) {
    let _declared = peer
        .machine
        .request(queue::Declare {
            auto_delete: true,
            ..declare(name)
        })
        .unwrap();
    peer.serve();
}

fn consume_multi(peer: &mut Peer, queues: &[&str]) -> (ConsumerId, u16, Vec<String>) {
    let queues: Vec<Consume<'_>> = queues.iter().map(|queue| consume(queue)).collect();
    let promise = peer.machine.consume_multi(&queues, &shared(10)).unwrap();
    let sent = peer.serve();
    let consumes: Vec<&Sent> = sent
        .iter()
        .filter(|sent| sent.is(basic::Consume::ID))
        .collect();
    let tags = consumes.iter().map(|sent| tag_of(sent)).collect();
    match peer.machine.fetch(promise) {
        Some(Ok(Reply::Consumer(id))) => (id, consumes[0].channel, tags),
        other => panic!("{other:?}"),
    }
}

/// Returns the queues that were consumed or declared.
fn queues(sent: &[Sent], of: puka::protocol::MethodId) -> Vec<String> {
    let methods = sent
        .iter()
        .filter(|sent| sent.kind == FrameKind::Method && sent.is(of));
    methods
        .filter_map(|sent| match sent.method() {
            Method::Basic(basic::Method::Consume(it)) => Some(it.queue.to_string()),
            Method::Queue(queue::Method::Declare(it)) => Some(it.queue.to_string()),
            _ => None,
        })
        .collect()
}

/// Replies as a broker that has all queues but one.
fn serve_without(peer: &mut Peer, missing: &str, names_it: bool) -> Vec<Sent> {
    let mut all = Vec::new();
    loop {
        let sent = peer.take();
        if sent.is_empty() {
            return all;
        }
        let mut closed = Vec::new();
        for one in &sent {
            let is_missing = queues(std::slice::from_ref(one), basic::Consume::ID) == [missing];
            if is_missing && !closed.contains(&one.channel) {
                let text = format!("NOT_FOUND - no queue '{missing}' in vhost '/'");
                let text = if names_it { text.as_str() } else { "NOT_FOUND" };
                closed.push(one.channel);
                peer.method(one.channel, &channel_close(404, text));
            } else if !closed.contains(&one.channel)
                && let Some(answer) = reply_to(one)
            {
                peer.feed(&answer);
            }
        }
        all.extend(sent);
    }
}

#[test]
fn other_queues_of_a_consumer_are_restored() {
    let mut peer = dialled();
    let (id, channel, tags) = consume_multi(&mut peer, &["a", "b", "c"]);
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tags[1]),
            nowait: true,
        },
    );
    peer.serve();
    assert!(!peer.has_ended(id));
    peer.reconnect();
    let sent = peer.serve();
    assert_eq!(queues(&sent, basic::Consume::ID), ["a", "c"]);
    assert!(!peer.has_ended(id));
    let consumes: Vec<_> = sent
        .iter()
        .filter(|sent| sent.is(basic::Consume::ID))
        .collect();
    peer.deliver(consumes[1].channel, &tag_of(consumes[1]), 1, b"x");
    let delivered = peer.take_deliveries(id);
    assert_eq!(delivered[0].source, 2, "each queue keeps its index");
}

#[test]
fn end_of_one_queue_is_reported() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let (id, channel, tags) = consume_multi(&mut peer, &["a", "b"]);
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tags[1]),
            nowait: true,
        },
    );
    let notice = peer.machine.take_notice(listener);
    assert!(
        matches!(&notice, Some(Notice::QueueEnded { tag, queue, why: Ended::CancelledByServer })
            if **tag == tags[0] && &**queue == "b"),
        "{notice:?}"
    );
    let ended: Vec<_> = peer
        .machine
        .consumer(id)
        .unwrap()
        .ended_queues()
        .map(|(queue, _)| queue.to_string())
        .collect();
    assert_eq!(ended, ["b"]);
    peer.serve();
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tags[0]),
            nowait: true,
        },
    );
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::CancelledByServer)
    ));
    assert!(matches!(
        peer.machine.take_notice(listener),
        Some(Notice::ConsumerCancelled(_))
    ));
}

#[test]
fn late_deliveries_of_one_queue_are_returned() {
    let mut peer = dialled();
    let (id, channel, tags) = consume_multi(&mut peer, &["a", "b"]);
    peer.deliver(channel, &tags[0], 1, b"held");
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tags[1]),
            nowait: true,
        },
    );
    peer.deliver(channel, &tags[1], 2, b"late");
    let sent = peer.serve();
    let nack = basic::Nack {
        delivery_tag: 2,
        multiple: false,
        requeue: true,
    };
    assert_eq!(sent.last().unwrap().method(), nack.into());
    assert_eq!(peer.take_deliveries(id).len(), 1);
}

#[test]
fn queue_missing_after_a_loss_is_skipped() {
    for names_it in [true, false] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        let (id, ..) = consume_multi(&mut peer, &["a", "b", "c"]);
        peer.reconnect();
        let sent = serve_without(&mut peer, "b", names_it);
        assert_eq!(queues(&sent, basic::Consume::ID), ["a", "b", "c", "a", "c"]);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(!peer.has_ended(id));
        let ended: Vec<_> = peer.machine.consumer(id).unwrap().ended_queues().collect();
        let [(queue, Ended::ChannelClosed(Error::NotFound(_)))] = &ended[..] else {
            panic!("{ended:?}")
        };
        assert_eq!(queue.to_string(), "b");
        let notices: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
        let is_it =
            |notice: &Notice| matches!(notice, Notice::QueueEnded { queue, .. } if &**queue == "b");
        assert!(notices.iter().any(is_it), "{notices:?}");
        let reported = notices.iter().find_map(|notice| match notice {
            Notice::Recovered(report) => Some((report.consumers, report.failed.len())),
            _ => None,
        });
        assert_eq!(reported, Some((1, 1)));
    }
}

#[test]
fn consumer_ends_with_its_last_queue() {
    let mut peer = dialled();
    let (id, ..) = consume_multi(&mut peer, &["a", "b"]);
    peer.reconnect();
    let sent = peer.take();
    let channel = sent
        .iter()
        .find(|sent| sent.is(basic::Consume::ID))
        .unwrap()
        .channel;
    peer.method(
        channel,
        &channel_close(404, "NOT_FOUND - no queue 'a' in vhost '/'"),
    );
    serve_without(&mut peer, "b", true);
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ChannelClosed(Error::NotFound(_)))
    ));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn auto_delete_queue_outlives_an_unrestored_consumer() {
    let mut peer = dialled();
    declare_auto_delete(&mut peer, "kept");
    let _other = peer.consumer(&consume("other"));
    let (id, ..) = peer.consumer(&consume("kept"));
    // The next broker allows one channel for consumers.
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(3, 131_072, 60));
    peer.serve();
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ChannelClosed(Error::ChannelLimit))
    ));
    // It was declared there and has had no consumer.
    peer.reconnect();
    assert_eq!(queues(&peer.serve(), queue::Declare::ID), ["kept"]);
}

#[test]
fn auto_delete_queue_outlives_a_consumer_never_restarted() {
    let mut peer = dialled();
    declare_auto_delete(&mut peer, "kept");
    let (id, ..) = peer.consumer(&consume("kept"));
    peer.reconnect();
    // The queue is being declared, and the consumer starts after it.
    let _cancelled = peer.machine.cancel(id).unwrap();
    assert!(queues(&peer.serve(), basic::Consume::ID).is_empty());
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
    peer.reconnect();
    assert_eq!(queues(&peer.serve(), queue::Declare::ID), ["kept"]);
}

#[test]
fn auto_delete_queue_outlives_a_refused_consumer() {
    for started in [false, true] {
        let mut peer = dialled();
        declare_auto_delete(&mut peer, "kept");
        let channel = if started {
            peer.consumer(&consume("kept")).1
        } else {
            let _promise = peer.machine.consume(&consume("kept")).unwrap();
            peer.take().last().unwrap().channel
        };
        peer.method(
            channel,
            &channel_close(403, "ACCESS_REFUSED - in exclusive use"),
        );
        peer.reconnect();
        let declared = queues(&peer.serve(), queue::Declare::ID);
        assert_eq!(
            declared.is_empty(),
            started,
            "it is deleted with its last consumer"
        );
    }
}

#[test]
fn consumer_without_a_channel_is_refused_at_once() {
    let mut peer = Peer::open_with(Options::default(), tune(5, 131_072, 60));
    let consumers: Vec<_> = (0..3).map(|_| peer.consumer(&consume("q"))).collect();
    let refused = peer.machine.consume(&consume("q")).unwrap();
    assert!(matches!(peer.error(refused), Error::ChannelLimit));
    let refused = peer.machine.transaction().unwrap();
    assert!(matches!(peer.error(refused), Error::ChannelLimit));
    // A consumer that ends makes room once the broker has confirmed it.
    peer.machine.drop_consumer(consumers[0].0);
    let waiting = peer.machine.consume(&consume("q")).unwrap();
    assert!(peer.is_pending(waiting));
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(waiting),
        Some(Ok(Reply::Consumer(_)))
    ));
    let (id, channel, tag) = &consumers[1];
    peer.method(
        *channel,
        &basic::Cancel {
            consumer_tag: short(tag),
            nowait: true,
        },
    );
    peer.machine.drop_consumer(*id);
    let waiting = peer.machine.consume(&consume("q")).unwrap();
    assert!(peer.is_pending(waiting));
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(waiting),
        Some(Ok(Reply::Consumer(_)))
    ));
}

#[test]
fn settling_several_leaves_late_deliveries_alone() {
    let nack = |requeue| Settle::Nack {
        multiple: true,
        requeue,
    };
    for how in [Settle::Ack { multiple: true }, nack(false), nack(true)] {
        let mut peer = dialled();
        let (id, channel, tags) = consume_multi(&mut peer, &["a", "b"]);
        peer.deliver(channel, &tags[0], 1, b"first");
        peer.method(
            channel,
            &basic::Cancel {
                consumer_tag: short(&tags[1]),
                nowait: true,
            },
        );
        peer.deliver(channel, &tags[1], 2, b"never taken");
        peer.deliver(channel, &tags[0], 3, b"last");
        let taken = peer.take_deliveries(id);
        peer.machine.settle(&taken[1], how).unwrap();
        assert_eq!(
            peer.machine.settle(&taken[0], how).ok(),
            None,
            "it is settled together with the last"
        );
        let mut unsettled = BTreeSet::from([1, 2, 3]);
        let mut returned = Vec::new();
        for one in peer
            .serve()
            .iter()
            .filter(|sent| sent.kind == FrameKind::Method)
        {
            let (tag, multiple) = match one.method() {
                Method::Basic(basic::Method::Ack(it)) => (it.delivery_tag, it.multiple),
                Method::Basic(basic::Method::Nack(it)) => (it.delivery_tag, it.multiple),
                _ => continue,
            };
            let covered = unsettled.extract_if(.., |one| *one == tag || multiple && *one < tag);
            returned.push((covered.collect::<Vec<_>>(), one.is(basic::Nack::ID)));
        }
        assert!(unsettled.is_empty(), "{how:?}: {unsettled:?} are left");
        assert!(returned.contains(&(vec![2], true)), "{how:?}: {returned:?}");
    }
}

#[test]
fn repeated_cancel_ok_completes_no_other_cancel() {
    let mut peer = dialled();
    let (id, channel, tags) = consume_multi(&mut peer, &["a", "b"]);
    let cancelled = peer.machine.cancel(id).unwrap();
    peer.pump();
    let cancel_ok = |tag: &str| {
        method(
            channel,
            &basic::CancelOk {
                consumer_tag: short(tag),
            },
        )
    };
    // RabbitMQ replies twice if the quorum queue is deleted at that moment.
    peer.feed(&cancel_ok(&tags[0]));
    peer.feed(&cancel_ok(&tags[0]));
    assert!(peer.is_pending(cancelled));
    peer.feed(&cancel_ok(&tags[1]));
    assert!(matches!(
        peer.machine.fetch(cancelled),
        Some(Ok(Reply::Cancelled(_)))
    ));
}
