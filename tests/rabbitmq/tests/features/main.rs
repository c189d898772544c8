//! Features of RabbitMQ that came or changed between 3.10, 4.0 and 4.3. Each test runs on all of
//! them, and states what differs.

mod calls;
mod defaults;
mod denied;
mod exchanges;
mod khepri;
mod limits;
mod quorum;
mod sizes;
mod streams;
mod timeouts;

use puka::{Client, Consumer, Delivery, Error, Notice, Notices, Options, Recovered, Recovery};
use puka_test_rabbitmq::{Node, NodeError, major_and_minor, shared_node};
use puka_test_soak::{Failure, Outcome, within};
use std::time::Duration;

/// A timeout far longer than any test takes.
const DEADLINE: Duration = Duration::from_secs(90);

/// Runs a test with a client of the shared node, and closes the client.
fn with_client(case: impl AsyncFnOnce(&Client) -> Outcome) -> Outcome {
    let url = shared_node()?.url();
    smol::block_on(async {
        let client = connect(&url).await?;
        within(DEADLINE, "the test", case(&client)).await??;
        Ok(client.close().await?)
    })
}

async fn connect(url: &str) -> Result<Client, Failure> {
    Ok(puka_smol::connect_with(Options::from_uri(url)?).await?)
}

/// Returns options to reconnect within 100 ms.
fn hasty(url: &str) -> Result<Options, Error> {
    let delay = Duration::from_millis(100);
    Ok(Options::from_uri(url)?.recovery(Recovery::default().backoff(delay, delay)))
}

/// Returns the major and minor version of the broker.
fn version(client: &Client) -> Result<(u32, u32), Failure> {
    let properties = client.server_properties();
    let version = properties.version();
    major_and_minor(&version).ok_or_else(|| format!("the version is {version:?}").into())
}

/// Runs slow work with the shared node without blocking the client.
async fn operator<T: Send + 'static>(
    work: impl FnOnce(&Node) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, Failure> {
    let node = shared_node()?;
    Ok(smol::unblock(move || work(node)).await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    let next = within(DEADLINE, "the next delivery", consumer.next()).await?;
    Ok(next.ok_or("the consumer has ended")??)
}

/// Publishes a persistent message that must be routed.
async fn publish(client: &Client, queue: &str, body: &str) -> Outcome {
    let publish = client.basic_publish("", queue, body);
    Ok(publish.persistent(true).mandatory(true).await?)
}

/// Waits for a notice, and skips others.
async fn told(notices: &mut Notices, is_it: impl Fn(&Notice) -> bool) -> Result<Notice, Failure> {
    let wait = async {
        loop {
            let notice = notices.next().await.ok_or("the connection has ended")?;
            if is_it(&notice) {
                return Ok::<_, Failure>(notice);
            }
        }
    };
    within(DEADLINE, "a notice", wait).await?
}

/// Waits for a recovery. Returns its report.
async fn recovered(notices: &mut Notices) -> Result<Recovered, Failure> {
    match told(notices, |notice| matches!(notice, Notice::Recovered(_))).await? {
        Notice::Recovered(report) => Ok(*report),
        other => Err(format!("{other:?}").into()),
    }
}
