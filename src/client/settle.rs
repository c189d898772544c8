//! Settling in Puka's words, as requests of the client.

use super::{Client, Delivery};
use crate::error::Error;

impl Client {
    /// [`Delivery::ack`], in Puka's words.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_ack(&self, delivery: Delivery) -> Result<(), Error> {
        delivery.ack()
    }

    /// [`Delivery::reject`], in Puka's words.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_reject(&self, delivery: Delivery, requeue: bool) -> Result<(), Error> {
        delivery.reject(requeue)
    }

    /// [`Delivery::nack`], in Puka's words.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_nack(&self, delivery: Delivery, multiple: bool, requeue: bool) -> Result<(), Error> {
        delivery.nack(multiple, requeue)
    }
}
