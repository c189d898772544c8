//! A client inside a mio event loop, which is edge-triggered. `AMQP_URL` is the broker; without it,
//! one runs in this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use puka::{Error, evented};
use std::os::fd::AsRawFd;
use std::time::Instant;

const CLIENT: Token = Token(0);

fn main() -> Result<(), Error> {
    let mut conn = evented::connect(&url()?)?;
    conn.on(
        conn.client().queue_declare("test").durable(true).send(),
        |conn, queue| {
            println!("declared {queue:?}");
            conn.on(
                conn.client()
                    .basic_publish("", "test", "Hello world!")
                    .send(),
                |conn, confirmed| {
                    println!("published: {confirmed:?}");
                    conn.on(conn.client().close(), |_, closed| {
                        println!("closed: {closed:?}")
                    });
                },
            );
        },
    );

    let mut mio = Poll::new()?;
    let mut events = Events::with_capacity(16);
    let mut registered = None;
    while !conn.is_over() {
        // Each address that is dialled has its own socket, and so has a reconnection.
        let generation = conn.socket().generation();
        if registered.replace(generation) != Some(generation) {
            let interest = Interest::READABLE | Interest::WRITABLE;
            mio.registry()
                .register(&mut SourceFd(&conn.as_raw_fd()), CLIENT, interest)?;
        }

        let timeout = conn
            .next_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()));
        mio.poll(&mut events, timeout)?;
        for event in &events {
            if event.token() == CLIENT && event.is_readable() {
                conn.on_read()?;
            }
            if event.token() == CLIENT && event.is_writable() {
                conn.on_write()?;
            }
        }
        conn.on_timeout(Instant::now())?;
        conn.run_any_callbacks();
    }
    Ok(())
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
