//! An event loop written by hand, over poll(2), that serves two clients and standard input: one
//! client publishes each line that is typed, the other consumes it. It ends with the input.
//! `AMQP_URL` is the broker; without it, one runs in this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Error, evented};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Instant;

fn main() -> Result<(), Error> {
    let url = url()?;
    let (mut sending, mut receiving) = (evented::connect(&url)?, evented::connect(&url)?);
    sending.wait(&mut sending.client().connect(), None)?;
    let queue = receiving
        .wait(
            &mut receiving.client().queue_declare("").exclusive(true).send(),
            None,
        )?
        .name;
    let lines = receiving.wait(
        &mut receiving.client().basic_consume(&queue).no_ack(true).send(),
        None,
    )?;
    receiving.on_each(lines, |receiving, line| match line {
        Ok(line) => println!("received {:?}", String::from_utf8_lossy(line.body())),
        Err(_) => drop(receiving.client().close()),
    });

    let mut typed = [0; 1024];
    let mut input_ended = false;
    while !(sending.is_over() && receiving.is_over()) {
        let mut timeout = None;
        let mut wanted = [PollFlags::empty(); 2];
        for (conn, wanted) in [&mut sending, &mut receiving].into_iter().zip(&mut wanted) {
            conn.run_any_callbacks();
            wanted.set(PollFlags::IN, conn.needs_read());
            wanted.set(PollFlags::OUT, conn.needs_write());
            timeout = [timeout, conn.next_timeout()].into_iter().flatten().min();
        }
        let left = timeout.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());

        let stdin = std::io::stdin();
        let wanted_input = if input_ended {
            PollFlags::empty()
        } else {
            PollFlags::IN
        };
        let mut sources = [
            PollFd::new(&sending, wanted[0]),
            PollFd::new(&receiving, wanted[1]),
            PollFd::new(&stdin, wanted_input),
        ];
        poll(&mut sources, left.as_ref()).map_err(std::io::Error::from)?;
        let [sender_ready, receiver_ready, stdin_ready] =
            sources.map(|source| !source.revents().is_empty());

        for (conn, ready) in [
            (&mut sending, sender_ready),
            (&mut receiving, receiver_ready),
        ] {
            if ready {
                conn.on_read()?; // also writes the output
            }
            conn.on_timeout(Instant::now())?;
        }
        if stdin_ready && !input_ended {
            let bytes = rustix::io::read(&stdin, &mut typed).map_err(std::io::Error::from)?;
            for line in String::from_utf8_lossy(&typed[..bytes]).lines() {
                sending.on(
                    sending.client().basic_publish("", &queue, line).send(),
                    |_, confirmed| {
                        println!("published: {confirmed:?}");
                    },
                );
            }
            if bytes == 0 {
                input_ended = true;
                // The close waits for the pending publishes. Then the queue is deleted, which ends
                // the consumer.
                let (client, queue) = (receiving.client(), queue.clone());
                sending.on(sending.client().close(), move |_, _| {
                    drop(client.queue_delete(queue).send())
                });
            }
        }
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
