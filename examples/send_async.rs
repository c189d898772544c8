//! Sends a message with callbacks: each step begins when the previous one is done. `AMQP_URL` is
//! the broker; without it, one runs in this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::evented::{self, Evented, Stream};
use puka::{Error, Queue, ServerProperties};

fn main() -> Result<(), Error> {
    let mut conn = evented::connect(&url()?)?;
    conn.on(conn.client().connect(), on_connection);
    conn.run(None)?;
    conn.wait(&mut conn.client().close(), None)
}

fn on_connection(conn: &mut Evented<Stream>, server: Result<ServerProperties, Error>) {
    match server {
        Ok(server) => {
            println!("connected to {}", server.product());
            conn.on(
                conn.client().queue_declare("test").durable(true).send(),
                on_queue_declare,
            );
        }
        Err(error) => stop(conn, &error),
    }
}

fn on_queue_declare(conn: &mut Evented<Stream>, queue: Result<Queue, Error>) {
    match queue {
        Ok(queue) => {
            println!("declared the queue {}", queue.name);
            conn.on(
                conn.client()
                    .basic_publish("", queue.name, "Hello world!")
                    .send(),
                on_basic_publish,
            );
        }
        Err(error) => stop(conn, &error),
    }
}

fn on_basic_publish(conn: &mut Evented<Stream>, confirmed: Result<(), Error>) {
    match confirmed {
        Ok(()) => {
            println!("sent, and the broker has confirmed it");
            conn.loop_break();
        }
        Err(error) => stop(conn, &error),
    }
}

fn stop(conn: &mut Evented<Stream>, error: &Error) {
    println!("{error}");
    conn.loop_break();
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
