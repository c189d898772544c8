//! Class `confirm`: publisher confirms (RabbitMQ's extension).

class! {
    85 "confirm" Method;

    /// Has publishes on this channel confirmed from here on.
    10 "select" Select from client -> "select-ok" {
        /// Wants no reply.
        nowait: bit,
    }
    /// They will be.
    11 "select-ok" SelectOk from server {}
}
