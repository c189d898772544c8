//! TLS with a real RabbitMQ, with servers whose certificate is wrong, and with servers that stop
//! during the handshake.
//!
//! Each run creates its own certificates and removes them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed helper is a failed test"
)]

mod chopped;
mod deadlines;
mod evented;
mod rabbitmq;
mod server;
mod verifying;

use futures_lite::FutureExt;
use puka::TlsSource;
use puka_test_rabbitmq::Identity;
use std::future::Future;
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs a case with a limit of a minute, far longer than any case takes.
fn run(case: impl Future<Output = Outcome>) -> Outcome {
    smol::block_on(case.or(async {
        smol::Timer::after(Duration::from_secs(60)).await;
        Err("it takes longer than a minute".into())
    }))
}

fn source(pem: &str) -> TlsSource {
    TlsSource::Pem(pem.as_bytes().to_vec())
}

/// Returns the arguments of [`puka::TlsOptions::client_certificate`].
fn sources(identity: &Identity) -> (TlsSource, TlsSource) {
    (source(&identity.certificate), source(&identity.key))
}

/// Asserts that a result is an error of this kind.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {{
        let result = $result;
        assert!(matches!(&result, Err($pattern) $(if $guard)?), "{result:?}");
    }};
}

pub(crate) use assert_error;
