//! An event loop of the application, such as a window system's: it has watches of descriptors and
//! timers, and reports one event at a time.
#![cfg(unix)]

use crate::tcp::{broker, to};
use puka::evented::{self, Evented, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Instant;

/// The event that the loop reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Readable,
    Writable,
    Timer,
}

/// Waits like such a loop, and reports one event, never two at once.
fn wait(
    descriptor: BorrowedFd<'_>,
    readable: bool,
    writable: bool,
    timer: Option<Instant>,
) -> Told {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::IN, readable);
    wanted.set(PollFlags::OUT, writable);
    let left = timer.map(|at| at.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec::try_from(left).unwrap());
    let mut watches = [PollFd::from_borrowed_fd(descriptor, wanted)];
    let watches = if wanted.is_empty() {
        &mut watches[..0]
    } else {
        &mut watches[..]
    };
    assert!(
        timer.is_some() || !watches.is_empty(),
        "the loop must have something to wait for"
    );
    poll(watches, left.as_ref()).unwrap();
    let told = watches.first().map_or(PollFlags::empty(), PollFd::revents);
    if told.intersects(PollFlags::OUT) {
        Told::Writable
    } else if told.is_empty() {
        Told::Timer
    } else {
        Told::Readable
    }
}

/// One iteration of the loop.
fn turn(conn: &RefCell<Evented<Stream>>) -> Told {
    let told = {
        let mut conn = conn.borrow_mut();
        let (readable, writable, timer) =
            (conn.needs_read(), conn.needs_write(), conn.next_timeout());
        wait(conn.as_fd(), readable, writable, timer)
    };
    let mut conn = conn.borrow_mut();
    match told {
        Told::Readable => conn.on_read().unwrap(),
        Told::Writable => conn.on_write().unwrap(),
        Told::Timer => conn.on_timeout(Instant::now()).unwrap(),
    }
    conn.run_any_callbacks();
    told
}

#[test]
fn descriptors_and_timers_are_enough() {
    let (_, address) = broker();
    let conn = RefCell::new(evented::connect_with(to(address)).unwrap());
    let client = conn.borrow().client();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    conn.borrow_mut()
        .on(client.queue_declare("q").send(), |conn, declared| {
            declared.unwrap();
            let client = conn.client();
            for n in 0..100_u8 {
                conn.on(
                    client.basic_publish("", "q", vec![n; 100_000]).send(),
                    |_, done| done.unwrap(),
                );
            }
            let consume = client.basic_consume("q").prefetch_count(7).send();
            conn.on(consume, move |conn, consumer| {
                conn.on_each(consumer.unwrap(), move |conn, delivery| {
                    let Ok(delivery) = delivery else { return };
                    seen.set(seen.get() + 1);
                    delivery.ack().unwrap();
                    if seen.get() == 100 {
                        conn.on(conn.client().close(), |_, closed| closed.unwrap());
                    }
                });
            });
        });
    let mut turns = 0;
    while !conn.borrow().is_over() {
        turn(&conn);
        turns += 1;
        assert!(turns < 20_000, "the loop is busy");
    }
    assert_eq!(count.get(), 100);
}

#[test]
fn idle_client_does_not_wake_the_loop() {
    let (_, address) = broker();
    let conn = RefCell::new(evented::connect_with(to(address)).unwrap());
    let done = Rc::new(Cell::new(false));
    let seen = done.clone();
    let connect = conn.borrow().client().connect();
    conn.borrow_mut().on(connect, move |_, connected| {
        connected.unwrap();
        seen.set(true);
    });
    while !done.get() {
        turn(&conn);
    }
    let mut conn = conn.borrow_mut();
    assert!(conn.needs_read() && !conn.needs_write());
    let next = conn
        .next_timeout()
        .unwrap()
        .saturating_duration_since(Instant::now());
    assert!(next.as_secs() >= 20, "the next heartbeat is in {next:?}");
}
