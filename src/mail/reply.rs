//! Every reply of the SMTP server, and the form of any reply (RFC 5321 §4.2, RFC 2034, RFC 3463).
//!
//! A reply has one home here, so that no two causes share a text and no text has two codes. Printing never breaks a
//! line: what came from outside is made printable first.

use std::borrow::Cow;
use std::fmt;

use super::letters::is_misleading;
use crate::limits;

/// An enhanced status code (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A reply: a code, an enhanced code where one belongs, and one line of text at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Enhanced>,
    lines: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A reply of one line. `text` is made printable.
    pub fn new(code: u16, enhanced: Option<Enhanced>, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced, lines: vec![printable(text.into())] }
    }

    /// A reply of another host: its code, and the text of each of its lines, of any octets. They become one line of at
    /// most [`limits::REPLY_TEXT`] octets, made printable. An enhanced code is one where it stands first and its class
    /// is that of the code.
    pub fn foreign<'a>(code: u16, lines: impl IntoIterator<Item = &'a [u8]>) -> Reply {
        let mut enhanced = None;
        let mut text = String::new();
        for octets in lines {
            let line = legible(octets);
            let (found, line) = split_enhanced(&line, code);
            // The code stands in every line (RFC 2034 §4); the first is the one that counts.
            enhanced = enhanced.or(found);
            if !line.is_empty() {
                text.push_str(if text.is_empty() { "" } else { " " });
                text.push_str(line);
            }
            if text.len() > limits::REPLY_TEXT {
                break;
            }
        }
        text.truncate(text.floor_char_boundary(limits::REPLY_TEXT));
        Reply::new(code, enhanced, text)
    }

    /// The same reply with one more line.
    pub fn line(mut self, text: impl Into<Cow<'static, str>>) -> Reply {
        self.lines.push(printable(text.into()));
        self
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code.
    pub fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// Whether it says no, for now (4xx) or for good (5xx).
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }

    /// Whether any client can read it.
    pub fn is_ascii(&self) -> bool {
        self.lines.iter().all(|text| text.is_ascii())
    }

    /// The octets for the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len() - 1;
        for (at, text) in self.lines.iter().enumerate() {
            let separator = if at == last { ' ' } else { '-' };
            let line = match self.enhanced {
                Some(enhanced) => format!("{}{separator}{enhanced} {text}\r\n", self.code),
                None => format!("{}{separator}{text}\r\n", self.code),
            };
            out.extend_from_slice(line.as_bytes());
        }
    }
}

impl fmt::Display for Reply {
    /// In one line, for people: `550 5.1.1 no such mailbox here`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(out, " {enhanced}")?;
        }
        self.lines.iter().filter(|text| !text.is_empty()).try_for_each(|text| write!(out, " {text}"))
    }
}

fn printable(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect::<String>().into()
    } else {
        text
    }
}

/// Foreign octets as one line a person can read: no letter that misleads.
fn legible(octets: &[u8]) -> String {
    let shown = |letter: char| match letter {
        '\t' => ' ',
        char::REPLACEMENT_CHARACTER => '?',
        letter if is_misleading(letter) => '?',
        letter => letter,
    };
    String::from_utf8_lossy(octets).chars().map(shown).collect()
}

/// The enhanced code at the front of a line, and what follows it.
fn split_enhanced(line: &str, code: u16) -> (Option<Enhanced>, &str) {
    let line = line.trim();
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut numbers = first.split('.').map(|digits| match digits.len() {
        1..=3 if digits.bytes().all(|octet| octet.is_ascii_digit()) => digits.parse::<u16>().ok(),
        _ => None,
    });
    let mut number = || numbers.next().flatten();
    match (number(), number(), number(), numbers.next()) {
        (Some(class @ 2..=5), Some(subject), Some(detail), None) if class == code / 100 => {
            (Some(Enhanced(class as u8, subject, detail)), rest.trim_start())
        }
        _ => (None, line),
    }
}

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $code:literal $class:literal.$subject:literal.$detail:literal $text:literal;)*) => {
        $($(#[$doc])*
        pub fn $name() -> Reply {
            Reply::new($code, Some(Enhanced($class, $subject, $detail)), $text)
        })*

        #[cfg(test)]
        const FIXED: &[fn() -> Reply] = &[$($name),*];
    };
}

replies! {
    /// To MAIL.
    sender_ok = 250 2 . 1 . 0 "sender ok";
    /// To RCPT.
    recipient_ok = 250 2 . 1 . 5 "recipient ok";
    /// To RSET.
    reset = 250 2 . 0 . 0 "transaction forgotten";
    /// To NOOP.
    noop = 250 2 . 0 . 0 "ok";
    /// To QUIT.
    bye = 221 2 . 0 . 0 "goodbye";
    /// To VRFY from those who may not know (RFC 5321 §3.5.3).
    cannot_verify = 252 2 . 5 . 0 "not verified here; send the message and see";
    /// To EXPN from those who may not know.
    cannot_expand = 550 5 . 7 . 1 "lists are expanded for trusted clients only";
    /// To VRFY of what is not there.
    nobody = 550 5 . 1 . 1 "no such mailbox, alias or list here";
    /// To HELP.
    help = 214 2 . 0 . 0 "commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN ETRN HELP QUIT (RFC 5321)";
    /// To HELP on a port for submission.
    help_submission = 214 2 . 0 . 0 "commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT (RFC 6409)";
    /// To a verb that is not known.
    unknown_command = 500 5 . 5 . 1 "no such command; HELP lists those there are";
    /// To octets that no command may hold.
    unreadable = 500 5 . 5 . 2 "the line holds octets that no command may";
    /// To a line that is too long.
    line_too_long = 500 5 . 5 . 2 "line too long";
    /// To a line that a bare LF ended. The connection closes: the peer's lines are not ours.
    bare_line_feed = 500 5 . 5 . 2 "lines end with CR LF; closing";
    /// To a known verb with arguments it does not take.
    bad_arguments = 501 5 . 5 . 4 "these are not the arguments of this command";
    /// To BDAT without a readable size. The connection closes (RFC 3030 §2).
    bad_chunk_size = 501 5 . 5 . 4 "the size of the chunk can't be read, so neither can what follows; closing";
    /// To a command at the wrong time.
    greet_first = 503 5 . 5 . 1 "say EHLO or HELO first";
    /// To RCPT, DATA or BDAT without MAIL.
    mail_first = 503 5 . 5 . 1 "say MAIL first";
    /// To DATA or BDAT without a recipient.
    recipient_first = 503 5 . 5 . 1 "no recipient was accepted";
    /// To MAIL within a transaction.
    nested_mail = 503 5 . 5 . 1 "a transaction is under way; end it or say RSET";
    /// To ETRN within a transaction.
    in_transaction = 503 5 . 5 . 1 "a transaction is under way; this comes before or after it";
    /// To STARTTLS, before the handshake.
    start_tls = 220 2 . 0 . 0 "begin TLS now";
    /// To STARTTLS under TLS.
    tls_already = 503 5 . 5 . 1 "this connection is under TLS already";
    /// To AUTH, once the client has proved who it is.
    logged_in = 235 2 . 7 . 0 "you are logged in";
    /// To AUTH from someone who has done so.
    logged_in_already = 503 5 . 5 . 1 "someone is logged in here already";
    /// To AUTH in clear.
    log_in_under_tls = 538 5 . 7 . 11 "passwords are taken under TLS only; say STARTTLS first";
    /// To a mechanism that is not there.
    no_such_mechanism = 504 5 . 5 . 4 "that mechanism is not offered";
    /// To a wrong name or password, whichever it is.
    wrong_credentials = 535 5 . 7 . 8 "name or password are wrong";
    /// To an exchange that the client ended with a star.
    exchange_cancelled = 501 5 . 7 . 0 "the login was cancelled";
    /// To a response in an exchange that can't be read.
    exchange_unreadable = 501 5 . 5 . 2 "that is no base64, or not what the mechanism wants";
    /// To a response in an exchange that is too long (RFC 4954 §4).
    exchange_too_long = 500 5 . 5 . 6 "the response is too long";
    /// When too many passwords are being checked.
    logins_busy = 454 4 . 7 . 0 "too many logins at once; try again later";
    /// To a login whose check would take more memory than there is.
    login_too_dear = 454 4 . 7 . 0 "this server has too little memory to check that password; ask the postmaster for another";
    /// To an address that guessed too often.
    shut_out = 421 4 . 7 . 0 "too many wrong passwords from your address; try again later";
    /// To MAIL on a port for submission.
    log_in_first = 530 5 . 7 . 0 "log in first";
    /// To MAIL in clear on a port for submission where passwords are taken under TLS only (RFC 3207 §4).
    start_tls_first = 530 5 . 7 . 0 "say STARTTLS first, then log in";
    /// To a sender that is not the user's own (RFC 6409 §6.1).
    not_your_address = 550 5 . 7 . 1 "that sender is not one of yours";
    /// To MAIL with REQUIRETLS in clear, where it is not offered (RFC 8689 §2).
    require_tls_in_clear = 555 5 . 5 . 4 "REQUIRETLS is known under TLS only; say STARTTLS first";
    /// To anything but BDAT between chunks.
    in_chunks = 503 5 . 5 . 1 "chunks are under way; go on with BDAT or say RSET";
    /// To BDAT after a chunk was refused.
    chunks_failed = 503 5 . 5 . 1 "an earlier chunk was refused; say RSET";
    /// To an address that needs SMTPUTF8 in a transaction without it (RFC 6531 §3.5).
    needs_smtputf8 = 553 5 . 6 . 7 "the address needs SMTPUTF8";
    /// To VRFY and EXPN without SMTPUTF8 where the answer would hold other letters (RFC 6531 §3.7.4.2).
    answer_needs_smtputf8 = 553 5 . 6 . 8 "an address in the answer needs SMTPUTF8";
    /// To a recipient that is not there.
    no_such_mailbox = 550 5 . 1 . 1 "no such mailbox here";
    /// To a recipient that was made here to report to a sender, long ago.
    address_expired = 550 5 . 1 . 1 "that address was for reports on a message, and its time is over";
    /// To a recipient that was made here to report to a sender, for what is no report.
    for_reports_only = 550 5 . 7 . 1 "that address is for reports, which have the null sender";
    /// To ETRN from those who may not (RFC 1985 §5.2).
    cannot_bring_forward = 459 4 . 7 . 1 "mail is brought forward for trusted clients only";
    /// To ETRN for a domain that no message waits for.
    nothing_waits = 251 2 . 0 . 0 "no message waits for that domain";
    /// To a recipient elsewhere, from a client that may not relay.
    relaying_denied = 550 5 . 7 . 1 "that domain is not served here, and your address may not relay";
    /// To a recipient at a domain of one label on a port for submission (RFC 6409 §4.2).
    unqualified_domain = 554 5 . 1 . 2 "the domain is not a whole one; write it like example.org";
    /// To one recipient too many (RFC 5321 §4.5.3.1.10).
    too_many_recipients = 452 4 . 5 . 3 "too many recipients; send the rest in another transaction";
    /// To a message above the limit, announced or sent.
    too_large = 552 5 . 3 . 4 "the message is larger than this server takes";
    /// When the disk is nearly full.
    no_space = 452 4 . 3 . 1 "no space for mail right now; try again later";
    /// When the disk fails.
    cannot_store = 451 4 . 3 . 0 "the message could not be stored; try again later";
    /// At the end of a message with a CR or LF of its own.
    bare_line_ends = 554 5 . 6 . 0 "the message holds a CR or a LF that is no line end";
    /// At the end of a message that went round.
    looping = 554 5 . 4 . 6 "the message has been through too many hosts; it loops";
    /// A chunk was taken.
    chunk_ok = 250 2 . 0 . 0 "chunk taken";
    /// At shutdown.
    shutting_down = 421 4 . 3 . 2 "the server is stopping; try again later";
    /// After too many errors.
    too_many_errors = 421 4 . 7 . 0 "too many errors";
    /// After too many commands that led to nothing.
    too_many_commands = 421 4 . 7 . 0 "too many commands without a message";
    /// When the client was silent or slow for too long.
    timed_out = 421 4 . 4 . 2 "waited too long";
    /// When a line or a message had no end.
    endless = 421 4 . 5 . 3 "that has no end";
    /// Beyond the connections there may be.
    too_many_connections = 421 4 . 3 . 2 "too many connections; try again later";
    /// Beyond the connections one client may have.
    too_many_from_client = 421 4 . 7 . 0 "too many connections from your address";
    /// When something broke on our side.
    internal_error = 421 4 . 3 . 0 "an error of this server; try again later";
}

/// The first line of a session. It has no enhanced code (RFC 2034 §4).
pub fn greeting(hostname: &str) -> Reply {
    Reply::new(220, None, format!("{hostname} ESMTP Postrider"))
}

/// To HELO.
pub fn helo(hostname: &str) -> Reply {
    Reply::new(250, None, hostname.to_owned())
}

/// To EHLO, with what is offered. A port for submission has no ETRN (RFC 6409 §7).
pub fn ehlo(hostname: &str, message_size: u64, submission: bool) -> Reply {
    let offered = ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "ETRN", "HELP"];
    let reply = helo(hostname).line(format!("SIZE {message_size}"));
    offered.into_iter().filter(|offer| !(submission && *offer == "ETRN")).fold(reply, Reply::line)
}

/// To HELO or EHLO without a name. It has no enhanced code (RFC 2034 §4).
pub fn bad_hello() -> Reply {
    Reply::new(501, None, "give the name of your host, or its address in brackets")
}

/// To DATA. It is a 3xx and has no enhanced code.
pub fn start_data() -> Reply {
    Reply::new(354, None, "send the message; end it with a dot on a line of its own")
}

/// To AUTH and what follows it: the next challenge, in base64 (RFC 4954 §4).
pub fn challenge(text: String) -> Reply {
    Reply::new(334, None, text)
}

/// To the end of a message that is on the disk.
pub fn accepted(id: impl fmt::Display) -> Reply {
    Reply::new(250, Some(Enhanced(2, 0, 0)), format!("accepted as {id}"))
}

/// To an address that can't be read; `whose` is 7 for a sender's (RFC 3463 §3.2), 3 for a recipient's.
pub fn bad_address(whose: u16, why: impl fmt::Display) -> Reply {
    Reply::new(501, Some(Enhanced(5, 1, whose)), why.to_string())
}

/// To a parameter that is unknown (555) or can't be read (501).
pub fn bad_parameter(known: bool, why: impl fmt::Display) -> Reply {
    Reply::new(if known { 501 } else { 555 }, Some(Enhanced(5, 5, 4)), why.to_string())
}

/// To ETRN, with how many messages are tried now.
pub fn brought_forward(count: usize) -> Reply {
    Reply::new(253, Some(Enhanced(2, 0, 0)), format!("messages for that domain that are tried now: {count}"))
}

/// To VRFY and EXPN from those who may know, one address a line. `None` if there is none.
pub fn addresses(mut addresses: impl Iterator<Item = String>) -> Option<Reply> {
    let first = Reply::new(250, Some(Enhanced(2, 1, 5)), addresses.next()?);
    Some(addresses.fold(first, Reply::line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_enhanced_codes_agree() {
        for reply in FIXED.iter().map(|fixed| fixed()) {
            let class = u16::from(reply.enhanced.unwrap().0);
            assert_eq!(class, reply.code / 100, "{reply}");
        }
    }

    #[test]
    fn each_fixed_text_stands_once() {
        let mut texts: Vec<String> = FIXED.iter().map(|fixed| fixed().to_string()).collect();
        texts.sort();
        assert!(texts.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_foreign_reply_is_one_printable_line() {
        let of = |code, lines: &[&str]| Reply::foreign(code, lines.iter().map(|line| line.as_bytes())).to_string();
        assert_eq!(of(550, &["5.1.1 no such", "5.1.1 user"]), "550 5.1.1 no such user");
        assert_eq!(of(550, &["4.1.1 classes differ"]), "550 4.1.1 classes differ");
        assert_eq!(of(451, &["4.7.1"]), "451 4.7.1");
        assert_eq!(of(451, &["4.7 later", "", "4.7.1111 x"]), "451 4.7 later 4.7.1111 x");
        assert_eq!(of(451, &["a\tb\u{1b}[2Jc\u{202e}d\u{85}"]), "451 a b?[2Jc?d?");
        let reply = Reply::foreign(250, [&b"5.0.0 \xff\xc3"[..]]);
        assert_eq!((reply.to_string().as_str(), reply.enhanced()), ("250 5.0.0 ??", None));
    }

    #[test]
    fn a_foreign_reply_is_bounded() {
        let line = "ü".repeat(300);
        let reply = Reply::foreign(550, std::iter::repeat_n(line.as_bytes(), 50));
        assert!(reply.to_string().len() <= limits::REPLY_TEXT + 4);
    }

    #[test]
    fn lines_are_short_enough_and_never_broken() {
        let mut wire = Vec::new();
        Reply::new(250, Some(Enhanced(2, 0, 0)), "a\r\n250 b").line("c").write_to(&mut wire);
        assert_eq!(wire, b"250-2.0.0 a??250 b\r\n250 2.0.0 c\r\n");
        for fixed in FIXED {
            let mut wire = Vec::new();
            fixed().write_to(&mut wire);
            assert!(wire.len() <= 512, "RFC 5321 §4.5.3.1.5");
        }
    }
}
