//! Opening and closing connections and channels.

#![cfg(test)]

mod client;

use client::{World, all_capabilities, declare, s, table};
use puka::protocol::method::{channel, connection, queue};
use puka::protocol::{Method, Table, Value};
use puka_test_broker::{Config, User};
use std::time::Duration;

#[test]
fn wrong_protocol_header_gets_the_right_one() {
    for header in [
        b"AMQP\x00\x00\x09\x02",
        b"AMQP\x00\x00\x0A\x00",
        b"GET / HT",
    ] {
        let world = World::new(Config::default());
        let mut client = world.dial();
        client.write(header);
        let bytes = world.broker_mut(|broker, _| broker.poll_transmit(client.id()));
        assert_eq!(bytes.as_deref(), Some(&b"AMQP\x00\x00\x09\x01"[..]));
        assert!(client.is_closed());
    }
}

#[test]
fn version_0_9_is_accepted() {
    let mut client = World::default().dial();
    client.write(b"AMQP\x01\x01\x00\x09");
    client.expect_kind(0, connection::Start::ID);
}

#[test]
fn handshake_works_with_single_bytes() {
    let world = World::default();
    let mut client = world.dial();
    for byte in b"AMQP\x00\x00\x09\x01" {
        client.quiet();
        client.write(&[*byte]);
    }
    client.expect_kind(0, connection::Start::ID);
}

#[test]
fn start_names_product_capabilities_and_mechanisms() {
    let mut client = World::new(Config::default()).dial();
    client.write(b"AMQP\x00\x00\x09\x01");
    let start = client.next();
    let Method::Connection(connection::Method::Start(start)) = start.method() else {
        panic!("{start:?}")
    };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(
        start.server_properties.get("product"),
        Some(Value::String(b"puka-test-broker"))
    );
    let Some(Value::Table(capabilities)) = start.server_properties.get("capabilities") else {
        panic!()
    };
    assert_eq!(
        capabilities.get("publisher_confirms"),
        Some(Value::Bool(true))
    );
    let mechanisms: Vec<_> = start.mechanisms.split(|&byte| byte == b' ').collect();
    assert!(mechanisms.contains(&&b"PLAIN"[..]) && mechanisms.contains(&&b"AMQPLAIN"[..]));
}

#[test]
fn tune_proposes_the_limits() {
    let mut client = World::default().dial();
    client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
    client.expect(
        0,
        connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        },
    );
}

#[test]
fn amqplain_logs_in() {
    let mut client = World::default().dial();
    let response = table([("LOGIN", "guest"), ("PASSWORD", "guest")]);
    client.start(
        &all_capabilities(),
        "AMQPLAIN",
        response.as_ref().as_bytes(),
    );
    client.expect_kind(0, connection::Tune::ID);
}

fn offering(mechanism: &str) -> Config {
    Config {
        mechanisms: vec![mechanism.into()],
        ..Config::default()
    }
}

#[test]
fn rabbit_cr_demo_asks_for_the_password() {
    for (answer, accepted) in [
        (&b"My password is guest"[..], true),
        (b"My password is wrong", false),
        (b"guest", false),
    ] {
        let world = World::new(offering("RABBIT-CR-DEMO"));
        let mut client = world.dial();
        client.start(&all_capabilities(), "RABBIT-CR-DEMO", b"guest");
        client.expect(
            0,
            connection::Secure {
                challenge: b"Please tell me your password",
            },
        );
        client.send(0, &connection::SecureOk { response: answer });
        if accepted {
            client.expect_kind(0, connection::Tune::ID);
        } else if answer == b"guest" {
            client.quiet();
        } else {
            assert!(client.expect_close(403).contains("RABBIT-CR-DEMO"));
        }
    }
}

#[test]
fn anonymous_and_external_use_the_configured_user() {
    let mut client = World::new(offering("ANONYMOUS")).dial();
    client.start(&all_capabilities(), "ANONYMOUS", b"whatever");
    client.expect_kind(0, connection::Tune::ID);
    let certified = Config {
        external_user: Some("guest".into()),
        ..offering("EXTERNAL")
    };
    let mut client = World::new(certified).dial();
    client.start(&all_capabilities(), "EXTERNAL", b"");
    client.expect_kind(0, connection::Tune::ID);
    let without_user = Config {
        anonymous_user: "nobody".into(),
        ..offering("ANONYMOUS")
    };
    for (config, mechanism) in [
        (offering("EXTERNAL"), "EXTERNAL"),
        (without_user, "ANONYMOUS"),
    ] {
        let mut client = World::new(config).dial();
        client.start(&all_capabilities(), mechanism, b"");
        client.expect_close(403);
    }
}

#[test]
fn wrong_password_is_403_with_the_capability() {
    let mut client = World::default().dial();
    client.start(&all_capabilities(), "PLAIN", b"\0guest\0secret");
    let text = client.expect_close(403);
    assert!(text.starts_with("ACCESS_REFUSED - "), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn refused_logins_are_dropped_silently_after_a_while() {
    let plain: &[(&Table, &str, &[u8])] = &[
        (&Table::new(), "PLAIN", b"\0guest\0secret"),
        (&all_capabilities(), "PLAIN", b"guest"),
        (&all_capabilities(), "PLAIN", b"other\0guest\0guest"),
        (&all_capabilities(), "EXTERNAL", b""),
    ];
    for (properties, mechanism, response) in plain {
        let world = World::default();
        let mut client = world.dial();
        client.start(properties, mechanism, response);
        client.quiet();
        assert!(!client.is_closed());
        world.pass(Duration::from_secs(3));
        client.quiet();
        assert!(client.is_closed());
    }
}

#[test]
fn tune_ok_above_the_limits_is_refused_silently() {
    for (channel_max, frame_max) in [
        (0, 131_072),
        (2048, 131_072),
        (2047, 0),
        (2047, 131_073),
        (2047, 4095),
    ] {
        let world = World::default();
        let mut client = world.dial();
        client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
        client.expect_kind(0, connection::Tune::ID);
        client.send(
            0,
            &connection::TuneOk {
                channel_max,
                frame_max,
                heartbeat: 0,
            },
        );
        client.send(
            0,
            &connection::Open {
                virtual_host: s("/"),
            },
        );
        client.quiet();
        assert!(!client.is_closed());
        world.pass(Duration::from_secs(3));
        assert!(client.is_closed(), "{channel_max} {frame_max}");
    }
}

#[test]
fn unknown_virtual_host_is_530() {
    let mut client = World::default().dial();
    client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
    client.expect_kind(0, connection::Tune::ID);
    client.send(
        0,
        &connection::TuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        },
    );
    client.send(
        0,
        &connection::Open {
            virtual_host: s("nowhere"),
        },
    );
    assert_eq!(
        client.expect_close(530),
        "NOT_ALLOWED - vhost nowhere not found"
    );
}

#[test]
fn virtual_host_without_permission_is_530() {
    let user = User {
        vhosts: Some(vec!["other".into()]),
        ..User::new("guest", "guest")
    };
    let mut client = World::new(Config {
        users: vec![user],
        ..Config::default()
    })
    .dial();
    client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
    client.expect_kind(0, connection::Tune::ID);
    client.send(
        0,
        &connection::TuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        },
    );
    client.send(
        0,
        &connection::Open {
            virtual_host: s("/"),
        },
    );
    client.expect_close(530);
}

#[test]
fn overlong_handshake_is_dropped() {
    let world = World::new(Config::default());
    let mut client = world.dial();
    client.write(b"AMQP\x00\x00\x09\x01");
    client.expect_kind(0, connection::Start::ID);
    world.pass(Duration::from_millis(9_999));
    assert!(!client.is_closed());
    world.pass(Duration::from_millis(1));
    assert!(client.is_closed());
    client.quiet();
}

#[test]
fn close_is_answered_before_the_transport_closes() {
    let world = World::new(Config::default());
    let mut client = world.client();
    client.send(
        0,
        &connection::Close {
            reply_code: 200,
            reply_text: s("bye"),
            class_id: 0,
            method_id: 0,
        },
    );
    client.expect(0, connection::CloseOk {});
    assert!(!client.is_closed());
    world.pass(Duration::from_secs(30));
    assert!(client.is_closed());
}

#[test]
fn crossing_close_is_answered() {
    let world = World::new(Config::default());
    let mut client = world.client();
    let id = client.id();
    world.broker_mut(|broker, now| {
        broker.close_connection(now, id, 320.into(), "CONNECTION_FORCED - maintenance")
    });
    client.send(
        0,
        &connection::Close {
            reply_code: 200,
            reply_text: s("bye"),
            class_id: 0,
            method_id: 0,
        },
    );
    client.send(1, &declare("ignored"));
    client.expect_kind(0, connection::Close::ID);
    client.expect(0, connection::CloseOk {});
    client.quiet();
    client.send(0, &connection::CloseOk {});
    assert!(client.is_closed());
    assert!(world.broker.borrow().queue("/", "ignored").is_none());
}

#[test]
fn client_without_close_ok_is_dropped() {
    let world = World::new(Config::default());
    let client = &mut world.connect_with(&all_capabilities(), 8);
    let id = client.id();
    world.broker_mut(|broker, now| {
        broker.close_connection(now, id, 320.into(), "CONNECTION_FORCED - bye")
    });
    world.pass(Duration::from_secs(7));
    assert!(!client.is_closed());
    world.pass(Duration::from_secs(1));
    assert!(client.is_closed());
}

#[test]
fn secret_is_updated() {
    let mut client = World::default().client();
    client.call(
        0,
        &connection::UpdateSecret {
            new_secret: b"guest",
            reason: s(""),
        },
        connection::UpdateSecretOk {},
    );
}

#[test]
fn channels_are_opened_and_closed_and_opened_again() {
    let mut client = World::default().client();
    client.call(
        1,
        &channel::Close {
            reply_code: 200,
            reply_text: s(""),
            class_id: 0,
            method_id: 0,
        },
        channel::CloseOk {},
    );
    client.open(1);
    client.open(65_535);
}

#[test]
fn channel_opened_twice_is_504() {
    let mut client = World::default().client();
    client.send(1, &channel::Open {});
    assert_eq!(
        client.expect_close(504),
        "CHANNEL_ERROR - second 'channel.open' seen"
    );
}

#[test]
fn method_on_a_closed_channel_is_504() {
    let mut client = World::default().client();
    client.send(2, &declare("x"));
    assert_eq!(
        client.expect_close(504),
        "CHANNEL_ERROR - expected 'channel.open'"
    );
    let mut client = World::default().client();
    client.send(
        1,
        &channel::Close {
            reply_code: 200,
            reply_text: s(""),
            class_id: 0,
            method_id: 0,
        },
    );
    client.expect(1, channel::CloseOk {});
    client.send(1, &declare("x"));
    client.expect_close(504);
}

#[test]
fn channel_method_on_channel_0_is_504() {
    let mut client = World::default().client();
    client.send(0, &channel::Open {});
    client.expect_close(504);
}

#[test]
fn connection_method_on_another_channel_is_503() {
    let mut client = World::default().client();
    client.send(
        1,
        &connection::Open {
            virtual_host: s("/"),
        },
    );
    client.expect_close(503);
}

#[test]
fn server_method_from_a_client_is_503() {
    let mut client = World::default().client();
    client.send(1, &queue::PurgeOk { message_count: 1 });
    client.expect_close(503);
}

#[test]
fn one_channel_too_many_is_530() {
    let mut client = World::default().dial();
    client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
    client.expect_kind(0, connection::Tune::ID);
    client.send(
        0,
        &connection::TuneOk {
            channel_max: 2,
            frame_max: 131_072,
            heartbeat: 0,
        },
    );
    client.send(
        0,
        &connection::Open {
            virtual_host: s("/"),
        },
    );
    client.expect(0, connection::OpenOk {});
    client.open(7);
    client.open(1);
    client.send(2, &channel::Open {});
    let text = client.expect_close(530);
    assert!(
        text.starts_with("NOT_ALLOWED - number of channels opened (2)"),
        "{text}"
    );
}

#[test]
fn channel_error_ignores_everything_until_close_ok() {
    let world = World::new(Config::default());
    let mut client = world.client();
    client.send(
        1,
        &queue::Declare {
            passive: true,
            ..declare("missing")
        },
    );
    client.expect_kind(1, channel::Close::ID);
    client.send(1, &declare("ignored"));
    client.publish(1, "", "ignored", "ignored");
    client.send(
        1,
        &channel::Close {
            reply_code: 200,
            reply_text: s(""),
            class_id: 0,
            method_id: 0,
        },
    );
    client.expect(1, channel::CloseOk {});
    client.quiet();
    client.send(1, &channel::CloseOk {});
    client.open(1);
    assert!(world.broker.borrow().queues().is_empty());
}

#[test]
fn close_names_the_method_at_fault() {
    let mut client = World::default().client();
    client.send(
        1,
        &queue::Declare {
            passive: true,
            ..declare("facts-missing")
        },
    );
    let reply_text = "NOT_FOUND - no queue 'facts-missing' in vhost '/'";
    client.expect(
        1,
        channel::Close {
            reply_code: 404,
            reply_text: s(reply_text),
            class_id: 50,
            method_id: 10,
        },
    );
}

#[test]
fn flow_may_be_on_but_not_off() {
    let mut client = World::default().client();
    client.call(
        1,
        &channel::Flow { active: true },
        channel::FlowOk { active: true },
    );
    client.send(1, &channel::Flow { active: false });
    assert_eq!(client.expect_close(540), "NOT_IMPLEMENTED - active=false");
}
