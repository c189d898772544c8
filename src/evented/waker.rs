//! A waker for a thread that is blocked in the system.
//!
//! Waking costs one system call, and only if a thread is blocked or about to block.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

#[cfg(unix)]
pub(super) use std::os::unix::net::UnixStream as WakeSocket;

/// Windows can only wait for sockets.
#[cfg(windows)]
pub(super) use std::net::TcpStream as WakeSocket;

/// Wakes a thread that is blocked in the system, and an event loop of the application.
#[derive(Debug, Default)]
pub(super) struct ThreadWaker {
    /// The thread was woken and has not begun to work since.
    is_woken: AtomicBool,
    /// A thread is blocked on the sockets, or about to be. With sequentially consistent operations,
    /// either the thread sees that it is woken, or the waking thread sees that it is waiting.
    is_thread_waiting: AtomicBool,
    /// The two ends of a connected pair, created by the first wait.
    sockets: OnceLock<(WakeSocket, WakeSocket)>,
    /// The waker of the application's event loop.
    loop_waker: Option<Waker>,
}

impl ThreadWaker {
    /// Returns a thread waker that also wakes the application's event loop.
    pub(super) fn with_waker(waker: Waker) -> Self {
        Self {
            loop_waker: Some(waker),
            ..Self::default()
        }
    }

    fn wake_thread(&self) {
        if self.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.is_thread_waiting.load(Ordering::SeqCst)
            && let Some((_, mut far)) = self.sockets.get().map(|(near, far)| (near, far))
        {
            // A write fails if the socket's buffer is full, which is harmless: the other socket is
            // readable then.
            drop(far.write(&[1]));
        }
        if let Some(waker) = &self.loop_waker {
            waker.wake_by_ref();
        }
    }

    /// Clears the flag before the work is done, so that a later request sets it again.
    pub(super) fn clear(&self) {
        self.is_woken.store(false, Ordering::SeqCst);
    }

    /// Prepares the thread to block: later wakes write to the sockets. Returns the socket to wait
    /// for, or `None` if the thread was woken already.
    pub(super) fn begin_wait(&self) -> io::Result<Option<&WakeSocket>> {
        if self.sockets.get().is_none() {
            // Only the thread that waits gets here, so `set` does not fail.
            drop(self.sockets.set(socket_pair()?));
        }
        self.is_thread_waiting.store(true, Ordering::SeqCst);
        if self.is_woken.load(Ordering::SeqCst) {
            self.is_thread_waiting.store(false, Ordering::SeqCst);
            return Ok(None);
        }
        Ok(self.sockets.get().map(|(near, _)| near))
    }

    /// Ends the wait, and empties the socket if it was readable.
    pub(super) fn end_wait(&self, readable: bool) {
        self.is_thread_waiting.store(false, Ordering::SeqCst);
        if readable && let Some((mut near, _)) = self.sockets.get().map(|(near, far)| (near, far)) {
            drop(near.read(&mut [0; 16]));
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_thread();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_thread();
    }
}

#[cfg(unix)]
fn socket_pair() -> io::Result<(WakeSocket, WakeSocket)> {
    let (near, far) = WakeSocket::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok((near, far))
}

#[cfg(windows)]
fn socket_pair() -> io::Result<(WakeSocket, WakeSocket)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let far = WakeSocket::connect(listener.local_addr()?)?;
    let (near, address) = listener.accept()?;
    if address != far.local_addr()? {
        return Err(io::Error::other(
            "unexpected connection to the internal loopback listener",
        ));
    }
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}
