//! Faults of the server, and those that it reports.

use crate::error::{Error, Fault};
use crate::protocol::method::channel as channels;
use crate::protocol::{MethodId, ReplyCode};

/// A fault of the server.
pub(crate) fn broken(code: ReplyCode, text: impl Into<String>, method: MethodId) -> Error {
    Fault::by_client(code, text, method).into()
}

/// What the server closes a channel over.
pub(crate) fn fault_of(close: &channels::Close<'_>) -> Fault {
    let method = MethodId {
        class: close.class_id,
        method: close.method_id,
    };
    Fault::by_server(close.reply_code, &close.reply_text.to_str_lossy(), method)
}
