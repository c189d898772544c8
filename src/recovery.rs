//! Recovery of a lost connection: what is promised, and what is not.
//!
//! A connection that was dialled, by an adapter (such as `puka_smol::connect`),
//! [`connect`](crate::connect) or `evented::connect`, is dialled again when it is lost. A
//! connection over a stream of your own, from [`open`](crate::open) or `Evented::new`, is not.
//! [`Options::recovery`](crate::Options::recovery) takes a [`Recovery`](crate::Recovery), or `None`
//! to disable recovery.
//!
//! # What happens
//!
//! | event | what the client does | what the program sees |
//! | --- | --- | --- |
//! | The first connection cannot be opened. | It tries every endpoint once, with its addresses, handshake included. | `connect` fails, with the cause of each endpoint |
//! | The connection is lost, or the broker closes it. | It dials again after a random, growing delay, and restores topology and consumers. | [`Disconnected`], [`Retrying`], [`Recovered`] |
//! | An attempt fails: a refused login, a missing virtual host, an invalid certificate, a reply that is not AMQP. | It tries again, for ever, with a longer delay. | [`Retrying`] with the cause |
//! | A limit of [`Recovery`](crate::Recovery) is reached. | It closes. | [`Closed`], and every pending request fails with the cause |
//! | The broker closes the connection over a request. | It recovers, and does not send that request again. | The request fails with that error. |
//! | The broker refuses an entity temporarily: it is locked, or its node is down. | It opens without it, and declares it again after 1 s, then after up to 30 s each, without a limit. | [`Recovered::failed`], then [`EntityRestored`] |
//! | The broker closes the connection over an entity or a consumer. | It identifies and skips it, and retries it after 5 to 30 s, for three heartbeat timeouts. | [`Recovered::failed`], then [`EntityRestored`], [`ConsumerRestored`] or the consumer's end |
//! | The broker refuses an entity for good. | It leaves it out. | [`Recovered::failed`] |
//! | The broker allows no more channels. | It recovers, and opens no more than it had. It tests the limit again after 1 s to 10 min. | The work that needed the channel fails with [`ChannelLimit`]; consumers that were lost are in [`Recovered::failed`], then [`ConsumerRestored`]. |
//! | The broker temporarily refuses to restart a consumer after a loss. | It opens without it, and restarts it after 0.5 to 5 s each, for three heartbeat timeouts. | [`Recovered::failed`], then [`ConsumerRestored`], or the consumer's end |
//! | The broker cancels a consumer, or closes its channel. | It restarts the consumer on another channel, and tries for up to a minute. | [`ConsumerInterrupted`], then [`ConsumerRestored`], or the consumer's end |
//! | A queue is deleted. | It tries to restart the consumers. They end, unless they [wait for the queue](crate::Resubscribe::wait_for_queue). | [`ConsumerInterrupted`], then [`ConsumerCancelled`](crate::Error::ConsumerCancelled) as the last item of each stream |
//! | The program drops a delivery unsettled. | It requeues the first new message at once, and redelivered or further ones after 100 ms to 10 s ([`OnDrop`](crate::OnDrop)). | The message is delivered again. |
//! | `close` is called. | It stops all of this. | [`Closed`] |
//!
//! # When
//! A connection that has been open is recovered after any kind of loss. Three things end it
//! for good: [`close`](crate::Client::close), which takes precedence at any point; dropping the
//! driver; and a limit that you set ([`max_attempts`](crate::Recovery::max_attempts),
//! [`max_time`](crate::Recovery::max_time)). A program that prefers to stop for another reason can
//! close the client when it receives [`Retrying`], whose cause says what has failed. An error that
//! closes a channel does not close the connection.
//!
//! An attempt tries all endpoints and all addresses of each, including the handshake. It begins
//! with the endpoint and the address that worked last, and continues with the next one after 250 ms
//! without an answer ([`dial`](crate::dial)). If the handshake fails, the next address is dialled
//! at once. The other addresses of a host are skipped if the broker refused the login or the
//! virtual host, because they would refuse it, too. An attempt ends after 64 failed handshakes in
//! addition to one for each endpoint. It resolves host names and asks for credentials again. The
//! last secret of [`update_secret`](crate::Client::update_secret) is used instead of the first one.
//! The delay between two attempts is random, and its maximum doubles each time. If the login was
//! refused at every endpoint, it is at least half of the maximum. The doubling starts over once a
//! connection has been open for a minute.
//!
//! The first connection is one attempt, unless
//! [`Recovery::retry_first_connect`](crate::Recovery::retry_first_connect) is set.
//!
//! # What is restored
//! Exchanges, bindings between exchanges, queues and bindings of queues are declared again, in this
//! order, if this connection has declared them and has not deleted them since. Then consumers are
//! started again, with their prefetch counts and tags. A consumer of a stream continues behind the
//! last delivery that it has returned, if it was started with a
//! [`StreamOffset`](crate::StreamOffset). Until it has returned one, it starts at that offset, so
//! with [`Next`](crate::StreamOffset::Next) it does not receive what was published meanwhile. If a
//! stream is deleted and declared again while the connection is lost, it continues at the earlier
//! offset, so it skips the first messages of the new stream.
//!
//! An entity that ended by itself is not declared again, for example an auto-delete queue after its
//! last consumer. A queue whose consumers the broker has ended is not declared again either.
//!
//! A queue that the broker names gets a new name. Everything that this connection does with the
//! first name applies to the new queue: publishes with their `CC` and `BCC`, transactions,
//! consumers, bindings and dead-letter arguments. The last sixteen names of such a queue are mapped
//! as well. [`Client::current_name`](crate::Client::current_name) returns the name to pass to other
//! programs.
//!
//! The connection becomes [`Open`](crate::ConnectionState::Open) when all of this is done. A locked
//! queue is declared again for two seconds before that, or for three heartbeat timeouts with
//! [`strict`](crate::Recovery::strict). These are restored after the connection is open:
//! - A queue that the previous connection still locks after that time, and its bindings.
//! - A queue whose node is down or starts.
//! - An exclusive consumer, or a consumer of a queue with one, while the broker has not noticed yet
//!   that the previous connection is lost.
//!
//! [`Recovered::failed`] lists everything that is not restored, in either way. An entity that was
//! refused for good, such as a queue that exists with other arguments, is not declared again until
//! the next loss. With [`strict`](crate::Recovery::strict), an entity or a consumer that cannot be
//! restored fails the attempt, and nothing is skipped.
//!
//! One loss is not reported. RabbitMQ 4.0 changes the routes of topic exchanges only after it has
//! changed their bindings. While it deletes an auto-delete exchange or queue of the last
//! connection, the one that is declared again may lose its routes: the broker replies to each
//! request and lists each binding, but routes nothing by it. A durable exchange with durable
//! queues, or with queues that the broker names, is safe, and so is every exchange of RabbitMQ
//! 3.10, of 4.3, and of 4.0 with the metadata store Khepri.
//!
//! # Consumers
//! A consumer that is refused temporarily is started again after half a second, and then after up
//! to five seconds each. The client tries for three heartbeat timeouts from the handshake on, and
//! for at least 30 seconds, and then ends the consumer with the broker's last error. A
//! consumer ends at once if its queue is gone, such as an auto-delete queue that was deleted with
//! the consumer of the previous connection. A consumer of several queues continues without the
//! missing ones. After another loss, all of this starts over.
//!
//! A consumer over whose restart the broker closed the connection is restarted after 5 s, and then
//! after up to 30 s each. These delays and their limit do not start over at another loss.
//!
//! A consumer that the broker ends while the connection is open is restarted, too. The broker ends
//! it when the leader of its queue moves, when the queue is deleted, or when a delivery was not
//! acknowledged in time. [`Resubscribe`](crate::Resubscribe) describes the delays and the limit.
//! If no restart succeeds, the consumer ends with the reason for which the broker ended it first.
//!
//! # Requests
//! Unsent requests wait for the next connection, within their deadline; with
//! [`Recovery::fail_fast`](crate::Recovery::fail_fast) they fail. Requests without a reply are sent
//! again if repeating them changes nothing: declaring, binding, unbinding, consuming, a `basic_get`
//! with acknowledgement. Others (deleting, purging, a `basic_get` without acknowledgement) fail
//! with [`Broken::OutcomeUnknown`](crate::Broken::OutcomeUnknown).
//!
//! The request over which the broker closed the connection fails with that error and is not sent
//! again. If several requests may be the cause, they are sent again one at a time, so that the next
//! close identifies it.
//!
//! A call, and a commit without a reply, fail with [`Unconfirmed`](crate::Error::Unconfirmed). An
//! open transaction cannot be committed.
//!
//! # Publishes
//! A publish that resolved to `Ok` was confirmed by the broker, unless it is one [without a
//! confirm](crate::BasicPublish::confirm), and is never sent again. A publish that was sent and not
//! confirmed fails with [`Unconfirmed`](crate::Error::Unconfirmed): the broker may have it or not.
//! With [`Recovery::republish_unconfirmed`](crate::Recovery::republish_unconfirmed) it is sent
//! again instead, in its order among the publishes to its exchange, with a header
//! `x-puka-republished`: then the broker may have it twice. An unsent publish waits for the next
//! connection. A publish without a confirm waits until it is sent, and is lost if it has not
//! reached the broker when the connection is lost.
//!
//! A broker that does not implement the flag [`immediate`](crate::BasicPublish::immediate) closes
//! the connection over a publish with it. All those in flight then fail with
//! [`NotImplemented`](crate::Error::NotImplemented) and are not sent again.
//!
//! # Deliveries
//! Deliveries of a lost connection or a closed channel are stale: they cannot be acknowledged, and
//! the broker delivers the messages again, to this consumer or another, marked as redelivered.
//! Settling one returns [`Stale`](crate::Error::Stale) and sends nothing, so no other message is
//! settled by mistake. Buffered deliveries are dropped and
//! [counted](crate::Consumer::lost_deliveries), and never returned by the stream. Messages that
//! need no acknowledgement are lost if they were in transit.
//!
//! # Observing it
//! [`Client::state`](crate::Client::state) returns the state of the connection.
//! [Notices](crate::Client::notices) report the loss, each attempt and the result of the recovery.
//! [`Client::counters`](crate::Client::counters) returns totals.
//!
//! # What is not promised
//! - A message may be processed more than once: a program that acknowledges after its work sees
//!   some messages twice.
//! - A queue that is not durable loses its messages when the broker restarts, and an exclusive
//!   queue when the connection ends.
//! - Confirmed messages are only as durable as the broker makes them.
//! - An entity over whose declaration the broker keeps closing the connection for three heartbeat
//!   timeouts is not declared again until the next loss.
//!
//! [`Disconnected`]: crate::Notice::Disconnected
//! [`Retrying`]: crate::Notice::Retrying
//! [`Recovered`]: crate::Notice::Recovered
//! [`Recovered::failed`]: crate::Recovered::failed
//! [`EntityRestored`]: crate::Notice::EntityRestored
//! [`ConsumerRestored`]: crate::Notice::ConsumerRestored
//! [`ConsumerInterrupted`]: crate::Notice::ConsumerInterrupted
//! [`Closed`]: crate::Notice::Closed
//! [`ChannelLimit`]: crate::Error::ChannelLimit
