//! Transactions: all or nothing.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::{Client, Error};

/// Returns the number of ready messages. The request is sent after everything before it.
async fn holds(client: &Client, queue: &str) -> Result<u32, Error> {
    Ok(client
        .queue_declare(queue)
        .passive(true)
        .await?
        .message_count)
}

/// Publishes and acknowledgements take effect together at the commit.
pub async fn s63_committed_work_takes_effect_together<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (from, to) = (
        world.filled_queue(&client, 2).await?,
        world.shared_queue(&client).await?,
    );
    let transaction = client.transaction().await?;
    let message = transaction.basic_get(&from).await?.ok_or("empty")?;
    let held = transaction.basic_get(&from).await?.ok_or("empty")?;
    assert!(transaction.basic_get(&from).await?.is_none());
    for n in 0..3 {
        transaction
            .basic_publish("", &to, vec![n; 9])
            .persistent(true)
            .await?;
    }
    message.ack()?;
    assert_eq!(holds(&client, &to).await?, 0);
    assert!(transaction.commit().await?.is_empty());
    assert_eq!(holds(&client, &to).await?, 3);
    // Unsettled deliveries are requeued, and can no longer be settled.
    assert_error!(held.ack(), Error::Stale);
    world.until_ready(&client, &from, 1).await?;
    Ok(client.close().await?)
}

/// Rolled back work has no effect, whether by a call or by dropping the transaction.
pub async fn s63_rolled_back_work_has_no_effect<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (from, to) = (
        world.filled_queue(&client, 1).await?,
        world.shared_queue(&client).await?,
    );
    for said in [true, false] {
        let transaction = client.transaction().await?;
        transaction.basic_publish("", &to, "never").await?;
        transaction.basic_get(&from).await?.ok_or("empty")?.ack()?;
        if said {
            transaction.rollback().await?;
        } else {
            drop(transaction);
        }
        world.until_ready(&client, &from, 1).await?;
        assert_eq!(holds(&client, &to).await?, 0);
    }
    Ok(client.close().await?)
}

/// The commit returns the unroutable mandatory messages, complete.
pub async fn s63_commit_returns_unroutable_messages<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (queue, nowhere) = (world.shared_queue(&client).await?, world.name("nowhere"));
    let transaction = client.transaction().await?;
    transaction
        .basic_publish("", &queue, "routed")
        .mandatory(true)
        .await?;
    transaction
        .basic_publish("", &nowhere, "lost")
        .mandatory(true)
        .header("n", 7)
        .await?;
    transaction.basic_publish("", &nowhere, "unseen").await?;
    let returned = transaction.commit().await?;
    assert_eq!(returned.len(), 1);
    assert_eq!(
        (returned[0].reply_code.value(), returned[0].message.body()),
        (312, &b"lost"[..])
    );
    assert_eq!(returned[0].message.headers()?.iter().count(), 1);
    assert_eq!(holds(&client, &queue).await?, 1);
    Ok(client.close().await?)
}

/// An error ends its transaction with all its work, and nothing else.
pub async fn s63_transaction_with_a_fault_has_no_effect<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.shared_queue(&client).await?;
    let (bad, good) = (client.transaction().await?, client.transaction().await?);
    bad.basic_publish("", &queue, "never").await?;
    bad.basic_publish(world.name("missing"), "", "never")
        .await?;
    good.basic_publish("", &queue, "good").await?;
    assert_error!(bad.commit().await, Error::NotFound(_));
    good.commit().await?;
    assert_eq!(holds(&client, &queue).await?, 1);

    let bad = client.transaction().await?;
    assert_error!(
        bad.basic_get(world.name("missing")).await,
        Error::NotFound(_)
    );
    assert_error!(
        bad.basic_publish("", &queue, "never").await,
        Error::NotFound(_)
    );
    assert_error!(bad.rollback().await, Error::NotFound(_));
    assert_eq!(holds(&client, &queue).await?, 1);
    Ok(client.close().await?)
}

/// Many transactions exist at once, and leak no channel.
pub async fn s63_many_transactions_leak_no_channel<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.channel_max(12)).await?;
    let queue = world.shared_queue(&client).await?;
    for _ in 0..5 {
        let mut open = Vec::new();
        for n in 0..8 {
            let transaction = client.transaction().await?;
            transaction.basic_publish("", &queue, vec![n]).await?;
            open.push(transaction);
        }
        let commits: Vec<_> = open.into_iter().map(puka::Transaction::commit).collect();
        for commit in commits {
            commit.await?;
        }
    }
    assert_eq!(holds(&client, &queue).await?, 40);
    Ok(client.close().await?)
}
