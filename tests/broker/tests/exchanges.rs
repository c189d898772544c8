//! Exchanges, bindings, and routing.

#![cfg(test)]

mod client;

use client::{Client, World, declare_exchange, publish, s, table};
use puka::protocol::method::{basic, exchange, queue};
use puka::protocol::{Array, Properties, Table, TableRef};
use puka_test_broker::{Config, Pattern, User};

fn delete(name: &str, if_unused: bool) -> exchange::Delete<'_> {
    exchange::Delete {
        exchange: s(name),
        if_unused,
        nowait: false,
    }
}

fn bind_exchange<'a>(destination: &'a str, source: &'a str, key: &'a str) -> exchange::Bind<'a> {
    exchange::Bind {
        destination: s(destination),
        source: s(source),
        routing_key: s(key),
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

fn passive(name: &str) -> exchange::Declare<'_> {
    exchange::Declare {
        passive: true,
        ..declare_exchange(name, "")
    }
}

/// Returns the queues that receive a message.
fn routed(
    client: &mut Client,
    queues: &[&str],
    exchange: &str,
    key: &str,
    headers: &Table,
) -> Vec<String> {
    let properties =
        client::properties(|properties| properties.headers = Some(headers.as_ref().into()));
    client.publish_with(1, &publish(exchange, key), &properties, b"x");
    let mut got = Vec::new();
    for queue in queues {
        for _ in client.drain(1, queue) {
            got.push((*queue).to_string());
        }
    }
    got
}

#[test]
fn default_exchange_routes_by_queue_name() {
    let mut client = World::default().client();
    client.queue(1, "facts-default");
    client.publish(1, "", "facts-default", "x");
    client.publish(1, "", "facts-default-2", "y");
    assert_eq!(client.drain(1, "facts-default"), ["x"]);
}

#[test]
fn direct_exchange_routes_by_equality() {
    let mut client = World::default().client();
    client.exchange(1, "facts-direct", "direct");
    for (queue, key) in [("facts-d1", "a"), ("facts-d2", "a"), ("facts-d3", "b")] {
        client.queue(1, queue);
        client.bind(1, queue, "facts-direct", key, &Table::new());
    }
    // The same binding again does not duplicate messages.
    client.bind(1, "facts-d1", "facts-direct", "a", &Table::new());
    let queues = ["facts-d1", "facts-d2", "facts-d3"];
    assert_eq!(
        routed(&mut client, &queues, "facts-direct", "a", &Table::new()),
        ["facts-d1", "facts-d2"]
    );
    assert_eq!(
        routed(&mut client, &queues, "facts-direct", "b", &Table::new()),
        ["facts-d3"]
    );
    assert!(routed(&mut client, &queues, "facts-direct", "a.b", &Table::new()).is_empty());
}

#[test]
fn fanout_exchange_routes_to_all() {
    let mut client = World::default().client();
    client.exchange(1, "facts-fanout", "fanout");
    for queue in ["facts-f1", "facts-f2"] {
        client.queue(1, queue);
        client.bind(1, queue, "facts-fanout", "whatever", &Table::new());
    }
    let got = routed(
        &mut client,
        &["facts-f1", "facts-f2"],
        "facts-fanout",
        "",
        &Table::new(),
    );
    assert_eq!(got, ["facts-f1", "facts-f2"]);
}

#[test]
fn topic_exchange_routes_by_words() {
    let mut client = World::default().client();
    client.exchange(1, "facts-topic", "topic");
    for (queue, key) in [
        ("facts-t1", "*.rust"),
        ("facts-t2", "lang.#"),
        ("facts-t3", "#"),
    ] {
        client.queue(1, queue);
        client.bind(1, queue, "facts-topic", key, &Table::new());
    }
    let queues = ["facts-t1", "facts-t2", "facts-t3"];
    assert_eq!(
        routed(
            &mut client,
            &queues,
            "facts-topic",
            "lang.rust",
            &Table::new()
        ),
        queues
    );
    assert_eq!(
        routed(&mut client, &queues, "facts-topic", "lang", &Table::new()),
        ["facts-t2", "facts-t3"]
    );
    assert_eq!(
        routed(&mut client, &queues, "facts-topic", "rust", &Table::new()),
        ["facts-t3"]
    );
    assert_eq!(
        routed(&mut client, &queues, "facts-topic", "", &Table::new()),
        ["facts-t3"]
    );
}

#[test]
fn headers_exchange_routes_by_headers() {
    let mut client = World::default().client();
    client.exchange(1, "facts-headers", "headers");
    let arguments = |x_match: Option<&str>| {
        let mut arguments = table([("a", 1)]);
        arguments.insert("b", ()).unwrap();
        arguments.insert("x-c", "c").unwrap();
        if let Some(x_match) = x_match {
            arguments.insert("x-match", x_match).unwrap();
        }
        arguments
    };
    let queues = ["facts-h0", "facts-h1", "facts-h2", "facts-h3", "facts-h4"];
    let matches = [
        None,
        Some("all"),
        Some("any"),
        Some("all-with-x"),
        Some("any-with-x"),
    ];
    for (queue, x_match) in queues.iter().zip(matches) {
        client.queue(1, queue);
        client.bind(1, queue, "facts-headers", "", &arguments(x_match));
    }
    let mut two = table([("a", 1_i64)]);
    two.insert("b", "anything").unwrap();
    let mut three = two.clone();
    three.insert("x-c", "c").unwrap();
    let routed = |client: &mut Client, headers: &Table| {
        routed(client, &queues, "facts-headers", "", headers)
    };
    assert_eq!(routed(&mut client, &three), queues);
    assert_eq!(
        routed(&mut client, &two),
        ["facts-h0", "facts-h1", "facts-h2", "facts-h4"]
    );
    assert_eq!(routed(&mut client, &table([("x-c", "c")])), ["facts-h4"]);
    assert_eq!(
        routed(&mut client, &table([("b", 1)])),
        ["facts-h2", "facts-h4"]
    );
    assert!(routed(&mut client, &table([("a", 2)])).is_empty());
    assert!(routed(&mut client, &table([("a", "1")])).is_empty());
    assert!(routed(&mut client, &Table::new()).is_empty());
}

#[test]
fn wrong_x_match_is_406() {
    let mut client = World::default().client();
    client.queue(1, "facts-x");
    for arguments in [
        table([("x-match", "some")]).clone(),
        table([("x-match", 1)]),
    ] {
        let bind = queue::Bind {
            queue: s("facts-x"),
            exchange: s("amq.headers"),
            routing_key: s(""),
            nowait: false,
            arguments: arguments.as_ref(),
        };
        client.refused(1, &bind, 406);
    }
}

#[test]
fn exchanges_are_bound_to_exchanges() {
    let mut client = World::default().client();
    client.exchange(1, "facts-source", "topic");
    client.exchange(1, "facts-destination", "fanout");
    client.queue(1, "facts-e2e");
    client.bind(1, "facts-e2e", "facts-destination", "", &Table::new());
    let bind = bind_exchange("facts-destination", "facts-source", "a.*");
    client.call(1, &bind, exchange::BindOk {});
    // A cycle of bindings is harmless.
    client.call(
        1,
        &bind_exchange("facts-source", "facts-destination", ""),
        exchange::BindOk {},
    );
    client.publish(1, "facts-source", "a.b", "x");
    client.publish(1, "facts-source", "b.b", "y");
    assert_eq!(client.drain(1, "facts-e2e"), ["x"]);
    let unbind = exchange::Unbind {
        destination: s("facts-destination"),
        source: s("facts-source"),
        routing_key: s("a.*"),
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    client.call(1, &unbind, exchange::UnbindOk {});
    client.publish(1, "facts-source", "a.b", "z");
    assert!(client.drain(1, "facts-e2e").is_empty());
    client.call(1, &unbind, exchange::UnbindOk {});
    client.refused(
        1,
        &bind_exchange("facts-destination", "facts-missing", ""),
        404,
    );
    client.refused(1, &bind_exchange("facts-missing", "facts-source", ""), 404);
}

#[test]
fn alternate_exchange_receives_unroutable_messages() {
    let mut client = World::default().client();
    client.exchange(1, "facts-alternate", "fanout");
    client.exchange_with(
        1,
        "facts-main",
        "direct",
        &table([("alternate-exchange", "facts-alternate")]),
    );
    client.queue(1, "facts-routed");
    client.queue(1, "facts-unrouted");
    client.bind(1, "facts-routed", "facts-main", "a", &Table::new());
    client.bind(1, "facts-unrouted", "facts-alternate", "", &Table::new());
    client.publish(1, "facts-main", "a", "x");
    // "With it mandatory is satisfied if the alternate routes."
    let mandatory = basic::Publish {
        mandatory: true,
        ..publish("facts-main", "b")
    };
    client.publish_with(1, &mandatory, &Properties::default(), b"y");
    assert_eq!(client.drain(1, "facts-routed"), ["x"]);
    assert_eq!(client.drain(1, "facts-unrouted"), ["y"]);
    let arguments = table([("alternate-exchange", 1)]);
    let arguments = arguments.as_ref();
    client.refused(
        1,
        &exchange::Declare {
            arguments,
            ..declare_exchange("facts-bad", "direct")
        },
        406,
    );
}

#[test]
fn cc_and_bcc_are_further_routing_keys() {
    let mut client = World::default().client();
    for queue in ["facts-to", "facts-cc", "facts-bcc"] {
        client.queue(1, queue);
    }
    let (mut cc, mut bcc) = (Array::new(), Array::new());
    cc.push("facts-cc").unwrap();
    bcc.push("facts-bcc").unwrap();
    let headers = table([("CC", &cc), ("BCC", &bcc)]);
    let got = routed(
        &mut client,
        &["facts-to", "facts-cc", "facts-bcc"],
        "",
        "facts-to",
        &headers,
    );
    assert_eq!(got, ["facts-to", "facts-cc", "facts-bcc"]);
    let properties =
        client::properties(|properties| properties.headers = Some(headers.as_ref().into()));
    client.publish_with(1, &publish("", "facts-to"), &properties, b"x");
    let message = client.get(1, "facts-cc").unwrap();
    assert!(message.headers().get("CC").is_some());
    assert!(message.headers().get("BCC").is_none());
    assert_eq!(message.get_ok().routing_key, s("facts-to"));
    let headers = table([("CC", "facts-cc")]);
    let properties =
        client::properties(|properties| properties.headers = Some(headers.as_ref().into()));
    client.publish_with(1, &publish("", "facts-to"), &properties, b"x");
    client.expect_channel_close(1, 406);
}

#[test]
fn declare_that_differs_is_406() {
    let mut client = World::default().client();
    client.exchange(1, "facts-same", "direct");
    let same = declare_exchange("facts-same", "direct");
    client.call(1, &same, exchange::DeclareOk {});
    let arguments = table([("alternate-exchange", "other")]);
    for other in [
        exchange::Declare {
            durable: true,
            ..same
        },
        exchange::Declare {
            auto_delete: true,
            ..same
        },
        exchange::Declare {
            internal: true,
            ..same
        },
        exchange::Declare {
            r#type: s("fanout"),
            ..same
        },
        exchange::Declare {
            arguments: arguments.as_ref(),
            ..same
        },
    ] {
        let text = client.refused(1, &other, 406);
        assert!(
            text.starts_with("PRECONDITION_FAILED - inequivalent arg '"),
            "{text}"
        );
    }
    let text = client.refused(
        1,
        &exchange::Declare {
            durable: true,
            ..same
        },
        406,
    );
    let expected = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'facts-same' in \
        vhost '/': received 'true' but current is 'false'";
    assert_eq!(text, expected);
}

#[test]
fn passive_declare_creates_nothing() {
    let mut client = World::default().client();
    client.call(1, &passive("amq.topic"), exchange::DeclareOk {});
    let text = client.refused(1, &passive("facts-missing"), 404);
    assert_eq!(text, "NOT_FOUND - no exchange 'facts-missing' in vhost '/'");
    client.refused(
        1,
        &exchange::Declare {
            nowait: true,
            ..passive("facts-missing")
        },
        404,
    );
}

#[test]
fn reserved_names_and_the_default_exchange_are_403() {
    let mut client = World::default().client();
    let text = client.refused(1, &declare_exchange("amq.mine", "direct"), 403);
    assert_eq!(
        text,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"
    );
    let durable = exchange::Declare {
        durable: true,
        ..declare_exchange("amq.direct", "direct")
    };
    client.call(1, &durable, exchange::DeclareOk {});
    client.refused(1, &delete("amq.direct", false), 403);
    client.refused(1, &declare_exchange("", "direct"), 403);
    client.refused(1, &passive(""), 403);
    client.refused(1, &delete("", false), 403);
    client.refused(1, &bind_exchange("amq.fanout", "", "a"), 403);
    client.refused(1, &bind_exchange("", "amq.fanout", "a"), 403);
    client.queue(1, "facts-bound");
    let bind = queue::Bind {
        queue: s("facts-bound"),
        exchange: s(""),
        routing_key: s("a"),
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    client.refused(1, &bind, 403);
}

#[test]
fn internal_exchange_refuses_publishes() {
    let mut client = World::default().client();
    client.send(
        1,
        &exchange::Delete {
            nowait: true,
            ..delete("facts-internal", false)
        },
    );
    let internal = exchange::Declare {
        internal: true,
        ..declare_exchange("facts-internal", "fanout")
    };
    client.call(1, &internal, exchange::DeclareOk {});
    client.publish(1, "facts-internal", "", "x");
    client.expect_channel_close(1, 403);
}

#[test]
fn if_unused_keeps_an_exchange_with_bindings() {
    let mut client = World::default().client();
    client.exchange(1, "facts-used", "fanout");
    client.queue(1, "facts-user");
    client.bind(1, "facts-user", "facts-used", "", &Table::new());
    client.refused(1, &delete("facts-used", true), 406);
    client.call(1, &delete("facts-used", false), exchange::DeleteOk {});
    client.refused(1, &passive("facts-used"), 404);
    client.call(1, &delete("facts-used", true), exchange::DeleteOk {});
}

#[test]
fn auto_delete_exchange_ends_with_its_last_binding() {
    let mut client = World::default().client();
    client.send(
        1,
        &exchange::Delete {
            nowait: true,
            ..delete("facts-auto", false)
        },
    );
    let auto = exchange::Declare {
        auto_delete: true,
        ..declare_exchange("facts-auto", "fanout")
    };
    client.call(1, &auto, exchange::DeclareOk {});
    client.queue(1, "facts-auto-1");
    client.queue(1, "facts-auto-2");
    client.bind(1, "facts-auto-1", "facts-auto", "", &Table::new());
    client.bind(1, "facts-auto-2", "facts-auto", "", &Table::new());
    let (queue, exchange, routing_key) = (s("facts-auto-1"), s("facts-auto"), s(""));
    let arguments = TableRef::EMPTY;
    client.call(
        1,
        &queue::Unbind {
            queue,
            exchange,
            routing_key,
            arguments,
        },
        queue::UnbindOk {},
    );
    client.call(1, &passive("facts-auto"), exchange::DeclareOk {});
    let delete = queue::Delete {
        queue: s("facts-auto-2"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    client.call(1, &delete, queue::DeleteOk { message_count: 0 });
    client.refused(1, &passive("facts-auto"), 404);
}

#[test]
fn unknown_type_is_406_and_plugin_type_540() {
    let mut client = World::new(Config::default()).client();
    client.refused(1, &declare_exchange("x", "nonsense"), 406);
    client.send(1, &declare_exchange("x", "x-consistent-hash"));
    client.expect_close(540);
}

#[test]
fn permissions_are_checked() {
    let user = User {
        configure: Pattern::Prefix("mine".into()),
        write: Pattern::Names(vec!["amq.default".into()]),
        read: Pattern::None,
        ..User::new("guest", "guest")
    };
    let mut client = World::new(Config {
        users: vec![user],
        ..Config::default()
    })
    .client();
    let text = client.refused(1, &declare_exchange("yours", "fanout"), 403);
    assert_eq!(
        text,
        "ACCESS_REFUSED - configure access to exchange 'yours' in vhost '/' refused for user \
         'guest'"
    );
    client.call(
        1,
        &declare_exchange("mine", "fanout"),
        exchange::DeclareOk {},
    );
    client.queue(1, "mine");
    client.publish(1, "", "mine", "x");
    client.publish(1, "mine", "", "x");
    client.expect_channel_close(1, 403);
    client.refused(
        1,
        &basic::Get {
            queue: s("mine"),
            no_ack: false,
        },
        403,
    );
    client.refused(1, &client::consume("mine", ""), 403);
}
