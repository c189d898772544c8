//! All end-to-end cases, on smol.

use puka::{Client, Error, Options};
use puka_test_suite::Runtime;
use std::future::Future;

struct Smol;

impl Runtime for Smol {
    type Clock = puka_smol::Clock;

    fn clock() -> Self::Clock {
        puka_smol::Clock
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(future).detach();
    }

    fn connect(options: Options) -> impl Future<Output = Result<Client, Error>> {
        puka_smol::connect_with(options)
    }
}

puka_test_suite::tests!(Smol);
