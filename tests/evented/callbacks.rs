//! Callbacks: when they run, and what they may do.

use crate::memory::{self, settle};
use crate::tcp::{SOON, connected};
use puka::{Ended, Error};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[test]
fn callback_runs_once_with_its_result() {
    let (mut conn, client) = memory::connected();
    let log = Rc::new(RefCell::new(Vec::new()));
    for queue in ["a", "b"] {
        let log = log.clone();
        conn.on(client.queue_declare(queue).send(), move |_, declared| {
            log.borrow_mut().push(declared.unwrap().name);
        });
    }
    assert!(
        log.borrow().is_empty(),
        "a callback does not run inside the call that sets it"
    );
    settle(&mut conn).unwrap();
    settle(&mut conn).unwrap();
    assert_eq!(*log.borrow(), ["a", "b"]);
}

#[test]
fn callback_of_a_complete_promise_runs() {
    let (mut conn, client) = memory::connected();
    let promise = client.queue_declare("q").send();
    conn.on_read().unwrap();
    let runs = Rc::new(Cell::new(0));
    let seen = runs.clone();
    conn.set_callback(promise, move |_, declared| {
        declared.unwrap();
        seen.set(seen.get() + 1);
    });
    conn.run_any_callbacks();
    assert_eq!(runs.get(), 1);
}

#[test]
fn each_delivery_has_its_callback_then_the_end() {
    let (mut conn, client) = memory::connected();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    let consumer = memory::answer(
        &mut conn,
        client.basic_consume("q").prefetch_count(1).send(),
    )
    .unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    let id = conn.on_each(consumer, move |_, delivery| match delivery {
        Ok(delivery) => {
            seen.borrow_mut()
                .push(String::from_utf8_lossy(delivery.body()).into_owned());
            delivery.ack().unwrap();
        }
        Err(ended) => {
            assert!(matches!(ended, Ended::CancelledByServer));
            seen.borrow_mut().push("the end".to_owned());
        }
    });
    for n in 0..3 {
        drop(client.basic_publish("", "q", n.to_string()).send());
    }
    settle(&mut conn).unwrap();
    drop(client.queue_delete("q").send());
    settle(&mut conn).unwrap();
    assert_eq!(*log.borrow(), ["0", "1", "2", "the end"]);
    assert!(!conn.off(id), "the callback has run for the last time");
}

#[test]
fn removed_callback_never_runs() {
    let (mut conn, client) = memory::connected();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    let consumer = memory::answer(&mut conn, client.basic_consume("q").send()).unwrap();
    let each = conn.on_each(consumer, |_, _| panic!("a removed callback ran"));
    let once = conn.on(client.basic_publish("", "q", "one").send(), |_, _| {
        panic!("a removed callback ran")
    });
    assert!(conn.off(each) && conn.off(once));
    assert!(!conn.off(each) && !conn.off(once));
    // A callback that reuses the slot is not the one that was removed.
    let ran = Rc::new(Cell::new(false));
    let seen = ran.clone();
    conn.on(client.queue_declare("q").send(), move |_, _| seen.set(true));
    assert!(!conn.off(once) && !conn.off(each));
    settle(&mut conn).unwrap();
    assert!(ran.get());
    let queue = memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    assert_eq!((queue.message_count, queue.consumer_count), (1, 0));
}

#[test]
fn callback_can_remove_itself() {
    let (mut conn, client) = memory::connected();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    for _ in 0..3 {
        memory::answer(&mut conn, client.basic_publish("", "q", "one").send()).unwrap();
    }
    let consumer =
        memory::answer(&mut conn, client.basic_consume("q").no_ack(false).send()).unwrap();
    let id = Rc::new(Cell::new(None));
    let runs = Rc::new(Cell::new(0));
    let (own, seen) = (id.clone(), runs.clone());
    id.set(Some(conn.on_each(consumer, move |conn, delivery| {
        delivery.unwrap().ack().unwrap();
        seen.set(seen.get() + 1);
        assert!(conn.off(own.get().unwrap()));
    })));
    settle(&mut conn).unwrap();
    assert_eq!(runs.get(), 1);
    let queue = memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    assert_eq!(
        (queue.message_count, queue.consumer_count),
        (2, 0),
        "the other deliveries are requeued"
    );
}

/// Puka's simple round trip, with nested callbacks.
#[test]
fn callbacks_alone_complete_a_round_trip() {
    let (mut conn, client) = connected();
    let body = Rc::new(RefCell::new(Vec::new()));
    let seen = body.clone();
    conn.on(client.queue_declare("q").send(), move |conn, queue| {
        let queue = queue.unwrap().name;
        let publish = conn.client().basic_publish("", &queue, "hello").send();
        conn.on(publish, move |conn, confirmed| {
            confirmed.unwrap();
            let get = conn.client().basic_get(&queue).send();
            conn.on(get, move |conn, message| {
                let message = message.unwrap().unwrap();
                seen.borrow_mut().extend_from_slice(message.body());
                conn.client().basic_ack(message).unwrap();
                let delete = conn.client().queue_delete(&queue).send();
                conn.on(delete, |conn, deleted| {
                    assert_eq!(deleted.unwrap(), 0);
                    conn.loop_break();
                });
            });
        });
    });
    conn.run(SOON).unwrap();
    assert_eq!(*body.borrow(), b"hello");
    conn.wait(&mut client.close(), SOON).unwrap();
}

#[test]
fn callback_may_call_anything() {
    let (mut conn, client) = connected();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    conn.on(client.queue_declare("q").send(), move |conn, declared| {
        declared.unwrap();
        let client = conn.client();
        // Waits inside a callback.
        conn.wait(&mut client.basic_publish("", "q", "one").send(), SOON)
            .unwrap();
        conn.wait_for_all(&mut [client.basic_publish("", "q", "two").send()], SOON)
            .pop()
            .unwrap()
            .unwrap();
        let mut consumer = conn
            .wait(&mut client.basic_consume("q").send(), SOON)
            .unwrap();
        let (_, first) = conn
            .wait_for_any(std::slice::from_mut(&mut consumer), SOON)
            .unwrap();
        first.unwrap().ack().unwrap();
        // Runs another loop inside this one, with its own callback that breaks only the inner loop.
        let inner = seen.clone();
        conn.on_each(consumer, move |conn, delivery| {
            let Ok(delivery) = delivery else { return };
            inner
                .borrow_mut()
                .push(String::from_utf8_lossy(delivery.body()).into_owned());
            delivery.ack().unwrap();
            conn.loop_break();
        });
        conn.run(SOON).unwrap();
        // Drives the connection.
        assert!(!conn.is_over());
        let _ = (
            conn.needs_read(),
            conn.needs_write(),
            conn.next_timeout(),
            conn.socket(),
        );
        conn.on_read().unwrap();
        conn.on_write().unwrap();
        conn.on_timeout(std::time::Instant::now()).unwrap();
        conn.run_any_callbacks();
        seen.borrow_mut().push("outer".to_owned());
        // Closes the connection.
        conn.on(client.close(), |conn, closed| {
            closed.unwrap();
            assert!(matches!(conn.client().why_closed(), Some(Error::Closed)));
        });
    });
    conn.run(SOON).unwrap();
    assert!(
        conn.is_over(),
        "the loop must run until the connection is closed"
    );
    assert_eq!(*log.borrow(), ["two", "outer"]);
}

#[test]
fn breaking_an_inner_loop_keeps_the_outer_one() {
    let (mut conn, client) = connected();
    let log = Rc::new(RefCell::new(Vec::new()));
    let (outer, inner) = (log.clone(), log.clone());
    conn.on(client.queue_declare("a").send(), move |conn, _| {
        let declare = conn.client().queue_declare("b").send();
        conn.on(declare, move |conn, _| {
            inner.borrow_mut().push("inner");
            conn.loop_break();
        });
        conn.run(SOON).unwrap();
        let declare = conn.client().queue_declare("c").send();
        conn.on(declare, move |conn, _| {
            outer.borrow_mut().push("outer");
            conn.loop_break();
        });
    });
    conn.run(SOON).unwrap();
    assert_eq!(*log.borrow(), ["inner", "outer"]);
}

#[test]
fn loop_break_before_the_loop_has_no_effect() {
    let (mut conn, client) = connected();
    let runs = Rc::new(Cell::new(0));
    let (first, second) = (runs.clone(), runs.clone());
    conn.on(client.queue_declare("q").send(), move |conn, _| {
        first.set(1);
        conn.on(conn.client().queue_declare("p").send(), move |conn, _| {
            second.set(2);
            conn.loop_break();
        });
    });
    conn.loop_break();
    conn.run(SOON).unwrap();
    assert_eq!(runs.get(), 2);
}

#[test]
fn loop_ends_in_time() {
    let (mut conn, client) = connected();
    let runs = Rc::new(Cell::new(0));
    let seen = runs.clone();
    conn.on(client.queue_declare("q").send(), move |_, _| seen.set(1));
    while runs.get() == 0 {
        conn.run(Some(std::time::Duration::from_millis(1))).unwrap();
    }
    conn.run(Some(std::time::Duration::ZERO)).unwrap();
    assert!(!conn.is_over());
}
