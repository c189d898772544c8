//! Heartbeats and deadlines in virtual time: `next_timeout` returns the deadline, `on_timeout`
//! handles it.

use crate::memory::{answer, open};
use puka::{Broken, Error, Options};
use puka_test_broker::{Config, Server};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn timeouts_alone_keep_a_connection_alive() {
    let start = Instant::now();
    let time = Arc::new(Mutex::new(start));
    let shown = time.clone();
    let server = Server::with_clock(Config::default(), move || *shown.lock().unwrap());
    let mut conn = open(&server, Options::default().heartbeat(10));
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    let mut calls = 0;
    loop {
        let mut next = conn.next_timeout().unwrap();
        if let Some(due) = server.tick() {
            next = next.min(due);
        }
        if next > start + 86_400 * SECOND {
            break;
        }
        let now = next.max(*time.lock().unwrap());
        *time.lock().unwrap() = now;
        server.tick();
        // A loop reports the broker's output, and the time.
        conn.on_read().unwrap();
        conn.on_timeout(now).unwrap();
        calls += 1;
    }
    assert!(!conn.is_over());
    assert_eq!(
        server.with(|broker| broker.connections().len()),
        1,
        "the broker must receive heartbeats"
    );
    // Both sides send a heartbeat every 5 s, and monitor the other.
    assert!(
        (17_280..5 * 17_280).contains(&calls),
        "{calls} calls in a day"
    );
    answer(&mut conn, client.queue_declare("q").send()).unwrap();
}

#[test]
fn silent_broker_is_given_up() {
    let start = Instant::now();
    let server = Server::with_clock(Config::default(), move || start);
    let mut conn = open(&server, Options::default().heartbeat(10));
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    // The broker's clock does not advance, so it sends no heartbeat.
    let error = loop {
        let next = conn.next_timeout().unwrap();
        assert!(next < start + 60 * SECOND);
        if let Err(error) = conn.on_timeout(next) {
            break error;
        }
    };
    assert!(
        matches!(error, Error::ConnectionBroken(Broken::HeartbeatMissed(_))),
        "{error:?}"
    );
}

#[test]
fn time_does_not_go_backwards() {
    let start = Instant::now();
    let server = Server::with_clock(Config::default(), move || start);
    let mut conn = open(&server, Options::default().request_timeout(5 * SECOND));
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    conn.on_timeout(start + 60 * SECOND).unwrap();
    conn.on_timeout(start).unwrap();
    server.with(|broker| broker.block("low on memory"));
    let publish = client.basic_publish("", "q", "one").send();
    conn.on_read().unwrap();
    let due = conn.next_timeout().unwrap();
    assert!(
        due >= start + 65 * SECOND && due < start + 66 * SECOND,
        "{:?}",
        due - start
    );
    conn.on_timeout(due).unwrap();
    assert!(matches!(
        answer(&mut conn, publish),
        Err(Error::Timeout { .. } | Error::Unconfirmed(_))
    ));
}

#[test]
fn pause_of_two_heartbeats_keeps_the_connection() {
    // After 8 s, the broker has received nothing for two heartbeat intervals, and closes.
    for quarters in 1..8 {
        let start = Instant::now();
        let time = Arc::new(Mutex::new(start));
        let shown = time.clone();
        let server = Server::with_clock(Config::default(), move || *shown.lock().unwrap());
        let mut conn = open(&server, Options::default().heartbeat(4));
        let client = conn.client();
        answer(&mut conn, client.connect()).unwrap();
        let now = start + quarters * SECOND;
        for half_heartbeat in 1..=quarters / 2 {
            *time.lock().unwrap() = start + half_heartbeat * 2 * SECOND;
            server.tick();
        }
        // The loop may report the time first.
        conn.on_timeout(now).unwrap();
        assert!(!conn.is_over(), "{quarters} quarters of a heartbeat");
    }
}
