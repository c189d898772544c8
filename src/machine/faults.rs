//! Errors for protocol violations by the server, and for closes that the server sends.

use crate::error::{Error, Fault};
use crate::protocol::method::channel as channels;
use crate::protocol::{MethodId, ReplyCode};

/// Returns the error of a protocol violation by the server.
pub(crate) fn violation(code: ReplyCode, text: impl Into<String>, method: MethodId) -> Error {
    Fault::found_in_broker(code, text, method).into()
}

/// Returns the fault for which the server has closed a channel.
pub(crate) fn fault_of(close: &channels::Close<'_>) -> Fault {
    let method = MethodId {
        class: close.class_id,
        method: close.method_id,
    };
    Fault::reported_by_broker(close.reply_code, &close.reply_text.to_str_lossy(), method)
}
