//! Invalid frames, and contents in pieces.

#![cfg(test)]

mod client;

use client::{Client, World, declare, publish};
use puka::protocol::method::{basic, channel, queue};
use puka::protocol::{ContentHeader, Properties, frame};
use puka_test_broker::Config;

fn header(body_size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = ContentHeader {
        body_size,
        properties: Properties::default(),
    };
    frame::content_header(&mut bytes, 1, u32::MAX, &header).unwrap();
    bytes
}

fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

fn client() -> Client {
    World::default().client()
}

/// Checks that these bytes are a connection error with this code.
#[track_caller]
fn closes(code: u16, bytes: &[u8]) -> String {
    let mut client = client();
    client.write(bytes);
    client.expect_close(code)
}

/// Checks that these bytes are a connection error after a `basic.publish`.
#[track_caller]
fn closes_publish(code: u16, bytes: &[u8]) -> String {
    let mut client = client();
    client.send(1, &publish("", "facts-nowhere"));
    client.write(bytes);
    client.expect_close(code)
}

#[track_caller]
fn drops(bytes: &[u8]) {
    let mut client = client();
    client.write(bytes);
    client.quiet();
    assert!(client.is_closed());
}

#[test]
fn wrong_frame_end_is_501() {
    let mut bytes = raw(8, 0, &[]);
    bytes[7] = 0xCD;
    closes(501, &bytes);
}

#[test]
fn unknown_frame_type_is_501() {
    closes(501, &raw(4, 0, &[0; 16]));
}

#[test]
fn invalid_heartbeat_is_501_or_505() {
    closes(501, &raw(8, 0, &[0]));
    closes(505, &raw(8, 1, &[]));
}

#[test]
fn payload_above_frame_max_is_501() {
    let mut client = client();
    client.send(1, &publish("", "facts-nowhere"));
    client.write(&header(131_072 + 131_073));
    client.write(&raw(3, 1, &vec![0; 131_072]));
    client.quiet();
    client.write(&raw(3, 1, &vec![0; 131_073]));
    client.expect_close(501);
}

#[test]
fn method_of_wrong_length_is_501() {
    closes(501, &raw(1, 1, &[0, 50, 0, 10, 0, 0]));
    closes(501, &raw(1, 1, &[0, 85, 0, 10, 0, 0]));
}

#[test]
fn name_with_invalid_utf8_is_501() {
    let mut client = client();
    let name = puka::protocol::ShortStr::from_bytes(b"\xFF").unwrap();
    client.send(
        1,
        &queue::Declare {
            queue: name,
            ..declare("")
        },
    );
    client.expect_close(501);
}

#[test]
fn unknown_method_drops_the_connection() {
    drops(&raw(1, 1, &[0, 50, 0, 99]));
    drops(&raw(1, 1, &[0, 99, 0, 10]));
}

#[test]
fn invalid_arguments_drop_the_connection() {
    // `queue.declare` of "q" with a table of one entry "a" of type "?".
    drops(&raw(
        1,
        1,
        &[0, 50, 0, 10, 0, 0, 1, b'q', 0, 0, 0, 0, 3, 1, b'a', b'?'],
    ));
}

#[test]
fn content_without_a_publish_is_505() {
    closes(505, &header(0));
    closes(505, &raw(3, 1, b"x"));
}

#[test]
fn method_within_a_content_is_505() {
    let mut bytes = Vec::new();
    frame::method(&mut bytes, 1, u32::MAX, &channel::CloseOk {}).unwrap();
    closes_publish(505, &bytes);
    closes_publish(505, &[header(5), bytes].concat());
}

#[test]
fn content_frames_out_of_order_are_505() {
    closes_publish(505, &raw(3, 1, b"x"));
    closes_publish(505, &[header(5), header(5)].concat());
}

#[test]
fn header_with_wrong_class_or_weight_is_505() {
    let mut other = header(0);
    other[8] = 50;
    closes_publish(505, &other);
    let mut heavy = header(0);
    heavy[10] = 1;
    closes_publish(505, &heavy);
}

#[test]
fn body_frame_after_an_empty_body_is_505() {
    closes_publish(505, &[header(0), raw(3, 1, &[])].concat());
}

#[test]
fn property_flags_behind_property_flags_are_541() {
    closes_publish(
        541,
        &raw(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
    );
}

#[test]
fn invalid_headers_are_541() {
    let payload = [&[
        0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 3, 1, b'a', b'?',
    ][..]]
    .concat();
    closes_publish(541, &raw(2, 1, &payload));
}

#[test]
fn nan_in_headers_is_541() {
    let mut payload = vec![
        0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 7, 1, b'a', b'f',
    ];
    payload.extend(f32::NAN.to_be_bytes());
    closes_publish(541, &raw(2, 1, &payload));
}

/// Since RabbitMQ 4.2.6. Earlier versions wait for ever.
#[test]
fn more_body_than_announced_is_501() {
    let mut client = World::new(Config::default()).client();
    client.send(1, &publish("", "nowhere"));
    client.write(&[header(1), raw(3, 1, b"xy")].concat());
    client.expect_close(501);
}

#[test]
fn body_over_the_limit_is_406() {
    let world = World::new(Config {
        max_message_size: 10,
        ..Config::default()
    });
    let mut client = world.client();
    client.send(1, &publish("", "nowhere"));
    client.write(&[header(11), raw(3, 1, b"0123456789")].concat());
    client.quiet();
    client.write(&raw(3, 1, b"0"));
    client.expect_channel_close(1, 406);
    client.queue(1, "q");
    client.publish(1, "", "q", "0123456789");
    assert_eq!(client.drain(1, "q"), ["0123456789"]);
}

#[test]
fn content_is_accepted_in_any_pieces() {
    let mut client = client();
    client.queue(1, "facts-pieces");
    let mut bytes = Vec::new();
    frame::method(&mut bytes, 1, u32::MAX, &publish("", "facts-pieces")).unwrap();
    bytes.extend(header(3));
    bytes.extend(
        [
            raw(3, 1, b"a"),
            raw(3, 1, b""),
            raw(8, 0, b""),
            raw(3, 1, b"bc"),
        ]
        .concat(),
    );
    for byte in bytes {
        client.write(&[byte]);
    }
    assert_eq!(client.drain(1, "facts-pieces"), ["abc"]);
}

#[test]
fn contents_of_two_channels_may_be_interleaved() {
    let mut client = client();
    client.open(2);
    client.queue(1, "facts-mixed");
    client.send(1, &publish("", "facts-mixed"));
    client.publish(2, "", "facts-mixed", "second");
    assert_eq!(client.drain(2, "facts-mixed"), ["second"]);
    client.write(&[header(5), raw(3, 1, b"first")].concat());
    assert_eq!(client.drain(1, "facts-mixed"), ["first"]);
}

#[test]
fn bodies_are_split_by_the_clients_frame_max() {
    let mut client = World::default().dial();
    client.start(&client::all_capabilities(), "PLAIN", b"\0guest\0guest");
    client.expect_kind(0, puka::protocol::method::connection::Tune::ID);
    client.frame_max = 8192;
    client.send(
        0,
        &puka::protocol::method::connection::TuneOk {
            channel_max: 2047,
            frame_max: 8192,
            heartbeat: 0,
        },
    );
    client.send(
        0,
        &puka::protocol::method::connection::Open {
            virtual_host: client::s("/"),
        },
    );
    client.expect(0, puka::protocol::method::connection::OpenOk {});
    client.open(1);
    client.queue(1, "facts-large");
    let body = "0123456789".repeat(2000);
    client.publish(1, "", "facts-large", &body);
    let message = client.get(1, "facts-large").unwrap();
    assert_eq!(message.text(), body);
    assert_eq!(message.frames, [8184, 8184, 3632]);
    client.ack(1, 1, false);
}

#[test]
fn content_header_above_frame_max_is_501() {
    let mut client = client();
    client.send(1, &publish("", "facts-nowhere"));
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
    payload.extend(131_072_u32.to_be_bytes());
    payload.extend([1, b'a', b'S']);
    payload.extend((131_072_u32 - 7).to_be_bytes());
    payload.extend(vec![b'x'; 131_072 - 7]);
    client.write(&raw(2, 1, &payload));
    client.expect_close(501);
}

#[test]
fn access_is_granted_without_effect() {
    let mut client = client();
    let request = puka::protocol::method::access::Request {
        realm: client::s("/data"),
        exclusive: false,
        passive: true,
        active: true,
        write: true,
        read: true,
    };
    client.call(
        1,
        &request,
        puka::protocol::method::access::RequestOk { ticket: 1 },
    );
}

#[test]
fn empty_queue_replies_with_get_empty() {
    let mut client = client();
    client.queue(1, "facts-empty");
    client.call(
        1,
        &basic::Get {
            queue: client::s("facts-empty"),
            no_ack: false,
        },
        basic::GetEmpty {},
    );
}
