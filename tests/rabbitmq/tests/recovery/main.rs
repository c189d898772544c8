//! Recovery on real nodes: each fault under load, and afterwards the account of every message.
//! Nothing that was confirmed or not acknowledged is lost, and nothing comes twice without saying
//! so.

mod cluster;
mod network;
mod nodes;
mod operator;
mod stage;
mod topology;

use puka::{Consumer, Delivery, Notice, Notices};
use puka_test_soak::{Failure, within};
use std::time::Duration;

/// Far more than any step here takes.
const STEP: Duration = Duration::from_secs(30);

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    Ok(within(STEP, "a delivery", consumer.next())
        .await?
        .ok_or("the consumer has ended")??)
}

/// Waits for a notice, past others.
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
