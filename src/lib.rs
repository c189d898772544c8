//! An opinionated AMQP 0-9-1 client, tuned to RabbitMQ.

pub mod protocol;
