//! [`puka`] on [`smol`]: resolves, dials, spawns the driver on smol's global executor, and hands out the client.
//!
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! smol::block_on(async {
//!     let client = puka_smol::connect("amqp://localhost/").await?;
//!     client.queue_declare("orders").durable(true).await?;
//!     client.close().await
//! })
//! # }
//! ```

mod clock;
mod dial;

pub use clock::{Clock, Sleep};

use puka::{Client, Error, Options};

/// Connects to the broker that a URI names, such as `amqp://guest:guest@localhost:5672/%2f`.
///
/// # Errors
/// As [`connect_with`], and [`Error::Uri`].
///
/// # Cancel safety
/// Dropping the future closes whatever it has opened.
pub async fn connect(uri: &str) -> Result<Client, Error> {
    connect_with(Options::from_uri(uri)?).await
}

/// Connects to a broker: resolves the host, tries each of its addresses in turn, and shakes hands.
///
/// # Errors
/// [`Error::ConnectionBroken`] when no address can be reached, with the cause at the last of them; [`Error::Timeout`] when
/// that took longer than [`Options::dial_timeout`]; what [`Client::connect`] says of the handshake;
/// [`Error::InvalidArgument`] for `amqps`, which is not there yet.
///
/// # Cancel safety
/// Dropping the future closes whatever it has opened.
pub async fn connect_with(options: Options) -> Result<Client, Error> {
    let stream = dial::dial(&options).await?;
    let (client, driver) = puka::open(stream, Clock, options);
    smol::spawn(driver).detach();
    client.connect().await?;
    Ok(client)
}
