//! Requeueing all unsettled deliveries of a consumer by `basic.recover` (spec 1.8.3.16).

use crate::error::Error;
use crate::machine::channel::Awaited;
use crate::machine::consume::Consuming;
use crate::machine::consume::earlier_channels::requeue_earlier;
use crate::machine::context::Context;
use crate::machine::{ConsumerId, PromiseId, Reply};
use crate::protocol::method::basic;

/// Makes the broker requeue the unsettled deliveries of a live consumer and deliver them again,
/// to this consumer or another. Deliveries that the program still has are stale from then on.
pub(crate) fn recover(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
) -> Result<PromiseId, Error> {
    let consumer = consuming.consumers.get(id).ok_or(Error::Stale)?;
    if consumer.is_restarting() {
        // The broker has requeued all deliveries of a lost connection or a closed channel.
        let promise = cx.promises.open();
        cx.complete(promise, Ok(Reply::Done));
        consuming.consumers.discard_unsettled(id);
        requeue_earlier(cx, &mut consuming.consumers, id);
        return Ok(promise);
    }
    let number = consumer.live_channel().ok_or(Error::Stale)?;
    let promise = cx.counted_promise();
    requeue_earlier(cx, &mut consuming.consumers, id);
    cx.flush_channel_acks(number);
    consuming.consumers.discard_unsettled(id);
    if let Some(channel) = cx.channels.get_mut(number) {
        channel.unsettled.forget();
    }
    cx.write(number, &basic::Recover { requeue: true });
    cx.await_reply(number, &basic::Recover::INFO, Awaited::Recover { promise });
    consuming.unthrottle(cx, id);
    Ok(promise)
}
