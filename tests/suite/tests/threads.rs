//! What people hold goes to any thread, and a task may own it together with what it asks.

use puka::{Client, Consumer, Delivery, Error, Message, Options, Promise};
use puka_test_suite::{Bare, Runtime};

fn goes_anywhere<T: Send + Sync + 'static>() {}

fn can_be_spawned<T: Send + 'static>(task: T) -> T {
    task
}

#[test]
fn what_people_hold_goes_to_any_thread() {
    goes_anywhere::<Client>();
    goes_anywhere::<Promise<()>>();
    goes_anywhere::<Consumer>();
    goes_anywhere::<Delivery>();
    goes_anywhere::<Error>();
    goes_anywhere::<Options>();
    goes_anywhere::<Message>();
}

#[test]
fn requests_can_be_spawned_with_what_they_ask() {
    let broker = puka_test_broker::Server::new(Default::default());
    let (client, driver) = puka::open(broker.connect(), Bare::clock(), Options::default());
    let driver = can_be_spawned(driver);
    let task = can_be_spawned(async move {
        let queue = client.queue_declare("").await?.name;
        client.basic_publish("", queue.clone(), vec![1]).submit().await?.await?;
        client.basic_publish("", &queue, b"borrowed").await?;
        let mut consumer = client.basic_consume(queue).await?;
        consumer.next().await.ok_or(Error::Closed)??.ack()?;
        client.close().await
    });
    let (task, driver) = Bare::block_on(futures_lite::future::zip(task, driver));
    task.and(driver).expect("both end well");
}
