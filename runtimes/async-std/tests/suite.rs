//! All end-to-end cases, on async-std.

use puka::{Client, Error, Options};
use puka_test_suite::Runtime;
use std::future::Future;

struct AsyncStd;

impl Runtime for AsyncStd {
    type Clock = puka_async_std::Clock;

    fn clock() -> Self::Clock {
        puka_async_std::Clock
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        async_std::task::block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        async_std::task::spawn(future);
    }

    fn connect(options: Options) -> impl Future<Output = Result<Client, Error>> {
        puka_async_std::connect_with(options)
    }
}

puka_test_suite::tests!(AsyncStd);
