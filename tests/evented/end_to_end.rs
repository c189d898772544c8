//! Puka's scenarios with waiting, loops and callbacks, over loopback TCP and with RabbitMQ.

use crate::tcp::{SOON, broker};
use puka::evented::{self, Evented, Stream};
use puka::{Client, Error};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

fn connect(url: &str) -> (Evented<Stream>, Client) {
    let mut conn = evented::connect(url).unwrap();
    let client = conn.client();
    conn.wait(&mut client.connect(), SOON).unwrap();
    (conn, client)
}

/// Declares an exclusive queue with a name that the broker generates, so it is unique.
fn queue(conn: &mut Evented<Stream>, client: &Client) -> String {
    conn.wait(&mut client.queue_declare("").exclusive(true).send(), SOON)
        .unwrap()
        .name
}

fn straight_through(url: &str) {
    let (mut conn, client) = connect(url);
    let queue = queue(&mut conn, &client);
    let mut consumer = conn
        .wait(
            &mut client.basic_consume(&queue).prefetch_count(1).send(),
            SOON,
        )
        .unwrap();
    for n in 0..50 {
        conn.wait(
            &mut client
                .basic_publish("", &queue, n.to_string())
                .mandatory(true)
                .send(),
            SOON,
        )
        .unwrap();
        let delivery = conn.wait(&mut consumer, SOON).unwrap();
        assert_eq!(delivery.body(), n.to_string().as_bytes());
        delivery.ack().unwrap();
    }
    let lost = conn.wait(
        &mut client
            .basic_publish("", "nowhere-at-all", "x")
            .mandatory(true)
            .send(),
        SOON,
    );
    assert!(matches!(lost, Err(Error::NoRoute(_))), "{lost:?}");
    let missing = conn.wait(
        &mut client.basic_publish("no-exchange", "", "x").send(),
        SOON,
    );
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
    conn.wait(&mut client.close(), SOON).unwrap();
}

fn callbacks_alone(url: &str) {
    let mut conn = evented::connect(url).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    conn.on(conn.client().connect(), move |conn, connected| {
        connected.unwrap();
        let declare = conn.client().queue_declare("").exclusive(true).send();
        conn.on(declare, move |conn, queue| {
            let queue = queue.unwrap().name;
            for body in ["one", "two", "three"] {
                conn.on(
                    conn.client().basic_publish("", &queue, body).send(),
                    |_, confirmed| confirmed.unwrap(),
                );
            }
            let consume = conn.client().basic_consume(&queue).send();
            conn.on(consume, move |conn, consumer| {
                conn.on_each(consumer.unwrap(), move |conn, delivery| {
                    let Ok(delivery) = delivery else { return };
                    seen.borrow_mut()
                        .push(String::from_utf8_lossy(delivery.body()).into_owned());
                    delivery.ack().unwrap();
                    if seen.borrow().len() == 3 {
                        conn.on(conn.client().close(), |_, closed| closed.unwrap());
                    }
                });
            });
        });
    });
    conn.run(SOON).unwrap();
    assert!(conn.is_over());
    assert_eq!(*log.borrow(), ["one", "two", "three"]);
}

fn thousands_at_once(url: &str) {
    let (mut conn, client) = connect(url);
    let queue = queue(&mut conn, &client);
    let confirmed = Rc::new(Cell::new(0));
    for n in 0..5000 {
        let seen = confirmed.clone();
        conn.on(
            client.basic_publish("", &queue, n.to_string()).send(),
            move |conn, done| {
                done.unwrap();
                seen.set(seen.get() + 1);
                if seen.get() == 5000 {
                    conn.loop_break();
                }
            },
        );
    }
    conn.run(SOON).unwrap();
    let consumer = conn
        .wait(
            &mut client.basic_consume(&queue).prefetch_count(100).send(),
            SOON,
        )
        .unwrap();
    let next = Rc::new(Cell::new(0));
    let seen = next.clone();
    conn.on_each(consumer, move |conn, delivery| {
        let Ok(delivery) = delivery else { return };
        assert_eq!(delivery.body(), seen.get().to_string().as_bytes());
        delivery.ack().unwrap();
        seen.set(seen.get() + 1);
        if seen.get() == 5000 {
            conn.loop_break();
        }
    });
    conn.run(SOON).unwrap();
    assert_eq!(next.get(), 5000);
    conn.wait(&mut client.close(), SOON).unwrap();
}

/// Acknowledgements at the end of a loop are sent although the client is no longer driven: the
/// broker sends the deliveries for which they return credit.
fn acks_are_flushed(url: &str) {
    let (mut conn, client) = connect(url);
    let name = puka_test_rabbitmq::unique("acks");
    conn.wait(&mut client.queue_declare(&name).send(), SOON)
        .unwrap();
    for _ in 0..4 {
        conn.wait(&mut client.basic_publish("", &name, "x").send(), SOON)
            .unwrap();
    }
    let (mut second, acker) = connect(url);
    let consumer = second
        .wait(
            &mut acker.basic_consume(&name).prefetch_count(3).send(),
            SOON,
        )
        .unwrap();
    let count = Cell::new(0);
    second.on_each(consumer, move |second, delivery| {
        let Ok(delivery) = delivery else { return };
        delivery.ack().unwrap();
        count.set(count.get() + 1);
        if count.get() == 3 {
            second.loop_break();
        }
    });
    second.run(SOON).unwrap();
    let deadline = Instant::now() + SOON.unwrap();
    while conn
        .wait(&mut client.queue_declare(&name).passive(true).send(), SOON)
        .unwrap()
        .message_count
        > 0
    {
        assert!(
            Instant::now() < deadline,
            "the acknowledgements were not sent"
        );
    }
    drop(second);
    conn.wait(&mut client.queue_delete(&name).send(), SOON)
        .unwrap();
    conn.wait(&mut client.close(), SOON).unwrap();
}

fn wrong_password_is_refused(url: &str) {
    let options = puka::Options::from_uri(url)
        .unwrap()
        .credentials("guest", "wrong");
    let mut conn = evented::connect_with(options).unwrap();
    let error = conn.wait(&mut conn.client().connect(), SOON).unwrap_err();
    assert!(
        matches!(error, Error::AccessRefused(_) | Error::LoginRefused),
        "{error:?}"
    );
}

macro_rules! scenarios {
    ($($scenario:ident)*) => {
        mod over_loopback {
            $(
                #[test]
                fn $scenario() {
                    let (_, address) = super::broker();
                    super::$scenario(&format!("amqp://{address}/"));
                }
            )*
        }

        mod rabbitmq {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario(&puka_test_rabbitmq::shared_url().unwrap());
                }
            )*
        }
    };
}

scenarios! {
    straight_through
    callbacks_alone
    thousands_at_once
    acks_are_flushed
    wrong_password_is_refused
}
