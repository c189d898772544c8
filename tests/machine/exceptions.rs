//! Every reply code has its own error with code, text, class and method, for requests, consumers,
//! publishes and the connection.

use crate::peer::{Peer, consume, declare, publish, short};
use puka::machine::Settle;
use puka::protocol::method::{basic, channel, connection, queue};
use puka::protocol::{MethodId, Properties, ReplyCode};
use puka::{Ended, Error, Options, Peer as Side};

/// The codes with which a broker closes something, and one that the spec does not define.
fn codes() -> Vec<ReplyCode> {
    let all = ReplyCode::ALL.iter().copied();
    all.filter(|code| code.is_soft_error() || code.is_hard_error())
        .chain([ReplyCode::from(599)])
        .collect()
}

/// Returns the name of the variant for a code.
fn variant(error: &Error) -> &'static str {
    match error {
        Error::ContentTooLarge(_) => "CONTENT_TOO_LARGE",
        Error::NoRoute(_) => "NO_ROUTE",
        Error::NoConsumers(_) => "NO_CONSUMERS",
        Error::ConnectionForced(_) => "CONNECTION_FORCED",
        Error::InvalidPath(_) => "INVALID_PATH",
        Error::AccessRefused(_) => "ACCESS_REFUSED",
        Error::NotFound(_) => "NOT_FOUND",
        Error::ResourceLocked(_) => "RESOURCE_LOCKED",
        Error::PreconditionFailed(_) => "PRECONDITION_FAILED",
        Error::FrameError(_) => "FRAME_ERROR",
        Error::SyntaxError(_) => "SYNTAX_ERROR",
        Error::CommandInvalid(_) => "COMMAND_INVALID",
        Error::ChannelError(_) => "CHANNEL_ERROR",
        Error::UnexpectedFrame(_) => "UNEXPECTED_FRAME",
        Error::ResourceError(_) => "RESOURCE_ERROR",
        Error::NotAllowed(_) => "NOT_ALLOWED",
        Error::NotImplemented(_) => "NOT_IMPLEMENTED",
        Error::InternalError(_) => "INTERNAL_ERROR",
        Error::Other(_) => "none of the spec",
        Error::Unconfirmed(cause) => variant(cause),
        _ => "not an error of a peer",
    }
}

#[track_caller]
fn has_fault(error: &Error, code: ReplyCode, method: MethodId) {
    // A close cannot carry a message, so these two have no variant with a fault.
    let expected = match code {
        ReplyCode::NO_ROUTE | ReplyCode::NO_CONSUMERS => "none of the spec",
        code => code.name().unwrap_or("none of the spec"),
    };
    assert_eq!(variant(error), expected, "{error}");
    let fault = error.fault().unwrap();
    assert_eq!((fault.code, &*fault.text), (code, "the reason"));
    assert_eq!((fault.method, fault.found_by), (method, Side::Server));
    let text = error.to_string();
    assert!(
        text.contains(&code.value().to_string()) && text.contains("the reason"),
        "{text}"
    );
}

fn closed(code: ReplyCode, method: MethodId) -> channel::Close<'static> {
    let MethodId {
        class: class_id,
        method: method_id,
    } = method;
    channel::Close {
        reply_code: code.value(),
        reply_text: short("the reason"),
        class_id,
        method_id,
    }
}

#[test]
fn every_channel_error_fails_only_its_request() {
    for code in codes() {
        let mut peer = Peer::open(Options::default());
        let wrong = peer.machine.request(declare("wrong")).unwrap();
        let fine = peer.machine.request(declare("fine")).unwrap();
        peer.take();
        peer.method(1, &channel::OpenOk {});
        peer.method(1, &closed(code, queue::Declare::ID));
        has_fault(&peer.error(wrong), code, queue::Declare::ID);
        assert!(peer.is_pending(fine) && peer.machine.why_closed().is_none());
    }
}

#[test]
fn every_channel_error_ends_its_consumer() {
    for code in codes() {
        let mut peer = Peer::open(Options::default());
        let refused = peer.machine.consume(&consume("q")).unwrap();
        peer.take();
        peer.method(1, &channel::OpenOk {});
        peer.method(1, &closed(code, basic::Consume::ID));
        has_fault(&peer.error(refused), code, basic::Consume::ID);

        let (id, channel, tag) = peer.consumer(&consume("q"));
        peer.deliver(channel, &tag, 1, b"held");
        let delivered = peer.take_deliveries(id).remove(0);
        peer.method(channel, &closed(code, MethodId::NONE));
        match peer.machine.consumer(id).and_then(|it| it.ended()) {
            Some(Ended::ChannelClosed(error)) => has_fault(error, code, MethodId::NONE),
            other => panic!("{other:?}"),
        }
        let ack = peer
            .machine
            .settle(&delivered, Settle::Ack { multiple: false });
        assert!(matches!(ack, Err(Error::Stale)));
    }
}

#[test]
fn every_channel_error_fails_its_publish() {
    for code in codes() {
        let mut peer = Peer::open(Options::default());
        let wrong = peer.machine.publish(&publish("a", "x")).unwrap();
        let fine = peer.machine.publish(&publish("b", "x")).unwrap();
        let sent = peer.serve();
        let number = sent
            .iter()
            .find(|sent| sent.is(basic::Publish::ID))
            .unwrap()
            .channel;
        peer.method(number, &closed(code, basic::Publish::ID));
        has_fault(&peer.error(wrong), code, basic::Publish::ID);
        assert!(peer.is_pending(fine));
    }
}

#[test]
fn every_connection_error_fails_everything() {
    for code in codes() {
        let mut peer = Peer::open(Options::default());
        let (id, ..) = peer.consumer(&consume("q"));
        let purge = peer
            .machine
            .request(queue::Purge {
                queue: short("q"),
                nowait: false,
            })
            .unwrap();
        let get = peer.get();
        let sent = peer.machine.publish(&publish("", "x")).unwrap();
        peer.serve();
        let waits = peer.machine.consume(&consume("q")).unwrap();
        let MethodId {
            class: class_id,
            method: method_id,
        } = queue::Declare::ID;
        let text = short("the reason");
        let close = connection::Close {
            reply_code: code.value(),
            reply_text: text,
            class_id,
            method_id,
        };
        peer.method(0, &close);
        for promise in [purge, get, waits] {
            has_fault(&peer.error(promise), code, queue::Declare::ID);
        }
        let error = peer.error(sent);
        assert!(
            matches!(error, Error::Unconfirmed(_)) && !error.is_connection_broken(),
            "{error}"
        );
        assert_eq!(error.fault().map(|fault| fault.code), Some(code));
        match peer.machine.consumer(id).and_then(|it| it.ended()) {
            Some(Ended::ConnectionBroken(error)) => has_fault(error, code, queue::Declare::ID),
            other => panic!("{other:?}"),
        }
        has_fault(peer.close_reason(), code, queue::Declare::ID);
        // The same error for everything requested later.
        let late = peer.machine.request(declare("late")).unwrap_err();
        has_fault(&late, code, queue::Declare::ID);
        assert!(peer.names().contains(&"0 connection.close-ok".to_owned()));
    }
}

#[test]
fn return_is_no_route_or_no_consumers() {
    for (code, text) in [(312, "NO_ROUTE"), (313, "NO_CONSUMERS")] {
        // RabbitMQ refuses `immediate`, so this is another broker.
        let mut peer = Peer::new(Options::default());
        peer.names();
        peer.feed(&crate::peer::start(&puka::protocol::Table::new(), b"PLAIN"));
        peer.method(0, &crate::peer::tune(0, 0, 0));
        peer.method(0, &connection::OpenOk {});
        let mut it = publish("somewhere", "come back");
        (it.mandatory, it.immediate) = (code == 312, code == 313);
        let mut properties = Properties::default();
        properties.message_id = Some(short("17"));
        it.properties = &properties;
        let promise = peer.machine.publish(&it).unwrap();
        let sent = peer.serve();
        let (exchange, routing_key) = (short("somewhere"), short("key"));
        let returned = basic::Return {
            reply_code: code,
            reply_text: short(text),
            exchange,
            routing_key,
        };
        // The broker returns the header unchanged.
        let header = sent
            .iter()
            .find(|sent| sent.name().contains("header"))
            .unwrap();
        let frames = [
            crate::peer::method(1, &returned),
            crate::peer::raw(2, 1, &header.payload),
            crate::peer::raw(3, 1, b"come back"),
            crate::peer::method(1, &crate::peer::ack(1, false)),
        ];
        peer.feed(&frames.concat());
        let error = peer.error(promise);
        let (Error::NoRoute(returned) | Error::NoConsumers(returned)) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(variant(&error), text);
        assert_eq!(
            (returned.reply_code.value(), returned.reply_text.as_str()),
            (code, text)
        );
        assert_eq!(returned.message.body(), b"come back");
        assert_eq!(
            (returned.message.exchange(), returned.message.routing_key()),
            ("somewhere".into(), "key".into())
        );
        assert_eq!(returned.message.properties().message_id, Some(short("17")));
        assert!(returned.message.headers().unwrap().is_empty());
        assert!(peer.machine.is_idle() && peer.machine.why_closed().is_none());
    }
}
