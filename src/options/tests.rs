//! Facts about options: what is taken, what is refused when it is set, and that no secret is shown.

use super::*;

fn refused(endpoints: impl IntoIterator<Item = Endpoint>) -> String {
    Options::default().endpoints_in_turn(endpoints).unwrap_err().to_string()
}

#[test]
fn endpoints_are_those_of_the_uri_until_others_are_given() {
    let options = Options::from_uri("amqp://host:1").unwrap();
    assert_eq!(options.endpoints(), [Endpoint::tcp("host", 1)]);
    let turn = [Endpoint::tcp("::1", 2), Endpoint::unix("/run/broker")];
    let options = options.endpoints_in_turn(turn.clone()).unwrap();
    assert_eq!(options.endpoints(), turn);
    let options = options.endpoint(Endpoint::tcp("other", 3)).unwrap();
    assert_eq!(options.endpoints(), [Endpoint::tcp("other", 3)]);
    assert_eq!(turn.map(|endpoint| endpoint.to_string()), ["[::1]:2", "/run/broker"]);
}

#[test]
fn endpoints_that_nobody_can_dial_are_refused_when_they_are_set() {
    assert_eq!(refused([]), "endpoints: there is none");
    assert_eq!(refused([Endpoint::tcp("a", 1), Endpoint::tcp("", 1)]), "endpoints: a host without a name");
    assert_eq!(refused([Endpoint::tcp("a", 0)]), "endpoints: nobody listens on port 0");
    assert_eq!(refused([Endpoint::unix("")]), "endpoints: a socket without a path");
}

#[test]
fn tls_is_done_when_the_uri_or_the_options_say_so() {
    assert!(!Options::default().is_tls() && Options::default().tls_options().is_none());
    let options = Options::from_uri("amqps://host").unwrap();
    let tls = options.tls_options().unwrap();
    assert!(options.is_tls() && tls.verifies_peer() && tls.sends_server_name());
    assert!(tls.authorities().is_empty() && tls.identity().is_none() && tls.expected_name().is_none());
    assert!(Options::default().tls(TlsOptions::default()).is_tls());
}
