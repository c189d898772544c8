//! User code that panics: wakers, credential sources, dialers. The connection continues.

use crate::driver::opened;
use crate::peer::{rabbitmq, reply_to, start};
use crate::pipe::{ManualClock, Pipe, Wakes};
use puka::{Clock, Dial, Error, Options, Recovery, Transport};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// A clock whose first sleep panics when it is polled.
struct PanickingClock(ManualClock, Arc<AtomicUsize>);

impl Clock for PanickingClock {
    type Sleep = Pin<Box<dyn Future<Output = ()>>>;

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> Self::Sleep {
        let is_first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        let sleep = self.0.sleep_until(deadline);
        Box::pin(async move {
            assert!(!is_first, "a sleep");
            sleep.await;
        })
    }
}

#[test]
fn panicking_sleep_is_replaced() {
    let sleeps = Arc::new(AtomicUsize::new(0));
    let clock = PanickingClock(ManualClock::default(), sleeps.clone());
    let (_client, mut driver) = puka::open(Pipe::default(), clock, Options::default());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(catch_unwind(AssertUnwindSafe(|| Pin::new(&mut driver).poll(&mut cx))).is_err());
    assert!(Pin::new(&mut driver).poll(&mut cx).is_pending());
    assert_eq!(sleeps.load(Ordering::SeqCst), 2);
}

struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("a waker");
    }
}

#[test]
fn panicking_waker_leaves_other_tasks_woken() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let names = ["a", "b", "c"];
    let mut promises = names.map(|name| client.queue_declare(name).send());
    pipe.serve(&mut driver);
    drop(promises);
    promises = names.map(|name| client.queue_declare(name).send());
    let wakes = Arc::new(Wakes::default());
    let [first, second, third] = &mut promises;
    let panicking = Waker::from(Arc::new(PanickingWaker));
    assert!(
        Pin::new(first)
            .poll(&mut Context::from_waker(&panicking))
            .is_pending()
    );
    let waking = Waker::from(wakes.clone());
    for promise in [second, third] {
        assert!(
            Pin::new(promise)
                .poll(&mut Context::from_waker(&waking))
                .is_pending()
        );
    }
    assert!(pipe.poll(&mut driver).is_none());
    let answers: Vec<_> = pipe.frames().iter().filter_map(reply_to).collect();
    pipe.feed(&answers.concat());
    let mut panics = 0;
    while catch_unwind(AssertUnwindSafe(|| {
        assert!(pipe.poll(&mut driver).is_none())
    }))
    .is_err()
    {
        panics += 1;
        assert!(panics < 10, "it panics for ever");
    }
    assert_eq!((panics, wakes.count()), (1, 2));
}

#[test]
fn panicking_waker_does_not_abort_an_unwinding_thread() {
    let (client, _pipe, _clock, mut driver) = opened(Options::default());
    let panicking = Waker::from(Arc::new(PanickingWaker));
    let promise = client.queue_declare("q").send();
    while Pin::new(&mut driver)
        .poll(&mut Context::from_waker(&panicking))
        .is_ready()
    {}
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _last = (promise, client);
        panic!("the first");
    }));
    let payload = caught.unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the first"));
}

#[test]
fn panicking_credential_source_fails_the_login() {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let options = Options::default().credentials_from(|| panic!("a credential source"));
    let (_client, mut driver) = puka::open(pipe.clone(), clock, options);
    pipe.feed(&start(&rabbitmq(), b"PLAIN"));
    let ended = pipe.poll(&mut driver);
    assert!(
        matches!(ended, Some(Err(Error::CannotLogIn(_)))),
        "{ended:?}"
    );
}

/// Panics at the first attempts.
struct PanickingNet {
    panics: AtomicUsize,
}

impl Dial for PanickingNet {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let left = self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        assert!(left.is_err(), "a dialer");
        Ok(vec![([127, 0, 0, 1], 5672).into()])
    }

    async fn connect(&self, _: SocketAddr) -> io::Result<Transport> {
        Ok(Transport::new(Pipe::default()))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, _: &Path) -> io::Result<Transport> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[test]
fn panicking_dialer_is_called_again() {
    let net = PanickingNet {
        panics: AtomicUsize::new(2),
    };
    let clock = ManualClock::default();
    let options = Options::default().recovery(Recovery::default().retry_first_connect(true));
    let (client, driver) = puka::connect(net, clock.clone(), options);
    let mut driver = pin!(driver);
    let mut panics = 0;
    for _ in 0..100 {
        let mut cx = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| driver.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => clock.pass(Duration::from_secs(1)),
            Ok(Poll::Ready(ended)) => panic!("{ended:?}"),
            Err(_) => panics += 1,
        }
        if format!("{driver:?}").contains("driving") {
            break;
        }
    }
    assert_eq!(panics, 2);
    assert!(format!("{driver:?}").contains("driving") && client.why_closed().is_none());
}
