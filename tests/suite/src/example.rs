//! Running the examples of the documentation.

use crate::{Bare, Runtime};
use puka::{Client, Error, Options};
use puka_test_broker::Server;

/// Runs an example of the documentation with a client that is connected to a fresh broker in memory, and closes the
/// connection in the end.
///
/// ```
/// puka_test_suite::example(async |client: puka::Client| {
///     client.queue_declare("orders").await?;
///     client.basic_publish("", "orders", "one").mandatory(true).await
/// });
/// ```
///
/// # Panics
/// When the example gives an error.
pub fn example(example: impl AsyncFnOnce(Client) -> Result<(), Error>) {
    let outcome = Bare::block_on(async {
        let (client, driver) = puka::open(Server::default().connect(), Bare::clock(), Options::default());
        Bare::spawn(async { drop(driver.await) });
        client.connect().await?;
        example(client.clone()).await?;
        client.close().await
    });
    assert!(outcome.is_ok(), "the example gave {outcome:?}");
}
