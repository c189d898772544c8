//! A custom stream: `puka::open` accepts anything that is `AsyncRead + AsyncWrite`. This one counts
//! bytes.
//!
//! `cargo run --example own_stream` uses a broker in the same process; set `AMQP_URL` to use a real
//! one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use futures_io::{AsyncRead, AsyncWrite};
use puka::{Error, Options, Transport};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

#[derive(Default)]
struct Counts {
    read: AtomicUsize,
    written: AtomicUsize,
}

struct Counted<Io>(Io, Arc<Counts>);

impl<Io: AsyncRead + Unpin> AsyncRead for Counted<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.0).poll_read(cx, into);
        if let Poll::Ready(Ok(bytes)) = read {
            self.1.read.fetch_add(bytes, Relaxed);
        }
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Counted<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.1.written.fetch_add(bytes, Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let url = std::env::var("AMQP_URL").ok();
        let options = url.map_or_else(|| Ok(Options::default()), |url| Options::from_uri(&url))?;
        let stream = match std::env::var_os("AMQP_URL") {
            Some(_) => puka::dial(&puka_smol::Dialer, &puka_smol::Clock, &options).await?,
            None => Transport::new(puka_test_broker::Server::default().connect()),
        };
        let counts = Arc::new(Counts::default());
        let (client, driver) =
            puka::open(Counted(stream, counts.clone()), puka_smol::Clock, options);
        smol::spawn(driver).detach();
        let queue = client.queue_declare("").exclusive(true).await?.name;
        client.basic_publish("", &queue, &[0; 1000]).await?;
        client.close().await?;
        println!(
            "{} bytes read, {} written",
            counts.read.load(Relaxed),
            counts.written.load(Relaxed)
        );
        Ok(())
    })
}
