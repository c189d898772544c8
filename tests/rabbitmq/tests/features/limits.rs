//! Limits that an operator sets for a user or a virtual host: the error of what exceeds them, and
//! what goes on.

use crate::{DEADLINE, hasty, next, operator, publish, recovered, told};
use puka::{Client, Error, Notice};
use puka_test_rabbitmq::{Proxy, shared_node, unique};
use puka_test_soak::{Failure, Outcome, within};
use std::time::Duration;

/// The delay between two attempts.
const POLL: Duration = Duration::from_millis(100);

/// A user with a virtual host of the same name, behind a proxy.
struct Tenant {
    name: String,
    proxy: Proxy,
}

impl Tenant {
    async fn new() -> Result<Self, Failure> {
        let name = unique("limited");
        let who = name.clone();
        operator(move |node| {
            node.add_vhost(&who)?;
            node.add_user(&who, "secret")?;
            node.set_permissions(&who, &who, ".*", ".*", ".*")
        })
        .await?;
        let proxy = Proxy::start(shared_node()?.port())?;
        Ok(Self { name, proxy })
    }

    async fn connect(&self) -> Result<Client, Error> {
        let options = hasty(&self.proxy.url())?.virtual_host(&self.name);
        let options = options.credentials(&self.name, "secret");
        puka_smol::connect_with(options).await
    }

    /// Sets limits of the user, such as `{"max-channels": 4}`.
    async fn limit_user(&self, limits: &'static str) -> Outcome {
        let name = self.name.clone();
        operator(move |node| node.ctl(&["set_user_limits", &name, limits]).map(drop)).await
    }

    /// Sets limits of the virtual host, such as `{"max-queues": 4}`.
    async fn limit_vhost(&self, limits: &'static str) -> Outcome {
        let name = self.name.clone();
        let limit = ["set_vhost_limits", "--vhost"];
        operator(move |node| node.ctl(&[&limit[..], &[&name, limits]].concat()).map(drop)).await
    }
}

#[test]
fn connection_over_a_limit_is_refused_until_allowed() -> Outcome {
    smol::block_on(async {
        let tenant = Tenant::new().await?;
        let client = tenant.connect().await?;
        let mut notices = client.notices();
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        for is_of_user in [true, false] {
            let limit = async |limits| match is_of_user {
                true => tenant.limit_user(limits).await,
                false => tenant.limit_vhost(limits).await,
            };
            limit(r#"{"max-connections": 0}"#).await?;
            match tenant.connect().await {
                Err(Error::NotAllowed(fault)) if fault.text.contains("connection limit") => {}
                other => return Err(format!("{other:?}").into()),
            }
            publish(&client, &queue, "unaffected").await?;
            next(&mut consumer).await?.ack()?;
            tenant.proxy.reset();
            told(&mut notices, |notice| {
                let Notice::Retrying { cause, .. } = notice else {
                    return false;
                };
                matches!(cause, Error::NotAllowed(_))
            })
            .await?;
            limit(r#"{"max-connections": -1}"#).await?;
            recovered(&mut notices).await?;
            publish(&client, &queue, "recovered").await?;
            next(&mut consumer).await?.ack()?;
        }
        Ok(client.close().await?)
    })
}

#[test]
fn consumer_over_the_channel_limit_fails_alone() -> Outcome {
    smol::block_on(async {
        let tenant = Tenant::new().await?;
        tenant.limit_user(r#"{"max-channels": 4}"#).await?;
        let client = tenant.connect().await?;
        let mut notices = client.notices();
        // One channel is for requests, and one for publishes.
        client.queue_declare("orders").durable(true).await?;
        publish(&client, "orders", "1").await?;
        let consume = || client.basic_consume("orders").prefetch_count(1);
        let mut consumers = [consume().await?, consume().await?];
        let refused = consume().await;
        assert!(matches!(refused, Err(Error::ChannelLimit)), "{refused:?}");

        // It costs the connection, which recovers with all that it had.
        let report = recovered(&mut notices).await?;
        assert_eq!((report.consumers, report.failed.len()), (2, 0));
        client.queue_declare("orders").durable(true).await?;
        publish(&client, "orders", "2").await?;
        for consumer in &mut consumers {
            next(consumer).await?.ack()?;
        }

        // The limit is tested again later.
        tenant.limit_user(r#"{"max-channels": 10}"#).await?;
        let allowed = async {
            loop {
                match consume().await {
                    Err(Error::ChannelLimit) => smol::Timer::after(POLL).await,
                    outcome => return outcome,
                };
            }
        };
        let mut another = within(DEADLINE, "another consumer", allowed).await??;
        consumers.into_iter().for_each(drop);
        publish(&client, "orders", "3").await?;
        next(&mut another).await?.ack()?;
        assert_eq!(client.counters().lost, 1);
        Ok(client.close().await?)
    })
}

#[test]
fn recovery_leaves_out_a_queue_over_a_limit() -> Outcome {
    smol::block_on(async {
        let tenant = Tenant::new().await?;
        tenant.limit_vhost(r#"{"max-queues": 2}"#).await?;
        let client = tenant.connect().await?;
        let mut notices = client.notices();
        let durable = client.queue_declare("durable").durable(true).await?.name;
        let mut consumer = client.basic_consume(&durable).await?;
        client.queue_declare("").exclusive(true).await?;
        let refused = client.queue_declare("").exclusive(true).await;
        assert!(
            matches!(refused, Err(Error::PreconditionFailed(_))),
            "{refused:?}"
        );

        tenant.limit_vhost(r#"{"max-queues": 1}"#).await?;
        tenant.proxy.reset();
        let report = recovered(&mut notices).await?;
        match &*report.failed {
            [(_, Error::PreconditionFailed(fault))] if fault.text.contains("limit") => {}
            other => return Err(format!("{other:?}").into()),
        }
        // A queue that exists may be declared.
        assert_eq!((report.entities, report.consumers), (1, 1));
        publish(&client, &durable, "x").await?;
        next(&mut consumer).await?.ack()?;

        tenant.limit_vhost(r#"{"max-queues": -1}"#).await?;
        tenant.proxy.reset();
        let report = recovered(&mut notices).await?;
        assert_eq!(
            (report.entities, report.consumers, report.failed.len()),
            (2, 1, 0)
        );
        Ok(client.close().await?)
    })
}
