//! The queue to consume from.

use crate::Outcome;
use crate::programs::publish_confirmed;
use crate::work::Work;
use puka::{Client, Error};
use std::pin::pin;

/// Declares a transient auto-delete queue, and fills it.
async fn fill_with(client: &Client, name: &str, work: Work, messages: u64) -> Result<(), Error> {
    client.connect().await?;
    client.queue_declare(name).auto_delete(true).await?;
    publish_confirmed(client, "", name, vec![b'x'; work.size], messages).await?;
    client.close().await
}

/// Creates a queue with this many messages.
pub(crate) fn fill(url: &str, name: &str, work: Work, messages: u64) -> Outcome<()> {
    let mut conn = puka::evented::connect(url)?;
    let client = conn.client();
    let mut filling = pin!(fill_with(&client, name, work, messages));
    Ok(conn.wait(&mut filling, None)?)
}
