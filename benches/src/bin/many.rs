//! Measures the cost of many connections on one thread that send nothing but heartbeats:
//! `cargo run --release -p puka-benches --bin many`.
//!
//! Arguments: `--connections N` (10000), `--heartbeat SECONDS` (60), `--seconds N` measured (120).
//! The other end is a separate process, which does the same on the same runtime without the
//! library. Both have a file descriptor for each connection, so the limit on descriptors has to
//! allow that.
#![expect(clippy::print_stdout, reason = "it prints its measurements")]
#![expect(clippy::expect_used, reason = "a failed measurement ends the program")]

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use puka::{Client, Options};
use puka_benches::{Broker, Null, cpu, number};
use smol::{Async, LocalExecutor, Timer};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn serve(heartbeat: u16) {
    smol::block_on(async {
        let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).expect("a port is free");
        println!(
            "{}",
            listener
                .get_ref()
                .local_addr()
                .expect("the listener has an address")
        );
        loop {
            let (stream, _) = listener
                .accept()
                .await
                .expect("the limit of file descriptors is high enough");
            smol::spawn(connection(stream, heartbeat)).detach();
        }
    });
}

async fn connection(mut stream: Async<TcpStream>, heartbeat: u16) -> std::io::Result<()> {
    let mut null = Null::with_heartbeat(heartbeat);
    let mut buffer = [0; 1024];
    let mut beats = Timer::interval(Duration::from_millis(u64::from(heartbeat) * 500));
    loop {
        let came = async { stream.read(&mut buffer).await.map(Some) };
        let due = async {
            beats.next().await;
            Ok(None)
        };
        match came.or(due).await? {
            Some(0) => return Ok(()),
            Some(bytes) => null.take(&buffer[..bytes]),
            None => null.beat(),
        }
        while !null.pending().is_empty() {
            let bytes = stream.write(null.pending()).await?;
            null.wrote(bytes);
        }
    }
}

async fn open(executor: &LocalExecutor<'_>, address: SocketAddr, heartbeat: u16) -> Client {
    let stream = Async::<TcpStream>::connect(address)
        .await
        .expect("the broker listens");
    let options = Options::default().heartbeat(heartbeat);
    let (client, driver) = puka::open(stream, puka_smol::Clock, options);
    executor.spawn(driver).detach();
    client.connect().await.expect("the connection opens");
    client
}

/// Returns a number from the kernel's status of this process, such as `VmRSS`, in KiB or as a
/// count.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

fn main() {
    let heartbeat = number("--heartbeat", 60) as u16;
    if std::env::args().any(|argument| argument == "--serve") {
        return serve(heartbeat);
    }
    let (connections, seconds) = (number("--connections", 10_000), number("--seconds", 120));
    let broker = Broker::start(&["--heartbeat", &heartbeat.to_string()]);
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let before = status("VmRSS");
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(open(&executor, broker.address(), heartbeat).await);
        }
        let (start, opened, served) = (Instant::now(), cpu(), broker.cpu());
        Timer::after(Duration::from_secs(seconds)).await;
        let of_a_core =
            |spent: Duration| 100.0 * spent.as_secs_f64() / start.elapsed().as_secs_f64();
        let (share, brokers_share) = (of_a_core(cpu() - opened), of_a_core(broker.cpu() - served));
        let resident = status("VmRSS") - before;
        let lost = clients
            .iter()
            .filter(|client| client.why_closed().is_some())
            .count();
        println!(
            "| connections | lost | of a core | the broker, of a core | MiB | KiB a connection | \
             threads |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- |");
        println!(
            "| {connections} | {lost} | {share:.2} % | {brokers_share:.2} % | {} | {:.1} | {} |",
            resident >> 10,
            resident as f64 / connections as f64,
            status("Threads"),
        );
        assert!(lost == 0, "a connection was lost");
    }));
}
