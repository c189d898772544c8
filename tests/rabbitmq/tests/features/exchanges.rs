//! Exchange types that are not part of AMQP 0-9-1.

use crate::{connect, version, with_client};
use puka::{Client, Error, QueueType};
use puka_test_rabbitmq::{Node, unique};
use puka_test_soak::{Failure, Outcome};

/// Declares this many queues of the connection.
async fn queues(client: &Client, count: usize) -> Result<Vec<String>, Failure> {
    let mut queues = Vec::new();
    for _ in 0..count {
        queues.push(client.queue_declare("").exclusive(true).await?.name);
    }
    Ok(queues)
}

/// Returns how many messages each queue has.
async fn lengths(client: &Client, queues: &[String]) -> Result<Vec<u32>, Failure> {
    let mut lengths = Vec::new();
    for queue in queues {
        let declared = client.queue_declare(queue).passive(true).await?;
        lengths.push(declared.message_count);
    }
    Ok(lengths)
}

fn is_refused(bound: &Result<(), Error>) -> bool {
    matches!(bound, Err(Error::PreconditionFailed(_)))
}

#[test]
fn local_random_exchange_routes_to_one_queue() -> Outcome {
    with_client(async |client| {
        let exchange = unique("random");
        let declare = client.exchange_declare(&exchange);
        let declared = declare.exchange_type("x-local-random").await;
        if version(client)? < (4, 0) {
            // 3.10 closes the connection over a type that it does not know.
            assert!(
                matches!(declared, Err(Error::CommandInvalid(_))),
                "{declared:?}"
            );
            return Ok(());
        }
        declared?;
        let queues = queues(client, 3).await?;
        for queue in &queues {
            client.queue_bind(queue, &exchange).await?;
        }
        for n in 0..60 {
            let publish = client.basic_publish(&exchange, n.to_string(), "x");
            publish.mandatory(true).await?;
        }
        let lengths = lengths(client, &queues).await?;
        assert_eq!(lengths.iter().sum::<u32>(), 60, "{lengths:?}");
        // A queue without any has a probability of 3 * (2/3)^60, which is below 10^-9.
        assert!(lengths.iter().all(|length| *length > 0), "{lengths:?}");

        // It accepts only classic queues, and no routing key.
        let quorum = client.queue_declare(unique("quorum")).durable(true);
        let quorum = quorum.queue_type(QueueType::Quorum).await?.name;
        let refused = client.queue_bind(&quorum, &exchange).await;
        assert!(is_refused(&refused), "{refused:?}");
        let refused = client.queue_bind(&queues[0], &exchange);
        let refused = refused.routing_key("key").await;
        assert!(is_refused(&refused), "{refused:?}");
        client.queue_delete(&quorum).await?;
        client.exchange_delete(&exchange).await?;
        Ok(())
    })
}

#[test]
fn consistent_hash_exchange_routes_equal_keys_together() -> Outcome {
    let node = Node::builder()
        .plugin("rabbitmq_consistent_hash_exchange")
        .start()?;
    smol::block_on(async {
        let client = connect(&node.url()).await?;
        for by in ["routing key", "header", "property"] {
            let exchange = unique("hash");
            let declare = client.exchange_declare(&exchange);
            let declare = declare.exchange_type("x-consistent-hash");
            match by {
                "header" => declare.hash_header("customer").await?,
                "property" => declare.hash_property("message_id").await?,
                _ => declare.await?,
            }
            let queues = queues(&client, 4).await?;
            for queue in &queues {
                // The routing key of the binding is the weight of the queue.
                let bind = client.queue_bind(queue, &exchange);
                bind.routing_key("10").await?;
            }
            for n in 0..100 {
                let n = n.to_string();
                let key = if by == "routing key" { &*n } else { "same" };
                let publish = client.basic_publish(&exchange, key, "x");
                let publish = publish.header("customer", if by == "header" { &*n } else { "same" });
                let publish = publish.message_id(if by == "property" { &n } else { "same" });
                publish.mandatory(true).await?;
            }
            let spread = lengths(&client, &queues).await?;
            assert_eq!(spread.iter().sum::<u32>(), 100, "{by}: {spread:?}");
            assert!(spread.iter().all(|length| *length > 0), "{by}: {spread:?}");
            // Equal keys are routed to one queue.
            for _ in 0..20 {
                let publish = client.basic_publish(&exchange, "1", "x");
                let publish = publish.header("customer", "1").message_id("1");
                publish.mandatory(true).await?;
            }
            let mut later = lengths(&client, &queues).await?;
            for (later, earlier) in later.iter_mut().zip(spread) {
                *later -= earlier;
            }
            later.sort_unstable();
            assert_eq!(later, [0, 0, 0, 20], "{by}");
        }
        Ok(client.close().await?)
    })
}
