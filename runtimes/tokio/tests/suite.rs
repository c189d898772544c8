//! All end-to-end cases, on tokio with several threads; those that need no real broker also on one
//! thread.

use puka::{Client, Error, Options};
use puka_test_suite::Runtime;
use std::future::Future;

/// Defines a type that runs the cases on the runtime of this builder expression.
macro_rules! runtime {
    ($Name:ident: $builder:expr) => {
        struct $Name;

        impl Runtime for $Name {
            type Clock = puka_tokio::Clock;

            fn clock() -> Self::Clock {
                puka_tokio::Clock
            }

            fn block_on<F: Future>(future: F) -> F::Output {
                $builder
                    .enable_all()
                    .build()
                    .expect("the runtime builds")
                    .block_on(future)
            }

            fn spawn(future: impl Future<Output = ()> + Send + 'static) {
                tokio::spawn(future);
            }

            fn connect(options: Options) -> impl Future<Output = Result<Client, Error>> {
                puka_tokio::connect_with(options)
            }
        }
    };
}

runtime!(MultiThread: tokio::runtime::Builder::new_multi_thread().worker_threads(2));
runtime!(CurrentThread: tokio::runtime::Builder::new_current_thread());

mod multi_thread {
    use super::MultiThread;
    puka_test_suite::tests!(MultiThread);
}

mod current_thread {
    use super::CurrentThread;
    puka_test_suite::tests!(CurrentThread);
}
