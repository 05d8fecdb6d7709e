//! One SMTP connection: reads commands, asks the session, moves the octets of messages, and writes replies.
//!
//! Promises: one reply a command, in order; a 250 to a message only once the spool has it on the disk; every wait bounded;
//! memory flat. A client that breaks off in the middle of a message leaves nothing behind. At shutdown a client that
//! waits is told 421; one in the middle of a message may finish it. TLS takes a connection by value: of what was said in
//! clear nothing is left, neither octets that were read nor anything that the session knew (RFC 3207 §4.2).

mod login;
mod message;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::command::{Command, Refusal};
use super::policy::SitePolicy;
use super::receipt::Receipt;
use super::room::{EnvelopeRoom, Share};
use super::session::{Next, Session, Terms, Tls};
use crate::auth::{self, Gate};
use crate::dns::ReverseNames;
use crate::io::line::{Line, LineReader};
use crate::io::stream::{Pace, Place, Stream};
use crate::limits;
use crate::mail::address::{Domain, ForwardPath};
use crate::mail::reply::{self, Reply};
use crate::mail::sasl::Mechanism;
use crate::maillog;
use crate::route::CurrentSite;
use crate::spool::Spool;
use crate::tls::{self, Certificates};
use message::Chunk;

/// What all connections share.
pub struct Server {
    /// Where messages go.
    pub spool: Arc<Spool>,
    /// What this host is.
    pub site: Arc<CurrentSite>,
    /// The names of clients.
    pub names: ReverseNames,
    /// How slowly clients may read.
    pub pace: Pace,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// What this host shows of itself.
    pub certificates: Arc<Certificates>,
    /// Memory for envelopes.
    pub envelopes: Arc<EnvelopeRoom>,
}

/// What a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Mail from anywhere.
    Smtp,
    /// Mail from this host's own people (RFC 6409).
    Submission,
    /// The same under TLS from the first octet on (RFC 8314).
    Submissions,
}

impl Port {
    /// As the log and the configuration name it.
    pub fn name(self) -> &'static str {
        match self {
            Port::Smtp => "smtp",
            Port::Submission => "submission",
            Port::Submissions => "submissions",
        }
    }
}

/// The body of a connection's thread.
pub fn serve(place: Place, server: &Server, port: Port) {
    let timeout = server.site.get().config.limits.command_timeout;
    let Ok(stream) = Stream::new(place, timeout, server.pace) else { return };
    let mut connection = Connection::new(stream, server, port);
    if port == Port::Submissions {
        let Some(upgraded) = connection.upgrade() else { return };
        connection = upgraded;
    }
    let mut end = connection.greet();
    loop {
        end = match end.and_then(|()| connection.run()) {
            Err(End::Upgrade) => {
                let Some(upgraded) = connection.upgrade() else { return };
                connection = upgraded;
                Ok(())
            }
            Err(end) => return connection.say_goodbye(end),
            Ok(never) => match never {},
        }
    }
}

struct Connection<'a> {
    server: &'a Server,
    port: Port,
    reader: LineReader<Stream>,
    session: Session,
    client: IpAddr,
    /// Looked up when the first message comes.
    name: Option<Option<Domain>>,
    replies: Vec<u8>,
    chunks: Option<Receipt>,
    share: RefCell<Share>,
    timeout: Duration,
}

/// Why a connection ends.
enum End {
    /// The last reply was written.
    Over,
    /// The peer is to be told this first.
    Told(Reply, &'static str),
    /// The peer is gone, or can't be written to.
    Gone,
    /// Not the end: it goes on under TLS.
    Upgrade,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        match error.kind() {
            io::ErrorKind::TimedOut => End::Told(reply::timed_out(), "silent or slow for too long"),
            io::ErrorKind::InvalidData => End::Told(reply::endless(), "a line without an end"),
            _ => End::Gone,
        }
    }
}

impl<'a> Connection<'a> {
    fn new(stream: Stream, server: &'a Server, port: Port) -> Connection<'a> {
        let client = stream.peer().ip().to_canonical();
        let timeout = server.site.get().config.limits.command_timeout;
        let session = Session::new(terms(&stream, server, port));
        let reader = LineReader::new(stream);
        let (replies, share) = (Vec::new(), RefCell::new(server.envelopes.share()));
        Connection { server, port, reader, session, client, name: None, replies, chunks: None, share, timeout }
    }

    /// The same client under TLS, of whom nothing is known. `None` if it and we do not agree.
    #[inline(never)]
    fn upgrade(self) -> Option<Connection<'a>> {
        let Connection { server, port, client, timeout, .. } = self;
        let mut stream = self.reader.into_inner();
        stream.set_timeout(timeout);
        stream.set_deadline(timeout);
        match stream.upgrade(&server.certificates.server_config()) {
            Ok(stream) => Some(Connection::new(stream, server, port)),
            Err(error) => {
                maillog::tls_failed(port.name(), client, tls::handshake_words(&error));
                None
            }
        }
    }

    /// Says who we are, or to who guessed too often that there is no use in going on.
    fn greet(&mut self) -> Result<(), End> {
        let site = self.server.site.get();
        if self.session.may_ever_log_in() && self.server.gate.is_shut_out(self.client) {
            return Err(End::Told(reply::shut_out(), "shut out after too many wrong passwords"));
        }
        self.reply(&reply::greeting(site.config.hostname.as_str()));
        Ok(())
    }

    fn run(&mut self) -> Result<Infallible, End> {
        loop {
            let command = self.command()?;
            self.obey(command)?;
        }
    }

    /// Does what a command asks for.
    // Inlined, its room on the stack would be taken while a command is waited for.
    #[inline(never)]
    fn obey(&mut self, command: Result<Command, Refusal>) -> Result<(), End> {
        let (verb, recipient) = (command.as_ref().map_or("-", Command::verb), recipient_of(&command));
        let site = self.server.site.get();
        let (spool, submission) = (&self.server.spool, self.session.is_for_submission());
        let policy = SitePolicy { site: &site, spool, client: self.client, submission, share: &self.share };
        let next = self.session.step(command, &policy);
        if !self.session.in_chunks() {
            // RSET and EHLO forget a message that was under way.
            self.chunks = None;
        }
        if let Next::Reply(reply) | Next::Close(reply) | Next::Swallow(_, reply) = &next
            && reply.is_error()
        {
            maillog::refused(self.client, verb, self.session.reverse_path(), recipient.as_ref(), reply);
        }
        match next {
            Next::Reply(reply) => self.reply(&reply),
            Next::Close(reply) => {
                self.reply(&reply);
                self.flush()?;
                return Err(End::Over);
            }
            Next::StartTls(reply) => {
                self.reply(&reply);
                self.flush()?;
                return Err(End::Upgrade);
            }
            Next::Auth { mechanism, initial } => {
                drop(site);
                self.log_in(mechanism, initial.as_ref().map(|initial| initial.0.as_str()))?;
            }
            Next::Data(envelope) => self.data(envelope, &site)?,
            Next::Chunk { size, last, envelope } => self.chunk(Chunk { size, last, envelope }, &site)?,
            Next::Swallow(size, reply) => {
                self.read_chunk(size, |_| {})?;
                self.reply(&reply);
            }
        }
        if !self.session.has_envelope() {
            self.share.get_mut().release();
        }
        Ok(())
    }

    /// The next command, or why it is none.
    fn command(&mut self) -> Result<Result<Command, Refusal>, End> {
        let parse = |line: Option<&[u8]>| line.map_or_else(|| Err(reply::line_too_long().into()), Command::parse);
        self.line(limits::COMMAND_LINE, parse)
    }

    /// What `read` makes of the next line; it gets none if there are more than `most` octets in it. Before a line is waited
    /// for, all that was said is written, and sooner where much has gathered.
    fn line<T>(&mut self, most: usize, read: impl FnOnce(Option<&[u8]>) -> T) -> Result<T, End> {
        self.reader.shrink();
        let waits = !self.reader.has_pending();
        if waits || self.replies.len() >= limits::MESSAGE_BUFFER {
            self.flush()?;
        }
        if waits {
            self.reader.get_mut().set_waiting(true);
        }
        let (timeout, stream) = (self.timeout, self.reader.get_mut());
        stream.set_timeout(timeout);
        stream.set_deadline(timeout);
        let line = match self.reader.line(most) {
            Ok(Line::Text(text)) => Ok(read(Some(text))),
            Ok(Line::TooLong) => Ok(read(None)),
            Ok(Line::BareLf) => Err(End::Told(reply::bare_line_feed(), "a line that a bare LF ends")),
            Ok(Line::End) => Err(End::Gone),
            Err(error) => Err(error.into()),
        };
        self.reader.get_mut().set_waiting(false);
        line
    }

    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.replies);
    }

    fn flush(&mut self) -> Result<(), End> {
        let written = self.reader.get_mut().write_all(&self.replies);
        self.replies.clear();
        // The buffer of a long list would stay with the session.
        self.replies.shrink_to(limits::COMMAND_BUFFER);
        Ok(written?)
    }

    #[inline(never)]
    fn say_goodbye(&mut self, end: End) {
        // At shutdown the end of input is our own doing.
        let end = match end {
            End::Gone if self.reader.get_mut().closing() => End::Told(reply::shutting_down(), "shutdown"),
            end => end,
        };
        match end {
            End::Over | End::Upgrade => {}
            End::Gone if self.session.reverse_path().is_none() => {}
            End::Gone => {
                maillog::cut_off(self.port.name(), self.client, "the client broke off in the middle of a transaction")
            }
            End::Told(reply, why) => {
                maillog::cut_off(self.port.name(), self.client, why);
                self.reply(&reply);
                // It may be gone, or not be reading; the connection ends either way.
                let _ = self.flush();
            }
        }
    }
}

/// What a connection is for, and what it offers.
fn terms(stream: &Stream, server: &Server, port: Port) -> Terms {
    let site = server.site.get();
    let submission = port != Port::Smtp;
    let bindings = auth::bindings(stream.tls());
    let mechanisms = match submission || site.config.submission.auth_on_25 {
        true => server.gate.offered(true, &bindings).into_iter().map(Mechanism::name).collect(),
        false => Vec::new(),
    };
    let tls = if stream.tls().is_some() { Tls::Active } else { Tls::Offered };
    let log_in_under_tls = !site.config.may_submit_clear(stream.peer().ip());
    Terms { submission, tls, mechanisms, log_in_under_tls }
}

fn recipient_of(command: &Result<Command, Refusal>) -> Option<ForwardPath> {
    match command {
        Ok(Command::Rcpt(path, ..)) => Some(path.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::dns;
    use crate::io::stream::Connections;
    use crate::io::stream::tests::{narrow, pair, read_slowly};
    use crate::route::Site;

    /// A server that stores nothing.
    fn server(folder: &Path, pace: Pace, aliases: &str) -> Server {
        let (spool, _writer) = Spool::open(folder).unwrap();
        let config = Config::parse("hostname = \"mail.example.org\"", Path::new("")).unwrap();
        let aliases = Aliases::parse(Path::new("aliases"), aliases).unwrap();
        let site = Site { config, users: Default::default(), aliases };
        let (names, _names) = dns::reverse_names();
        let site = Arc::new(CurrentSite::new(site));
        let gate = Arc::new(Gate::new(site.clone(), u64::MAX));
        let certificates = Arc::new(Certificates::self_signed(folder));
        let envelopes = EnvelopeRoom::new(0);
        Server { spool: Arc::new(spool), site, names, pace, gate, certificates, envelopes }
    }

    /// The most octets of replies that a client which says all this at once makes gather.
    fn gathered(server: &Server, said: &str) -> usize {
        let (mut client, stream, peer) = pair();
        client.write_all(said.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let place = Connections::new(1, 1).enter(stream, peer).unwrap();
        let stream = Stream::new(place, Duration::from_secs(60), server.pace).unwrap();
        let mut connection = Connection::new(stream, server, Port::Smtp);
        thread::scope(|scope| {
            scope.spawn(move || io::copy(&mut client, &mut io::sink()));
            let mut most = 0;
            while connection.command().and_then(|command| connection.obey(command)).is_ok() {
                most = most.max(connection.replies.len());
            }
            drop(connection);
            most
        })
    }

    #[test]
    fn replies_do_not_gather_without_end_while_the_client_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<_> = (0..1000).map(|number| format!("a{number}@far.example")).collect();
        let server = server(folder.path(), Pace::CLIENT, &format!("list: {}", members.join(", ")));
        // Behind a message, all that a large buffer holds was read at once.
        let behind = format!("BDAT 40000\r\n{}{}", "x".repeat(40_000), "EHLO a\r\n".repeat(1500));
        let most = gathered(&server, &behind);
        assert!((1000..limits::MESSAGE_BUFFER + 1000).contains(&most), "{most}");
        let one = gathered(&server, "EXPN list\r\n");
        assert!(one > 1000 * "250-2.1.5 <a@far.example>".len());
        let most = gathered(&server, &"EXPN list\r\n".repeat(180));
        assert!((one..limits::MESSAGE_BUFFER + one).contains(&most), "{most}");
    }

    #[test]
    fn who_reads_octet_by_octet_does_not_keep_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let pace = Pace { whole: Duration::from_millis(100), rate: 1 << 30, ..Pace::CLIENT };
        let server = server(folder.path(), pace, "");
        let (client, place) = narrow();
        let mut writing = client.try_clone().unwrap();
        thread::scope(|scope| {
            // The server may be gone before all of it is sent.
            scope.spawn(move || _ = writing.write_all("EHLO client.example\r\n".repeat(900).as_bytes()));
            let reading = scope.spawn(move || read_slowly(client));
            serve(place, &server, Port::Smtp);
            assert!(reading.join().unwrap() < 100_000);
        });
    }
}
