//! Recovery on real nodes: each fault under load, followed by an account of every message. No
//! confirmed or unacknowledged message is lost, and each repeated delivery is marked.

mod cluster;
mod network;
mod nodes;
mod operator;
mod stage;
mod topology;

use puka::{Consumer, Delivery, Notice, Notices};
use puka_test_soak::{Failure, within};
use std::time::Duration;

/// A timeout far longer than any step takes.
const STEP: Duration = Duration::from_secs(30);

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    Ok(within(STEP, "a delivery", consumer.next())
        .await?
        .ok_or("the consumer has ended")??)
}

/// Waits for a notice, and skips others.
async fn told(
    notices: &mut Notices,
    what: &str,
    is_it: impl Fn(&Notice) -> bool,
) -> Result<Notice, Failure> {
    within(STEP, what, async {
        while let Some(notice) = notices.next().await {
            if is_it(&notice) {
                return Ok(notice);
            }
        }
        Err(format!("no {what}").into())
    })
    .await?
}

async fn recovered(notices: &mut Notices) -> Result<(), Failure> {
    told(notices, "recovery", |notice| {
        matches!(notice, Notice::Recovered(_))
    })
    .await
    .map(drop)
}
