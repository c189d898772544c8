//! A prefetch count that queues of different types share.

use crate::{DEADLINE, Outcome, connect, next};
use futures_lite::{FutureExt, future};
use puka::{ConsumeQueue, QueueType, StreamOffset};
use puka_test_rabbitmq::unique;
use std::collections::BTreeSet;

const COUNT: u16 = 5;
const EACH: usize = 20;

#[test]
fn queues_of_any_type_share_a_prefetch_count() -> Outcome {
    let case = async {
        let client = connect().await?;
        let types = [QueueType::Classic, QueueType::Quorum, QueueType::Stream];
        let queues = types.map(|_| unique("shared"));
        for (queue, kind) in queues.iter().zip(types) {
            let declare = client.queue_declare(queue).durable(true);
            declare.queue_type(kind).await?;
            for number in 0..EACH {
                let body = number.to_string();
                client.basic_publish("", queue, body).await?;
            }
        }
        let [classic, quorum, stream] = &queues;
        let stream = ConsumeQueue::new(stream).stream_offset(StreamOffset::First);
        let mut consumer = client
            .basic_consume_multi([classic.into(), quorum.into(), stream])
            .prefetch_count(COUNT)
            .await?;
        let mut unsettled = Vec::new();
        let mut seen = BTreeSet::new();
        while seen.len() < types.len() * EACH {
            // The others are in the buffer, or arrive when an earlier one is acknowledged.
            let delivery = next(&mut consumer).await?;
            let queue = delivery.queue().ok_or("no queue")?.to_owned();
            assert!(seen.insert((queue, delivery.body().to_vec())), "repeated");
            unsettled.push(delivery);
            if unsettled.len() < COUNT.into() {
                continue;
            }
            client.queue_declare(classic).passive(true).await?;
            let sixth = future::poll_once(consumer.next()).await;
            assert!(sixth.is_none(), "more than the shared count: {sixth:?}");
            for delivery in unsettled.drain(..) {
                delivery.ack()?;
            }
        }
        drop(consumer);
        for queue in &queues {
            client.queue_delete(queue).await?;
        }
        Ok(client.close().await?)
    };
    let timeout = async {
        smol::Timer::after(DEADLINE).await;
        Err(format!("it takes longer than {DEADLINE:?}").into())
    };
    smol::block_on(case.or(timeout))
}
