//! A whole SMTP session, from octets to replies and messages: the real reader, parser, state machine and framing, put
//! together as `smtpd::connection` does, without socket, spool and clock.
//!
//! However the octets are cut, replies and messages are the same; each reply is one; what is taken is whole, and its
//! envelope can be read from the queue again. Input: an octet that chooses the cut, one for what is offered, the octets.

use postrider::io::dot::{LineEnds, Unstuff};
use postrider::io::line::{Line, LineReader};
use postrider::limits;
use postrider::mail::address::{Address, Domain, ForwardPath, ReversePath};
use postrider::mail::envelope::Envelope;
use postrider::mail::parameter::{MailParameters, RcptParameters};
use postrider::mail::reply::{self, Reply};
use postrider::smtpd::command::Command;
use postrider::smtpd::session::{Next, Policy, Session, Terms, Tls};

use super::has_whole_line_ends;
use super::pieces::{Cut, Pieces};

pub fn check(octets: &[u8]) {
    let [by, offered, stream @ ..] = octets else { return };
    let whole = Talk::of(stream, Cut::Whole, *offered);
    let cut = Talk::of(stream, Cut::chosen(*by), *offered);
    assert!(whole == cut, "cut or whole:\n{whole:?}\n{cut:?}");
    whole.said.iter().for_each(|reply| check_reply(reply));
    whole.taken.iter().for_each(|(envelope, content)| check_message(envelope, content));
}

/// RFC 5321 §4.2.1, RFC 2034 §4: three digits in each line, the class of the enhanced code that of the reply, no line
/// longer than any client reads.
pub fn check_reply(octets: &[u8]) {
    let text = str::from_utf8(octets).unwrap();
    let lines: Vec<&str> = text.strip_suffix("\r\n").unwrap_or_else(|| panic!("{text:?}")).split("\r\n").collect();
    for (at, line) in lines.iter().enumerate() {
        let is_last = at + 1 == lines.len();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.len() + 2 <= 512, "RFC 5321 §4.5.3.1.5: {line:?}");
        assert_eq!(line.as_bytes()[3], if is_last { b' ' } else { b'-' }, "{text:?}");
        assert_eq!(line[..3], lines[0][..3], "{text:?}");
        assert!(("211".."555").contains(&&line[..3]) || line.starts_with("555"), "{line:?}");
        let words = &line[4..];
        let is_enhanced = words.as_bytes().get(1) == Some(&b'.') && words.as_bytes()[0].is_ascii_digit();
        assert!(!is_enhanced || words.as_bytes()[0] == line.as_bytes()[0], "{line:?}");
    }
}

fn check_message(envelope: &Envelope, content: &[u8]) {
    assert!(has_whole_line_ends(content), "a bare CR or LF was taken");
    assert!((1..=World.recipients()).contains(&envelope.recipients.len()));
    let printed = envelope.print(content.len() as u64);
    let entry = [printed.as_bytes(), b"Received: x\r\n", content].concat();
    let found = Envelope::read(&entry).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let found = found.unwrap_or_else(|| panic!("no envelope: {printed}"));
    assert_eq!(found.octets, printed.len(), "{printed}");
    let size = Some(content.len() as u64);
    let parameters = MailParameters { size, ..envelope.parameters.clone() };
    assert_eq!(found.envelope, Envelope { parameters, ..envelope.clone() });
}

/// What a session came to.
#[derive(Debug, Default, PartialEq)]
struct Talk {
    said: Vec<Vec<u8>>,
    taken: Vec<(Envelope, Vec<u8>)>,
    end: &'static str,
}

/// What is under way.
struct Chunked {
    envelope: Envelope,
    ends: LineEnds,
    content: Vec<u8>,
}

impl Talk {
    fn of(stream: &[u8], cut: Cut, offered: u8) -> Talk {
        let mut reader = LineReader::new(Pieces::of(stream, cut));
        let mut session = Session::new(terms(offered));
        let (mut talk, mut chunks) = (Talk::default(), None);
        while talk.end.is_empty() {
            let command = match reader.line(limits::COMMAND_LINE) {
                Ok(Line::Text(text)) => Command::parse(text),
                Ok(Line::TooLong) => Err(reply::line_too_long().into()),
                Ok(Line::BareLf) => {
                    talk.close(&reply::bare_line_feed(), "a bare LF");
                    break;
                }
                Ok(Line::End) => {
                    talk.end = "gone";
                    break;
                }
                Err(_) => {
                    talk.close(&reply::endless(), "a line without an end");
                    break;
                }
            };
            let next = session.step(command, &World);
            if !session.in_chunks() {
                chunks = None;
            }
            talk.obey(next, &mut session, &mut reader, &mut chunks);
        }
        talk
    }

    fn obey(
        &mut self,
        next: Next,
        session: &mut Session,
        reader: &mut LineReader<Pieces<'_>>,
        chunks: &mut Option<Chunked>,
    ) {
        match next {
            Next::Reply(reply) => self.say(&reply),
            Next::Close(reply) => self.close(&reply, "closed"),
            // What was read in clear is dropped, and how much that is, the cut decides.
            Next::StartTls(reply) => self.close(&reply, "under TLS"),
            Next::Auth { mechanism, initial } => self.log_in(mechanism, initial.is_some(), session, reader),
            Next::Data(envelope) => {
                self.say(&reply::start_data());
                let (mut dots, mut content) = (Unstuff::default(), Vec::new());
                loop {
                    let block = reader.block(limits::MESSAGE_BUFFER).unwrap();
                    if block.is_empty() {
                        self.end = "gone";
                        return;
                    }
                    let (used, ended) = dots.feed(block, &mut content);
                    reader.consume(used);
                    if ended {
                        return self.take(session, envelope, content, dots.saw_bare());
                    }
                }
            }
            Next::Chunk { size, last, envelope } => {
                let started = envelope.map(|envelope| Chunked { envelope, ends: LineEnds::default(), content: vec![] });
                let mut chunked = started.or_else(|| chunks.take()).expect("a chunk has a message");
                let whole = self.read_chunk(size, reader, |octets| {
                    chunked.ends.feed(octets);
                    chunked.content.extend_from_slice(octets);
                });
                match (whole, last) {
                    (false, _) => {}
                    (true, false) if chunked.content.len() as u64 > World.message_size() => {
                        session.message_over(false);
                        session.chunk_refused();
                        self.say(&reply::too_large());
                    }
                    (true, false) => {
                        *chunks = Some(chunked);
                        self.say(&reply::chunk_ok());
                    }
                    (true, true) => self.take(session, chunked.envelope, chunked.content, chunked.ends.saw_bare()),
                }
            }
            Next::Swallow(size, reply) => {
                if self.read_chunk(size, reader, |_| {}) {
                    self.say(&reply);
                }
            }
        }
    }

    /// Whether all of it came.
    fn read_chunk(&mut self, size: u64, reader: &mut LineReader<Pieces<'_>>, mut take: impl FnMut(&[u8])) -> bool {
        let mut left = usize::try_from(size).unwrap_or(usize::MAX);
        while left > 0 {
            let block = reader.block(limits::MESSAGE_BUFFER).unwrap();
            if block.is_empty() {
                self.end = "gone";
                return false;
            }
            let count = block.len().min(left);
            take(&block[..count]);
            reader.consume(count);
            left -= count;
        }
        true
    }

    fn take(&mut self, session: &mut Session, envelope: Envelope, content: Vec<u8>, saw_bare: bool) {
        let refusal = match saw_bare {
            true => Some(reply::bare_line_ends()),
            false if content.len() as u64 > World.message_size() => Some(reply::too_large()),
            false => None,
        };
        session.message_over(refusal.is_none());
        match refusal {
            Some(refusal) => self.say(&refusal),
            None => {
                self.taken.push((envelope, content));
                self.say(&reply::noop());
            }
        }
        assert!(session.reverse_path().is_none() && !session.in_chunks(), "a transaction is over at its end");
    }

    /// As good as any mechanism: one line, which `*` takes back.
    fn log_in(&mut self, mechanism: &str, has_all: bool, session: &mut Session, reader: &mut LineReader<Pieces<'_>>) {
        assert!(["PLAIN", "LOGIN"].contains(&mechanism) && session.user().is_none());
        if !has_all {
            self.say(&reply::challenge(String::new()));
            match reader.line(limits::AUTH_LINE) {
                Ok(Line::Text(b"*")) => {
                    session.not_logged_in();
                    return self.say(&reply::exchange_cancelled());
                }
                Ok(Line::Text(_)) => {}
                _ => return self.close(&reply::exchange_unreadable(), "no response"),
            }
        }
        session.logged_in("ann@example.org".parse().unwrap());
        self.say(&reply::logged_in());
    }

    fn say(&mut self, reply: &Reply) {
        let mut octets = Vec::new();
        reply.write_to(&mut octets);
        self.said.push(octets);
    }

    fn close(&mut self, reply: &Reply, end: &'static str) {
        self.say(reply);
        self.end = end;
    }
}

fn terms(offered: u8) -> Terms {
    let tls = [Tls::None, Tls::Offered, Tls::Active][usize::from(offered % 3)];
    let mechanisms = if offered & 4 == 0 { vec!["PLAIN", "LOGIN"] } else { vec![] };
    Terms { submission: offered & 8 != 0, tls, mechanisms, log_in_under_tls: offered & 16 != 0 }
}

/// A small host that takes almost anything.
struct World;

impl Policy for World {
    fn hostname(&self) -> &str {
        "mail.example.org"
    }
    fn message_size(&self) -> u64 {
        2000
    }
    fn recipients(&self) -> usize {
        5
    }
    fn errors(&self) -> u32 {
        10
    }
    fn sender(&self, _: &ReversePath, parameters: &MailParameters, _: Option<&Address>) -> Result<(), Reply> {
        if parameters.size.unwrap_or(0) > self.message_size() { Err(reply::too_large()) } else { Ok(()) }
    }
    fn recipient(&self, path: &ForwardPath, _: &ReversePath, _: Option<&Address>) -> Result<Address, Reply> {
        match path {
            ForwardPath::Postmaster => Ok("postmaster@example.org".parse().unwrap()),
            ForwardPath::Address(address) if address.local_part().starts_with("no") => Err(reply::no_such_mailbox()),
            ForwardPath::Address(address) => Ok(address.clone()),
        }
    }
    fn heeded(&self, parameters: RcptParameters, _: Option<&Address>) -> RcptParameters {
        parameters
    }
    fn envelope_may_have(&self, octets: usize) -> bool {
        octets < 2000
    }
    fn verify(&self, _: &str) -> Reply {
        reply::cannot_verify()
    }
    fn expand(&self, _: &str) -> Reply {
        reply::cannot_expand()
    }
    fn bring_forward(&self, _: &Domain) -> Reply {
        reply::nothing_waits()
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let said = super::dialogues::all().into_iter().filter(|said| !said.is_pop3);
    let with_choice = said.map(|said| [&[200, 1], said.octets.as_slice()].concat());
    let short = with_choice.map(|octets| octets[..octets.len().min(8000)].to_vec());
    let talk = b"EHLO c.example\r\nMAIL FROM:<s@far.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n\
                 Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<s@far.example>\r\nRCPT TO:<nobody@example.org>\r\n\
                 RCPT TO:<bob@example.org>\r\nBDAT 5\r\n.\r\n\r\nBDAT 3 LAST\r\n.\r\nMAIL FROM:<s@far.example>\r\n\
                 RCPT TO:<bob@example.org>\r\nDATA\r\nsmuggled\n.\nMAIL FROM:<x@y.example>\r\n.\r\nQUIT\r\n";
    short.chain((0..32).map(|offered| [&[offered, offered], &talk[..]].concat())).collect()
}
