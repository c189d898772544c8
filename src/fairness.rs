//! How much work one task, channel or stream may do before the others run.
//!
//! Three things are shared: the executor's thread, which may be the only one; the outgoing queue;
//! and the lock. Each limit below is a compromise. A larger one increases the throughput, because
//! there are fewer wake-ups, system calls and cache misses. A smaller one shortens the delay of the
//! others. Limits are in bytes where the work is copying.

/// Senders yield after queueing this many bytes. Otherwise a single-threaded executor would not
/// poll the driver until the buffer is full, which takes milliseconds.
pub(crate) const QUEUED_BYTES: usize = 256 << 10;

/// Each request counts as at least this many queued bytes: queueing a small request takes
/// as long as queueing these bytes. So senders yield after a thousand small requests at the latest.
pub(crate) const LEAST_QUEUED_BYTES: usize = 256;

/// Consumers yield after taking this many deliveries. Otherwise their acknowledgements would not be
/// sent until the buffer of deliveries is empty, and the broker would wait for them.
pub(crate) const TAKEN_DELIVERIES: usize = 512;

/// The most turns in one poll of a driver, so that a stream that is always ready leaves time for
/// other tasks.
pub(crate) const POLL_TURNS: usize = 64;

/// A poll reads at most this many bytes. Then other tasks run, so that they process the deliveries
/// while these are in the processor's cache.
pub(crate) const POLL_READ_BYTES: usize = 256 << 10;

/// A short read of more bytes than this ends the poll if it brought deliveries. It is more than a
/// TLS stream returns at a time from its own buffer, so such reads do not count.
pub(crate) const READ_WORTH_YIELDING: usize = 4 << 10;

/// A short read ends the poll once this many promises have a result that was not fetched. With
/// fewer, the delay until the other tasks have run is not worth it.
pub(crate) const RESULTS_WORTH_YIELDING: usize = 64;

/// The number of callbacks to run before the streams are polled again.
#[cfg(feature = "evented")]
pub(crate) const CALLBACKS: usize = 256;

/// Up to this many queued bytes, about one frame, are written in the order in which they were
/// queued. Above this, channels take turns.
pub(crate) const ORDERED_BYTES: usize = 128 << 10;

/// The number of bytes in a channel's turn. A larger frame is written whole.
pub(crate) const CHANNEL_TURN_BYTES: usize = 64 << 10;

/// The transport receives this many bytes at a time, which is two frames. A frame that is queued
/// later has to wait for them.
/// One turn of a channel is added if the frames that leave in order have as many bytes already.
pub(crate) const WRITE_BYTES: usize = 256 << 10;

/// The transport receives more while it has fewer unwritten bytes than this.
pub(crate) const UNWRITTEN_BYTES: usize = 64 << 10;
