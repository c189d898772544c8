//! The bell: rung by any thread when there is something to do, heard by the one that waits.
//!
//! Ringing costs a system call only while somebody waits for the system, and then once.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

#[cfg(unix)]
pub(super) use std::os::unix::net::UnixStream as Wire;

/// On Windows only sockets can be waited for together with sockets.
#[cfg(windows)]
pub(super) use std::net::TcpStream as Wire;

/// Wakes a thread that waits for the system, or a loop that is not ours.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    /// Whether somebody waits for the wire, or is about to.
    listening: AtomicBool,
    /// Its two ends; there once somebody has waited.
    wire: OnceLock<(Wire, Wire)>,
    /// Wakes the loop that drives the client.
    foreign: Option<Waker>,
}

impl Bell {
    /// A bell that also wakes a loop that is not ours.
    pub(super) fn with_waker(waker: Waker) -> Self {
        Self { foreign: Some(waker), ..Self::default() }
    }

    fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.listening.load(Ordering::SeqCst)
            && let Some((_, mut far)) = self.wire.get().map(|(near, far)| (near, far))
        {
            // A wire that is full will be heard.
            drop(far.write(&[1]));
        }
        if let Some(waker) = &self.foreign {
            waker.wake_by_ref();
        }
    }

    /// Forgets that it was rung: whatever for, it is being seen to.
    pub(super) fn clear(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// From here on, ringing makes the wire readable. `None` when it was rung already.
    pub(super) fn listen(&self) -> io::Result<Option<&Wire>> {
        if self.wire.get().is_none() {
            // Only the thread that waits comes here.
            drop(self.wire.set(wire()?));
        }
        self.listening.store(true, Ordering::SeqCst);
        if self.rung.load(Ordering::SeqCst) {
            self.listening.store(false, Ordering::SeqCst);
            return Ok(None);
        }
        Ok(self.wire.get().map(|(near, _)| near))
    }

    /// The wire is not waited for any more, and was readable or not.
    pub(super) fn stop_listening(&self, readable: bool) {
        self.listening.store(false, Ordering::SeqCst);
        if readable && let Some((mut near, _)) = self.wire.get().map(|(near, far)| (near, far)) {
            drop(near.read(&mut [0; 16]));
        }
    }
}

impl Wake for Bell {
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
        return Err(io::Error::other("somebody else has connected"));
    }
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}
