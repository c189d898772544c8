//! The queue that is consumed.

use crate::Outcome;
use crate::work::{WINDOW, Work};
use bytes::Bytes;
use puka::{Client, Error};
use std::collections::VecDeque;
use std::pin::pin;

/// Declares it, transient and gone with its last consumer, and fills it.
async fn fill_with(client: &Client, name: &str, work: Work, messages: u64) -> Result<(), Error> {
    client.connect().await?;
    client.queue_declare(name).auto_delete(true).await?;
    let body = Bytes::from(vec![b'x'; work.size]);
    let mut promises = VecDeque::with_capacity(usize::from(WINDOW));
    for _ in 0..messages {
        if promises.len() == usize::from(WINDOW)
            && let Some(promise) = promises.pop_front()
        {
            promise.await?;
        }
        promises.push_back(client.basic_publish("", name, &body).submit().await?);
    }
    for promise in promises {
        promise.await?;
    }
    client.close().await
}

/// A queue that holds so many messages.
pub(crate) fn fill(url: &str, name: &str, work: Work, messages: u64) -> Outcome<()> {
    let mut conn = puka::evented::connect(url)?;
    let client = conn.client();
    let mut filling = pin!(fill_with(&client, name, work, messages));
    Ok(conn.wait(&mut filling, None)?)
}
