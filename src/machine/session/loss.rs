//! The loss of the connection: what fails, what the next connection continues, and the final end.

use crate::error::Error;
use crate::machine::channel::content::Purpose;
use crate::machine::channel::{Awaited, Channel};
use crate::machine::ids::ChannelNumber;
use crate::machine::recovery::close_cause::CloseCause;
use crate::machine::request::Requests;
use crate::machine::request::pending::PendingRequest;
use crate::machine::session::Session;
use crate::machine::{Ended, PromiseId, Reply};

impl Session {
    /// Completes the work of the lost connection that cannot be continued, and queues the rest
    /// again for the next connection.
    pub(crate) fn suspend(&mut self, error: &Error) {
        self.publishing.blocked = None;
        self.cx.channels_with_acks.clear();
        // The replay that ends here may have sent its steps together.
        let one_at_a_time = self.recovery.quarantine.one_at_a_time;
        self.recovery.suspend_replay(&mut self.cx, error);
        let close_cause = CloseCause::find(
            error,
            &mut self.cx,
            &mut self.publishing,
            &self.consuming,
            &self.transactions,
        );
        let mut to_repeat = Vec::new();
        for (number, mut channel) in self.cx.channels.start_over() {
            self.suspend_channel(&mut channel, error, &close_cause, &mut to_repeat);
            if let Some(publisher) = self.publishing.publishers.remove(number) {
                let at_loss = close_cause.of_publishes(error, number);
                self.publishing
                    .suspend_publisher(&mut self.cx, *publisher, error, at_loss);
            }
        }
        self.publishing.queued.retry_all();
        for request in to_repeat.into_iter().rev() {
            self.cx.queued_request_bytes += request.payload.len();
            self.requests.queue.push_front(request);
        }
        for id in self.consuming.consumers.ids().into_iter().rev() {
            self.consuming
                .suspend_consumer(&mut self.cx, id, error, &close_cause, one_at_a_time);
        }
        self.transactions
            .suspend_transactions(&mut self.cx, error, &close_cause);
    }

    /// Completes the pending requests of a lost channel, or adds them to `to_repeat`.
    fn suspend_channel(
        &mut self,
        channel: &mut Channel,
        error: &Error,
        close_cause: &CloseCause,
        to_repeat: &mut Vec<PendingRequest>,
    ) {
        if let Some(assembly) = channel.assembly.take()
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            Requests::repeat_or_fail(&mut self.cx, request, error, close_cause, to_repeat);
        }
        for pending in channel.pending_replies.drain(..) {
            match pending.purpose {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    Requests::repeat_or_fail(&mut self.cx, request, error, close_cause, to_repeat);
                }
                Awaited::Consume {
                    consumer,
                    resized: Some(resize),
                    ..
                } => {
                    self.consuming.suspend_resize(
                        &mut self.cx,
                        consumer,
                        resize,
                        error,
                        close_cause,
                    );
                }
                // The broker has requeued all deliveries of the lost connection.
                Awaited::Recover { promise, .. } => self.cx.complete(promise, Ok(Reply::Done)),
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::ReplayStep { .. }
                | Awaited::Nothing
                | Awaited::Probe => {}
            }
        }
    }

    /// Completes every promise with the error, except those in `except`, and ends all consumers,
    /// transactions and channels. The outcome of publishes and commits in flight is unknown.
    pub(crate) fn give_up(&mut self, error: &Error, except: &[PromiseId]) {
        self.fail_all_queued(error);
        let Self {
            cx,
            publishing,
            consuming,
            transactions,
            recovery,
            ..
        } = self;
        recovery.filtering = None;
        cx.channels_with_acks.clear();
        consuming.end_consumers(cx, &Ended::ConnectionBroken(error.clone()));
        // Consumers that ended earlier may have deliveries of their channels, too.
        for id in consuming.consumers.ids() {
            consuming.consumers.discard_unsettled(id);
        }
        // Nothing is sent any more.
        publishing.republishes = 0;
        let at_loss = CloseCause::of_publishes_at_end(error, publishing, transactions);
        let numbers: Vec<ChannelNumber> = cx.channels.numbers().collect();
        for number in numbers {
            cx.channels.remove(number);
            // Most channels have no publisher.
            if let Some(publisher) = publishing.publishers.remove(number) {
                publishing.suspend_publisher(cx, *publisher, error, at_loss);
            }
        }
        for promise in transactions.drain() {
            cx.complete(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
        for promise in cx.promises.all_pending() {
            if !except.contains(&promise) {
                cx.complete(promise, Err(error.clone()));
            }
        }
    }

    /// Completes all queued work with the error: requests, consumers, transactions and publishes.
    pub(crate) fn fail_all_queued(&mut self, error: &Error) {
        for request in self.requests.queue.drain(..) {
            self.cx.queued_request_bytes -= request.payload.len();
            self.cx.complete(request.promise, Err(error.clone()));
        }
        self.consuming.fail_waiting(&mut self.cx, error);
        for transaction in self.transactions.queued.drain(..) {
            self.cx.complete(transaction.promise, Err(error.clone()));
        }
        self.publishing.fail_queued(&mut self.cx, error);
    }
}
