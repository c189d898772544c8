//! [`puka`] on [`async_std`]: resolves host names, dials, spawns the driver on async-std's global
//! executor, and returns the client.
//!
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! async_std::task::block_on(async {
//!     let client = puka_async_std::connect("amqp://localhost/").await?;
//!     client.queue_declare("orders").durable(true).await?;
//!     client.close().await
//! })
//! # }
//! ```

// `Instant + Duration` panics on overflow; `clippy.toml` exempts integers.
#![warn(clippy::arithmetic_side_effects)]

mod clock;
mod dial;

pub use clock::{Clock, Sleep};
pub use dial::Dialer;

use puka::{Client, Error, Options};

/// Connects to the broker in a URI, such as `amqp://guest:guest@localhost:5672/%2f`.
///
/// # Errors
/// As [`connect_with`], and [`Error::Uri`].
///
/// # Cancel safety
/// Dropping the future closes everything that it has opened.
pub async fn connect(uri: &str) -> Result<Client, Error> {
    connect_with(Options::from_uri(uri)?).await
}

/// Connects to a broker: [dials](puka::dial) the endpoints of the options, and performs the
/// handshake. If the handshake fails, the other endpoints are tried.
///
/// # Errors
/// The errors of [`puka::dial`] for dialling and TLS, and of [`Client::connect`] for the handshake.
///
/// # Cancel safety
/// Dropping the future closes everything that it has opened.
pub async fn connect_with(options: Options) -> Result<Client, Error> {
    let (client, driver) = puka::connect(Dialer, Clock, options);
    async_std::task::spawn(driver);
    client.connect().await?;
    Ok(client)
}
