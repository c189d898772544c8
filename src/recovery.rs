//! What happens when the connection is lost: exactly what is promised, and what is not.
//!
//! A connection that was dialled, by an adapter (`puka_smol::connect` and its like), [`connect`](crate::connect) or
//! `evented::connect`, is dialled again when it is lost. One that was opened over a stream of your own, with
//! [`open`](crate::open) or `Evented::new`, is not: there is nothing to dial.
//! [`Options::recovery`](crate::Options::recovery) takes a [`Recovery`](crate::Recovery), or `None` to switch it off.
//!
//! # When
//! A connection that has been open is recovered whatever the cause of the loss. Three things end it
//! for good: [`close`](crate::Client::close), which takes precedence at any point; dropping the
//! driver; and a limit that you set ([`max_attempts`](crate::Recovery::max_attempts),
//! [`max_time`](crate::Recovery::max_time)). These are failed attempts, which
//! [`Notice::Retrying`](crate::Notice::Retrying) reports with their cause: a refused login, a
//! missing virtual host, unavailable credentials, an invalid certificate, a reply that is not AMQP,
//! and a broker that closes the connection over a request of the program. A program that prefers to
//! stop then can do so on the notice. An error that closes a channel does not close the connection.
//!
//! An attempt tries all endpoints and all addresses of each, including the handshake. It begins
//! with the endpoint that worked last, and resolves host names and asks for credentials again. The
//! delay between two attempts is random, and its maximum doubles each time. After a refused login
//! it is at least half of the maximum. The doubling starts over once a connection has been open for
//! a minute.
//!
//! The first connection is one attempt, unless
//! [`Recovery::first_connect`](crate::Recovery::first_connect) is set.
//!
//! # What comes back
//! Exchanges, bindings between exchanges, queues, bindings of queues, in that order, as far as this connection has declared
//! them and has not deleted them since; then consumers, with their prefetch counts and tags. What went by itself, an
//! auto-delete queue after its last consumer, say, is not declared again, nor is a queue whose consumer the broker has
//! ended. A queue that the broker names has another name then. Whatever this connection does with the first name it does to
//! the queue: publishes with their `CC` and `BCC`, transactions, consumers, bindings and
//! dead-letter arguments. The last sixteen names of such a queue are mapped as well.
//! [`Client::current_name`](crate::Client::current_name) returns the name to pass to other
//! programs. An entity that can't be declared, or over which the broker closes the connection, is
//! skipped, and [`Notice::Recovered`](crate::Notice::Recovered) reports it. A consumer that can't
//! be started ends with the error, and a consumer of several queues goes on without the missing
//! ones.
//!
//! The connection is [`Open`](crate::ConnectionState::Open) when all that is done, and not before.
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
//! open transaction can't be committed any more.
//!
//! # Publishes
//! A publish that resolved to `Ok` was confirmed by the broker, unless it [asked for no confirm](crate::BasicPublish::confirm),
//! and is never sent again. One that was sent and not confirmed ends as [`Unconfirmed`](crate::Error::Unconfirmed): the broker
//! may have it or not. With [`Recovery::republish_unconfirmed`](crate::Recovery::republish_unconfirmed) it is sent again instead, in its place among
//! the others to its exchange, with a header `x-puka-republished`: then the broker may have it twice. One that was not sent
//! waits. One without a confirm waits until it is sent, and is lost with the connection when it had not arrived.
//!
//! # Deliveries
//! Those of a connection that went can't be acknowledged any more: the broker delivers them again, to this consumer or
//! another, marked as redelivered. Settling one is [`Stale`](crate::Error::Stale), and nothing is sent, so no other message
//! is settled by mistake. Those that were not handed out are dropped, and
//! [counted](crate::Consumer::lost_deliveries). Those that need no acknowledgement are lost with the connection when they
//! had not arrived.
//!
//! # What can be seen
//! [`Client::state`](crate::Client::state) says how the connection is, [notices](crate::Client::notices) tell of the loss, of
//! each try and of what came back, and [`Client::counters`](crate::Client::counters) add it up.
//!
//! # What is not promised
//! That a message is processed once: a program that acknowledges after its work sees some messages twice. That a queue that
//! is not durable keeps its messages when the broker restarts, or an exclusive one when the connection goes. That
//! what was confirmed survives what the broker itself does not survive.
