//! One SMTP connection: reads commands, asks the session, moves the octets of messages, and writes replies.
//!
//! Promises: one reply a command, in order; a 250 to a message only once the spool has it on the disk; every wait bounded;
//! memory flat. A client that breaks off in the middle of a message leaves nothing behind. At shutdown a client that
//! waits is told 421; one in the middle of a message may finish it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::{Command, Refusal};
use super::policy::SitePolicy;
use super::receipt::{Receipt, storage_reply};
use super::received::{self, Client};
use super::session::{Next, Session};
use crate::dns::ReverseNames;
use crate::io::clock::{self, Now};
use crate::io::line::{Line, LineReader};
use crate::io::stream::{Pace, Place, Stream};
use crate::limits;
use crate::mail::address::{Domain, ForwardPath};
use crate::mail::envelope::Envelope;
use crate::mail::reply::{self, Reply};
use crate::maillog::{self, Origin};
use crate::route::{CurrentSite, Site};
use crate::spool::{Draft, Spool};

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
}

/// The body of a connection's thread.
pub fn serve(place: Place, server: &Server) {
    let timeout = server.site.get().config.limits.command_timeout;
    let Ok(stream) = Stream::new(place, timeout, server.pace) else { return };
    let client = stream.peer().ip().to_canonical();
    let reader = LineReader::new(stream);
    let session = Session::new();
    let mut connection =
        Connection { server, reader, session, client, name: None, replies: Vec::new(), chunks: None, timeout };
    if let Err(end) = connection.run() {
        connection.say_goodbye(end);
    }
}

struct Connection<'a> {
    server: &'a Server,
    reader: LineReader<Stream>,
    session: Session,
    client: std::net::IpAddr,
    /// Looked up when the first message comes.
    name: Option<Option<Domain>>,
    replies: Vec<u8>,
    chunks: Option<Receipt>,
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

impl Connection<'_> {
    fn run(&mut self) -> Result<(), End> {
        let site = self.server.site.get();
        self.reply(&reply::greeting(site.config.hostname.as_str()));
        drop(site);
        loop {
            self.step()?;
        }
    }

    /// Reads one command and does what it asks for.
    fn step(&mut self) -> Result<(), End> {
        let command = self.command()?;
        let (verb, recipient) = (command.as_ref().map_or("-", Command::verb), recipient_of(&command));
        let site = self.server.site.get();
        let policy = SitePolicy { site: &site, spool: &self.server.spool, client: self.client };
        let next = self.session.step(command, &policy);
        if !self.session.in_chunks() {
            // RSET and EHLO forget a message that was under way.
            self.chunks = None;
        }
        if let Next::Reply(reply) | Next::Close(reply) | Next::Swallow(_, reply) = &next
            && reply.is_error()
        {
            maillog::refused(self.client, verb, self.session.reverse_path(), recipient.as_deref(), reply);
        }
        match next {
            Next::Reply(reply) => self.reply(&reply),
            Next::Close(reply) => {
                self.reply(&reply);
                self.flush()?;
                return Err(End::Over);
            }
            Next::Data(envelope) => self.data(envelope, &site)?,
            Next::Chunk { size, last, envelope } => self.chunk(Chunk { size, last, envelope }, &site)?,
            Next::Swallow(size, reply) => {
                self.read_chunk(size, |_| {})?;
                self.reply(&reply);
            }
        }
        Ok(())
    }

    /// The next command line, or why it is none.
    fn command(&mut self) -> Result<Result<Command, Refusal>, End> {
        self.reader.shrink();
        if !self.reader.has_pending() {
            self.flush()?;
            self.reader.get_mut().set_waiting(true);
        }
        let (timeout, stream) = (self.timeout, self.reader.get_mut());
        stream.set_timeout(timeout);
        stream.set_deadline(timeout);
        let line = self.reader.line(limits::COMMAND_LINE);
        let parsed = match line {
            Ok(Line::Text(text)) => Ok(Command::parse(text)),
            Ok(Line::TooLong) => Ok(Err(reply::line_too_long().into())),
            Ok(Line::BareLf) => Err(End::Told(reply::bare_line_feed(), "a line that a bare LF ends")),
            Ok(Line::End) => Err(End::Gone),
            Err(error) => Err(error.into()),
        };
        self.reader.get_mut().set_waiting(false);
        parsed
    }

    fn data(&mut self, envelope: Envelope, site: &Site) -> Result<(), End> {
        let draft = match self.begin(envelope, site) {
            Ok(draft) => draft,
            Err(error) => {
                self.refuse_message(storage_reply(&error), 0, Some(error));
                return Ok(());
            }
        };
        self.reply(&reply::start_data());
        self.flush()?;
        let mut receipt = Receipt::up_to_dot(draft, site.config.limits.message_size);
        let begun = Instant::now();
        loop {
            let block = self.message_block(begun, receipt.size())?;
            if block.is_empty() {
                return Err(End::Gone);
            }
            let (used, done) = receipt.feed(block);
            self.reader.consume(used);
            if done {
                return self.finish(receipt, site);
            }
            if receipt.is_endless() {
                return Err(End::Told(reply::endless(), "a message without an end"));
            }
        }
    }

    fn chunk(&mut self, chunk: Chunk, site: &Site) -> Result<(), End> {
        let mut receipt = match (chunk.envelope, self.chunks.take()) {
            (Some(envelope), _) => match self.begin(envelope, site) {
                Ok(draft) => Receipt::in_chunks(draft, site.config.limits.message_size),
                Err(error) => {
                    self.read_chunk(chunk.size, |_| {})?;
                    let refusal = storage_reply(&error);
                    self.refuse_chunk(chunk.last, refusal, Some(error));
                    return Ok(());
                }
            },
            (None, Some(receipt)) => receipt,
            // The session hands out chunks only between the first and the last.
            (None, None) => return Err(End::Told(reply::internal_error(), "a chunk without its message")),
        };
        self.read_chunk(chunk.size, |octets| _ = receipt.feed(octets))?;
        if chunk.last {
            return self.finish(receipt, site);
        }
        match receipt.is_refused() {
            Some(refusal) => self.refuse_chunk(false, refusal, None),
            None => {
                self.chunks = Some(receipt);
                self.reply(&reply::chunk_ok());
            }
        }
        Ok(())
    }

    fn refuse_chunk(&mut self, last: bool, refusal: Reply, error: Option<io::Error>) {
        self.refuse_message(refusal, 0, error);
        if !last {
            self.session.chunk_refused();
        }
    }

    /// Reads the octets of a chunk, and gives each block to `take`.
    fn read_chunk(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<(), End> {
        let most = self.server.site.get().config.limits.message_size.saturating_add(limits::MESSAGE_OVERRUN);
        if size > most {
            return Err(End::Told(reply::endless(), "a chunk larger than is worth reading"));
        }
        let (begun, mut left) = (Instant::now(), size);
        while left > 0 {
            let block = self.message_block(begun, size - left)?;
            if block.is_empty() {
                return Err(End::Gone);
            }
            let count = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&block[..count]);
            self.reader.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// The next octets of a message that has been coming since `begun`.
    fn message_block(&mut self, begun: Instant, size: u64) -> Result<&[u8], End> {
        if !self.reader.has_pending() {
            // A client that pipelines may wait for what was said before its message.
            self.flush()?;
        }
        let whole = limits::DATA_TIMEOUT + Duration::from_secs(size / limits::DATA_RATE);
        let stream = self.reader.get_mut();
        stream.set_timeout(limits::DATA_BLOCK_TIMEOUT);
        stream.set_deadline(whole.saturating_sub(begun.elapsed()));
        Ok(self.reader.block(limits::MESSAGE_BUFFER)?)
    }

    fn begin(&mut self, envelope: Envelope, site: &Site) -> io::Result<Draft> {
        let mailbox = site.single_mailbox(&envelope);
        let mut draft = self.server.spool.begin(envelope, mailbox.as_ref())?;
        let names = &self.server.names;
        let name = self.name.get_or_insert_with(|| names.of(self.client)).clone();
        if let Some(hello) = self.session.hello() {
            let client = Client { address: self.client, name, hello: hello.clone() };
            let us = (site.config.hostname.as_str(), draft.id());
            let field = received::field(&client, draft.envelope(), us, &clock::rfc5322(Now::read().wall));
            draft.write_all(field.as_bytes())?;
        }
        Ok(draft)
    }

    /// The end of a message: it is on the disk before the client is told so.
    fn finish(&mut self, receipt: Receipt, site: &Site) -> Result<(), End> {
        let size = receipt.size();
        match receipt.finish(site.config.limits.hops) {
            Err((refusal, error)) => self.refuse_message(refusal, size, error),
            Ok(draft) => {
                let protocol = self.session.hello().map_or("SMTP", |hello| received::protocol(hello, draft.envelope()));
                let origin = Origin { client: self.client.to_string(), protocol };
                match self.server.spool.commit(draft, origin) {
                    Ok(id) => {
                        self.session.message_over(true);
                        self.reply(&reply::accepted(id));
                    }
                    Err(error) => self.refuse_message(storage_reply(&error), size, Some(error)),
                }
            }
        }
        Ok(())
    }

    fn refuse_message(&mut self, refusal: Reply, size: u64, error: Option<io::Error>) {
        if let Some(error) = error {
            maillog::spool_error(None, error);
        }
        maillog::rejected(self.client, self.session.reverse_path(), size, &refusal);
        self.session.message_over(false);
        self.reply(&refusal);
    }

    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.replies);
    }

    fn flush(&mut self) -> Result<(), End> {
        let written = self.reader.get_mut().write_all(&self.replies);
        self.replies.clear();
        Ok(written?)
    }

    fn say_goodbye(&mut self, end: End) {
        // At shutdown the end of input is our own doing.
        let end = match end {
            End::Gone if self.reader.get_mut().closing() => End::Told(reply::shutting_down(), "shutdown"),
            end => end,
        };
        match end {
            End::Over => {}
            End::Gone if self.session.reverse_path().is_none() => {}
            End::Gone => maillog::cut_off("smtp", self.client, "the client broke off in the middle of a transaction"),
            End::Told(reply, why) => {
                maillog::cut_off("smtp", self.client, why);
                self.reply(&reply);
                // It may be gone, or not be reading; the connection ends either way.
                let _ = self.flush();
            }
        }
    }
}

/// One BDAT.
struct Chunk {
    size: u64,
    last: bool,
    envelope: Option<Envelope>,
}

fn recipient_of(command: &Result<Command, Refusal>) -> Option<String> {
    match command {
        Ok(Command::Rcpt(ForwardPath::Address(address), ..)) => Some(address.to_string()),
        Ok(Command::Rcpt(ForwardPath::Postmaster, ..)) => Some("postmaster".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::config::Config;
    use crate::dns;
    use crate::io::stream::tests::{narrow, read_slowly};

    #[test]
    fn who_reads_octet_by_octet_does_not_keep_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let config = Config::parse("hostname = \"mail.example.org\"", Path::new("")).unwrap();
        let site = Site { config, users: Default::default(), aliases: Default::default() };
        let (names, _names) = dns::reverse_names();
        let pace = Pace { whole: Duration::from_millis(100), rate: 1 << 30, ..Pace::CLIENT };
        let server = Server { spool: Arc::new(spool), site: Arc::new(CurrentSite::new(site)), names, pace };
        let (client, place) = narrow();
        let mut writing = client.try_clone().unwrap();
        thread::scope(|scope| {
            // The server may be gone before all of it is sent.
            scope.spawn(move || _ = writing.write_all("EHLO client.example\r\n".repeat(900).as_bytes()));
            let reading = scope.spawn(move || read_slowly(client));
            serve(place, &server);
            assert!(reading.join().unwrap() < 100_000);
        });
    }
}
