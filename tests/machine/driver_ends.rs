//! The end of a driver: closed, broken, dropped, or without any client.

use crate::driver::opened;
use crate::peer::{close, method};
use crate::pipe::{ManualClock, Pipe, Read, Wakes};
use futures_lite::future::{block_on, poll_once};
use puka::protocol::ProtocolHeader;
use puka::protocol::method::connection;
use puka::{Broken, Error, Options};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn e18_write_error_reports_the_servers_earlier_answer() {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::open(pipe.clone(), clock, Options::default());
    let connecting = client.connect();
    pipe.script().write_error = Some(ErrorKind::BrokenPipe);
    pipe.feed(b"AMQP\x03");
    pipe.feed(b"\x01\x00\x00");
    pipe.read(Read::Error(ErrorKind::ConnectionReset));
    let ended = pipe.poll(&mut driver).expect("it has ended");
    let header = ProtocolHeader {
        id: 3,
        major: 1,
        minor: 0,
        revision: 0,
    };
    assert!(
        matches!(ended, Err(Error::UnsupportedProtocol(found)) if found == header),
        "{ended:?}"
    );
    let answer = block_on(poll_once(connecting)).expect("answered");
    assert!(matches!(answer, Err(Error::UnsupportedProtocol(_))));
    assert!(pipe.script().closed);
}

#[test]
fn e18_write_error_reports_the_servers_earlier_close() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let declared = client.queue_declare("q").send();
    pipe.script().write_error = Some(ErrorKind::BrokenPipe);
    pipe.feed(&method(0, &close(320, "CONNECTION_FORCED - bye")));
    pipe.read(Read::Eof);
    let ended = pipe.poll(&mut driver).expect("it has ended");
    assert!(
        matches!(ended, Err(Error::ConnectionForced(_))),
        "{ended:?}"
    );
    assert!(matches!(
        block_on(poll_once(declared)),
        Some(Err(Error::ConnectionForced(_)))
    ));
}

#[test]
fn write_error_without_input_is_reported() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let declared = client.queue_declare("q").send();
    pipe.script().write_error = Some(ErrorKind::BrokenPipe);
    let ended = pipe.poll(&mut driver).expect("it has ended");
    let is_it = |error: &Error| {
        matches!(error, Error::ConnectionBroken(Broken::Io(why))
            if why.kind() == ErrorKind::BrokenPipe)
    };
    assert!(ended.is_err_and(|error| is_it(&error)));
    assert!(matches!(block_on(poll_once(declared)), Some(Err(error)) if is_it(&error)));
}

#[test]
fn s41_end_of_stream_ends_the_driver() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.read(Read::Eof);
    assert!(matches!(
        pipe.poll(&mut driver),
        Some(Err(Error::ConnectionBroken(Broken::Eof)))
    ));
    assert!(matches!(
        client.why_closed(),
        Some(Error::ConnectionBroken(Broken::Eof))
    ));
    assert!(pipe.script().closed);
}

#[test]
fn close_ends_the_driver_and_closes_the_stream() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let closing = client.close();
    assert!(pipe.poll(&mut driver).is_none());
    assert!(!pipe.script().closed);
    assert_eq!(pipe.frames()[0].name(), "0 connection.close");
    pipe.feed(&method(0, &connection::CloseOk {}));
    assert!(matches!(pipe.poll(&mut driver), Some(Ok(()))));
    assert!(pipe.script().closed);
    assert!(matches!(block_on(poll_once(closing)), Some(Ok(()))));
}

#[test]
fn e30_servers_close_is_answered_before_stream_is_closed() {
    let (_client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().stalled = true;
    pipe.feed(&method(0, &close(320, "CONNECTION_FORCED")));
    assert!(pipe.poll(&mut driver).is_none());
    assert!(!pipe.script().closed, "close-ok is not written");
    pipe.unstall();
    assert!(matches!(
        pipe.poll(&mut driver),
        Some(Err(Error::ConnectionForced(_)))
    ));
    assert_eq!(pipe.frames()[0].name(), "0 connection.close-ok");
    assert!(pipe.script().closed);
}

#[test]
fn e30_last_bytes_and_stream_close_have_one_second() {
    for stalled in [true, false] {
        let (_client, pipe, clock, mut driver) = opened(Options::default());
        let wakes = Arc::<Wakes>::default();
        {
            let mut script = pipe.script();
            script.stalled = stalled;
            script.close_is_pending = !stalled;
        }
        pipe.feed(&method(0, &close(320, "CONNECTION_FORCED")));
        assert!(pipe.poll_with(&mut driver, &wakes).is_none());
        clock.pass(SECOND);
        assert!(wakes.count() > 0, "the close wakes it");
        assert!(matches!(
            pipe.poll_with(&mut driver, &wakes),
            Some(Err(Error::ConnectionForced(_)))
        ));
    }
}

#[test]
fn v01_dropping_the_driver_completes_everything() {
    let (client, pipe, _clock, driver) = opened(Options::default());
    let declared = client.queue_declare("q").send();
    let published = client.basic_publish("", "q", "x").send();
    let consuming = client.basic_consume("q").send();
    let getting = client.basic_get("q").send();
    drop(driver);
    fn broken<T>(answer: Option<Result<T, Error>>) {
        let error = answer.expect("it is completed").err().expect("an error");
        assert!(error.is_connection_broken(), "{error}");
    }
    broken(block_on(poll_once(declared)));
    broken(block_on(poll_once(published)));
    broken(block_on(poll_once(consuming)));
    broken(block_on(poll_once(getting)));
    broken(block_on(poll_once(client.close())));
    broken(block_on(poll_once(client.connect())));
    assert!(client.queue_declare("q").try_send().is_err());
    drop(pipe);
}

#[test]
fn v01_dropping_the_driver_ends_its_consumers() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let consuming = client.basic_consume("q").send();
    pipe.serve(&mut driver);
    let mut consumer = block_on(poll_once(consuming)).expect("started").unwrap();
    assert!(block_on(poll_once(consumer.next())).is_none());
    drop(driver);
    assert!(
        matches!(block_on(poll_once(consumer.next())), Some(Some(Err(error)))
            if error.is_connection_broken())
    );
    assert!(matches!(block_on(poll_once(consumer.next())), Some(None)));
}

#[test]
fn s48_dropping_the_last_handle_closes_gracefully() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let other = client.clone();
    let consuming = client.basic_consume("q").send();
    pipe.serve(&mut driver);
    let consumer = block_on(poll_once(consuming)).expect("started").unwrap();
    let published = client.basic_publish("", "q", "x").send();
    drop(client);
    drop(other);
    drop(consumer);
    let names = pipe.serve(&mut driver);
    assert!(
        !names.contains(&"0 connection.close".to_owned()),
        "a promise is a handle, too: {names:?}"
    );
    assert!(names.contains(&"2 basic.publish".to_owned()), "{names:?}");
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    drop(published);
    assert_eq!(wakes.count(), 1);
    assert!(pipe.poll(&mut driver).is_none());
    assert!(pipe.frames().is_empty(), "the publish is still pending");
    pipe.feed(&method(2, &crate::peer::ack(1, false)));
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(pipe.frames()[0].name(), "0 connection.close");
    pipe.feed(&method(0, &connection::CloseOk {}));
    assert!(matches!(pipe.poll(&mut driver), Some(Ok(()))));
}

#[test]
fn s48_dropping_all_handles_in_handshake_closes_the_stream() {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::open(pipe.clone(), clock, Options::default());
    assert!(pipe.poll(&mut driver).is_none());
    drop(client);
    assert!(matches!(pipe.poll(&mut driver), Some(Ok(()))));
    assert!(pipe.script().closed);
}

#[test]
fn s49_dropping_all_handles_ends_a_blocked_write() {
    let (client, pipe, clock, mut driver) = opened(Options::default().close_timeout(10 * SECOND));
    pipe.script().stalled = true;
    let published = client.basic_publish("", "q", vec![7; 100_000]).send();
    assert!(pipe.poll(&mut driver).is_none());
    drop(published);
    drop(client);
    let mut ended = None;
    for _ in 0..12 {
        ended = ended.or_else(|| pipe.poll(&mut driver));
        clock.pass(SECOND);
    }
    assert!(
        ended.or_else(|| pipe.poll(&mut driver)).is_some(),
        "it ends although nothing can be written"
    );
    assert!(pipe.script().closed);
}

#[test]
fn s49_driver_dropped_during_blocked_write_drops_its_stream() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().stalled = true;
    let published = client.basic_publish("", "q", vec![7; 100_000]).send();
    assert!(pipe.poll(&mut driver).is_none());
    drop(driver);
    assert!(matches!(
        block_on(poll_once(published)),
        Some(Err(Error::Unconfirmed(_)))
    ));
}

#[test]
fn e50_silent_server_ends_the_driver_by_timeout() {
    let (client, pipe, clock, mut driver) = opened(Options::default());
    for _ in 0..5 {
        assert!(pipe.poll(&mut driver).is_none());
        clock.pass(15 * SECOND);
    }
    assert!(matches!(
        pipe.poll(&mut driver),
        Some(Err(Error::ConnectionBroken(Broken::HeartbeatMissed(_))))
    ));
    drop(client);
}

#[test]
fn read_error_ends_the_driver() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let declared = client.queue_declare("q").send();
    pipe.read(Read::Error(ErrorKind::ConnectionReset));
    let ended = pipe.poll(&mut driver).expect("it has ended");
    let reset = ErrorKind::ConnectionReset;
    let is_it = |error: &Error| {
        matches!(error, Error::ConnectionBroken(Broken::Io(why))
            if why.kind() == reset)
    };
    assert!(ended.is_err_and(|error| is_it(&error)));
    assert!(matches!(block_on(poll_once(declared)), Some(Err(error)) if is_it(&error)));
}

#[test]
fn failed_flush_ends_the_driver() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().flush_errors = [std::io::ErrorKind::BrokenPipe].into();
    let _promise = client.basic_publish("", "q", "x").send();
    let ended = (0..3).find_map(|_| pipe.poll(&mut driver));
    assert!(matches!(ended, Some(Err(error)) if error.is_connection_broken()));
}
