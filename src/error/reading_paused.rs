//! The error of a timeout while reading was paused.

use std::fmt;

/// The error of a timeout while reading was paused. The reply may be unread behind deliveries that
/// are not taken.
///
/// See [`Options::max_buffered_deliveries`](crate::Options::max_buffered_deliveries) for when
/// reading pauses.
///
/// ```
/// use puka::{Error, Notice, Options};
/// use std::time::Duration;
///
/// let broker = puka_test_broker::Server::new(Default::default());
/// let options = Options::default()
///     .max_buffered_deliveries(1)
///     .request_timeout(Duration::from_secs(1));
/// let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, options);
/// smol::spawn(driver).detach();
/// smol::block_on(async {
///     client.queue_declare("orders").await?;
///     for _ in 0..8 {
///         client.basic_publish("", "orders", vec![0; 1 << 18]).await?;
///     }
///     let mut notices = client.notices();
///     let orders = client.basic_consume("orders").no_ack(true).await?;
///     // The program takes no deliveries, and a consumer without acks can't be throttled.
///     assert!(matches!(notices.next().await, Some(Notice::ReadingPaused { .. })));
///
///     // Reading continues for pending requests until 4 deliveries are buffered.
///     let error = loop {
///         if let Err(error) = client.queue_declare("refunds").await {
///             break error;
///         }
///     };
///     let Error::ReadingPaused(paused) = error else { panic!("{error}") };
///     assert!(paused.deliveries >= 4);
///     drop(orders);
///     client.close().await
/// })?;
/// # Ok::<(), puka::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadingPaused {
    /// What timed out, such as "the request".
    pub what: &'static str,
    /// The timeout that passed.
    pub after: std::time::Duration,
    /// The number of buffered deliveries of all consumers.
    pub deliveries: usize,
    /// The size of those deliveries in bytes.
    pub bytes: usize,
}

impl fmt::Display for ReadingPaused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            after,
            deliveries,
            bytes,
        } = self;
        write!(
            f,
            "{what} took longer than {} s; reading is paused: ",
            after.as_secs_f64()
        )?;
        match *bytes >> 20 {
            0 => write!(f, "{deliveries} deliveries of {bytes} bytes are buffered"),
            mebibytes => write!(f, "{deliveries} deliveries of {mebibytes} MiB are buffered"),
        }
    }
}
