//! Several clients in one loop.

use crate::tcp::{SOON, broker, connect_to, connect_with, to};
use puka::evented;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[test]
fn clients_of_one_loop_exchange_messages() {
    let (_, address) = broker();
    let (mut ping, pinger) = connect_to(address);
    let (mut pong, ponger) = connect_to(address);
    ping.wait(&mut pinger.queue_declare("pings").send(), SOON)
        .unwrap();
    pong.wait(&mut ponger.queue_declare("pongs").send(), SOON)
        .unwrap();
    let pings = pong
        .wait(&mut ponger.basic_consume("pings").send(), SOON)
        .unwrap();
    let pongs = ping
        .wait(&mut pinger.basic_consume("pongs").send(), SOON)
        .unwrap();

    pong.on_each(pings, |conn, ping| {
        let Ok(ping) = ping else { return };
        drop(conn.client().basic_publish("", "pongs", ping.body()).send());
        ping.ack().unwrap();
    });
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    ping.on_each(pongs, move |conn, pong| {
        let Ok(pong) = pong else { return };
        assert_eq!(pong.body(), seen.get().to_string().as_bytes());
        pong.ack().unwrap();
        seen.set(seen.get() + 1);
        if seen.get() == 100 {
            conn.loop_break();
            return;
        }
        drop(
            conn.client()
                .basic_publish("", "pings", seen.get().to_string())
                .send(),
        );
    });
    drop(pinger.basic_publish("", "pings", "0").send());
    evented::run(&mut [&mut ping, &mut pong], SOON).unwrap();
    assert_eq!(count.get(), 100);
}

#[test]
fn callback_can_use_another_client() {
    let (_, address) = broker();
    let (mut one, client) = connect_to(address);
    let (mut other, others) = connect_to(address);
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = log.clone();
    let asked = others.clone();
    // The other client has nothing to do but this client's request.
    one.on(client.queue_declare("q").send(), move |conn, _| {
        conn.on(asked.queue_declare("p").send(), move |conn, declared| {
            seen.borrow_mut().push(declared.unwrap().name);
            conn.loop_break();
        });
    });
    evented::run(&mut [&mut one, &mut other], SOON).unwrap();
    assert_eq!(*log.borrow(), ["p"]);
}

#[test]
fn loop_ends_with_the_first_error() {
    let (server, address) = broker();
    let (mut one, client) = connect_with(to(address).recovery(None));
    let first = server.with(|broker| broker.connections()[0]);
    let (mut other, others) = connect_to(address);
    let now = server.now();
    let cut = server.clone();
    one.on(client.queue_declare("q").send(), move |_, _| {
        cut.with(|broker| broker.drop_connection(now, first))
    });
    let closed = Rc::new(Cell::new(false));
    let seen = closed.clone();
    // The other client is closed only after the first connection has ended.
    let mut consumer = one
        .wait(&mut client.basic_consume("missing").send(), SOON)
        .err();
    assert!(consumer.take().is_some());
    one.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let consumer = one
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    one.on_each(consumer, move |_, end| {
        if end.is_err() {
            drop(others.close());
            seen.set(true);
        }
    });
    let ended = evented::run(&mut [&mut one, &mut other], SOON);
    assert!(closed.get() && one.is_over() && other.is_over());
    assert!(ended.unwrap_err().is_connection_broken());
    assert!(other.run(SOON).is_ok());
}

#[test]
fn loop_without_clients_ends_at_once() {
    evented::run::<evented::Stream>(&mut [], None).unwrap();
}
