//! Limits of the broker for the size of a message and of a frame.

use crate::{publish, version, with_client};
use puka::{Broken, Client, Error, Options};
use puka_test_rabbitmq::shared_node;
use puka_test_soak::{Failure, Outcome};

const MIB: usize = 1 << 20;

/// Returns `true` if the broker refused a message because of its size.
fn is_too_large(error: &Error) -> bool {
    let Error::PreconditionFailed(fault) = error else {
        return false;
    };
    let text = format!("message size {} is larger than", 17 * MIB);
    fault.text.contains(&text) && fault.method.to_string() == "basic.publish"
}

/// Returns a client whose own limit is above that of RabbitMQ 4.
async fn unlimited() -> Result<Client, Failure> {
    let options = Options::from_uri(&shared_node()?.url())?;
    Ok(puka_smol::connect_with(options.max_message_size(64 << 20)).await?)
}

#[test]
fn message_above_the_brokers_default_is_not_sent() -> Outcome {
    with_client(async |client| {
        // The broker's default is 16 MiB since 4.0, and 128 MiB before.
        let is_refused = version(client)? >= (4, 0);
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let publish = |size| client.basic_publish("", &queue, vec![0; size]);
        publish(16 * MIB).await?;
        match publish(17 * MIB).await {
            Err(Error::InvalidArgument { what: "body", .. }) if is_refused => {}
            Ok(()) if !is_refused => {}
            other => return Err(format!("{other:?}").into()),
        }
        publish(1).await?;
        let expected = if is_refused { 2 } else { 3 };
        assert_eq!(client.queue_delete(&queue).await?, expected);
        Ok(())
    })
}

#[test]
fn message_above_the_brokers_limit_fails_alone() -> Outcome {
    smol::block_on(async {
        let client = unlimited().await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let publish = |size| client.basic_publish("", &queue, vec![0; size]);
        match publish(17 * MIB).await {
            Err(error) if version(&client)? >= (4, 0) && is_too_large(&error) => {}
            Ok(()) if version(&client)? < (4, 0) => {}
            other => return Err(format!("{other:?}").into()),
        }
        publish(1).await?;
        Ok(client.close().await?)
    })
}

/// The number of small messages before the large one.
const LARGE: usize = 5;

/// Publishes a message of 17 MiB between small ones to the same exchange. Returns its outcome and
/// those of the others, in their order.
async fn publish_among_others(
    client: &Client,
    queue: &str,
) -> Result<(Result<(), Error>, Vec<Result<(), Error>>), Failure> {
    let mut promises = Vec::new();
    for n in 0..11 {
        let size = if n == LARGE { 17 * MIB } else { n * 10_000 };
        let publish = client.basic_publish("", queue, vec![0; size]);
        promises.push(publish.submit().await?);
    }
    let mut outcomes = Vec::new();
    for promise in promises {
        outcomes.push(promise.await);
    }
    Ok((outcomes.remove(LARGE), outcomes))
}

#[test]
fn publishes_around_a_refused_one_are_unconfirmed() -> Outcome {
    smol::block_on(async {
        let client = unlimited().await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let (large, others) = publish_among_others(&client, &queue).await?;
        if version(&client)? < (4, 0) {
            large?;
            others.into_iter().collect::<Result<(), _>>()?;
            return Ok(client.close().await?);
        }
        assert!(large.as_ref().is_err_and(is_too_large), "{large:?}");
        // The broker has accepted the earlier ones, but may not have confirmed all of them. It has
        // ignored the later ones.
        let accepted = client.queue_declare(&queue).passive(true).await?;
        assert_eq!(accepted.message_count as usize, LARGE);
        for (n, other) in others.iter().enumerate() {
            match other {
                Ok(()) if n < LARGE => {}
                Err(Error::Unconfirmed(cause)) if is_too_large(cause) => {}
                other => return Err(format!("{n}: {other:?}").into()),
            }
        }
        publish(&client, &queue, "later").await?;
        Ok(client.close().await?)
    })
}

#[test]
fn small_frame_max_is_refused_by_newer_brokers() -> Outcome {
    let url = shared_node()?.url();
    let connect = async |frame_max| {
        let options = Options::from_uri(&url)?.frame_max(frame_max);
        puka_smol::connect_with(options).await
    };
    smol::block_on(async {
        let client = connect(8192).await?;
        let is_refused = version(&client)? >= (4, 1);
        for frame_max in [4096, 8191] {
            match connect(frame_max).await {
                Err(Error::ConnectionBroken(Broken::SmallFrameMax {
                    frame_max: said, ..
                })) if is_refused && said == frame_max => {}
                Ok(client) if !is_refused => client.close().await?,
                other => return Err(format!("{frame_max}: {other:?}").into()),
            }
        }
        Ok(client.close().await?)
    })
}
