//! A TCP connection whose every wait is bounded, and that another thread can end.
//!
//! A read waits for its own timeout and never past the deadline set for the whole command; writes wait for as long as their
//! [`Pace`] allows, one by one and all together, so that no peer holds a connection by reading slowly. [`Connections`] knows
//! all that are open, up to a cap; at shutdown those that only wait for a command are woken with an end of input,
//! the others once their time is over. Waiting too long is `TimedOut`. TLS takes a [`Stream`] by value and gives it back
//! upgraded; bounds and ends are the same over it.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::tls::{self, Layer, TlsFacts};
use crate::limits;

/// One open connection as all threads share it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    waiting: AtomicBool,
}

/// A place among the open connections; given back when dropped.
#[derive(Debug)]
pub struct Place {
    connection: Arc<Connection>,
    key: u64,
    all: Arc<Connections>,
}

/// The open connections of one kind, and whether they are to end.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    most_per_client: usize,
    open: Mutex<Open>,
    closing: AtomicBool,
    next_key: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    connections: HashMap<u64, Arc<Connection>>,
    clients: HashMap<IpAddr, usize>,
}

/// Why a connection got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many are open as there may be.
    All,
    /// This client has as many as one client may have.
    Client,
}

impl Connections {
    /// Room for `most` connections, `most_per_client` of them from one [`network`].
    pub fn new(most: usize, most_per_client: usize) -> Arc<Connections> {
        Arc::new(Connections {
            most,
            most_per_client,
            open: Mutex::default(),
            closing: AtomicBool::new(false),
            next_key: AtomicU64::new(0),
        })
    }

    /// Takes a place for `stream`, or says why there is none and gives the stream back.
    pub fn enter(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Result<Place, (Full, TcpStream)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.connections.len() >= self.most {
            return Err((Full::All, stream));
        }
        let client = network(peer.ip());
        let of_client = open.clients.entry(client).or_default();
        if *of_client >= self.most_per_client {
            return Err((Full::Client, stream));
        }
        *of_client += 1;
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection { stream, peer, waiting: AtomicBool::new(false) });
        open.connections.insert(key, connection.clone());
        Ok(Place { connection, key, all: self.clone() })
    }

    /// How many may be open.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).connections.len()
    }

    /// Whether [`Connections::close_idle`] was called: no new work is to begin.
    pub fn closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// From now on every wait for a command sees an end of input; running commands go on.
    pub fn close_idle(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.shut(|connection| connection.waiting.load(Ordering::SeqCst));
    }

    /// Ends the input of all that are still open.
    pub fn close_all(&self) {
        self.shut(|_| true);
    }

    fn shut(&self, which: impl Fn(&Connection) -> bool) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.connections.values().filter(|connection| which(connection)) {
            // One that the peer has closed already is as good as shut.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
    }
}

impl Place {
    /// Shows the stream, for a last word where nobody serves it.
    pub fn inspect_stream(&self, look: impl FnOnce(&TcpStream)) {
        look(&self.connection.stream);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections.remove(&self.key);
        let client = network(self.connection.peer.ip());
        if let Some(count) = open.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                open.clients.remove(&client);
            }
        }
    }
}

/// What counts as one client: its address, or of IPv6 the /64, which one host has for itself.
pub fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// How slowly a peer may read what is written to it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long one write may stand still.
    pub standstill: Duration,
    /// How long all writes of a connection may wait together, and one second more for each `rate` octets.
    pub whole: Duration,
    /// Octets a second.
    pub rate: u64,
}

impl Pace {
    /// For clients of this server.
    pub const CLIENT: Pace =
        Pace { standstill: limits::WRITE_TIMEOUT, whole: limits::WRITE_WAITS, rate: limits::DATA_RATE };

    fn allows(&self, octets: u64) -> Duration {
        self.whole + Duration::from_secs(octets / self.rate)
    }
}

/// The reading and writing side of a [`Place`].
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<(Layer, TlsFacts)>>,
}

/// What is below TLS.
#[derive(Debug)]
struct Socket {
    place: Place,
    timeout: Duration,
    deadline: Option<Instant>,
    read_timeout_set: Option<Duration>,
    pace: Pace,
    write_timeout_set: Option<Duration>,
    written: u64,
    /// How long writes have taken so far.
    write_waits: Duration,
    /// A write has waited for too long: the peer does not read, and every further one would wait again.
    stuck: bool,
}

impl Stream {
    /// A stream that waits `timeout` for a read, and whose writes keep to `pace`.
    pub fn new(place: Place, timeout: Duration, pace: Pace) -> io::Result<Stream> {
        place.connection.stream.set_nodelay(true)?;
        let socket = Socket {
            place,
            timeout,
            deadline: None,
            read_timeout_set: None,
            pace,
            write_timeout_set: None,
            written: 0,
            write_waits: Duration::ZERO,
            stuck: false,
        };
        Ok(Stream { socket, tls: None })
    }

    /// The same connection after a TLS handshake, for which the client has the time that it had before, and no more than
    /// [`limits::TLS_HANDSHAKE_TIMEOUT`]. A shutdown ends the handshake. An error with a [`rustls::Error`] inside is the
    /// client's, or about what it can do; the connection is closed after any. The reader above must have been dropped
    /// with all that it had read.
    pub fn upgrade(mut self, config: &ServerConfig) -> io::Result<Stream> {
        if self.tls.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "TLS inside TLS"));
        }
        let most = Instant::now().checked_add(limits::TLS_HANDSHAKE_TIMEOUT);
        self.socket.deadline = self.socket.deadline.map_or(most, |deadline| Some(deadline).min(most));
        self.set_waiting(true);
        let agreed = tls::accept(config, &mut self.socket);
        self.set_waiting(false);
        self.tls = Some(Box::new(agreed?));
        Ok(self)
    }

    /// What was agreed on with the client, once it is encrypted.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref().map(|tls| &tls.1)
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.socket.place.connection.peer
    }

    /// The address the client came to.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.place.connection.stream.local_addr()
    }

    /// Whether the server is about to stop.
    pub fn closing(&self) -> bool {
        self.socket.place.all.closing()
    }

    /// Bounds each read from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.socket.timeout = timeout;
    }

    /// Bounds all reads from now on together, until the next call.
    pub fn set_deadline(&mut self, whole: Duration) {
        self.socket.deadline = Instant::now().checked_add(whole);
    }

    /// Says whether reads from now on only wait for a command. At shutdown such reads find the end of input.
    pub fn set_waiting(&self, waiting: bool) {
        self.socket.place.connection.waiting.store(waiting, Ordering::SeqCst);
        if waiting && self.closing() {
            let _ = self.socket.place.connection.stream.shutdown(Shutdown::Read);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        let mut stream = &self.socket.place.connection.stream;
        // Nobody is waited for any more.
        if stream.set_nonblocking(true).is_ok() {
            tls.0.close(&mut stream);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(out),
            Some(tls) => tls.0.read(&mut self.socket, out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(octets),
            Some(tls) => tls.0.write(&mut self.socket, octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A wait that is to last longer is not begun in pieces shorter than this.
const LEAST_WAIT: Duration = Duration::from_secs(60);

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(begun));
        let whole = left.map_or(self.timeout, |left| left.min(self.timeout));
        loop {
            let wait = whole.saturating_sub(begun.elapsed());
            if wait.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.wait_no_longer_than(wait)?;
            match retry(|| (&self.place.connection.stream).read(out)) {
                // What was set may be less than may be waited.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Socket {
    /// Bounds what the kernel waits for octets. Less than may be waited spares the call that would set it: a wait that
    /// ends early goes on. The deadline is met to a second.
    fn wait_no_longer_than(&mut self, wait: Duration) -> io::Result<()> {
        let is_within = |set: Duration| set <= wait + Duration::from_secs(1) && set >= wait.min(LEAST_WAIT);
        if !self.read_timeout_set.is_some_and(is_within) {
            self.place.connection.stream.set_read_timeout(Some(wait))?;
            self.read_timeout_set = Some(wait);
        }
        Ok(())
    }

    /// One write, which waits for no longer than the pace allows.
    fn paced(&mut self, write: impl Fn(&TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        let left = self.pace.allows(self.written).saturating_sub(self.write_waits);
        if self.stuck || left.is_zero() {
            self.stuck = true;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = left.min(self.pace.standstill);
        if self.write_timeout_set != Some(wait) {
            self.place.connection.stream.set_write_timeout(Some(wait))?;
            self.write_timeout_set = Some(wait);
        }
        let begun = Instant::now();
        // What a timeout on a socket looks like.
        let written = retry(|| write(&self.place.connection.stream)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        });
        self.write_waits += begun.elapsed();
        match &written {
            Ok(count) => self.written += *count as u64,
            Err(error) => self.stuck |= error.kind() == io::ErrorKind::TimedOut,
        }
        written
    }
}

impl Write for Socket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.paced(|mut stream| stream.write(octets))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.paced(|mut stream| stream.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        return match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        };
    }
}

#[cfg(test)]
mod tls_tests;

#[cfg(test)]
pub(crate) mod tests;
