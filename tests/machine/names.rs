//! Names that are too long are refused before anything is written.

use crate::peer::{Peer, rabbitmq, start, tune};
use crate::pipe::{ManualClock, Pipe};
use puka::machine::Consume;
use puka::protocol::{EncodeError, ShortStr, Table};
use puka::{Client, Error, Options};

/// Returns texts of 256, 300 and 511 bytes, with one byte a character and more.
fn too_long() -> Vec<String> {
    vec![
        "x".repeat(256),
        "x".repeat(300),
        "x".repeat(511),
        "é".repeat(128),
        "€".repeat(100),
        "🐇".repeat(64),
        format!("{}é", "x".repeat(254)),
    ]
}

/// Returns texts of 255 bytes.
fn longest() -> Vec<String> {
    vec![
        "x".repeat(255),
        "€".repeat(85),
        format!("{}é", "x".repeat(253)),
    ]
}

/// Returns a client with an open connection, and the bytes written so far.
fn client() -> (Client, Pipe, puka::Driver<Pipe, ManualClock>) {
    let pipe = Pipe::default();
    let clock = ManualClock::default();
    let (client, mut driver) = puka::open(pipe.clone(), clock, Options::default());
    pipe.open(&mut driver);
    (client, pipe, driver)
}

#[track_caller]
fn is_refused<T>(
    pipe: &Pipe,
    driver: &mut puka::Driver<Pipe, ManualClock>,
    sent: Result<T, Error>,
) {
    let Err(error) = sent else {
        panic!("it was sent")
    };
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    pipe.poll(driver);
    assert_eq!(pipe.take_written().len(), 0, "nothing is written");
}

#[test]
fn a18_short_string_has_at_most_255_bytes() {
    for text in longest() {
        assert_eq!(ShortStr::new(&text).unwrap().len(), 255);
    }
    for text in too_long() {
        assert_eq!(
            ShortStr::new(&text),
            Err(EncodeError::ShortStrTooLong { bytes: text.len() })
        );
        assert!(ShortStr::from_bytes(text.as_bytes()).is_err());
        assert!(Table::new().insert(&text, 1).is_err());
    }
}

#[test]
fn a18_too_long_names_are_refused_before_writing() {
    let (client, pipe, mut driver) = client();
    pipe.take_written();
    for name in &too_long() {
        let name = name.as_str();
        is_refused(&pipe, &mut driver, client.queue_declare(name).try_send());
        is_refused(&pipe, &mut driver, client.queue_delete(name).try_send());
        is_refused(&pipe, &mut driver, client.queue_purge(name).try_send());
        is_refused(&pipe, &mut driver, client.exchange_declare(name).try_send());
        is_refused(&pipe, &mut driver, client.exchange_delete(name).try_send());
        is_refused(&pipe, &mut driver, client.basic_get(name).try_send());
        is_refused(&pipe, &mut driver, client.basic_consume(name).try_send());
        is_refused(
            &pipe,
            &mut driver,
            client.basic_publish(name, "key", "x").try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client.basic_publish("", name, "x").try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client.queue_declare("q").argument(name, 1).try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client
                .basic_publish("", "q", "x")
                .header(name, 1)
                .try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client
                .basic_publish("", "q", "x")
                .content_type(name)
                .try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client.basic_publish("", "q", "x").reply_to(name).try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client
                .basic_publish("", "q", "x")
                .message_id(name)
                .try_send(),
        );
        is_refused(
            &pipe,
            &mut driver,
            client.basic_publish("", "q", "x").user_id(name).try_send(),
        );
    }
}

#[test]
fn a18_too_long_consumer_tag_is_refused() {
    let (client, pipe, mut driver) = client();
    pipe.take_written();
    for name in &too_long() {
        is_refused(
            &pipe,
            &mut driver,
            client
                .basic_consume("q")
                .consumer_tag(name.as_str())
                .try_send(),
        );
    }
}

#[test]
fn a18_names_of_255_bytes_are_sent_whole() {
    let (client, pipe, mut driver) = client();
    pipe.take_written();
    for name in &longest() {
        let _declared = client.queue_declare(name.as_str()).send();
        pipe.poll(&mut driver);
        let written = pipe.take_written();
        assert!(
            written
                .windows(256)
                .any(|window| window[0] == 255 && &window[1..] == name.as_bytes())
        );
    }
}

#[test]
fn a18_too_long_virtual_host_is_refused_before_writing() {
    let mut peer = Peer::new(Options::default().virtual_host(&"v".repeat(256)));
    let promise = peer.machine.connect();
    assert!(peer.names().is_empty(), "nothing is written");
    assert!(matches!(
        peer.error(promise),
        Error::InvalidArgument {
            what: "virtual_host",
            ..
        }
    ));
}

#[test]
fn a18_too_long_virtual_host_is_never_truncated() {
    let mut peer = Peer::new(Options::default().virtual_host(&"v".repeat(256)));
    let promise = peer.machine.connect();
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    peer.method(0, &tune(0, 0, 0));
    let names = peer.names();
    assert!(
        !names.contains(&"0 connection.open".to_owned()),
        "{names:?}"
    );
    assert!(matches!(
        peer.error(promise),
        Error::InvalidArgument {
            what: "virtual_host",
            ..
        }
    ));
}

#[test]
fn a18_generated_tag_fits_255_bytes_at_character_boundary() {
    for tag in longest() {
        let mut peer = Peer::open(Options::default());
        let terms = Consume {
            tag: &tag,
            ..crate::peer::consume("q")
        };
        if let Ok(_promise) = peer.machine.consume(&terms) {
            let sent = peer.serve();
            let tag = crate::peer::tag_of(sent.last().unwrap());
            assert!(tag.len() <= 255 && !tag.contains('\u{FFFD}'), "{tag}");
        }
    }
}

#[test]
fn a21_errors_and_debug_output_hide_the_password() {
    let options = Options::from_uri("amqp://user:hunter2@localhost/").unwrap();
    assert!(!format!("{options:?}").contains("hunter2"));
    let pipe = Pipe::default();
    let (client, driver) = puka::open(pipe, ManualClock::default(), options.clone());
    assert!(!format!("{client:?} {driver:?}").contains("hunter2"));
    let mut peer = Peer::new(options);
    peer.names();
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    assert!(!format!("{:?}", peer.machine).contains("hunter2"));
    assert!(
        !format!("{:?}", peer.machine)
            .contains(format!("{:?}", b"hunter2").trim_matches(['[', ']']))
    );
    drop(driver);
}
