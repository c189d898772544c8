//! The distinction between temporary and final refusals.

use crate::error::Error;
use crate::machine::Ended;

/// Returns `true` if a refusal is temporary: the entity or consumer existed before, cannot
/// be restored now, and may be restored later.
///
/// These are RabbitMQ's texts, from 3.10 to 4.3, with `Q` for `queue 'NAME' in vhost 'VHOST'`:
///
/// | code | text | temporary |
/// | --- | --- | --- |
/// | 403 | `Q in exclusive use` | yes |
/// | 403 | `access to Q refused for user 'USER'`, since 4.0 `read access to ..` | no |
/// | 404 | `no Q` | no |
/// | 404 | `home node 'NODE' of durable Q is down or inaccessible` | yes |
/// | 404 | `Q process is stopped by supervisor` | yes |
/// | 404 | `Q has crashed and failed to restart` | yes |
/// | 404 | `failed to perform operation on Q due to timeout` | yes |
/// | 404 | `failed to perform operation on Q: its leader PID may be stopping or ..` | yes |
/// | 405 | `cannot obtain exclusive access to locked Q. ..` | yes |
/// | 406 | `delivery acknowledgement on channel 1 timed out. ..` | yes |
/// | 506 | `Stream coordinator unavailable for Q` | yes |
/// | 541 | any | yes |
///
/// The timeout is about an earlier delivery on the same channel, whose late ack has crossed the
/// close.
///
/// Other brokers use other texts for 403. For an exclusive consumer, any 403 is temporary unless
/// its text is that of a missing permission, which LavinMQ begins with `User 'USER' `.
///
/// The text begins with the name of the code (`NOT_FOUND - `). It contains names that users choose,
/// so only its beginning and its end are compared.
pub(crate) fn is_temporary(error: &Error, is_exclusive: bool) -> bool {
    match error {
        Error::AccessRefused(fault) => {
            let text = fault
                .text
                .strip_prefix("ACCESS_REFUSED - ")
                .unwrap_or(&fault.text);
            let lacks_permission = ["access to ", "read access to ", "User '"]
                .iter()
                .any(|it| text.starts_with(it));
            text.ends_with(" in exclusive use") || is_exclusive && !lacks_permission
        }
        Error::NotFound(fault) => {
            let text = fault
                .text
                .strip_prefix("NOT_FOUND - ")
                .unwrap_or(&fault.text);
            let starts = ["home node '", "failed to perform operation on queue '"];
            let ends = [
                " process is stopped by supervisor",
                " has crashed and failed to restart",
            ];
            starts.iter().any(|it| text.starts_with(it)) || ends.iter().any(|it| text.ends_with(it))
        }
        Error::ResourceLocked(_) | Error::ResourceError(_) | Error::InternalError(_) => true,
        error => matches!(Ended::by_close(error), Ended::AckTimeout(_)),
    }
}
