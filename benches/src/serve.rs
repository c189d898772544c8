//! The null broker behind a socket, on a thread and a core of its own.

use crate::Null;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::{io, thread};

/// Octets that are read at a time.
const PIECE: usize = 256 << 10;

/// Keeps this thread, and those that it starts from now on, on one core. Does nothing where there is no such core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Serves every connection that is made to an address of the loopback device, on that core.
///
/// # Errors
/// When there is no port.
pub fn serve(core: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        pin(core);
        for stream in listener.incoming().flatten() {
            // The client's end goes away at the end of a measurement, which is no error.
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
                Ok(octets) => {
                    null.wrote(octets);
                    progress = true;
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error),
            }
        } else if null.is_closed() {
            return Ok(());
        }
        let flags = if idle { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(stream, &mut buffer[..], flags) {
            Ok((_, 0)) => return Ok(()),
            Ok((_, octets)) => {
                null.take(&buffer[..octets]);
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
