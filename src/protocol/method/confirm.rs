//! Class `confirm`: publisher confirms (RabbitMQ's extension).

class! {
    85 "confirm" Method;

    /// Enables confirms for the following publishes on this channel.
    10 "select" Select from client -> "select-ok" {
        /// Requests no reply.
        nowait: bit,
    }
    /// Confirms `select`.
    11 "select-ok" SelectOk from server {}
}
