//! The driver after a pause of the process: it reads and writes before it checks for silence.

use crate::driver::Driven;
use crate::peer::{raw, tune};
use crate::pipe::{ManualClock, Pipe};
use puka::{Broken, Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a connection with a heartbeat of 4 seconds.
fn opened() -> Driven {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let options = Options::default().request_timeout(3600 * SECOND);
    let (client, mut driver) = puka::open(pipe.clone(), clock.clone(), options);
    pipe.open_with(&mut driver, tune(2047, 131_072, 4));
    (client, pipe, clock, driver)
}

#[test]
fn any_pause_keeps_a_healthy_connection() {
    for quarters in 1..20 {
        let (client, pipe, clock, mut driver) = opened();
        // The server's data from the time of the pause has not been read.
        pipe.feed(&raw(8, 0, b""));
        clock.pass(quarters * SECOND);
        assert!(
            pipe.poll(&mut driver).is_none(),
            "{quarters} quarters of a heartbeat"
        );
        assert!(client.why_closed().is_none());
    }
}

#[test]
fn silence_is_judged_by_a_late_read() {
    let (_client, pipe, clock, mut driver) = opened();
    clock.pass(5 * SECOND - Duration::from_millis(1));
    assert!(pipe.poll(&mut driver).is_none());
    let before = pipe.script().polled_reads;
    clock.pass(Duration::from_millis(1));
    let ended = pipe.poll(&mut driver);
    assert!(
        matches!(
            ended,
            Some(Err(Error::ConnectionBroken(Broken::HeartbeatMissed(_))))
        ),
        "{ended:?}"
    );
    assert!(pipe.script().polled_reads > before);
}

#[test]
fn stall_is_judged_by_a_late_write() {
    let (client, pipe, clock, mut driver) = opened();
    pipe.script().stalled = true;
    let _publish = client.basic_publish("", "q", "x").send();
    assert!(pipe.poll(&mut driver).is_none());
    pipe.unstall();
    pipe.feed(&raw(8, 0, b""));
    clock.pass(9 * SECOND);
    assert!(pipe.poll(&mut driver).is_none());
    assert!(!pipe.take_written().is_empty());
}
