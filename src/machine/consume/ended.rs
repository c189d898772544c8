//! Why a consumer has ended.

use crate::error::Error;

/// Why a consumer has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The program cancelled it.
    Cancelled,
    /// The broker cancelled it, usually because its queue was deleted.
    CancelledByServer,
    /// The broker closed its channel.
    ChannelClosed(Error),
    /// The broker closed its channel with this error, because a delivery was not acknowledged
    /// within the broker's timeout (30 minutes by default). Since RabbitMQ 4.3, the broker cancels
    /// the consumer of a quorum queue instead ([`CancelledByServer`](Self::CancelledByServer)).
    AckTimeout(Error),
    /// The connection was lost, or the program closed it.
    ConnectionBroken(Error),
}

impl Ended {
    /// Returns why a consumer ends whose channel the broker closed with this error.
    pub(crate) fn by_close(error: &Error) -> Self {
        // RabbitMQ: `delivery acknowledgement on channel 1 timed out. Timeout value used: ..`
        // LavinMQ: `consumer timeout`
        let is_ack_timeout = |text: &str| {
            text.contains("delivery acknowledgement on channel ") && text.contains(" timed out")
                || text == "PRECONDITION_FAILED - consumer timeout"
        };
        match error {
            Error::PreconditionFailed(fault) if is_ack_timeout(&fault.text) => {
                Self::AckTimeout(error.clone())
            }
            _ => Self::ChannelClosed(error.clone()),
        }
    }

    /// Returns the error that closed the channel or the connection of the consumer; `None` if the
    /// consumer was cancelled.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Cancelled | Self::CancelledByServer => None,
            Self::ChannelClosed(error)
            | Self::AckTimeout(error)
            | Self::ConnectionBroken(error) => Some(error),
        }
    }
}
