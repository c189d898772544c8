//! The null broker behind a socket, on its own thread and core.

use crate::Null;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::{io, thread};

/// The number of bytes to read at a time.
const PIECE: usize = 256 << 10;

/// Pins this thread, and those that it starts later, to one core. Does nothing if there is no such
/// core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Serves every connection to an address of the loopback device, on this core.
///
/// # Errors
/// If no port is free.
pub fn serve(core: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        pin(core);
        for stream in listener.incoming().flatten() {
            // The client closes its end at the end of a measurement, which is not an error.
            thread::spawn(move || connection(&stream));
        }
    });
    Ok(address)
}

fn connection(stream: &TcpStream) -> Result<(), Errno> {
    let _ = stream.set_nodelay(true);
    let mut null = Null::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let mut progress = false;
        let pending = null.pending();
        let idle = pending.is_empty();
        if !idle {
            match send(stream, pending, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) => {
                    null.wrote(bytes);
                    progress = true;
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error),
            }
        } else if null.is_closed() {
            return Ok(());
        }
        let flags = if idle {
            RecvFlags::empty()
        } else {
            RecvFlags::DONTWAIT
        };
        match recv(stream, &mut buffer[..], flags) {
            Ok((_, 0)) => return Ok(()),
            Ok((_, bytes)) => {
                null.take(&buffer[..bytes]);
                progress = true;
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error),
        }
        if !progress {
            let mut fds = [PollFd::new(stream, PollFlags::IN | PollFlags::OUT)];
            poll(&mut fds, None)?;
        }
    }
}
