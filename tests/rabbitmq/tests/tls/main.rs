//! TLS: against a real RabbitMQ, against servers that are not who they should be, and against
//! servers that stop midway.
//!
//! Each run makes its own certificates; nothing here outlives it.

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

/// Runs a case, which takes far less than a minute.
fn run(case: impl Future<Output = Outcome>) -> Outcome {
    smol::block_on(case.or(async {
        smol::Timer::after(Duration::from_secs(60)).await;
        Err("it takes longer than a minute".into())
    }))
}

fn source(pem: &str) -> TlsSource {
    TlsSource::Pem(pem.as_bytes().to_vec())
}

/// For [`puka::TlsOptions::client_certificate`].
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
