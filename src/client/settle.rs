//! The settling methods under their names in Puka for Python, as methods of the client.

use super::{Client, Delivery};
use crate::error::Error;

impl Client {
    /// Acknowledges a delivery: [`Delivery::ack`] under its name in Puka for Python.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_ack(&self, delivery: Delivery) -> Result<(), Error> {
        delivery.ack()
    }

    /// Refuses a delivery: [`Delivery::reject`] under its name in Puka for Python.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_reject(&self, delivery: Delivery, requeue: bool) -> Result<(), Error> {
        delivery.reject(requeue)
    }

    /// Refuses a delivery: [`Delivery::nack`] under its name in Puka for Python.
    ///
    /// # Errors
    /// [`Error::Stale`]
    pub fn basic_nack(
        &self,
        delivery: Delivery,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), Error> {
        delivery.nack(multiple, requeue)
    }
}
