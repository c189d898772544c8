//! Handles can be used from any thread, and a task can own a handle together with its requests.

use puka::{Client, Consumer, Delivery, Error, Message, Options, Promise};
use puka_test_suite::{Bare, Runtime};

fn goes_anywhere<T: Send + Sync + 'static>() {}

fn can_be_spawned<T: Send + 'static>(task: T) -> T {
    task
}

#[test]
fn handles_are_send_and_sync() {
    goes_anywhere::<Client>();
    goes_anywhere::<Promise<()>>();
    goes_anywhere::<Consumer>();
    goes_anywhere::<Delivery>();
    goes_anywhere::<Error>();
    goes_anywhere::<Options>();
    goes_anywhere::<Message>();
}

#[test]
fn spawned_task_can_own_handle_and_request() {
    let broker = puka_test_broker::Server::new(Default::default());
    let (client, driver) = puka::open(broker.connect(), Bare::clock(), Options::default());
    let driver = can_be_spawned(driver);
    let task = can_be_spawned(async move {
        let queue = client.queue_declare("").await?.name;
        client
            .basic_publish("", queue.clone(), vec![1])
            .submit()
            .await?
            .await?;
        client.basic_publish("", &queue, b"borrowed").await?;
        let mut consumer = client.basic_consume(queue).await?;
        consumer.next().await.ok_or(Error::Closed)??.ack()?;
        client.close().await
    });
    let (task, driver) = Bare::block_on(futures_lite::future::zip(task, driver));
    task.and(driver).expect("task and driver succeed");
}
