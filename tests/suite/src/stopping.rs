//! A server that stops in the middle of an exchange: silent, one byte at a time, end of stream,
//! reset. Nothing waits longer than its deadline.

use crate::stalling::{Stalling, Stop};
use crate::{Outcome, Runtime, World};
use puka::{Broken, Error};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(250);

/// Checks the outcome and the time it took.
fn check<T: std::fmt::Debug>(how: Stop, outcome: Result<T, Error>, since: Instant) -> Outcome {
    let took = since.elapsed();
    let right = match how {
        Stop::Silent | Stop::Trickle => {
            took >= LIMIT
                && matches!(&outcome, Err(Error::Timeout { after, .. }) if *after == LIMIT)
        }
        Stop::Eof => matches!(&outcome, Err(Error::ConnectionBroken(Broken::Eof))),
        Stop::Reset => matches!(&outcome, Err(Error::ConnectionBroken(_))),
    };
    // A generous limit, for a busy machine.
    if right && took < 40 * LIMIT {
        Ok(())
    } else {
        Err(format!("{how:?}: {outcome:?} in {took:?}").into())
    }
}

/// A server that stops in the handshake is given up at the deadline.
pub async fn server_stopping_in_the_handshake_is_given_up<R: Runtime>(_: &World<R>) -> Outcome {
    for how in Stop::ALL {
        let server = Stalling::start(how)?;
        server.stop();
        let since = Instant::now();
        let outcome = R::connect(server.options()?.handshake_timeout(LIMIT)).await;
        check(how, outcome.map(drop), since)?;
    }
    Ok(())
}

/// A request fails at its deadline; if the connection is still alive, the next one succeeds.
pub async fn server_stopping_in_a_request_is_given_up<R: Runtime>(_: &World<R>) -> Outcome {
    for how in Stop::ALL {
        let server = Stalling::start(how)?;
        // With recovery, the request would wait for a reconnect.
        let options = server
            .options()?
            .request_timeout(LIMIT)
            .close_timeout(LIMIT)
            .recovery(None);
        let client = R::connect(options).await?;
        client.queue_declare("q").await?;
        server.stop();
        let since = Instant::now();
        check(how, client.queue_declare("q").await, since)?;
        let alive = matches!(how, Stop::Silent | Stop::Trickle);
        assert_eq!(
            client.why_closed().is_none(),
            alive,
            "{how:?}: {:?}",
            client.why_closed()
        );
    }
    Ok(())
}

/// A close completes at its deadline, and the client is closed, even if the server does not reply.
pub async fn server_stopping_in_the_close_is_given_up<R: Runtime>(_: &World<R>) -> Outcome {
    for how in Stop::ALL {
        let server = Stalling::start(how)?;
        let client = R::connect(server.options()?.close_timeout(LIMIT)).await?;
        server.stop();
        let since = Instant::now();
        match (how, client.close().await) {
            // The server closes the transport, which also completes the close.
            (Stop::Eof | Stop::Reset, Ok(())) if since.elapsed() < LIMIT => {}
            (how, outcome) => check(how, outcome, since)?,
        }
        assert!(
            client.why_closed().is_some() && client.queue_declare("q").await.is_err(),
            "{how:?}"
        );
    }
    Ok(())
}
