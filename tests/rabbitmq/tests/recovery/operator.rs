//! Changes of virtual hosts, users and permissions by an operator.

use crate::stage::{alone, beside, virtual_host};
use crate::{STEP, next, recovered, told};
use puka::{
    Client, ConnectionState, Credentials, Error, Notice, Notices, Options, QueueType, Recovery,
};
use puka_test_rabbitmq::unique;
use puka_test_soak::{Failure, Load, Outcome, Stage, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn hasty(options: Options) -> Options {
    options.recovery(
        Recovery::default().backoff(Duration::from_millis(50), Duration::from_millis(100)),
    )
}

/// Returns the causes of this many failed attempts to reconnect.
async fn attempts(notices: &mut Notices, count: usize) -> Result<Vec<Error>, Failure> {
    within(STEP, "reconnecting", async {
        let mut causes = Vec::new();
        while causes.len() < count {
            match notices.next().await {
                Some(Notice::Retrying { cause, .. }) => causes.push(cause),
                Some(Notice::Disconnected(_) | Notice::ConsumerCancelled(_)) => {}
                other => return Err(Failure::from(format!("{other:?}"))),
            }
        }
        Ok(causes)
    })
    .await?
}

#[test]
fn deleted_virtual_host_is_retried_until_restored() -> Outcome {
    beside(async |stage| {
        let vhost = unique("deleted");
        let client = puka_smol::connect_with(hasty(virtual_host(&stage, &vhost).await?)).await?;
        let queue = client.queue_declare("q").durable(true).await?.name;
        let mut notices = client.notices();
        let name = vhost.clone();
        stage.node(move |node| node.delete_vhost(&name)).await?;
        let causes = attempts(&mut notices, 6).await?;
        let Some((Error::ConnectionForced(why), refusals)) = causes.split_first() else {
            return Err(format!("{causes:?}").into());
        };
        assert!(
            why.text.contains("is down") || why.text.contains("is deleted"),
            "{why:?}"
        );
        assert!(
            refusals
                .iter()
                .all(|cause| matches!(cause, Error::NotAllowed(_))),
            "{refusals:?}"
        );
        assert!(matches!(client.state(), ConnectionState::Recovering { .. }));

        let late = client
            .basic_publish("", &queue, "late")
            .mandatory(true)
            .send();
        virtual_host(&stage, &vhost).await?;
        recovered(&mut notices).await?;
        late.await?;
        Ok(client.close().await?)
    })
}

#[test]
fn recreated_virtual_host_has_its_topology_restored() -> Outcome {
    beside(async |stage| {
        let vhost = unique("back");
        let load = Load::start(virtual_host(&stage, &vhost).await?, QueueType::Classic).await?;
        load.flows(100).await?;
        let before = load.recoveries();
        stage.proxy.off();
        // Its messages are deleted with it, but later ones are accounted for.
        stage
            .node(move |node| {
                node.delete_vhost(&vhost)
                    .and_then(|()| node.add_vhost(&vhost))
            })
            .await?;
        stage.proxy.on();
        load.recovers_from(&before).await?;
        load.flows(100).await?;
        let mut fragile = load.fragile;
        fragile.check().await
    })
}

#[test]
fn revoked_permissions_end_requests_not_the_connection() -> Outcome {
    beside(async |stage| {
        let (vhost, user) = (unique("revoked"), unique("user"));
        let options = virtual_host(&stage, &vhost)
            .await?
            .credentials(&user, "secret");
        let (at, who) = (vhost.clone(), user.clone());
        stage
            .node(move |node| {
                node.add_user(&who, "secret")?;
                node.set_permissions(&at, &who, ".*", ".*", ".*")
            })
            .await?;
        let client = puka_smol::connect_with(hasty(options)).await?;
        let queue = client.queue_declare("q").durable(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        let mut notices = client.notices();
        let (at, who) = (vhost.clone(), user.clone());
        stage
            .node(move |node| node.clear_permissions(&at, &who))
            .await?;
        let refused = client.queue_declare("another").await;
        assert!(
            matches!(refused, Err(Error::AccessRefused(_))),
            "{refused:?}"
        );
        assert!(matches!(client.state(), ConnectionState::Open));
        let (at, who) = (vhost.clone(), user.clone());
        stage
            .node(move |node| node.set_permissions(&at, &who, ".*", ".*", ".*"))
            .await?;
        client.basic_publish("", &queue, "still there").await?;
        next(&mut consumer).await?.ack()?;
        client.close().await?;
        while let Some(notice) = notices.next().await {
            let is_expected = matches!(
                notice,
                Notice::ChannelClosed(_) | Notice::Closed(Error::Closed)
            );
            assert!(is_expected, "{notice:?}");
        }
        stage.node(move |node| node.delete_user(&user)).await
    })
}

#[test]
fn s27_forbidden_entity_is_reported_and_others_are_restored() -> Outcome {
    beside(async |stage| {
        let (vhost, user) = (unique("partly"), unique("user"));
        let options = virtual_host(&stage, &vhost)
            .await?
            .credentials(&user, "secret");
        let (at, who) = (vhost.clone(), user.clone());
        stage
            .node(move |node| {
                node.add_user(&who, "secret")?;
                node.set_permissions(&at, &who, ".*", ".*", ".*")
            })
            .await?;
        let client = puka_smol::connect_with(hasty(options)).await?;
        client.queue_declare("open").durable(true).await?;
        client.queue_declare("shut").durable(true).await?;
        let mut open = client.basic_consume("open").await?;
        let mut shut = client.basic_consume("shut").await?;
        let mut notices = client.notices();
        let (at, who) = (vhost.clone(), user.clone());
        stage
            .node(move |node| node.set_permissions(&at, &who, "open", ".*", "open"))
            .await?;
        stage.proxy.reset();
        let told = told(&mut notices, "recovery", |notice| {
            matches!(notice, Notice::Recovered(_))
        })
        .await?;
        let Notice::Recovered(report) = told else {
            return Err("no report".into());
        };
        let refused = |(_, error): &(_, Error)| matches!(error, Error::AccessRefused(_));
        assert!(
            report.failed.len() == 2 && report.failed.iter().all(refused),
            "{report:?}"
        );
        assert!(matches!(
            shut.next().await,
            Some(Err(Error::AccessRefused(_)))
        ));
        client.basic_publish("", "open", "x").await?;
        next(&mut open).await?.ack()?;
        client.close().await?;
        stage.node(move |node| node.delete_user(&user)).await
    })
}

async fn someone(stage: &Stage) -> Result<(String, Client, Notices), Failure> {
    let user = unique("user");
    let who = user.clone();
    stage
        .node(move |node| {
            node.add_user(&who, "secret")?;
            node.set_permissions("/", &who, ".*", ".*", ".*")
        })
        .await?;
    let client =
        puka_smol::connect_with(hasty(stage.options()?.credentials(&user, "secret"))).await?;
    let notices = client.notices();
    Ok((user, client, notices))
}

#[test]
fn deleted_user_is_refused_until_restored() -> Outcome {
    beside(async |stage| {
        let (user, client, mut notices) = someone(&stage).await?;
        let who = user.clone();
        stage.node(move |node| node.delete_user(&who)).await?;
        let causes = attempts(&mut notices, 6).await?;
        let Some((Error::ConnectionForced(why), refusals)) = causes.split_first() else {
            return Err(format!("{causes:?}").into());
        };
        assert!(why.text.contains("is deleted"), "{why:?}");
        assert!(
            refusals
                .iter()
                .all(|cause| matches!(cause, Error::AccessRefused(_))),
            "{refusals:?}"
        );

        stage
            .node(move |node| {
                node.add_user(&user, "secret")?;
                node.set_permissions("/", &user, ".*", ".*", ".*")
            })
            .await?;
        recovered(&mut notices).await?;
        client.queue_declare("").exclusive(true).await?;
        Ok(client.close().await?)
    })
}

#[test]
fn s6_credentials_are_requested_at_each_login() -> Outcome {
    alone(async |stage| {
        let (user, client, _) = someone(&stage).await?;
        client.close().await?;
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, name) = (asked.clone(), user.clone());
        let options = stage.options()?.credentials_from(move || {
            let times = counted.fetch_add(1, Ordering::AcqRel);
            Ok(Credentials::new(
                &*name,
                if times == 0 {
                    "secret"
                } else {
                    "another secret"
                },
            ))
        });
        let client = puka_smol::connect_with(hasty(options)).await?;
        let mut notices = client.notices();
        let who = user.clone();
        stage
            .node(move |node| node.ctl(&["change_password", &who, "another secret"]))
            .await?;
        stage.proxy.reset();
        recovered(&mut notices).await?;
        assert_eq!(asked.load(Ordering::Acquire), 2);
        client.queue_declare("").exclusive(true).await?;
        client.close().await?;
        stage.node(move |node| node.delete_user(&user)).await
    })
}
