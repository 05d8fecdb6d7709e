//! One connection to a next hop: octets out, replies in, each within its stage's time.
//!
//! The time is that of a whole reply or a whole block, however many reads and writes it takes, so that a hop that trickles
//! is no better off than a silent one. A hop that has spoken before it was asked is out of step: its words could answer
//! the wrong command, and the session is over. Every error is a [`Refusal`] in plain words. TLS takes a `Wire` by value and
//! gives it back upgraded, so that nothing that was read in clear outlives it; close_notify is said when it is dropped.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use nix::libc;
use rustls::pki_types::ServerName;

use super::reply::{Answer, Collector};
use super::security::Security;
use super::socket::Socket;
use super::stage::{Patience, Stage};
use super::{Peer, Refusal};
use crate::io::tls::{self, Layer, TlsFacts};
use crate::limits;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;

/// Octets read at once: a hundred short replies.
const INPUT: usize = 4096;

/// An open connection.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    tls: Option<Box<Layer>>,
    facts: Option<TlsFacts>,
    host: String,
    /// The host's name alone, for what is said of its certificate.
    name: String,
    patience: Patience,
    /// When the steps under way are to be over, however patient each of them is.
    whole: Option<Instant>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
}

/// A reply to a command: what was hoped for, or what it means for the recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// As it should be.
    Yes(Cause),
    /// 4yz or 5yz.
    No(Outcome),
}

impl Wire {
    /// Connects.
    pub fn connect(peer: &Peer<'_>) -> Result<Wire, Refusal> {
        let host = host_of(peer);
        let patience = peer.patience;
        let wait = limits::RELAY_WAIT.min(patience.reply);
        let socket =
            Socket::open(peer.address, patience.connect, wait).map_err(|error| no_connection(&host, peer, &error))?;
        let (name, input) = (peer.name.to_owned(), vec![0; INPUT].into_boxed_slice());
        Ok(Wire { socket, tls: None, facts: None, host, name, patience, whole: None, input, start: 0, end: 0 })
    }

    /// The same connection after a TLS handshake. A hop that has said more in clear than it was asked for gets none: it
    /// may be someone else who said it, for us to read as if it had been encrypted.
    pub fn upgrade(mut self, security: &Security, name: ServerName<'static>) -> Result<Wire, Refusal> {
        if self.has_pending() || self.tls.is_some() {
            return Err(self.out_of_step(Stage::Tls, "spoke before it was asked"));
        }
        self.socket.by = self.deadline(Stage::Tls);
        let agreed = tls::connect(security.config(), name, &mut self.socket);
        let (layer, facts) = agreed.map_err(|error| {
            let failure = security.failure(&error, &self.name);
            failure.unwrap_or_else(|| self.broken(Stage::Tls, &error))
        })?;
        self.tls = Some(Box::new(layer));
        self.facts = Some(facts);
        Ok(self)
    }

    /// What was agreed on with the hop, once it is encrypted.
    pub fn facts(&self) -> Option<&TlsFacts> {
        self.facts.as_ref()
    }

    /// Sends a command, or several, or a block of a message. All of it, or what was sent has no end.
    pub fn send(&mut self, stage: Stage, octets: &[u8]) -> Result<(), Refusal> {
        if self.has_pending() {
            return Err(self.out_of_step(stage, "spoke before it was asked"));
        }
        let by = self.deadline(stage);
        self.write_all(octets, by).map_err(|error| self.broken(stage, &error))
    }

    /// Waits for the next reply.
    pub fn reply(&mut self, stage: Stage) -> Result<Answer, Refusal> {
        let by = self.deadline(stage);
        let mut collector = Collector::default();
        loop {
            if self.start == self.end {
                self.fill(by).map_err(|error| self.broken(stage, &error))?;
            }
            let (used, answer) = collector
                .feed(&self.input[self.start..self.end])
                .map_err(|rubbish| self.out_of_step(stage, &format!("gave a reply that {}", rubbish.0)))?;
            self.start += used;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }

    /// Sends one command and waits for its reply.
    pub fn ask(&mut self, stage: Stage, line: &str) -> Result<Answer, Refusal> {
        self.send(stage, line.as_bytes())?;
        self.reply(stage)
    }

    /// Takes leave of a hop that waits for the next command and gets none, for the reason that is given back. Its reply
    /// is waited for shortly, and nothing depends on it (RFC 5321 §4.1.1.10).
    pub fn leave(&mut self, why: Refusal) -> Refusal {
        let _ = self.ask(Stage::Quit, "QUIT\r\n");
        why
    }

    /// What `answer` says where `hoped` is the code that is due, or its class. 421 ends the session (RFC 5321 §3.8), and
    /// so does a code that is none of these here.
    pub fn judge(&self, stage: Stage, answer: &Answer, hoped: u16) -> Result<Said, Refusal> {
        let cause = Cause { reply: answer.reply(), host: Some(self.host.clone()) };
        match (answer.code(), answer.class()) {
            (421, _) => Err(Refusal { stage, outcome: Outcome::Deferred(cause) }),
            (code, class) if code == hoped || class == hoped => Ok(Said::Yes(cause)),
            (_, 4) => Ok(Said::No(Outcome::Deferred(cause))),
            (_, 5) => Ok(Said::No(Outcome::Failed(cause))),
            (code, _) => Err(self.out_of_step(stage, &format!("gave the reply {code}, which means nothing here"))),
        }
    }

    /// The reply to a message that was not sent to its end, if there is one and it says no.
    pub fn last_words(&mut self, stage: Stage) -> Option<Refusal> {
        if !self.has_spoken() {
            return None;
        }
        let answer = self.reply(stage).ok()?;
        match self.judge(stage, &answer, 2) {
            Err(refusal) if answer.class() == 4 => Some(refusal),
            Ok(Said::No(outcome)) => Some(Refusal { stage, outcome }),
            _ => None,
        }
    }

    /// The host, for what we say about it ourselves: `mx.example.net [192.0.2.1]`. Only what it said itself has it as
    /// [`Cause::host`].
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Lets `steps` take so long together, three times as long as a reply at most, and a second for each
    /// [`limits::RELAY_RATE`] of the octets they send: a hop that is in time for each of them, and takes for ever over all,
    /// keeps a thread from the mail of others.
    pub fn within<T>(&mut self, span: Duration, octets: u64, steps: impl FnOnce(&mut Wire) -> T) -> T {
        let span = span.min(self.patience.reply * 3) + Duration::from_secs(octets / limits::RELAY_RATE);
        self.whole = Some(Instant::now() + span);
        let result = steps(self);
        self.whole = None;
        result
    }

    /// A hop that does not keep to the protocol.
    pub fn out_of_step(&self, stage: Stage, what: &str) -> Refusal {
        let text = format!("{} broke the protocol while {}: it {what}", self.host, stage.words());
        Refusal::deferred(stage, Enhanced(4, 5, 0), text)
    }

    /// Whether the hop has said something that was not read yet.
    pub fn has_pending(&self) -> bool {
        self.start < self.end || self.tls.as_ref().is_some_and(|tls| tls.ready() > 0)
    }

    /// Whether the hop has said something, read or not, without waiting for it.
    pub fn has_spoken(&mut self) -> bool {
        self.has_pending() || self.look().is_ok_and(|count| count > 0)
    }

    /// Whether the connection is open and the hop silent, as it should be between two transactions.
    pub fn is_quiet(&mut self) -> bool {
        !self.has_pending() && self.look().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether there is something to read, without waiting for it: octets, or zero at the end. Tickets are nothing.
    fn look(&mut self) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.peek(),
            Some(tls) => self.socket.at_once(|stream| tls.peek(stream)),
        }
    }

    fn broken(&self, stage: Stage, error: &io::Error) -> Refusal {
        let (host, during) = (&self.host, stage.words());
        let text = match error.kind() {
            io::ErrorKind::TimedOut if self.whole.is_some_and(|whole| whole <= Instant::now()) => {
                format!("{host} took too long over one message: it stopped while {during}")
            }
            io::ErrorKind::TimedOut => {
                format!("{host} took longer than {:?} while {during}", stage.timeout(&self.patience))
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                format!("{host} closed the connection while {during}")
            }
            _ => format!("the connection to {host} broke while {during}: {error}"),
        };
        Refusal::deferred(stage, Enhanced(4, 4, 2), text)
    }

    fn deadline(&self, stage: Stage) -> Instant {
        let by = Instant::now() + stage.timeout(&self.patience);
        self.whole.map_or(by, |whole| whole.min(by))
    }

    /// Reads what there is into the empty buffer. The end of the input is an error too.
    fn fill(&mut self, by: Instant) -> io::Result<()> {
        self.socket.by = by;
        let count = match &mut self.tls {
            None => self.socket.read(&mut self.input)?,
            Some(tls) => tls.read(&mut self.socket, &mut self.input)?,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.start, self.end) = (0, count);
        Ok(())
    }

    fn write_all(&mut self, mut octets: &[u8], by: Instant) -> io::Result<()> {
        self.socket.by = by;
        while !octets.is_empty() {
            let count = match &mut self.tls {
                None => self.socket.write(octets)?,
                Some(tls) => tls.write(&mut self.socket, octets)?,
            };
            octets = &octets[count..];
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            // Nobody is waited for any more.
            let _ = self.socket.at_once(|stream| {
                tls.close(stream);
                Ok(())
            });
        }
    }
}

/// Its name and its address; the address alone where it has no name.
fn host_of(peer: &Peer<'_>) -> String {
    let address = peer.address.ip().to_canonical().to_string();
    if peer.name == address { address } else { format!("{} [{address}]", peer.name) }
}

fn no_connection(host: &str, peer: &Peer<'_>, error: &io::Error) -> Refusal {
    // What this host lacks says nothing about the other one.
    let ours = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
    let cause = if ours {
        Cause::local(Enhanced(4, 3, 0), format!("no connection could be made: {error}"))
    } else {
        let (port, patience) = (peer.address.port(), peer.patience.connect);
        let text = match error.kind() {
            io::ErrorKind::TimedOut => format!("{host} did not answer on port {port} within {patience:?}"),
            io::ErrorKind::ConnectionRefused => {
                format!("{host} refused the connection: nothing listens on port {port}")
            }
            _ => format!("no connection to {host} on port {port}: {error}"),
        };
        Cause::local(Enhanced(4, 4, 1), text)
    };
    Refusal { stage: Stage::Connect, outcome: Outcome::Deferred(cause) }
}

#[cfg(test)]
mod tls_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn pair(reply: Duration) -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let patience = Patience { connect: Duration::from_secs(10), reply };
        let address = listener.local_addr().unwrap();
        let peer = Peer { address, name: "mx.example", is_authentic: true, hello: "mail.example.org", patience };
        let wire = Wire::connect(&peer).unwrap();
        (wire, listener.accept().unwrap().0)
    }

    fn text(refusal: Refusal) -> String {
        let Outcome::Deferred(cause) = refusal.outcome else { panic!("{refusal:?}") };
        assert_eq!(cause.host, None, "the host said nothing");
        cause.to_string()
    }

    #[test]
    fn trickled_octets_do_not_extend_the_wait() {
        let (mut wire, mut hop) = pair(Duration::from_millis(200));
        let trickle = std::thread::spawn(move || {
            while hop.write_all(b"250-x\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let before = Instant::now();
        let refusal = wire.reply(Stage::Mail).unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(10));
        assert_eq!(
            text(refusal),
            "451 4.4.2 mx.example [127.0.0.1] took longer than 200ms while we waited for its reply to MAIL"
        );
        drop(wire);
        trickle.join().unwrap();
    }

    #[test]
    fn replies_in_time_do_not_extend_the_whole() {
        let (mut wire, mut hop) = pair(Duration::from_millis(200));
        let patient = std::thread::spawn(move || {
            while hop.write_all(b"250 x\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let whole = Duration::from_millis(350);
        let refusal = wire.within(whole, 0, |wire| (0..1000).find_map(|_| wire.reply(Stage::Rcpt).err())).unwrap();
        let said = "451 4.4.2 mx.example [127.0.0.1] took too long over one message: it stopped while we waited for its \
                    reply to RCPT";
        assert_eq!(text(refusal), said);
        wire.reply(Stage::Rcpt).expect("what comes after has its own time");
        drop(wire);
        patient.join().unwrap();
    }

    #[test]
    fn blocks_in_time_do_not_extend_the_whole_and_the_size_does() {
        for (octets, extended) in [(limits::RELAY_RATE - 1, false), (limits::RELAY_RATE, true)] {
            let (mut wire, mut hop) = pair(Duration::from_millis(500));
            let slow = std::thread::spawn(move || {
                while hop.read(&mut vec![0; limits::RELAY_BLOCK]).is_ok_and(|count| count > 0) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let (block, before) = (vec![b'x'; limits::RELAY_BLOCK], Instant::now());
            let send = |wire: &mut Wire| (0..10_000).find_map(|_| wire.send(Stage::Message, &block).err());
            let refusal = wire.within(Duration::from_millis(300), octets, send).unwrap();
            let said =
                "451 4.4.2 mx.example [127.0.0.1] took too long over one message: it stopped while we sent the message";
            assert_eq!(text(refusal), said);
            assert_eq!(before.elapsed() >= Duration::from_secs(1), extended, "{octets}");
            drop(wire);
            slow.join().unwrap();
        }
    }

    #[test]
    fn a_hop_that_does_not_read_is_waited_for_no_longer() {
        let (mut wire, _hop) = pair(Duration::from_millis(100));
        let block = vec![b'x'; limits::RELAY_BLOCK];
        let before = Instant::now();
        let refusal = (0..10_000).find_map(|_| wire.send(Stage::Message, &block).err()).unwrap();
        assert!(before.elapsed() < Duration::from_secs(10));
        assert_eq!(text(refusal), "451 4.4.2 mx.example [127.0.0.1] took longer than 100ms while we sent the message");
    }

    #[test]
    fn words_that_were_not_asked_for_end_the_session() {
        let (mut wire, mut hop) = pair(Duration::from_secs(10));
        assert!(wire.is_quiet());
        hop.write_all(b"220 a\r\n250 b\r\n").unwrap();
        while wire.is_quiet() {}
        wire.reply(Stage::Greeting).unwrap();
        assert!(wire.has_pending() && !wire.is_quiet());
        let refusal = wire.send(Stage::Hello, b"EHLO x\r\n").unwrap_err();
        let text = text(refusal);
        assert!(text.starts_with("451 4.5.0 mx.example [127.0.0.1] broke the protocol while we waited"), "{text}");
    }

    #[test]
    fn a_closed_connection_is_not_quiet() {
        let (mut wire, hop) = pair(Duration::from_secs(10));
        drop(hop);
        while wire.is_quiet() {}
    }

    #[test]
    fn what_this_host_lacks_is_not_blamed_on_the_other() {
        let patience = Patience { connect: Duration::from_secs(3), reply: Duration::ZERO };
        let address: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let text = |name, errno| {
            let peer = Peer { address, name, is_authentic: true, hello: "mail.example.org", patience };
            match no_connection(&host_of(&peer), &peer, &io::Error::from_raw_os_error(errno)) {
                Refusal { outcome: Outcome::Deferred(cause), .. } if cause.host.is_none() => cause.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert!(text("mx", libc::EMFILE).starts_with("451 4.3.0 no connection could be made: "));
        assert!(text("mx", libc::ENETUNREACH).starts_with("451 4.4.1 no connection to mx [192.0.2.1] on port 25: "));
        assert_eq!(text("mx", libc::ETIMEDOUT), "451 4.4.1 mx [192.0.2.1] did not answer on port 25 within 3s");
        let refused = "451 4.4.1 192.0.2.1 refused the connection: nothing listens on port 25";
        assert_eq!(text("192.0.2.1", libc::ECONNREFUSED), refused);
    }
}
