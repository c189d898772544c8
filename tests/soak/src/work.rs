//! The publishers and the consumers.

use crate::ledger::Ledger;
use futures_lite::FutureExt;
use puka::{Client, Consumer, Delivery, Error, Promise};
use smol::Timer;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The maximum number of unconfirmed publishes of a publisher.
const WINDOW: usize = 64;

/// The number of deliveries that stay unsettled, so that a loss always finds some.
const HELD: usize = 8;

/// The pause between two publishes. A thousand publishes a second leave two processors free for
/// other work.
const PAUSE: Duration = Duration::from_millis(1);

/// If no delivery arrives for this long, the unsettled ones are settled.
const IDLE: Duration = Duration::from_millis(100);

/// The requests to the publishers, and their state.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) is_paused: AtomicBool,
    pub(crate) is_over: AtomicBool,
    /// The number of publishers without a pending publish.
    pub(crate) resting: AtomicUsize,
}

/// Publishes until the load ends, each message once, every other one as mandatory.
pub(crate) async fn publish(
    client: Client,
    ledger: Arc<Ledger>,
    control: Arc<Control>,
    (exchange, routing_key): (String, String),
    may_repeat: bool,
) {
    let mut window: VecDeque<(usize, Promise<()>)> = VecDeque::new();
    while !control.is_over.load(Ordering::Acquire) {
        let is_paused = control.is_paused.load(Ordering::Acquire);
        if (is_paused || window.len() >= WINDOW)
            && let Some((number, promise)) = window.pop_front()
        {
            ledger.end(number, &promise.await);
            continue;
        }
        if is_paused {
            control.resting.fetch_add(1, Ordering::AcqRel);
            while control.is_paused.load(Ordering::Acquire)
                && !control.is_over.load(Ordering::Acquire)
            {
                Timer::after(Duration::from_millis(5)).await;
            }
            control.resting.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let number = ledger.publish(may_repeat);
        let publish = client.basic_publish(&exchange, &routing_key, number.to_string());
        match publish
            .persistent(true)
            .mandatory(number.is_multiple_of(2))
            .submit()
            .await
        {
            Ok(promise) => window.push_back((number, promise)),
            Err(error) => {
                ledger.end(number, &Err(error));
                Timer::after(Duration::from_millis(100)).await;
            }
        }
        Timer::after(PAUSE).await;
    }
    for (number, promise) in window {
        ledger.end(number, &promise.await);
    }
}

/// The way in which a consumer acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Acknowledging {
    /// Each delivery separately, every third one much later.
    Late,
    /// Several deliveries together.
    Together,
}

fn number_of(delivery: &Delivery) -> Option<usize> {
    std::str::from_utf8(delivery.body()).ok()?.parse().ok()
}

/// Consumes until the consumer ends.
pub(crate) async fn consume(mut consumer: Consumer, ledger: Arc<Ledger>, how: Acknowledging) {
    let mut held = VecDeque::new();
    loop {
        let idle = async {
            Timer::after(IDLE).await;
            None
        };
        let Some(next) = async { Some(consumer.next().await) }.or(idle).await else {
            settle_all(&ledger, &mut held, how);
            continue;
        };
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => {
                ledger.note(&format!("consumer: {error}"));
                continue;
            }
            None => break,
        };
        let number = number_of(&delivery);
        let republished = delivery
            .headers()
            .is_ok_and(|headers| headers.get("x-puka-republished").is_some());
        ledger.deliver(number, delivery.redelivered(), republished);
        match how {
            Acknowledging::Late if number.is_some_and(|number| number.is_multiple_of(3)) => {
                held.push_back((number, delivery));
                if held.len() > HELD
                    && let Some((number, delivery)) = held.pop_front()
                {
                    ledger.settle(number, &delivery.ack());
                }
            }
            Acknowledging::Late => ledger.settle(number, &delivery.ack()),
            Acknowledging::Together => {
                held.push_back((number, delivery));
                if held.len() >= HELD {
                    settle_all(&ledger, &mut held, how);
                }
            }
        }
    }
    settle_all(&ledger, &mut held, how);
}

fn settle_all(ledger: &Ledger, held: &mut VecDeque<(Option<usize>, Delivery)>, how: Acknowledging) {
    if matches!(how, Acknowledging::Late) {
        for (number, delivery) in held.drain(..) {
            ledger.settle(number, &delivery.ack());
        }
        return;
    }
    let Some((number, last)) = held.pop_back() else {
        return;
    };
    let epoch = last.epoch();
    let settled = last.ack_multiple();
    ledger.settle(number, &settled);
    for (number, delivery) in held.drain(..) {
        // The ack does not settle deliveries of an earlier connection.
        let is_covered = delivery.epoch() == epoch;
        ledger.settle(
            number,
            if is_covered {
                &settled
            } else {
                &Err(Error::Stale)
            },
        );
        drop(delivery);
    }
}
