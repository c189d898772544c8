//! A waker for a thread that is blocked in the system.
//!
//! Waking costs one system call, and only if a thread is blocked or about to block.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

#[cfg(unix)]
pub(super) use std::os::unix::net::UnixStream as Wire;

/// Windows can only wait for sockets.
#[cfg(windows)]
pub(super) use std::net::TcpStream as Wire;

/// Wakes a thread that is blocked in the system, and an event loop of the application.
#[derive(Debug, Default)]
pub(super) struct ThreadWaker {
    rung: AtomicBool,
    /// A thread is blocked on the wire, or about to be.
    listening: AtomicBool,
    /// The two ends of a connected pair, created by the first wait.
    wire: OnceLock<(Wire, Wire)>,
    /// The waker of the application's event loop.
    foreign: Option<Waker>,
}

impl ThreadWaker {
    /// Returns a bell that also wakes the application's event loop.
    pub(super) fn with_waker(waker: Waker) -> Self {
        Self {
            foreign: Some(waker),
            ..Self::default()
        }
    }

    fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.listening.load(Ordering::SeqCst)
            && let Some((_, mut far)) = self.wire.get().map(|(near, far)| (near, far))
        {
            // A write that fails because the wire is full is harmless: the wire is readable then.
            drop(far.write(&[1]));
        }
        if let Some(waker) = &self.foreign {
            waker.wake_by_ref();
        }
    }

    /// Clears the flag before the work is done, so that a later request sets it again.
    pub(super) fn clear(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// Makes later wakes write to the wire. Returns the end to wait for, or `None` if there was a
    /// wake already.
    pub(super) fn listen(&self) -> io::Result<Option<&Wire>> {
        if self.wire.get().is_none() {
            // Only the one thread that waits gets here, so `set` does not fail.
            drop(self.wire.set(wire()?));
        }
        self.listening.store(true, Ordering::SeqCst);
        if self.rung.load(Ordering::SeqCst) {
            self.listening.store(false, Ordering::SeqCst);
            return Ok(None);
        }
        Ok(self.wire.get().map(|(near, _)| near))
    }

    /// Ends the wait for the wire, and empties it if it was readable.
    pub(super) fn stop_listening(&self, readable: bool) {
        self.listening.store(false, Ordering::SeqCst);
        if readable && let Some((mut near, _)) = self.wire.get().map(|(near, far)| (near, far)) {
            drop(near.read(&mut [0; 16]));
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(unix)]
fn wire() -> io::Result<(Wire, Wire)> {
    let (near, far) = Wire::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok((near, far))
}

#[cfg(windows)]
fn wire() -> io::Result<(Wire, Wire)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let far = Wire::connect(listener.local_addr()?)?;
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
