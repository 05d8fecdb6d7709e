//! The socket of a connection to a next hop: each read and write ends at a deadline, however often the socket itself waits.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::SockRef;

/// A connection whose waits end at [`Socket::by`].
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The longest single wait; the deadline is looked at after each.
    wait: Duration,
    read_timeout: Duration,
    write_timeout: Duration,
    /// When reads and writes are to have come to an end: `TimedOut`, then.
    pub by: Instant,
}

impl Socket {
    /// Connects within `patience`.
    pub fn open(address: SocketAddr, patience: Duration, wait: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Socket { stream, wait, read_timeout: wait, write_timeout: wait, by: Instant::now() })
    }

    /// How many octets wait in the socket, up to one, without waiting for them; none at the end.
    pub fn peek(&self) -> io::Result<usize> {
        let mut octet = [MaybeUninit::uninit()];
        SockRef::from(&self.stream).recv_with_flags(&mut octet, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    }

    /// Lets `work` read and write what can be had or sent at once; all else is `WouldBlock` there.
    pub fn at_once<T>(&self, work: impl FnOnce(&mut &TcpStream) -> io::Result<T>) -> io::Result<T> {
        self.stream.set_nonblocking(true)?;
        let result = work(&mut &self.stream);
        self.stream.set_nonblocking(false)?;
        result
    }

    /// How long the socket may wait next. Far from the deadline it is always the same, which saves a syscall a wait.
    fn next_wait(&self) -> io::Result<Duration> {
        let left = self.by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The deadline is met to a second.
        Ok(if left + Duration::from_secs(1) < self.wait { left } else { self.wait })
    }

    fn write_some(&mut self, write: impl Fn(&mut &TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            let wait = self.next_wait()?;
            if self.write_timeout != wait {
                self.stream.set_write_timeout(Some(wait))?;
                self.write_timeout = wait;
            }
            match write(&mut &self.stream) {
                Err(error) if goes_on(&error) => {}
                other => return other,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let wait = self.next_wait()?;
            if self.read_timeout != wait {
                self.stream.set_read_timeout(Some(wait))?;
                self.read_timeout = wait;
            }
            match (&self.stream).read(out) {
                Err(error) if goes_on(&error) => {}
                other => return other,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.write_some(|stream| stream.write(octets))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_some(|stream| stream.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Interrupted, or a timeout of the socket: the deadline decides.
fn goes_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
