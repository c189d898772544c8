//! Shortcuts to take deliveries.

use puka::{Consumer, Delivery, Error};

type Failure = Box<dyn std::error::Error>;

/// Returns the next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    Ok(Consumer::next(consumer)
        .await
        .ok_or("the consumer has ended")??)
}

/// Returns the next `count` deliveries.
pub(crate) async fn take(consumer: &mut Consumer, count: usize) -> Result<Vec<Delivery>, Failure> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(consumer).await?);
    }
    Ok(taken)
}

/// Acknowledges each delivery.
pub(crate) fn ack(deliveries: impl IntoIterator<Item = Delivery>) -> Result<(), Error> {
    deliveries.into_iter().try_for_each(Delivery::ack)
}
