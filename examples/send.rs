//! Sends a message with blocking calls: no runtime, no callback. `AMQP_URL` is the broker; without
//! it, one runs in this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Error, evented};

fn main() -> Result<(), Error> {
    let mut conn = evented::connect(&url()?)?;
    let client = conn.client();
    conn.wait(&mut client.connect(), None)?;

    conn.wait(&mut client.queue_declare("test").durable(true).send(), None)?;
    conn.wait(
        &mut client.basic_publish("", "test", "Hello world!").send(),
        None,
    )?;
    println!("sent, and the broker has confirmed it");

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
