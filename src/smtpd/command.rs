//! A line becomes a command (RFC 5321 §4.1), or the reply that says why not.
//!
//! Pure. Verbs are read in any case; arguments strictly, but for what old devices are known to send: a space after the
//! colon, an address without brackets, spaces at the end, anything printable as their own name.

use crate::limits;
use crate::mail::address::{Domain, ForwardPath, ReversePath};
use crate::mail::parameter::{MailParameters, ParameterError, RcptParameters};
use crate::mail::reply::{self, Reply};
use crate::mail::sasl::Initial;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// EHLO, with the name the client gives itself.
    Ehlo(String),
    /// HELO, likewise.
    Helo(String),
    /// STARTTLS (RFC 3207)
    StartTls,
    /// AUTH, with what came after the mechanism, in base64 (RFC 4954).
    Auth {
        /// The mechanism.
        mechanism: String,
        /// The initial response.
        initial: Option<Initial>,
    },
    /// MAIL FROM:
    Mail(ReversePath, MailParameters),
    /// RCPT TO:. The flag says whether path and parameters came in ASCII alone.
    Rcpt(ForwardPath, RcptParameters, bool),
    /// DATA
    Data,
    /// BDAT, with the octets that follow and whether they are the last (RFC 3030).
    Bdat(u64, bool),
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
    /// VRFY
    Vrfy(Query),
    /// EXPN
    Expn(Query),
    /// ETRN, with the domain whose mail is wanted now (RFC 1985).
    Etrn(Domain),
    /// HELP
    Help,
}

/// What VRFY and EXPN ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name or address.
    pub name: String,
    /// Whether the answer may hold other letters than ASCII (RFC 6531 §3.7.4.2).
    pub smtputf8: bool,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub reply: Reply,
    /// Whether the connection has to be closed, because nobody can know where the next command begins.
    pub close: bool,
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Refusal {
        Refusal { reply, close: false }
    }
}

impl Command {
    /// Reads a line without its CR LF.
    pub fn parse(line: &[u8]) -> Result<Command, Refusal> {
        let end_of_verb = memchr::memchr(b' ', line).unwrap_or(line.len());
        let verb = line[..end_of_verb].to_ascii_uppercase();
        if verb == b"BDAT" {
            return bdat(&line[end_of_verb..]);
        }
        let text = std::str::from_utf8(line).map_err(|_| reply::unreadable())?;
        if text.chars().any(char::is_control) {
            return Err(reply::unreadable().into());
        }
        let arguments = text[end_of_verb..].trim_matches(' ');
        match verb.as_slice() {
            b"EHLO" => name(arguments).map(Command::Ehlo),
            b"HELO" => name(arguments).map(Command::Helo),
            b"STARTTLS" => bare(arguments, Command::StartTls),
            b"AUTH" => auth(arguments),
            b"MAIL" => mail(arguments),
            b"RCPT" => rcpt(arguments),
            b"DATA" => bare(arguments, Command::Data),
            b"RSET" => bare(arguments, Command::Rset),
            b"QUIT" => bare(arguments, Command::Quit),
            b"NOOP" => Ok(Command::Noop),
            b"HELP" => Ok(Command::Help),
            b"VRFY" => query(arguments).map(Command::Vrfy),
            b"EXPN" => query(arguments).map(Command::Expn),
            b"ETRN" => etrn(arguments),
            _ => Err(reply::unknown_command().into()),
        }
    }

    /// The verb, for the log.
    pub fn verb(&self) -> &'static str {
        match self {
            Command::Ehlo(_) => "EHLO",
            Command::Helo(_) => "HELO",
            Command::StartTls => "STARTTLS",
            Command::Auth { .. } => "AUTH",
            Command::Mail(..) => "MAIL",
            Command::Rcpt(..) => "RCPT",
            Command::Data => "DATA",
            Command::Bdat(..) => "BDAT",
            Command::Rset => "RSET",
            Command::Noop => "NOOP",
            Command::Quit => "QUIT",
            Command::Vrfy(_) => "VRFY",
            Command::Expn(_) => "EXPN",
            Command::Etrn(_) => "ETRN",
            Command::Help => "HELP",
        }
    }
}

fn bare(arguments: &str, command: Command) -> Result<Command, Refusal> {
    if arguments.is_empty() { Ok(command) } else { Err(reply::bad_arguments().into()) }
}

fn auth(arguments: &str) -> Result<Command, Refusal> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial: initial.map(Initial) }),
        _ => Err(reply::bad_arguments().into()),
    }
}

fn query(arguments: &str) -> Result<Query, Refusal> {
    let last = arguments.rsplit_once(' ').filter(|(_, word)| word.eq_ignore_ascii_case("SMTPUTF8"));
    let (name, smtputf8) = last.map_or((arguments, false), |(name, _)| (name.trim_end_matches(' '), true));
    match name {
        "" => Err(reply::bad_arguments().into()),
        name if !name.is_ascii() && !smtputf8 => Err(reply::needs_smtputf8().into()),
        name => Ok(Query { name: name.to_owned(), smtputf8 }),
    }
}

/// RFC 1985 §5.3 knows `@domain` for all below it and `#queue` besides; the first means the domain here too, and of the
/// second there is none.
fn etrn(arguments: &str) -> Result<Command, Refusal> {
    let domain = arguments.strip_prefix('@').unwrap_or(arguments);
    domain.parse().map(Command::Etrn).map_err(|_| reply::bad_arguments().into())
}

fn name(arguments: &str) -> Result<String, Refusal> {
    if arguments.is_empty() || arguments.len() > limits::DOMAIN {
        return Err(reply::bad_hello().into());
    }
    Ok(arguments.to_owned())
}

fn mail(arguments: &str) -> Result<Command, Refusal> {
    let path = after_keyword(arguments, "FROM:")?;
    let (path, parameters) = ReversePath::read(path).map_err(|error| reply::bad_address(7, error))?;
    let parameters = MailParameters::parse(parameters).map_err(bad_parameter)?;
    // Parsing turned a domain into A-labels; what was sent is what counts (RFC 6531 §3.2).
    if !arguments.is_ascii() && !parameters.smtputf8 {
        return Err(reply::needs_smtputf8().into());
    }
    Ok(Command::Mail(path, parameters))
}

fn rcpt(arguments: &str) -> Result<Command, Refusal> {
    let text = after_keyword(arguments, "TO:")?;
    let (path, parameters) = ForwardPath::read(text).map_err(|error| reply::bad_address(3, error))?;
    let parameters = RcptParameters::parse(parameters).map_err(bad_parameter)?;
    Ok(Command::Rcpt(path, parameters, arguments.is_ascii()))
}

fn after_keyword<'a>(arguments: &'a str, keyword: &str) -> Result<&'a str, Refusal> {
    let found = arguments.get(..keyword.len()).filter(|start| start.eq_ignore_ascii_case(keyword));
    match found {
        Some(_) => Ok(arguments[keyword.len()..].trim_start_matches(' ')),
        None => Err(reply::bad_arguments().into()),
    }
}

fn bad_parameter(error: ParameterError) -> Refusal {
    reply::bad_parameter(matches!(error, ParameterError::Malformed(_)), error).into()
}

/// RFC 3030 §2: a size that can't be read leaves no way to know where the next command begins.
fn bdat(arguments: &[u8]) -> Result<Command, Refusal> {
    let close = || Refusal { reply: reply::bad_chunk_size(), close: true };
    let text = std::str::from_utf8(arguments).map_err(|_| close())?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.bytes().all(|octet| octet.is_ascii_digit()));
    let size = size.and_then(|digits| digits.parse().ok()).ok_or_else(close)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(close()),
    };
    if words.next().is_some() { Err(close()) } else { Ok(Command::Bdat(size, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(line: &str) -> (u16, bool) {
        let refusal = Command::parse(line.as_bytes()).expect_err(line);
        (refusal.reply.code(), refusal.close)
    }

    #[test]
    fn every_verb_is_read_in_any_case() {
        for (line, verb) in [
            ("ehlo a.example", "EHLO"),
            ("HELO my scanner", "HELO"),
            ("mail from:<>", "MAIL"),
            ("MAIL FROM: ann@example.org SIZE=1 ", "MAIL"),
            ("RCPT to:<postmaster>", "RCPT"),
            ("RCPT TO:<bob@example.org> NOTIFY=NEVER", "RCPT"),
            ("data ", "DATA"),
            ("BDAT 0 last", "BDAT"),
            ("rset", "RSET"),
            ("NOOP anything", "NOOP"),
            ("quit", "QUIT"),
            ("VRFY ann", "VRFY"),
            ("EXPN team", "EXPN"),
            ("HELP", "HELP"),
            ("starttls ", "STARTTLS"),
            ("auth plain AAAA", "AUTH"),
        ] {
            assert_eq!(Command::parse(line.as_bytes()).expect(line).verb(), verb);
        }
    }

    #[test]
    fn each_refusal_has_its_reply() {
        for (line, code) in [
            ("", 500),
            ("STARTTLS now", 501),
            ("AUTH", 501),
            ("AUTH PLAIN AAAA AAAA", 501),
            ("MAILFROM:<>", 500),
            ("NOOP\u{1}", 500),
            ("EHLO", 501),
            ("MAIL", 501),
            ("MAIL <a@b.org>", 501),
            ("MAIL FROM:<a>", 501),
            ("MAIL FROM:<a@b.org> SIZE=-1", 501),
            ("MAIL FROM:<a@b.org> X=1", 555),
            ("MAIL FROM:<jörg@b.org>", 553),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<a@b.org> RET=FULL", 555),
            ("RCPT FROM:<a@b.org>", 501),
            ("DATA now", 501),
            ("RSET x", 501),
            ("VRFY", 501),
            ("VRFY jörg", 553),
        ] {
            assert_eq!(refused(line), (code, false), "{line}");
        }
        assert_eq!(Command::parse(b"MAIL FROM:<\xff@b.org>").unwrap_err().reply.code(), 500);
    }

    #[test]
    fn a_password_is_never_shown() {
        let shown = format!("{:?}", Command::parse(b"AUTH PLAIN c2VjcmV0"));
        assert_eq!(shown, "Ok(Auth { mechanism: \"PLAIN\", initial: Some(Initial) })");
    }

    #[test]
    fn a_chunk_of_unknown_size_closes() {
        for line in [
            "BDAT",
            "BDAT ",
            "BDAT abc",
            "BDAT -1",
            "BDAT 1 FIRST",
            "BDAT 1 LAST x",
            "BDAT 99999999999999999999",
            "BDAT +1",
        ] {
            assert_eq!(refused(line), (501, true), "{line}");
        }
        assert_eq!(Command::parse(b"BDAT 1\xff").unwrap_err().reply.code(), 501);
    }

    proptest! {
        #[test]
        fn no_input_panics(verb in "MAIL FROM:|RCPT TO:|BDAT |EHLO |", octets in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = Command::parse(&[verb.as_bytes(), &octets].concat());
        }
    }
}
