//! Publishes of applications, with and without confirms.

use crate::checker::PublishOutcome;
use crate::observer::body_of;
use crate::pending::Request;
use crate::plan::Feature;
use crate::random::Random;
use crate::requests::short;
use crate::violation::Checked;
use crate::world::World;
use puka::machine::{Body, Publish};
use puka::protocol::Properties;
use puka::protocol::method::basic;

/// The properties of a persistent message.
const PERSISTENT: Properties<'static> = {
    let mut properties = Properties::NONE;
    properties.delivery_mode = Some(2);
    properties
};

/// Returns a publish to an exchange and a routing key. The flags are `mandatory` and `persistent`.
pub(crate) fn publish_of<'a>(
    to: (&'a str, &'a str),
    flags: (bool, bool),
    body: Body<'a>,
) -> Publish<'a> {
    let (mandatory, persistent) = flags;
    Publish {
        exchange: short(to.0),
        routing_key: short(to.1),
        mandatory,
        immediate: false,
        properties: if persistent {
            &PERSISTENT
        } else {
            &Properties::NONE
        },
        headers: None,
        body,
    }
}

impl World {
    /// Publishes a random message.
    pub(crate) fn publish(&mut self, client: usize, random: &mut Random) -> Checked {
        let plan = self.plan;
        let exchange = match random.below(20) {
            0..9 => "",
            9..14 => "direct",
            14..17 => "fanout",
            17 if plan.has(Feature::MissingExchange) => "missing",
            18 if plan.has(Feature::Churn) => "sometimes",
            _ => "amq.direct",
        };
        let queues = self.queues(client);
        let key = if random.chance(10) {
            "nowhere"
        } else {
            random.pick(&queues).copied().unwrap_or("q0")
        };
        let is_server_named =
            self.plan.has(Feature::Renamed) && exchange.is_empty() && random.chance(20);
        let server_named = if is_server_named {
            self.server_named_queue(client, random)
        } else {
            None
        };
        let key = server_named.as_deref().unwrap_or(key);
        let confirms = !(plan.has(Feature::Unconfirmed) && random.chance(30));
        let mandatory = confirms && plan.has(Feature::Mandatory) && random.chance(50);
        let persistent = random.chance(50);
        let max_bytes = plan.max_body_bytes();
        let bytes = if max_bytes > 1000 && random.chance(15) {
            random.within(1000..max_bytes)
        } else {
            random.within(8..300)
        };
        let bytes = if random.chance(10) { 8 } else { bytes };
        let shared = random.chance(50);
        if confirms {
            self.publish_this(
                client,
                (exchange, key),
                (mandatory, persistent),
                bytes,
                shared,
            )
            .map(|_| ())
        } else {
            self.publish_unconfirmed(client, (exchange, key), persistent, bytes)
        }
    }

    /// Publishes a message without a confirm. The promise is complete at once, unless the publish
    /// is queued.
    fn publish_unconfirmed(
        &mut self,
        client: usize,
        to: (&str, &str),
        persistent: bool,
        bytes: usize,
    ) -> Checked {
        let id = self.checker.record_publish(to, (false, persistent), bytes);
        let body = body_of(id, bytes);
        let publish = publish_of(to, (false, persistent), Body::Borrowed(&body));
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.machine.publish_unconfirmed(&publish);
        match sent
            .as_ref()
            .ok()
            .and_then(|promise| session.machine.fetch(*promise))
        {
            Some(outcome) => self.complete_unconfirmed_publish(client, id, &outcome),
            None if self.record_result(
                client,
                sent,
                Request::Unconfirmed(id),
                basic::Publish::ID,
            )? =>
            {
                Ok(())
            }
            None => self
                .checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into())),
        }
    }

    /// Publishes a message with a confirm. The machine shares the body if it is `shared`, and
    /// copies it otherwise. Returns `true` if the client has accepted the publish.
    pub(crate) fn publish_this(
        &mut self,
        client: usize,
        to: (&str, &str),
        flags: (bool, bool),
        bytes: usize,
        shared: bool,
    ) -> Checked<bool> {
        let id = self.checker.record_publish(to, flags, bytes);
        let body = body_of(id, bytes);
        let body = if shared {
            Body::from(body)
        } else {
            Body::Borrowed(&body)
        };
        let publish = publish_of(to, flags, body);
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let sent = session.machine.publish(&publish);
        let sent = self.record_result(client, sent, Request::Publish(id), basic::Publish::ID)?;
        if !sent {
            self.checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into()))?;
        }
        Ok(sent)
    }
}
