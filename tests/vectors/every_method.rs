//! Every method and every property, listed by hand, to build them by name and take them apart
//! again.
//!
//! The compiler finds a missing method or field here, and a test compares the list with `CLASSES`.

use super::sample::{Field, Fields};
use puka::protocol::method::{
    CLASSES, MethodId, access, basic, channel, confirm, connection, exchange, queue, tx,
};
use puka::protocol::{Method, PROPERTIES, Properties, RawHeaders, TableRef};

macro_rules! every_method {
    ($($Class:ident $module:ident { $($Method:ident { $($field:ident),* })* })*) => {
        /// Returns the method with this number and these fields.
        pub(crate) fn build(id: MethodId, fields: &Fields) -> Method<'_> {
            let _ = fields;
            $($(if id == $module::$Method::ID {
                return $module::$Method {
                    $($field: fields.get(plain(stringify!($field)))),*
                }.into();
            })*)*
            panic!("unknown method {id}")
        }

        /// Returns the fields of a method, by name.
        pub(crate) fn take_apart(method: Method<'_>) -> Fields {
            match method {
                $($(Method::$Class($module::Method::$Method($module::$Method { $($field),* })) =>
                    Fields(vec![$((plain(stringify!($field)).to_owned(), $field.sample())),*]),)*)*
            }
        }

        const LISTED: &[(MethodId, &[&str])] = &[$($(
            ($module::$Method::ID, &[$(stringify!($field)),*]),
        )*)*];
    };
}

every_method! {
    Connection connection {
        Start { version_major, version_minor, server_properties, mechanisms, locales }
        StartOk { client_properties, mechanism, response, locale }
        Secure { challenge }
        SecureOk { response }
        Tune { channel_max, frame_max, heartbeat }
        TuneOk { channel_max, frame_max, heartbeat }
        Open { virtual_host }
        OpenOk {}
        Close { reply_code, reply_text, class_id, method_id }
        CloseOk {}
        Blocked { reason }
        Unblocked {}
        UpdateSecret { new_secret, reason }
        UpdateSecretOk {}
    }
    Channel channel {
        Open {}
        OpenOk {}
        Flow { active }
        FlowOk { active }
        Close { reply_code, reply_text, class_id, method_id }
        CloseOk {}
    }
    Access access {
        Request { realm, exclusive, passive, active, write, read }
        RequestOk { ticket }
    }
    Exchange exchange {
        Declare { exchange, r#type, passive, durable, auto_delete, internal, nowait, arguments }
        DeclareOk {}
        Delete { exchange, if_unused, nowait }
        DeleteOk {}
        Bind { destination, source, routing_key, nowait, arguments }
        BindOk {}
        Unbind { destination, source, routing_key, nowait, arguments }
        UnbindOk {}
    }
    Queue queue {
        Declare { queue, passive, durable, exclusive, auto_delete, nowait, arguments }
        DeclareOk { queue, message_count, consumer_count }
        Bind { queue, exchange, routing_key, nowait, arguments }
        BindOk {}
        Purge { queue, nowait }
        PurgeOk { message_count }
        Delete { queue, if_unused, if_empty, nowait }
        DeleteOk { message_count }
        Unbind { queue, exchange, routing_key, arguments }
        UnbindOk {}
    }
    Basic basic {
        Qos { prefetch_size, prefetch_count, global }
        QosOk {}
        Consume { queue, consumer_tag, no_local, no_ack, exclusive, nowait, arguments }
        ConsumeOk { consumer_tag }
        Cancel { consumer_tag, nowait }
        CancelOk { consumer_tag }
        Publish { exchange, routing_key, mandatory, immediate }
        Return { reply_code, reply_text, exchange, routing_key }
        Deliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key }
        Get { queue, no_ack }
        GetOk { delivery_tag, redelivered, exchange, routing_key, message_count }
        GetEmpty {}
        Ack { delivery_tag, multiple }
        Reject { delivery_tag, requeue }
        RecoverAsync { requeue }
        Recover { requeue }
        RecoverOk {}
        Nack { delivery_tag, multiple, requeue }
    }
    Confirm confirm {
        Select { nowait }
        SelectOk {}
    }
    Tx tx {
        Select {}
        SelectOk {}
        Commit {}
        CommitOk {}
        Rollback {}
        RollbackOk {}
    }
}

macro_rules! every_property {
    ($($name:ident)*) => {
        /// Returns these properties, and no others.
        pub(crate) fn build_properties(fields: &Fields) -> Properties<'_> {
            let mut properties = Properties::default();
            $(properties.$name = fields.find(plain(stringify!($name)));)*
            properties.headers = fields.find::<TableRef<'_>>("headers").map(RawHeaders::from);
            properties
        }

        /// Returns the properties that are set, by name. The headers must be well-formed.
        pub(crate) fn take_properties_apart(properties: &Properties<'_>) -> Fields {
            let mut fields = Vec::new();
            $(if let Some(value) = properties.$name {
                fields.push((plain(stringify!($name)).to_owned(), value.sample()));
            })*
            if let Some(headers) = properties.headers {
                fields.push(("headers".to_owned(), headers.table().unwrap().sample()));
            }
            Fields(fields)
        }

        const LISTED_PROPERTIES: &[&str] = &["headers", $(stringify!($name)),*];
    };
}

every_property! {
    content_type content_encoding delivery_mode priority correlation_id reply_to expiration
    message_id timestamp r#type
    user_id app_id cluster_id
}

/// Returns a field's name without the `r#` that Rust needs.
fn plain(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Returns the number of a method from its name, such as `basic.get-ok`.
pub(crate) fn id_of(full_name: &str) -> MethodId {
    CLASSES
        .iter()
        .flat_map(|class| class.methods.iter().map(move |method| (*class, method)))
        .find(|(class, method)| full_name == format!("{}.{}", class.name, method.name))
        .map(|(_, method)| method.id)
        .unwrap_or_else(|| panic!("unknown method {full_name}"))
}

#[test]
fn list_of_methods_matches_the_table() {
    let declared: Vec<(MethodId, Vec<&str>)> = CLASSES
        .iter()
        .flat_map(|class| class.methods)
        .map(|method| {
            (
                method.id,
                method
                    .fields
                    .iter()
                    .filter(|f| !f.reserved)
                    .map(|f| f.name)
                    .collect(),
            )
        })
        .collect();
    let listed: Vec<(MethodId, Vec<&str>)> = LISTED
        .iter()
        .map(|(id, fields)| (*id, fields.iter().map(|name| plain(name)).collect()))
        .collect();
    assert_eq!(listed, declared);
}

#[test]
fn list_of_properties_matches_the_table() {
    let mut declared: Vec<&str> = PROPERTIES.iter().map(|property| property.name).collect();
    let mut listed: Vec<&str> = LISTED_PROPERTIES.iter().map(|name| plain(name)).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, declared);
}
