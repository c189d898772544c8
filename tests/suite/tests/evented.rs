//! The end-to-end cases with RabbitMQ and evented clients: each is driven by its own thread, while
//! the case makes requests from another.

use puka::{Client, Error, Options, evented};
use puka_test_suite::{Bare, Runtime};
use std::future::Future;
use std::sync::mpsc;
use std::thread;

struct Threads;

impl Runtime for Threads {
    type Clock = <Bare as Runtime>::Clock;

    fn clock() -> Self::Clock {
        Bare::clock()
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        Bare::block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        Bare::spawn(future);
    }

    async fn connect(options: Options) -> Result<Client, Error> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || match evented::connect_with(options) {
            Ok(conn) => {
                drop(sender.send(Ok(conn.client())));
                drop(conn.run_to_end());
            }
            Err(error) => drop(sender.send(Err(error))),
        });
        let client = receiver.recv().map_err(|_| Error::Closed)??;
        client.connect().await?;
        Ok(client)
    }
}

puka_test_suite::tests!(Threads, rabbitmq);
puka_test_suite::tests!(Threads, dialling);
puka_test_suite::tests!(Threads, stopping);
puka_test_suite::tests!(Threads, unix);
