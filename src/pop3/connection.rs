//! One POP3 connection: reads commands, asks the session, reads the mailbox, and writes answers.
//!
//! Promises: one answer a command, in order; messages are removed only at QUIT, and a connection that ends otherwise
//! removes none; every wait is bounded, reads by silence and by the whole command, those before the login all
//! together, writes by the pace at which the client reads; memory is flat, whatever a message or a list holds. Answers are
//! written out once the client has to be waited for, so that pipelined commands share packets. At shutdown a client that
//! waits is told, and loses nothing. TLS takes a connection by value: of what was said in clear nothing is left
//! (RFC 2595 §4).

mod login;

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::command::{Command, Refusal};
use super::listing::Listing;
use super::login::Login;
pub use super::login::Server;
use super::mailbox::Content;
use super::message::Top;
use super::reply::{self, Answer};
use super::session::{Next, Rows, Session, Terms};
use crate::auth;
use crate::io::dot::Stuff;
use crate::io::line::{Line, LineReader};
use crate::io::stream::{Place, Stream};
use crate::limits;
use crate::mail::sasl::Mechanism;
use crate::maillog;
use crate::tls;

/// What a client beyond the cap is told instead of a greeting.
pub const TOO_MANY: &[u8] = b"-ERR [SYS/TEMP] too many connections; try again later\r\n";
/// As [`TOO_MANY`], where others still have places.
pub const TOO_MANY_FROM_CLIENT: &[u8] = b"-ERR [SYS/TEMP] too many connections from your address\r\n";

/// What a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// In clear, until the client says STLS.
    Pop3,
    /// Under TLS from the first octet on (RFC 8314).
    Pop3s,
}

impl Port {
    /// As the log and the configuration name it.
    pub fn name(self) -> &'static str {
        match self {
            Port::Pop3 => "pop3",
            Port::Pop3s => "pop3s",
        }
    }
}

/// The body of a connection's thread.
pub fn serve(place: Place, server: &Server, port: Port) {
    let Ok(stream) = Stream::new(place, limits::POP3_TIMEOUT, server.pace) else { return };
    let mut connection = Connection::new(stream, server, port, Instant::now() + server.login_time);
    if port == Port::Pop3s {
        let Some(upgraded) = connection.upgrade() else { return };
        connection = upgraded;
    }
    if let Err(end) = connection.greet() {
        return connection.finish(end);
    }
    loop {
        match connection.run() {
            End::Upgrade => {
                let Some(upgraded) = connection.upgrade() else { return };
                connection = upgraded;
            }
            end => return connection.finish(end),
        }
    }
}

struct Connection<'a> {
    server: &'a Server,
    port: Port,
    reader: LineReader<Wire>,
    session: Session,
    client: IpAddr,
    log_in_by: Instant,
}

/// Why a connection ends.
enum End {
    /// The last answer was given.
    Over,
    /// As [`End::Over`], and it was this server that ended it.
    Cut(&'static str),
    /// The client was silent or slow for too long: it is told nothing (RFC 1939 §3).
    Silent,
    /// A message broke off in the middle, where nothing can be told.
    Broken,
    /// The peer is gone.
    Gone,
    /// Not the end: it goes on under TLS.
    Upgrade,
}

/// What the wire fails with; errors of files never become one.
impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        match error.kind() {
            io::ErrorKind::TimedOut => End::Silent,
            _ => End::Gone,
        }
    }
}

impl<'a> Connection<'a> {
    fn new(stream: Stream, server: &'a Server, port: Port, log_in_by: Instant) -> Connection<'a> {
        let client = stream.peer().ip().to_canonical();
        let session = Session::new(terms(&stream, server));
        let reader = LineReader::new(Wire { stream, out: Vec::new() });
        Connection { server, port, reader, session, client, log_in_by }
    }

    /// The same client under TLS, of whom nothing is known. `None` if it and we do not agree.
    fn upgrade(self) -> Option<Connection<'a>> {
        let Connection { server, port, client, log_in_by, .. } = self;
        let mut stream = self.reader.into_inner().stream;
        stream.set_deadline(time_until(log_in_by));
        match stream.upgrade(&server.certificates.server_config()) {
            Ok(stream) => Some(Connection::new(stream, server, port, log_in_by)),
            Err(error) => {
                maillog::tls_failed(port.name(), client, tls::handshake_words(&error));
                None
            }
        }
    }

    /// Says who we are, or to who guessed too often that there is no use in going on.
    fn greet(&mut self) -> Result<(), End> {
        if self.server.gate.is_shut_out(self.client) {
            self.answer(&reply::SHUT_OUT);
            return Err(End::Cut("too many wrong passwords"));
        }
        let greeting = reply::greeting(&self.server.site.get().config.hostname);
        self.answer(&greeting);
        Ok(())
    }

    fn run(&mut self) -> End {
        loop {
            let line = match self.command() {
                Ok(line) => line,
                Err(end) => return end,
            };
            let next = self.session.step(line);
            if let Err(end) = self.obey(next) {
                return end;
            }
        }
    }

    /// The next command, or why it is none.
    fn command(&mut self) -> Result<Result<Command, Refusal>, End> {
        self.line(limits::POP3_LINE, |line| line.map_or(Err(Refusal::TooLong), Command::parse))
    }

    /// What `read` makes of the next line; it gets none if there are more than `most` octets in it.
    fn line<T>(&mut self, most: usize, read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, End> {
        let is_logged_in = self.session.login().is_some();
        let whole = if is_logged_in { limits::POP3_TIMEOUT } else { time_until(self.log_in_by) };
        self.reader.get_mut().stream.set_deadline(whole);
        let (answer, why) = match self.reader.line(most) {
            Ok(Line::Text(text)) => return Ok(read(Some(text))),
            Ok(Line::TooLong) => return Ok(read(None)),
            Ok(Line::BareLf) => (reply::BARE_LINE_FEED, "a line that a bare LF ends"),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => (reply::ENDLESS, "a line without an end"),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !is_logged_in => {
                (reply::LOGIN_TOO_LATE, "no login in time")
            }
            Err(error) => return Err(error.into()),
            Ok(Line::End) => {
                if !self.reader.get_mut().stream.closing() {
                    return Err(End::Gone);
                }
                (reply::STOPPING, "the server stops")
            }
        };
        self.answer(&answer);
        Err(End::Cut(why))
    }

    fn obey(&mut self, next: Next) -> Result<(), End> {
        match next {
            Next::Answer(answer) => {
                if answer == reply::NO_CLEARTEXT {
                    maillog::login_failed(self.client, "-", "not in clear from this address");
                }
                self.answer(&answer);
                Ok(())
            }
            Next::Close(answer) => {
                self.answer(&answer);
                Err(if answer == reply::TOO_MANY_ERRORS {
                    End::Cut("too many errors")
                } else if answer == reply::WRONG_TOO_OFTEN || answer == reply::SHUT_OUT {
                    End::Cut("too many wrong passwords")
                } else {
                    End::Over
                })
            }
            Next::List(answer, rows) => {
                self.answer(&answer);
                self.list(rows)
            }
            Next::Message { index, lines } => self.message(index, lines),
            Next::Login { name, password } => {
                let next = self.log_in(&name, &password.0);
                self.obey(next)
            }
            Next::Auth { mechanism, initial } => {
                let next = self.exchange(mechanism, initial.as_ref().map(|initial| initial.0.as_str()))?;
                self.obey(next)
            }
            Next::StartTls(answer) => {
                self.answer(&answer);
                self.reader.get_mut().flush_out()?;
                Err(End::Upgrade)
            }
            Next::Remove => {
                let answer = self.remove();
                self.answer(&answer);
                Err(End::Over)
            }
        }
    }

    fn list(&mut self, rows: Rows) -> Result<(), End> {
        let (wire, session) = (self.reader.get_mut(), &mut self.session);
        match (rows, session.login()) {
            (Rows::Capabilities, _) => {
                session.capabilities().iter().try_for_each(|line| wire.put(format_args!("{line}\r\n")))?;
            }
            (Rows::Sizes, Some(login)) => {
                let listing = &login.mailbox.listing;
                left(listing).try_for_each(|(n, at)| wire.put(format_args!("{n} {}\r\n", listing.size(at))))?;
            }
            (Rows::Uids, Some(login)) => {
                let listing = &login.mailbox.listing;
                left(listing).try_for_each(|(n, at)| wire.put(format_args!("{n} {}\r\n", listing.uid(at))))?;
            }
            // The session lists messages in the Transaction state only.
            (Rows::Sizes | Rows::Uids, None) => {}
        }
        Ok(wire.put(format_args!(".\r\n"))?)
    }

    /// Sends a message, or why it can't be sent.
    fn message(&mut self, index: usize, lines: Option<u64>) -> Result<(), End> {
        let wire = self.reader.get_mut();
        // The session asks for messages in the Transaction state only.
        let Some(login) = self.session.login() else { return Err(End::Broken) };
        let answer = match login.mailbox.message(index) {
            Ok(Some(content)) => {
                let answer = lines.map_or_else(|| reply::message(login.mailbox.listing.size(index)), |_| reply::TOP);
                answer.write_to(&mut wire.out);
                login.fetched += usize::from(lines.is_none());
                let sent = wire.send(content, lines.map(Top::new));
                if let Err(Sending::File(error)) = &sent {
                    maillog::mailbox_error(&login.address, error);
                }
                return sent.map_err(End::from);
            }
            Ok(None) => reply::GONE,
            Err(error) => {
                maillog::mailbox_error(&login.address, error);
                reply::CANNOT_READ
            }
        };
        self.answer(&answer);
        Ok(())
    }

    /// The UPDATE state (RFC 1939 §6). The mailbox is free again before the client hears of it.
    fn remove(&mut self) -> Answer {
        let Some(mut login) = self.session.leave() else { return reply::BYE };
        let (removed, result) = login.mailbox.remove_deleted();
        let answer = match result {
            Ok(()) => reply::BYE,
            Err(error) => {
                maillog::mailbox_error(&login.address, error);
                reply::NOT_REMOVED
            }
        };
        self.log_out(login, removed);
        answer
    }

    fn log_out(&self, login: Login, removed: usize) {
        let all = login.mailbox.listing.indexes().len();
        maillog::logout(self.client, &login.address, login.fetched, removed, all - removed);
    }

    fn answer(&mut self, answer: &Answer) {
        answer.write_to(&mut self.reader.get_mut().out);
    }

    /// Says what is left to say, to the client and to the log.
    fn finish(&mut self, end: End) {
        if let Some(login) = self.session.leave() {
            self.log_out(login, 0);
        }
        let why = match end {
            End::Cut(why) => Some(why),
            End::Silent => Some("silent or slow for too long"),
            End::Broken => Some("a message could not be read to its end"),
            End::Over | End::Gone | End::Upgrade => None,
        };
        if let Some(why) = why {
            maillog::cut_off(self.port.name(), self.client, why);
        }
        if matches!(end, End::Over | End::Cut(_)) {
            // A client that hears nothing any more needs no last word.
            let _ = self.reader.get_mut().flush_out();
        }
    }
}

/// What a session may do.
fn terms(stream: &Stream, server: &Server) -> Terms {
    let site = server.site.get();
    let cleartext = site.config.may_log_in_clear(stream.peer().ip());
    let under_tls = stream.tls().is_some();
    let offered = server.gate.offered(cleartext || under_tls, &auth::bindings(stream.tls()));
    let mechanisms = offered.into_iter().map(Mechanism::name).collect();
    Terms { cleartext, under_tls, mechanisms, errors: site.config.limits.errors }
}

fn time_until(instant: Instant) -> Duration {
    instant.saturating_duration_since(Instant::now())
}

/// The numbers and indexes of the messages that are not marked as deleted.
fn left(listing: &Listing) -> impl Iterator<Item = (usize, usize)> {
    listing.left_indexes().map(|index| (index + 1, index))
}

/// The stream, and what is still to be written to it. A read first writes everything: who waits for the client has
/// nothing left to say.
struct Wire {
    stream: Stream,
    out: Vec<u8>,
}

/// Why a message broke off.
enum Sending {
    Wire(io::Error),
    File(io::Error),
}

impl From<Sending> for End {
    fn from(sending: Sending) -> End {
        match sending {
            Sending::Wire(error) => error.into(),
            Sending::File(_) => End::Broken,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.flush_out()?;
        self.stream.set_waiting(true);
        let count = self.stream.read(into);
        self.stream.set_waiting(false);
        count
    }
}

impl Wire {
    fn put(&mut self, line: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.out.write_fmt(line)?;
        if self.out.len() >= limits::MESSAGE_BUFFER { self.flush_out() } else { Ok(()) }
    }

    /// Sends a message, or its top, with its final dot.
    fn send(&mut self, mut content: Content, mut top: Option<Top>) -> Result<(), Sending> {
        let mut stuff = Stuff::default();
        let mut block = vec![0; limits::MESSAGE_BUFFER];
        while !top.as_ref().is_some_and(Top::is_over) {
            let count = content.read(&mut block).map_err(Sending::File)?;
            if count == 0 {
                break;
            }
            let wanted = top.as_mut().map_or(count, |top| top.feed(&block[..count]));
            stuff.feed(&block[..wanted], &mut self.out);
            self.flush_out().map_err(Sending::Wire)?;
        }
        stuff.finish(&mut self.out);
        Ok(())
    }

    fn flush_out(&mut self) -> io::Result<()> {
        let written = self.stream.write_all(&self.out);
        self.out.clear();
        // A large message's buffer would stay with every idle session.
        self.out.shrink_to(limits::COMMAND_BUFFER);
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::net::Shutdown;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::io::stream::Pace;
    use crate::io::stream::tests::{narrow, read_slowly};
    use crate::pop3::login::tests;

    #[test]
    fn who_reads_octet_by_octet_does_not_keep_the_mailbox() {
        let folder = tempfile::tempdir().unwrap();
        drop(tests::login(folder.path(), &["1.a.b"]));
        fs::write(folder.path().join("mail/example.org/ann/new/1.a.b"), "x\r\n".repeat(1 << 20)).unwrap();
        let mut server = tests::server(folder.path());
        server.pace = Pace { whole: Duration::from_millis(100), rate: 1 << 30, ..Pace::CLIENT };
        let (mut client, place) = narrow();
        client.write_all(b"USER ann\r\nPASS correct horse\r\nRETR 1\r\nNOOP\r\n").unwrap();
        thread::scope(|scope| {
            let reading = scope.spawn(move || read_slowly(client));
            serve(place, &server, Port::Pop3);
            assert!(tests::log_in(&server, "ann", "correct horse").unwrap().is_ok(), "it is free again");
            assert!(reading.join().unwrap() < 1 << 20);
        });
    }

    /// What a client hears that says `first`, and then CAPA again and again for three seconds, or until it is not heard any
    /// more, and whether that was so.
    fn heard(server: &Server, port: Port, first: &[u8]) -> (String, bool) {
        let (mut client, place) = narrow();
        client.write_all(first).unwrap();
        let mut hearing = client.try_clone().unwrap();
        thread::scope(|scope| {
            let hearing = scope.spawn(move || {
                let mut said = Vec::new();
                let _ = hearing.read_to_end(&mut said);
                String::from_utf8(said).unwrap()
            });
            let speaking = scope.spawn(move || {
                let is_over = (0..300).any(|_| {
                    thread::sleep(Duration::from_millis(10));
                    client.write_all(b"CAPA\r\n").is_err()
                });
                let _ = client.shutdown(Shutdown::Write);
                is_over
            });
            serve(place, server, port);
            let is_over = speaking.join().unwrap();
            (hearing.join().unwrap(), is_over)
        })
    }

    #[test]
    fn who_never_logs_in_does_not_keep_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let mut server = tests::server(folder.path());
        server.login_time = Duration::from_millis(500);
        for first in ["", "USER ann\r\nPASS wrong\r\n", "AUTH PLAIN\r\n"] {
            let (said, is_over) = heard(&server, Port::Pop3, first.as_bytes());
            assert!(is_over && said.ends_with("-ERR the login took too long; closing\r\n"), "{first}: {said}");
        }
        let (said, is_over) = heard(&server, Port::Pop3, b"USER ann\r\nPASS correct horse\r\n");
        assert!(!is_over && !said.contains("-ERR"), "{said}");
        // A handshake that goes on and on, after which nothing can be told.
        let (_, is_over) = heard(&server, Port::Pop3s, &[22, 3, 1, 64, 0]);
        assert!(is_over);
    }
}
