//! A broker behind a Unix socket, for the adapter, which dials.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, Target, UnixRelay, World};
use puka::{Broken, Endpoint, Error, Options};
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Returns the TCP address of the broker.
fn address<R>(world: &World<R>) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let Target::RabbitMq(url) = world.target() else {
        return Err("the broker has no TCP address".into());
    };
    match Options::from_uri(url)?.get_endpoints() {
        [Endpoint::Tcp { host, port }] => Ok(SocketAddr::new(host.parse()?, *port)),
        endpoints => Err(format!("{endpoints:?}").into()),
    }
}

/// A Unix socket works like a port, and counts as private for the password.
pub async fn rabbitmq_can_be_reached_over_a_unix_socket<R: Runtime>(world: &World<R>) -> Outcome {
    let relay = UnixRelay::start("relay", address(world)?)?;
    let options = world
        .options()?
        .endpoint(Endpoint::unix(relay.path()))?
        .refuse_unencrypted_login(true);
    let client = R::connect(options).await?;
    let queue = world.queue(&client).await?;
    let body = vec![7; 1 << 20];
    client
        .basic_publish("", &queue, &body)
        .mandatory(true)
        .await?;
    assert!(
        client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?
            .body()
            == body
    );
    Ok(client.close().await?)
}

/// An endpoint without a socket is skipped; if it is the only one, the error names it.
pub async fn missing_socket_is_a_broken_connection<R: Runtime>(world: &World<R>) -> Outcome {
    let missing = Endpoint::unix("/nowhere/broker.sock");
    let outcome = R::connect(world.options()?.endpoint(missing.clone())?).await;
    assert_error!(
        &outcome,
        Error::ConnectionBroken(Broken::Io(error)) if error.kind() == ErrorKind::NotFound
    );
    assert!(outcome.is_err_and(|error| error.to_string().contains("/nowhere/broker.sock")));
    let relay = UnixRelay::start("relay", address(world)?)?;
    let turn = [missing, Endpoint::unix(relay.path())];
    let client = R::connect(world.options()?.endpoints(turn)?).await?;
    Ok(client.close().await?)
}
