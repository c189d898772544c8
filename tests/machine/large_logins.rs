//! Logins and secrets that need large frames.

use crate::peer::{Peer, close, rabbitmq, short, start, tune};
use puka::machine::PromiseId;
use puka::protocol::method::connection;
use puka::{Broken, Error, Options};

/// Returns a client that has received `connection.start`, and logs in with this many bytes.
fn logging_in(options: Options, bytes: usize) -> (Peer, PromiseId) {
    let token = "t".repeat(bytes);
    let mut peer = Peer::new(options.credentials("jwt", &token));
    let promise = peer.machine.connect();
    peer.decode_large_frames();
    peer.names();
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    (peer, promise)
}

#[test]
fn e23_option_allows_a_large_token() {
    let options = || Options::default().initial_frame_max(65_536);
    let (mut peer, promise) = logging_in(options(), 60_000);
    let sent = peer.take();
    assert!(sent[0].is(connection::StartOk::ID));
    assert!(sent[0].payload.len() > 60_000);
    peer.method(0, &tune(2047, 131_072, 60));
    peer.take();
    peer.method(0, &connection::OpenOk {});
    assert!(matches!(peer.machine.fetch(promise), Some(Ok(_))));

    for (options, limit) in [(options(), 65_536), (Options::default(), 8192)] {
        let (mut peer, promise) = logging_in(options, limit);
        let text = peer.error(promise).to_string();
        let size = text.split("got ").nth(1).unwrap_or_default();
        let size: usize = size.split(';').next().unwrap().parse().expect(&text);
        assert!(size > limit && size < limit + 1000, "{text}");
        let names = [
            format!("at most {limit} bytes"),
            "Options::initial_frame_max".to_owned(),
            "initial_frame_max in rabbitmq.conf".to_owned(),
        ];
        assert!(names.iter().all(|it| text.contains(it)), "{text}");
        assert!(!text.contains("ttt") && peer.names().is_empty());
    }
}

#[test]
fn e23_too_small_initial_frame_max_is_refused() {
    let (peer, _) = logging_in(Options::default().initial_frame_max(4095), 10);
    let text = peer.close_reason().to_string();
    assert_eq!(
        text,
        "initial_frame_max: must be at least 4096 bytes, got 4095"
    );
}

#[test]
fn e19_refused_large_login_names_the_brokers_limit() {
    for is_close in [false, true] {
        let (mut peer, promise) = logging_in(Options::default(), 5000);
        if is_close {
            peer.method(0, &close(501, "FRAME_ERROR"));
        } else {
            peer.machine.handle_loss(Broken::Eof);
        }
        let error = peer.error(promise);
        let Error::LargeLogin { bytes, cause } = &error else {
            panic!("{error:?}")
        };
        assert!((5000..6000).contains(bytes), "{error}");
        assert!(error.to_string().contains("initial_frame_max"), "{error}");
        assert_eq!(error.fault().is_some(), is_close);
        assert_eq!(matches!(**cause, Error::LoginRefused), !is_close);
    }
    // A reason that the broker gives is the error.
    let (mut peer, promise) = logging_in(Options::default(), 5000);
    peer.method(0, &close(403, "ACCESS_REFUSED"));
    assert!(matches!(peer.error(promise), Error::AccessRefused(_)));
}

#[test]
fn new_secret_may_fill_a_negotiated_frame() {
    let mut peer = Peer::open_with(Options::default(), tune(2047, 20_000, 60));
    let overhead = 8 + 4 + 4 + 1;
    let update = |peer: &mut Peer, bytes| {
        let secret = vec![b's'; bytes];
        peer.machine.update_secret(&secret, short(""))
    };
    let error = update(&mut peer, 20_000 - overhead + 1).unwrap_err();
    let text = error.to_string();
    assert_eq!(
        text,
        "new_secret: a frame must have at most 20000 bytes, got 20001"
    );
    let promise = update(&mut peer, 20_000 - overhead).unwrap();
    assert_eq!(peer.take()[0].payload.len() + 8, 20_000);
    peer.method(0, &connection::UpdateSecretOk {});
    peer.expect_done(promise);
}
