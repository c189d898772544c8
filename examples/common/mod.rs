//! The broker that the examples share.

use puka::{Client, Error, Options};
use puka_test_broker::Server;
use std::sync::OnceLock;

/// Connects to the broker at `AMQP_URL`, or to one in this process.
pub(crate) async fn connect() -> Result<Client, Error> {
    if let Ok(url) = std::env::var("AMQP_URL") {
        return puka_smol::connect(&url).await;
    }
    static BROKER: OnceLock<Server> = OnceLock::new();
    let broker = BROKER.get_or_init(Server::default);
    let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, Options::default());
    smol::spawn(driver).detach();
    client.connect().await?;
    Ok(client)
}
