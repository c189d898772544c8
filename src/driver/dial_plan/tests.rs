//! Tests of the dial plan in virtual time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a plan for these hosts, with timeouts of 1, 2 and 3 seconds.
fn plan(hosts: &[&str], dialling: &Dialling, now: Instant) -> DialPlan {
    let endpoints = hosts.iter().map(|host| match host.strip_prefix('/') {
        Some(_) => Endpoint::unix(host),
        None => Endpoint::tcp(*host, 5672),
    });
    let options = Options::default().endpoints(endpoints).unwrap();
    let options = options
        .resolve_timeout(SECOND)
        .dial_timeout(2 * SECOND)
        .tls_timeout(3 * SECOND);
    DialPlan::new(&options, dialling, Addresses::new(), now)
}

fn from(first: usize, failed: &[usize]) -> Dialling {
    Dialling {
        first,
        failed: failed.iter().map(|endpoint| (*endpoint, None)).collect(),
        ..Dialling::default()
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 5672))
}

/// Returns the step that is due, as text: a host, or the end of an address.
fn step(plan: &mut DialPlan, now: Instant) -> Option<(AttemptId, String)> {
    let (id, step) = plan.poll_step(now)?;
    let text = match step {
        DialStep::Resolve { host, port: 5672 } => host,
        DialStep::Connect(Address::Tcp(at)) => at.ip().to_string().replace("10.0.0.", "."),
        other => format!("{other:?}"),
    };
    Some((id, text))
}

/// Checks that exactly this step is due, and returns its attempt.
#[track_caller]
fn only(plan: &mut DialPlan, now: Instant, expected: &str) -> AttemptId {
    let (id, text) = step(plan, now).expect("a step is due");
    assert_eq!(text, expected);
    assert_eq!(step(plan, now), None, "another step is due");
    id
}

fn refuse(plan: &mut DialPlan, id: AttemptId, now: Instant) {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    plan.handle_io_error(id, &refused, now);
}

#[test]
fn every_address_of_every_endpoint_is_tried_once() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [address(1), address(2)], now);
    for expected in [".1", ".2"] {
        let id = only(&mut plan, now, expected);
        refuse(&mut plan, id, now);
    }
    let b = only(&mut plan, now, "b");
    let error = io::Error::other("no name server");
    plan.handle_io_error(b, &error, now);
    assert_eq!(step(&mut plan, now), None);
    assert!(plan.is_over());
    let error = plan.into_error();
    assert_eq!(
        error.to_string(),
        "a:5672 (10.0.0.1:5672): connection refused; a:5672 (10.0.0.2:5672): connection refused; \
         b:5672: no name server"
    );
    assert!(std::error::Error::source(&error).is_none());
}

#[test]
fn round_skips_the_endpoints_that_have_failed() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b", "c", "d"], &from(2, &[3, 0]), now);
    for expected in ["c", "b"] {
        let id = only(&mut plan, now, expected);
        refuse(&mut plan, id, now);
    }
    assert!(plan.is_over());
}

#[test]
fn next_attempt_begins_after_250_ms_or_a_failure() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [1, 2, 3].map(address), now);
    let first = only(&mut plan, now, ".1");
    let after = |milliseconds| now + Duration::from_millis(milliseconds);
    assert_eq!(plan.deadline(), Some(after(250)));
    assert_eq!(step(&mut plan, after(249)), None);
    only(&mut plan, after(250), ".2");
    assert_eq!(plan.deadline(), Some(after(500)));
    refuse(&mut plan, first, after(300));
    only(&mut plan, after(300), ".3");
    assert_eq!(step(&mut plan, after(549)), None);
    let b = only(&mut plan, after(550), "b");
    plan.handle_resolved(b, [address(4)], after(560));
    only(&mut plan, after(560), ".4");
    // Each attempt has its own timeout.
    assert_eq!(plan.deadline(), Some(after(2250)));
    for expired in [2250, 2300, 2560] {
        assert_eq!(plan.poll_expired(after(expired - 1)), None);
        assert!(plan.poll_expired(after(expired)).is_some());
    }
    assert!(plan.is_over());
    assert_eq!(
        plan.into_error().to_string(),
        "a:5672 (10.0.0.1:5672): connection refused; \
         a:5672 (10.0.0.2:5672): dialling took longer than 2 s; \
         a:5672 (10.0.0.3:5672): dialling took longer than 2 s; \
         b:5672 (10.0.0.4:5672): dialling took longer than 2 s"
    );
}

#[test]
fn slow_resolver_does_not_delay_the_next_endpoint() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    only(&mut plan, now + SECOND / 4, "b");
    let late = now + SECOND / 3;
    plan.handle_resolved(a, [address(1)], late);
    only(&mut plan, late, ".1");
    let b = plan.poll_expired(now + SECOND + SECOND / 4).unwrap();
    assert_ne!(a, b);
    assert_eq!(
        plan.failed[0].error.to_string(),
        "resolving the host took longer than 1 s"
    );
}

#[test]
fn losers_begin_again_if_tls_fails() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [1, 2, 3].map(address), now);
    only(&mut plan, now, ".1");
    let now = now + SECOND / 4;
    let second = only(&mut plan, now, ".2");
    plan.handle_connected(second, now);
    assert_eq!(plan.tls_host(second), Some("a"));
    // Nothing else begins during the handshake, which has its own timeout.
    assert_eq!(plan.deadline(), Some(now + 3 * SECOND));
    assert_eq!(step(&mut plan, now + 2 * SECOND), None);
    let now = now + 3 * SECOND;
    assert_eq!(plan.poll_expired(now), Some(second));
    assert_eq!(
        plan.failed[0].error.to_string(),
        "the TLS handshake took longer than 3 s"
    );
    only(&mut plan, now, ".1");
    only(&mut plan, now + SECOND / 4, ".3");
}

#[test]
fn dialled_lists_what_has_failed_and_is_unfinished() {
    let now = Instant::now();
    let mut plan = plan(&["a", "b", "c"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [], now);
    let b = only(&mut plan, now, "b");
    plan.handle_resolved(b, [1, 2].map(address), now);
    let first = only(&mut plan, now, ".1");
    refuse(&mut plan, first, now);
    only(&mut plan, now, ".2");
    let now = now + SECOND / 4;
    let c = only(&mut plan, now, "c");
    plan.handle_resolved(c, [3, 4].map(address), now);
    let third = only(&mut plan, now, ".3");
    refuse(&mut plan, third, now);
    let fourth = only(&mut plan, now, ".4");
    plan.handle_connected(fourth, now);
    let dialled = plan.take_dialled(fourth, false).unwrap();
    assert_eq!((dialled.endpoint, dialled.address), (2, Some(address(4))));
    let failed: Vec<_> = dialled.failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        failed,
        [
            "a:5672: a has no address",
            "b:5672 (10.0.0.1:5672): connection refused",
            "c:5672 (10.0.0.3:5672): connection refused"
        ]
    );
    // The second address of `b` was dropped when that of `c` was connected.
    assert_eq!(dialled.unfinished, [1]);
}

#[test]
fn dialled_endpoint_with_other_addresses_is_unfinished() {
    for (addresses, unfinished) in [(1, &[][..]), (3, &[0])] {
        let now = Instant::now();
        let mut plan = plan(&["a"], &from(0, &[]), now);
        let a = only(&mut plan, now, "a");
        plan.handle_resolved(a, (1..=addresses).map(address), now);
        let first = only(&mut plan, now, ".1");
        plan.handle_connected(first, now);
        let dialled = plan.take_dialled(first, false).unwrap();
        assert_eq!(dialled.unfinished, unfinished);
    }
}

#[test]
fn round_skips_the_addresses_that_have_failed() {
    let now = Instant::now();
    let mut dialling = from(0, &[2]);
    dialling
        .failed
        .extend([(0, Some(address(1))), (1, Some(address(2)))]);
    let mut plan = plan(&["a", "b", "c"], &dialling, now);
    plan.preferred = Addresses::from([(0, address(1))]);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [1, 2, 3].map(address), now);
    // It has failed for `b` only.
    let second = only(&mut plan, now, ".2");
    refuse(&mut plan, second, now);
    let third = only(&mut plan, now, ".3");
    refuse(&mut plan, third, now);
    let b = only(&mut plan, now, "b");
    // Nothing is left of this host, which is no failure of its own.
    plan.handle_resolved(b, [address(2)], now);
    assert_eq!(step(&mut plan, now), None);
    assert!(plan.is_over());
    assert_eq!(plan.failed.len(), 2);
}

#[test]
fn address_that_worked_last_is_first() {
    let now = Instant::now();
    let mut plan = plan(&["a"], &from(0, &[]), now);
    plan.preferred = Addresses::from([(0, address(2)), (1, address(3))]);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [1, 2, 3].map(address), now);
    only(&mut plan, now, ".2");
    only(&mut plan, now + SECOND / 4, ".1");
    only(&mut plan, now + SECOND / 2, ".3");
}

#[test]
fn system_error_names_the_host_or_address() {
    let now = Instant::now();
    let mut plan = plan(&["a"], &from(0, &[]), now);
    let a = only(&mut plan, now, "a");
    plan.handle_resolved(a, [address(1)], now);
    let first = only(&mut plan, now, ".1");
    refuse(&mut plan, first, now);
    let error = Error::of_attempts(plan.failed);
    assert_eq!(error.to_string(), "10.0.0.1:5672: connection refused");
    let Error::ConnectionBroken(crate::error::Broken::Io(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
#[cfg(unix)]
fn unix_socket_is_used_without_tls() {
    let now = Instant::now();
    let mut plan = plan(&["a", "/s"], &from(1, &[]), now);
    let unix = only(&mut plan, now, r#"Connect(Unix("/s"))"#);
    assert_eq!(plan.pending[0].deadline, now + 2 * SECOND);
    plan.handle_connected(unix, now);
    assert_eq!(plan.tls_host(unix), None);
    refuse(&mut plan, unix, now);
    only(&mut plan, now, "a");
    let unix = &plan.failed[0];
    assert_eq!(unix.to_string(), "/s: connection refused");
}

#[test]
fn error_is_empty_if_everything_failed_before() {
    let now = Instant::now();
    let mut plan = plan(&["a"], &from(0, &[0]), now);
    assert_eq!(plan.poll_step(now), None);
    assert!(plan.is_over());
    assert!(matches!(plan.into_error(), Error::CannotConnect(failed) if failed.is_empty()));
}
