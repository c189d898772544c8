//! TLS over a custom stream that reads and writes a few bytes at a time, and often none.

use crate::server::TlsServer;
use crate::{Outcome, run, source};
use futures_lite::{AsyncRead, AsyncWrite, future};
use puka::{Endpoint, TlsOptions, tls};
use puka_test_rabbitmq::Authority;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

struct Chopped<Io> {
    io: Io,
    random: u64,
}

impl<Io> Chopped<Io> {
    /// Returns the number of bytes to move, if any. With `None` the task is woken at once.
    fn most(&mut self, cx: &Context<'_>, bytes: usize) -> Option<usize> {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let choice = usize::try_from(self.random % 100).unwrap();
        let most = match choice {
            0..20 => {
                cx.waker().wake_by_ref();
                return None;
            }
            20..40 => 1,
            40..99 => choice * 7,
            _ => usize::MAX,
        };
        Some(most.min(bytes))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Chopped<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.most(cx, into.len()) else {
            return Poll::Pending;
        };
        Pin::new(&mut self.io).poll_read(cx, &mut into[..most])
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Chopped<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.most(cx, bytes.len()) else {
            return Poll::Pending;
        };
        Pin::new(&mut self.io).poll_write(cx, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.most(cx, 1) {
            Some(_) => Pin::new(&mut self.io).poll_flush(cx),
            None => Poll::Pending,
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[test]
fn chopped_stream_carries_tls() -> Outcome {
    let seed = match std::env::var("PUKA_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()) | 1,
    };
    eprintln!("PUKA_SEED={seed}");
    let authority = Authority::new().unwrap();
    for random in seed..seed + 5 {
        let server = TlsServer::new(authority.issue(&["localhost"]).unwrap());
        let (options, _) = server.serve(
            "localhost",
            TlsOptions::default().authority(source(&authority.pem())),
        );
        let [Endpoint::Tcp { port, .. }] = options.get_endpoints() else {
            return Err("one was given".into());
        };
        let port = *port;
        run(async {
            let io = smol::net::TcpStream::connect(("127.0.0.1", port)).await?;
            let stream = tls::connect(
                Chopped {
                    io,
                    random: random | 1 << 40,
                },
                &options,
                "localhost",
            )
            .await?;
            let (client, driver) = puka::open(stream, puka_smol::Clock, options);
            let work = async {
                let queue = client.queue_declare("q").await?.name;
                let body: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
                let publishes: Vec<_> = (0..50)
                    .map(|_| client.basic_publish("", &queue, "small").send())
                    .collect();
                client.basic_publish("", &queue, &body).await?;
                for publish in publishes {
                    publish.await?;
                }
                let mut consumer = client.basic_consume(&queue).await?;
                for n in 0..=50 {
                    let delivery = consumer.next().await.expect("a delivery")?;
                    assert!(if n < 50 {
                        delivery.body() == b"small"
                    } else {
                        delivery.body() == body
                    });
                    delivery.ack()?;
                }
                client.close().await
            };
            future::try_zip(work, driver).await?;
            Ok(())
        })?;
    }
    Ok(())
}
