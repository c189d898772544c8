//! Receives three messages with blocking calls. `AMQP_URL` is the broker; without it, one runs in
//! this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Error, evented};

fn main() -> Result<(), Error> {
    let mut conn = evented::connect(&url()?)?;
    let client = conn.client();
    conn.wait(&mut client.connect(), None)?;

    let queue = conn.wait(&mut client.queue_declare("test").durable(true).send(), None)?;
    for number in queue.message_count..3 {
        // Publishes the messages to receive.
        conn.wait(
            &mut client
                .basic_publish("", "test", format!("message {number}"))
                .send(),
            None,
        )?;
    }

    let mut test = conn.wait(
        &mut client.basic_consume("test").prefetch_count(1).send(),
        None,
    )?;
    for _ in 0..3 {
        let delivery = conn.wait(&mut test, None)?;
        println!("received {:?}", String::from_utf8_lossy(delivery.body()));
        delivery.ack()?;
    }
    conn.wait(&mut test.cancel(), None)?;
    conn.wait(&mut client.close(), None)
}

/// Returns the URI of the broker: `AMQP_URL`, or one in this process.
fn url() -> Result<String, Error> {
    if let Ok(url) = std::env::var("AMQP_URL") {
        return Ok(url);
    }
    let listener = puka_test_broker::Listener::bind("127.0.0.1:0", Default::default())?;
    let url = format!("amqp://{}/", listener.local_addr()?);
    std::thread::spawn(move || listener.run());
    Ok(url)
}
