//! A broker on its own port, and clients of it.

use puka::evented::{self, Evented, Stream};
use puka::{Client, Options};
use puka_test_broker::{Listener, Server};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// A timeout far longer than any test takes, so that a hanging test fails.
pub(crate) const SOON: Option<Duration> = Some(Duration::from_secs(20));

/// Starts a broker. Returns it and its address.
pub(crate) fn broker() -> (Server, SocketAddr) {
    let server = Server::default();
    let listener = Listener::bind("127.0.0.1:0", server.clone()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.run());
    (server, address)
}

/// Returns options to connect to the address.
pub(crate) fn to(address: SocketAddr) -> Options {
    Options::from_uri(&format!("amqp://{address}/")).unwrap()
}

/// Returns a client after its handshake.
pub(crate) fn connect_to(address: SocketAddr) -> (Evented<Stream>, Client) {
    connect_with(to(address))
}

/// Returns a client with these options after its handshake.
pub(crate) fn connect_with(options: Options) -> (Evented<Stream>, Client) {
    let mut conn = evented::connect_with(options).unwrap();
    let client = conn.client();
    conn.wait(&mut client.connect(), SOON).unwrap();
    (conn, client)
}

/// Drops every connection to a broker, as a cut cable does.
pub(crate) fn cut(server: &Server) {
    let now = server.now();
    server.with(|broker| {
        for id in broker.connections() {
            broker.drop_connection(now, id);
        }
    });
}

/// Returns a client of a new broker.
pub(crate) fn connected() -> (Evented<Stream>, Client) {
    connect_to(broker().1)
}
