//! Tests of the record: what its operations cost.

use super::*;
use crate::machine::recovery::bindings::tests::visited;

const BINDINGS: usize = 10;

fn short(name: &str) -> ShortStr<'_> {
    ShortStr::new(name).unwrap_or_default()
}

fn declare(topology: &mut Topology, queue: &str) {
    let table = TableRef::EMPTY;
    let declare = queue::Declare {
        queue: ShortStr::EMPTY,
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: false,
        arguments: table,
    };
    let ok = queue::DeclareOk {
        queue: short(queue),
        message_count: 0,
        consumer_count: 0,
    };
    let ok = Method::Queue(queue::Method::DeclareOk(ok));
    assert!(topology.record(&Method::Queue(queue::Method::Declare(declare)), &ok));
    for key in 0..BINDINGS {
        let key = key.to_string();
        let (exchange, routing_key) = (short(queue), short(&key));
        let queue = exchange;
        let bind = queue::Bind {
            queue,
            exchange,
            routing_key,
            nowait: false,
            arguments: table,
        };
        let ok = Method::Queue(queue::Method::BindOk(queue::BindOk {}));
        assert!(topology.record(&Method::Queue(queue::Method::Bind(bind)), &ok));
    }
}

/// Returns how many bindings are visited when this many queues are renamed and forgotten.
fn visits(queues: usize) -> [usize; 3] {
    let mut topology = Topology::new(usize::MAX);
    for n in 0..queues {
        declare(&mut topology, &format!("old-{n}"));
    }
    visited();
    for n in 0..queues {
        topology.rename(short(&format!("old-{n}")), short(&format!("new-{n}")));
    }
    let renaming = visited();
    for n in 0..queues / 2 {
        topology.forget_queue(short(&format!("old-{n}")));
    }
    let forgetting = visited();
    for n in 0..queues {
        topology.forget_exchange(short(&format!("old-{n}")));
    }
    assert_eq!(topology.len(), queues - queues / 2);
    [renaming, forgetting, visited()]
}

#[test]
#[cfg_attr(miri, ignore = "it takes Miri minutes")]
fn entities_cost_only_their_own_bindings() {
    for queues in [20, 200] {
        // Each range ends with a look at the binding behind it.
        let most = queues * (BINDINGS + 1);
        for count in visits(queues) {
            assert!(
                (queues / 2 * BINDINGS..=most * 3 / 2).contains(&count),
                "{count} for {queues} queues"
            );
        }
    }
}
