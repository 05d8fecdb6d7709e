//! The socket below a session: each read and each write ends by the deadline, however often it is cut short.
//!
//! TLS reads and writes through here as well, so that a handshake is bounded like a reply. An error is that of the system,
//! `TimedOut` once the deadline has passed; the end of the input is a read of nothing.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::SockRef;

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The longest single wait; the deadline is looked at after each.
    wait: Duration,
    read_timeout: Duration,
    write_timeout: Duration,
    by: Instant,
}

impl Socket {
    /// Connects within `patience`. Single waits take `wait` at most.
    pub fn connect(address: SocketAddr, patience: Duration, wait: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Socket { stream, wait, read_timeout: wait, write_timeout: wait, by: Instant::now() })
    }

    /// When all that is read and written from now on has to be over.
    pub fn set_deadline(&mut self, by: Instant) {
        self.by = by;
    }

    /// How many octets wait, up to one, without waiting for them; none at the end.
    pub fn peek(&self) -> io::Result<usize> {
        let mut octet = [MaybeUninit::uninit()];
        SockRef::from(&self.stream).recv_with_flags(&mut octet, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    }

    /// What has come already: reading it waits for nothing.
    pub fn come(&self) -> Come<'_> {
        Come(self)
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
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let wait = self.next_wait()?;
            if self.read_timeout != wait {
                self.stream.set_read_timeout(Some(wait))?;
                self.read_timeout = wait;
            }
            match self.stream.read(into) {
                Err(error) if goes_on(&error) => {}
                read => return read,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        loop {
            let wait = self.next_wait()?;
            if self.write_timeout != wait {
                self.stream.set_write_timeout(Some(wait))?;
                self.write_timeout = wait;
            }
            match self.stream.write(octets) {
                Err(error) if goes_on(&error) => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See [`Socket::come`].
#[derive(Debug)]
pub struct Come<'a>(&'a Socket);

impl Read for Come<'_> {
    /// `WouldBlock` where there is nothing.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.peek()? {
            0 => Ok(0),
            _ => (&self.0.stream).read(into),
        }
    }
}

/// Interrupted, or a timeout of the socket: the deadline decides.
fn goes_on(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
