//! Recovery of a lost connection: what is promised, and what is not.
//!
//! A connection that was dialled, by an adapter (such as `puka_smol::connect`),
//! [`connect`](crate::connect) or `evented::connect`, is dialled again when it is lost. A
//! connection over a stream of your own, from [`open`](crate::open) or `Evented::new`, is not.
//! [`Options::recovery`](crate::Options::recovery) takes a [`Recovery`](crate::Recovery), or `None`
//! to disable recovery.
//!
//! # When
//! A connection that has been open is recovered after any kind of loss. Three things end it
//! for good: [`close`](crate::Client::close), which takes precedence at any point; dropping the
//! driver; and a limit that you set ([`max_attempts`](crate::Recovery::max_attempts),
//! [`max_time`](crate::Recovery::max_time)). An attempt to reconnect may fail because of a refused
//! login, a missing virtual host, unavailable credentials, an invalid certificate, a reply that is
//! not AMQP, or a broker that closes the connection over a request of the program.
//! [`Notice::Retrying`](crate::Notice::Retrying) reports the cause, and the attempt is repeated. A
//! program that prefers to stop can close the client when it receives the notice. An error that
//! closes a channel does not close the connection.
//!
//! An attempt tries all endpoints and all addresses of each, including the handshake. It begins
//! with the endpoint that worked last, and resolves host names and asks for credentials again. The
//! delay between two attempts is random, and its maximum doubles each time. After a refused login
//! it is at least half of the maximum. The doubling starts over once a connection has been open for
//! a minute.
//!
//! The first connection is one attempt, unless
//! [`Recovery::retry_first_connect`](crate::Recovery::retry_first_connect) is set.
//!
//! # What is restored
//! Exchanges, bindings between exchanges, queues and bindings of queues are declared again, in this
//! order, if this connection has declared them and has not deleted them since. Then consumers are
//! started again, with their prefetch counts and tags. A consumer of a stream continues behind the
//! last delivery that it has returned, if it was started with a
//! [`StreamOffset`](crate::StreamOffset).
//!
//! An entity that ended by itself is not declared again, for example an auto-delete queue after its
//! last consumer. A queue whose consumers the broker has ended is not declared again either.
//!
//! A queue that the broker names gets a new name. Everything that this connection does with the
//! first name applies to the new queue: publishes with their `CC` and `BCC`, transactions,
//! consumers, bindings and dead-letter arguments. The last sixteen names of such a queue are mapped
//! as well. [`Client::current_name`](crate::Client::current_name) returns the name to pass to other
//! programs. An entity that cannot be declared, or over which the broker closes the connection, is
//! skipped, and [`Notice::Recovered`](crate::Notice::Recovered) reports it. A consumer that cannot
//! be started ends with the error, and a consumer of several queues continues without the missing
//! ones.
//!
//! The connection becomes [`Open`](crate::ConnectionState::Open) when all of this is done. It does
//! not wait for a consumer that the broker refuses temporarily:
//! - An exclusive consumer, or a consumer of a queue with one, while the broker has not noticed yet
//!   that the previous connection is lost.
//! - A consumer of an exclusive queue that another connection still has.
//! - A consumer of a queue whose node is down or starts.
//!
//! [`Recovered::failed`](crate::Recovered::failed) lists such a consumer. The client tries to start
//! it again after half a second, and then after up to five seconds each. It tries for three
//! heartbeat timeouts from the handshake on, or for 30 seconds without heartbeats.
//! [`Notice::ConsumerRestored`](crate::Notice::ConsumerRestored) reports that the consumer has
//! started. A consumer that has not started in that time ends with the broker's last error. A
//! consumer ends at once if its queue is gone, such as an auto-delete queue that was deleted with
//! the consumer of the previous connection. After another loss, all of this starts over.
//!
//! One loss is not reported. RabbitMQ 4.0 changes the routes of topic exchanges only after it has
//! changed their bindings. While it deletes an auto-delete exchange or queue of the last
//! connection, the one that is declared again may lose its routes: the broker replies to each
//! request and lists each binding, but routes nothing by it. A durable exchange with durable
//! queues, or with queues that the broker names, is safe, and so is every exchange of RabbitMQ
//! 3.10, of 4.3, and of 4.0 with the metadata store Khepri.
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
//! # Deliveries
//! Deliveries of a lost connection are stale: they cannot be acknowledged, and the broker delivers
//! the messages again, to this consumer or another, marked as redelivered. Settling one returns
//! [`Stale`](crate::Error::Stale) and sends nothing, so no other message is settled by mistake.
//! Buffered deliveries are dropped and [counted](crate::Consumer::lost_deliveries). Messages that
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
