//! What happens when the connection is lost: exactly what is promised, and what is not.
//!
//! A connection that was dialled, by an adapter (`puka_smol::connect` and its like), [`connect`](crate::connect) or
//! `evented::connect`, is dialled again when it is lost. One that was opened over a stream of your own, with
//! [`open`](crate::open) or `Evented::new`, is not: there is nothing to dial.
//! [`Options::recovery`](crate::Options::recovery) takes a [`Recovery`](crate::Recovery), or `None` to switch it off.
//!
//! # When
//! Whenever it is lost, for whatever reason: once a connection has been open, only [`close`](crate::Client::close), which
//! wins at any point, dropping the driver, or a limit that you set
//! ([`max_attempts`](crate::Recovery::max_attempts), [`max_time`](crate::Recovery::max_time)) ends it. A refused login, a missing
//! virtual host, credentials that can't be had, a wrong certificate, an answer that is not AMQP, a broker that closes the
//! connection over what the program does: each is a failed attempt, [told](crate::Notice::Retrying) with its cause. A program
//! that would rather end then has the notice. An error that closes a channel has nothing to do with it.
//!
//! An attempt tries all endpoints, and all addresses of each, handshake included, beginning with the endpoint that worked last;
//! host names are resolved and credentials are asked for again. Between two attempts it waits at random, up to twice as long
//! each time, and after a refused login at least half of that. The delay starts over once a connection has been open for a
//! minute.
//!
//! The first connection is one attempt, unless [`Recovery::first_connect`](crate::Recovery::first_connect) says otherwise.
//!
//! # What comes back
//! Exchanges, bindings between exchanges, queues, bindings of queues, in that order, as far as this connection has declared
//! them and has not deleted them since; then consumers, with their prefetch counts and tags. What went by itself, an
//! auto-delete queue after its last consumer, say, is not declared again, nor is a queue whose consumer the broker has
//! ended. A queue that the broker names has another name then. Whatever this connection does with the first name it does to
//! the queue, consumers, bindings and dead-letter arguments included; [`Client::current_name`](crate::Client::current_name)
//! is for telling others. What can't be declared, or makes the broker close the connection, is left out and
//! [told](crate::Notice::Recovered); a consumer that can't be started ends with the error, and one of
//! several queues goes on without those that are gone.
//!
//! The connection is [`Open`](crate::ConnectionState::Open) when all that is done, and not before.
//!
//! # Requests
//! Those that wait to be sent wait for the next connection, within their deadline; with
//! [`Recovery::fail_fast`](crate::Recovery::fail_fast) they fail. Those that were sent and not answered are sent again when
//! doing them twice changes nothing: declaring, binding, unbinding, consuming, a `basic_get` that is to be acknowledged.
//! Others, deleting and purging and a `basic_get` without acknowledgement, end as
//! [`Broken::OutcomeUnknown`](crate::Broken::OutcomeUnknown). The request over which the broker closed the connection has that
//! error as its answer and is not sent again. When it may have been one of several, those are sent again one at a time, so that
//! the next close tells. A commit that was not answered, and a call, end as
//! [`Unconfirmed`](crate::Error::Unconfirmed); a transaction that is open can't be committed any more.
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
