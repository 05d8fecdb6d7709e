//! The clients, the same for every server: smtp-source of Debian's postfix for how much goes through, and one of our own for
//! what a sender waits for and for connections that are only held.
//!
//! Our own speaks no PIPELINING, as smtp-source doesn't: each command waits for its reply.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::find;

/// What is sent, and how.
#[derive(Clone, Copy)]
pub struct Load {
    pub sessions: usize,
    /// Whether a connection carries many messages, or one.
    pub kept: bool,
    /// Octets below the header.
    pub size: usize,
}

impl Load {
    pub fn words(&self) -> String {
        let size = match self.size {
            octets if octets >= 1 << 20 => format!("{} MiB", octets >> 20),
            octets => format!("{} KiB", octets >> 10),
        };
        let kept = if self.kept { "kept" } else { "one message each" };
        let plural = if self.sessions == 1 { "" } else { "s" };
        format!("{size}, {} session{plural}, {kept}", self.sessions)
    }
}

/// Sends so many messages with smtp-source, and returns how long it took: every one of them has its 250.
pub fn send(address: SocketAddr, load: &Load, count: usize, recipient: &str) -> Duration {
    let mut command = Command::new(find("smtp-source").expect("comes with Postfix"));
    command.args(["-4", "-M", "client.example", "-f", "sender@far.example", "-t", recipient]);
    command.args(["-s", &load.sessions.to_string(), "-m", &count.to_string(), "-l", &load.size.to_string()]);
    if load.kept {
        command.arg("-d");
    }
    // So that mail for one address is not held back because that for another was deferred.
    if recipient.starts_with("numbered") {
        command.arg("-N");
    }
    command.arg(format!("inet:{address}")).stdin(Stdio::null());
    let begun = Instant::now();
    let output = command.output().unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "smtp-source: {}", String::from_utf8_lossy(&output.stderr));
    took
}

/// One session of our own.
pub struct Session {
    reader: BufReader<TcpStream>,
}

impl Session {
    /// Connects and says EHLO. `None` if the server has no room.
    pub fn open(address: SocketAddr, patience: Duration) -> Option<Session> {
        let stream = TcpStream::connect_timeout(&address, patience).ok()?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut session = Session { reader: BufReader::with_capacity(512, stream) };
        let greeted = session.reply().is_some_and(|code| code == 220);
        (greeted && session.ask(b"EHLO client.example\r\n") == Some(250)).then_some(session)
    }

    /// Says something, and returns the code of the reply.
    pub fn ask(&mut self, octets: &[u8]) -> Option<u16> {
        self.reader.get_mut().write_all(octets).ok()?;
        self.reply()
    }

    fn reply(&mut self) -> Option<u16> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.get(..3)?.parse().ok();
            }
        }
    }

    /// Sends a message, and returns how long the server took for its last reply.
    pub fn send(&mut self, recipient: &str, message: &[u8]) -> Duration {
        assert_eq!(self.ask(b"MAIL FROM:<sender@far.example>\r\n"), Some(250));
        assert_eq!(self.ask(format!("RCPT TO:<{recipient}>\r\n").as_bytes()), Some(250));
        assert_eq!(self.ask(b"DATA\r\n"), Some(354));
        let begun = Instant::now();
        assert_eq!(self.ask(message), Some(250));
        begun.elapsed()
    }

    /// What is below, for TLS.
    pub fn into_socket(self) -> TcpStream {
        self.reader.into_inner()
    }
}

/// A message with so many octets below its header, and the dot.
pub fn message(size: usize) -> Vec<u8> {
    let line = "X".repeat(78) + "\r\n";
    let mut text = "From: <sender@far.example>\r\nSubject: measured\r\n\r\n".to_owned();
    text += &line.repeat(size.div_ceil(line.len()));
    (text + ".\r\n").into_bytes()
}

/// Sends `count` messages over `sessions` kept connections; how long each waited for the reply to its end, in order.
pub fn waits(address: SocketAddr, sessions: usize, count: usize, recipient: &str) -> Vec<Duration> {
    let message = message(4096);
    let open = || Session::open(address, Duration::from_secs(60)).expect("a session");
    let open: Vec<Session> = (0..sessions).map(|_| open()).collect();
    let one = |mut session: Session| {
        let waits: Vec<Duration> = (0..count / sessions).map(|_| session.send(recipient, &message)).collect();
        session.ask(b"QUIT\r\n");
        waits
    };
    let mut waits: Vec<Duration> = thread::scope(|scope| {
        let threads: Vec<_> = open.into_iter().map(|session| scope.spawn(|| one(session))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    waits.sort_unstable();
    waits
}
