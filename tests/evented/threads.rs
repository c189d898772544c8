//! Requests from other threads.

use crate::tcp::{SOON, broker, connect_to, connected};
use futures_lite::future::block_on;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

#[test]
fn request_from_another_thread_wakes_the_loop() {
    let (mut conn, client) = connected();
    // The broker sends nothing by itself, and no heartbeat is due within the test.
    let asking = thread::spawn(move || {
        for n in 0..200 {
            block_on(client.queue_declare(format!("q{n}")).into_future()).unwrap();
        }
        block_on(client.close()).unwrap();
    });
    conn.run(SOON).unwrap();
    assert!(conn.is_over());
    asking.join().unwrap();
}

#[test]
fn request_from_another_thread_wakes_a_wait() {
    let (_, address) = broker();
    let (mut conn, client) = connect_to(address);
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    let asking = thread::spawn(move || {
        for n in 0..200 {
            block_on(client.basic_publish("", "q", n.to_string()).into_future()).unwrap();
        }
    });
    for n in 0..200 {
        let delivery = conn.wait(&mut consumer, SOON).unwrap();
        assert_eq!(delivery.body(), n.to_string().as_bytes());
        delivery.ack().unwrap();
    }
    // Its last confirm may not have been read.
    while !asking.is_finished() {
        conn.run(Some(std::time::Duration::from_millis(1))).unwrap();
    }
    asking.join().unwrap();
}

#[test]
fn run_to_end_lasts_until_the_last_handle() {
    let (server, address) = broker();
    let (sender, receiver) = std::sync::mpsc::channel();
    let driving = thread::spawn(move || {
        let (conn, client) = connect_to(address);
        sender.send(client).unwrap();
        conn.run_to_end()
    });
    let client = receiver.recv().unwrap();
    let second = client.clone();
    drop(client);
    block_on(second.queue_declare("q").into_future()).unwrap();
    drop(second.basic_publish("", "q", "one").send());
    drop(second);
    driving.join().unwrap().unwrap();
    assert_eq!(
        server.with(|broker| broker.queue("/", "q").unwrap().ready.len()),
        1,
        "the publish must be flushed"
    );
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn request_from_another_thread_wakes_a_foreign_loop() {
    let (mut conn, client) = crate::memory::connected();
    // A callback that was registered before also wakes the new waker.
    let (told, tell) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = told.clone();
    let ready = tell.clone();
    let slow = std::sync::Arc::new(std::sync::Mutex::new(None::<Waker>));
    let kept = slow.clone();
    let future = std::future::poll_fn(move |cx| {
        *kept.lock().unwrap() = Some(cx.waker().clone());
        if ready.load(Ordering::SeqCst) == 1 {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    });
    conn.on(future, move |_, ()| seen.store(1, Ordering::SeqCst));
    crate::memory::settle(&mut conn).unwrap();

    let count = Arc::new(Count(AtomicUsize::new(0)));
    conn.set_waker(count.clone().into());
    crate::memory::settle(&mut conn).unwrap();
    let before = count.0.load(Ordering::SeqCst);
    let asked = thread::spawn(move || (client.queue_declare("q").send(), client))
        .join()
        .unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
    assert!(conn.needs_write());
    crate::memory::answer(&mut conn, asked.0).unwrap();

    crate::memory::settle(&mut conn).unwrap();
    let before = count.0.load(Ordering::SeqCst);
    tell.store(1, Ordering::SeqCst);
    thread::spawn(move || slow.lock().unwrap().take().unwrap().wake())
        .join()
        .unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
    assert!(
        conn.next_timeout().unwrap() <= std::time::Instant::now(),
        "a callback is ready"
    );
    conn.run_any_callbacks();
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

/// Returns the processor time that this thread has used.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // The times in user and in kernel mode, in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[test]
#[cfg(target_os = "linux")]
fn waiting_uses_hardly_any_processor_time() {
    let (mut conn, client) = connected();
    let waits = Duration::from_millis(400);
    // The wake of the other thread must not keep the loop awake afterwards.
    let asking = thread::spawn(move || {
        block_on(client.queue_declare("q").into_future()).unwrap();
        client
    });
    while !asking.is_finished() {
        conn.run(Some(Duration::from_millis(1))).unwrap();
    }
    let client = asking.join().unwrap();
    let consume = &mut client.basic_consume("q").send();
    let mut consumer = conn.wait(consume, SOON).unwrap();
    let before = processor_time();
    conn.run(Some(waits)).unwrap();
    assert!(conn.wait(&mut consumer, Some(waits)).is_err());
    let used = processor_time() - before;
    assert!(used <= waits / 8, "{used:?}");
}
