//! The commands of POP3, read from one line (RFC 1939 §3, RFC 2449 §5).
//!
//! Verbs are read in any case, arguments strictly: one space before each, digits alone for a number, nothing left over
//! but spaces at the end, which old clients send. A password may hold spaces and 8-bit octets. Fails with a [`Refusal`].

use std::fmt;

use crate::limits;
use crate::mail::sasl::Initial;

/// One command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// What is offered (RFC 2449 §5).
    Capa,
    /// Whose mailbox.
    User(String),
    /// The password to it.
    Pass(Password),
    /// A SASL login (RFC 5034): the mechanism, if one is named, and the response that came with it, in base64.
    Auth(Option<String>, Option<Initial>),
    /// The rest under TLS (RFC 2595 §4).
    Stls,
    /// How much there is.
    Stat,
    /// The size of one message, or of all.
    List(Option<u32>),
    /// The unique-id of one message, or of all.
    Uidl(Option<u32>),
    /// A message.
    Retr(u32),
    /// The header of a message and the first lines of its body.
    Top(u32, u64),
    /// Marks a message as deleted.
    Dele(u32),
    /// Nothing.
    Noop,
    /// Takes all marks back.
    Rset,
    /// The end.
    Quit,
}

/// A password, which no debugging output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password")
    }
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The verb is not known.
    Unknown,
    /// The verb is, and these are not its arguments.
    Arguments,
    /// The line is too long.
    TooLong,
}

impl Command {
    /// Reads a line without its line end.
    pub fn parse(line: &[u8]) -> Result<Command, Refusal> {
        let (verb, rest) = match memchr::memchr(b' ', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let known = KNOWN.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(verb));
        let (_, read) = known.ok_or(Refusal::Unknown)?;
        read(rest).ok_or(Refusal::Arguments)
    }
}

type Read = fn(&[u8]) -> Option<Command>;

const KNOWN: &[(&str, Read)] = &[
    ("CAPA", |rest| nothing(rest, Command::Capa)),
    ("USER", |rest| name(rest).map(Command::User)),
    ("PASS", |rest| password(rest).map(Command::Pass)),
    ("AUTH", auth),
    ("STLS", |rest| nothing(rest, Command::Stls)),
    ("STAT", |rest| nothing(rest, Command::Stat)),
    ("LIST", |rest| number_maybe(rest).map(Command::List)),
    ("UIDL", |rest| number_maybe(rest).map(Command::Uidl)),
    ("RETR", |rest| number(rest).map(Command::Retr)),
    ("TOP", top),
    ("DELE", |rest| number(rest).map(Command::Dele)),
    ("NOOP", |rest| nothing(rest, Command::Noop)),
    ("RSET", |rest| nothing(rest, Command::Rset)),
    ("QUIT", |rest| nothing(rest, Command::Quit)),
];

fn nothing(rest: &[u8], command: Command) -> Option<Command> {
    trimmed(rest).is_empty().then_some(command)
}

fn auth(rest: &[u8]) -> Option<Command> {
    let text = str::from_utf8(trimmed(rest)).ok().filter(|text| !text.contains(char::is_control))?;
    let mut words = text.split(' ').map(str::to_owned);
    let mechanism = words.next().filter(|word| !word.is_empty());
    let auth = Command::Auth(mechanism, words.next().map(Initial));
    words.next().is_none().then_some(auth)
}

/// Spaces belong to it: a quoted local-part may hold some.
fn name(rest: &[u8]) -> Option<String> {
    let text = str::from_utf8(rest).ok()?;
    let fits = !text.is_empty() && text.len() <= limits::CREDENTIAL && !text.contains(char::is_control);
    fits.then(|| text.to_owned())
}

/// The whole rest: "a server may treat spaces in the argument as part of the password" (RFC 1939 §7).
fn password(rest: &[u8]) -> Option<Password> {
    let fits = !rest.is_empty() && rest.len() <= limits::CREDENTIAL && !rest.contains(&0) && !rest.contains(&b'\r');
    fits.then(|| Password(rest.to_vec()))
}

fn number_maybe(rest: &[u8]) -> Option<Option<u32>> {
    if trimmed(rest).is_empty() { Some(None) } else { number(rest).map(Some) }
}

fn number(rest: &[u8]) -> Option<u32> {
    u32::try_from(digits(trimmed(rest))?).ok()
}

fn top(rest: &[u8]) -> Option<Command> {
    let space = memchr::memchr(b' ', rest)?;
    let (first, second) = (&rest[..space], &rest[space + 1..]);
    Some(Command::Top(number(first)?, digits(trimmed(second))?))
}

/// `trim_ascii_end` would take more than spaces.
fn trimmed(rest: &[u8]) -> &[u8] {
    let end = rest.iter().rposition(|&octet| octet != b' ').map_or(0, |at| at + 1);
    &rest[..end]
}

/// `parse` alone would take a sign.
fn digits(octets: &[u8]) -> Option<u64> {
    let text = str::from_utf8(octets).ok().filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_read_in_any_case() {
        for (line, command) in [
            ("CAPA", Command::Capa),
            ("user ann@example.org", Command::User("ann@example.org".into())),
            ("USER \"a b\"@example.org", Command::User("\"a b\"@example.org".into())),
            ("Pass  two  spaces ", Command::Pass(Password(b" two  spaces ".to_vec()))),
            ("AUTH", Command::Auth(None, None)),
            ("auth plain ", Command::Auth(Some("plain".into()), None)),
            ("AUTH PLAIN AAAA", Command::Auth(Some("PLAIN".into()), Some(Initial("AAAA".into())))),
            ("Stls", Command::Stls),
            ("stat ", Command::Stat),
            ("LIST", Command::List(None)),
            ("LIST 7", Command::List(Some(7))),
            ("UIDL 1 ", Command::Uidl(Some(1))),
            ("RETR 4294967295", Command::Retr(u32::MAX)),
            ("TOP 1 0", Command::Top(1, 0)),
            ("top 3 18446744073709551615", Command::Top(3, u64::MAX)),
            ("DELE 02", Command::Dele(2)),
            ("NoOp", Command::Noop),
            ("RSET", Command::Rset),
            ("QUIT", Command::Quit),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
        assert_eq!(Command::parse(b"PASS \xff"), Ok(Command::Pass(Password(b"\xff".to_vec()))));
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for line in ["", " ", " STAT", "STATS", "STAT\t", "STAT\r", "\0STAT", "APOP ann 0", "STARTTLS", "EHLO x"] {
            assert_eq!(Command::parse(line.as_bytes()), Err(Refusal::Unknown), "{line:?}");
        }
        for line in [
            "STAT 1",
            "STAT \r",
            "CAPA x",
            "NOOP x",
            "RSET 1",
            "QUIT now",
            "STLS now",
            "AUTH PLAIN AAAA AAAA",
            "AUTH PLAIN\r",
            "USER",
            "USER ",
            "USER a\0b",
            "USER a\rb",
            "PASS",
            "PASS ",
            "PASS a\0b",
            "PASS a\rb",
            "LIST 1 2",
            "LIST -1",
            "LIST +1",
            "LIST 0x1",
            "LIST  1",
            "LIST 4294967296",
            "UIDL x",
            "RETR",
            "RETR ",
            "RETR 1 1",
            "RETR 99999999999999999999",
            "TOP 1",
            "TOP 1 ",
            "TOP 1 -1",
            "TOP  1 1",
            "TOP 1 2 3",
            "TOP 1 18446744073709551616",
            "DELE",
            "DELE 1\0",
            "DELE ١",
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Err(Refusal::Arguments), "{line:?}");
        }
        assert_eq!(Command::parse(b"USER \xff"), Err(Refusal::Arguments));
        for verb in ["USER", "PASS"] {
            let line = format!("{verb} {}", "x".repeat(limits::CREDENTIAL + 1));
            assert_eq!(Command::parse(line.as_bytes()), Err(Refusal::Arguments));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(format!("{:?}", Command::parse(b"PASS secret")), "Ok(Pass(Password))");
        assert_eq!(format!("{:?}", Command::parse(b"AUTH PLAIN c2VjcmV0")), "Ok(Auth(Some(\"PLAIN\"), Some(Initial)))");
    }

    proptest! {
        #[test]
        fn no_line_panics(
            verb in "(?i)USER|PASS|AUTH|LIST|UIDL|RETR|TOP|DELE|STAT|X?",
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let _ = Command::parse(&[verb.as_bytes(), b" ", &rest].concat());
        }
    }
}
