//! Callbacks that panic.

use crate::memory::{self, settle};
use crate::tcp::{SOON, connected};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[test]
fn panic_leaves_client_and_other_callbacks_intact() {
    let (mut conn, client) = connected();
    let log = Rc::new(RefCell::new(Vec::new()));
    for n in 0..10 {
        let seen = log.clone();
        conn.on(
            client.queue_declare(format!("q{n}")).send(),
            move |conn, declared| {
                declared.unwrap();
                assert_ne!(n, 3, "three");
                seen.borrow_mut().push(n);
                if seen.borrow().len() == 9 {
                    conn.loop_break();
                }
            },
        );
    }
    let mut panics = 0;
    while catch_unwind(AssertUnwindSafe(|| conn.run(SOON).unwrap())).is_err() {
        panics += 1;
    }
    assert_eq!(panics, 1);
    let mut all = log.borrow().clone();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    conn.wait(&mut client.queue_declare("more").send(), SOON)
        .unwrap();
    conn.wait(&mut client.close(), SOON).unwrap();
}

#[test]
fn consumer_continues_after_a_callback_panic() {
    let (mut conn, client) = memory::connected();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    let consumer =
        memory::answer(&mut conn, client.basic_consume("q").no_ack(true).send()).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    conn.on_each(consumer, move |_, delivery| match delivery {
        Ok(delivery) => {
            let body = delivery.body().to_vec();
            assert_ne!(body, b"bad");
            seen.borrow_mut().push(body);
        }
        Err(_) => panic!("the consumer has ended"),
    });
    for body in ["a", "bad", "b"] {
        drop(client.basic_publish("", "q", body).send());
    }
    assert!(catch_unwind(AssertUnwindSafe(|| settle(&mut conn))).is_err());
    settle(&mut conn).unwrap();
    assert_eq!(*log.borrow(), [b"a", b"b"]);
    // The end is reported once, even if the callback panics then.
    drop(client.queue_delete("q").send());
    assert!(catch_unwind(AssertUnwindSafe(|| settle(&mut conn))).is_err());
    settle(&mut conn).unwrap();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
}

#[test]
fn delivery_lost_in_a_panic_is_requeued() {
    let (mut conn, client) = memory::connected();
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    let consumer = memory::answer(&mut conn, client.basic_consume("q").send()).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    conn.on_each(consumer, move |_, delivery| {
        let delivery = delivery.unwrap();
        seen.borrow_mut().push(delivery.redelivered());
        assert!(delivery.redelivered());
        delivery.ack().unwrap();
    });
    drop(client.basic_publish("", "q", "one").send());
    assert!(catch_unwind(AssertUnwindSafe(|| settle(&mut conn))).is_err());
    settle(&mut conn).unwrap();
    assert_eq!(*log.borrow(), [false, true]);
}

/// Runs callbacks. Returns the number of panics.
fn panics(mut run: impl FnMut()) -> usize {
    let mut panics = 0;
    while catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
        panics += 1;
        assert!(panics < 10, "the panics do not end");
    }
    panics
}

#[test]
fn panicking_future_is_removed() {
    let (mut conn, client) = memory::connected();
    let failing = conn.on(async { panic!("in the future") }, |_, ()| {
        panic!("the future has no output")
    });
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    conn.on(client.queue_declare("q").send(), move |_, declared| {
        seen.borrow_mut().push(declared)
    });
    assert_eq!(panics(|| settle(&mut conn).unwrap()), 1);
    assert_eq!(log.borrow().len(), 1);
    assert!(!conn.off(failing), "it is gone");
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

#[test]
fn callback_with_a_panicking_drop_is_removed() {
    let (mut conn, client) = memory::connected();
    let bomb = Bomb;
    conn.on(async {}, move |_, ()| drop(bomb));
    let bomb = Bomb;
    let failing = conn.on(std::future::pending::<()>(), move |_, ()| drop(bomb));
    assert_eq!(panics(|| settle(&mut conn).unwrap()), 1);
    assert!(catch_unwind(AssertUnwindSafe(|| conn.off(failing))).is_err());
    memory::answer(&mut conn, client.queue_declare("q").send()).unwrap();
    settle(&mut conn).unwrap();
}
