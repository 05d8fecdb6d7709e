//! The envelope, as it stands at the top of a queue entry and of a dropped file (DESIGN §3).
//!
//! ```text
//! X-Sender: <ann@example.org> SIZE=0000004337 BODY=8BITMIME RET=HDRS ENVID=QQ314159
//! X-Receiver: <bob@example.net> NOTIFY=FAILURE ORCPT=rfc822;bob@example.net
//! ```
//!
//! It is exactly the run of such fields at the very top: one X-Sender, then the X-Receivers, none of them folded. An
//! entry that one rename will deliver has the two fields of a delivered message above it; they are read past. Fails
//! with an [`EnvelopeError`] that knows its line.

use std::collections::HashMap;
use std::fmt;

use super::address::{Address, ReversePath};
use super::parameter::{MailParameters, RcptParameters};
use crate::limits;

/// From whom and to whom, with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where failures are reported to.
    pub reverse_path: ReversePath,
    /// What MAIL said. In a printed envelope SIZE is the number of octets after it.
    pub parameters: MailParameters,
    /// At least one, once it is complete.
    pub recipients: Vec<Recipient>,
}

/// One recipient as the client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub address: Address,
    /// What RCPT said.
    pub parameters: RcptParameters,
}

/// An envelope as it was found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub envelope: Envelope,
    /// The mailbox of the `Delivered-To:` above it: the entry was laid out for a delivery by one rename.
    pub laid_out_for: Option<Address>,
    /// How many octets it takes, with what stands above it.
    pub octets: usize,
}

/// What is wrong with an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, in words that quote nothing.
    pub what: String,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for EnvelopeError {}

impl Envelope {
    /// What was asked for each recipient; where one stands there twice, with it for the first time.
    pub fn asked(&self) -> HashMap<&Address, &RcptParameters> {
        self.recipients.iter().rev().map(|recipient| (&recipient.address, &recipient.parameters)).collect()
    }

    /// Octets of memory that it takes, or nearly so.
    pub fn memory(&self) -> usize {
        self.recipients.iter().map(Recipient::memory).sum()
    }

    /// The fields, each with CR LF. The value of SIZE is `size`, in ten digits.
    pub fn print(&self, size: u64) -> String {
        let parameters = MailParameters { size: Some(size), ..self.parameters.clone() };
        let mut text = format!("X-Sender: {}{parameters}\r\n", self.reverse_path);
        for recipient in &self.recipients {
            text.push_str(&format!("X-Receiver: <{}>{}\r\n", recipient.address, recipient.parameters));
        }
        text
    }

    /// Where in the printed form the digits of SIZE begin.
    pub fn size_offset(&self) -> usize {
        format!("X-Sender: {} SIZE=", self.reverse_path).len()
    }

    /// Reads the envelope at the top of `text`, whose lines end with LF or CR LF. `Ok(None)` if the text does not begin
    /// with one. `text` may go on, or end anywhere after the envelope.
    pub fn read(text: &[u8]) -> Result<Option<Found>, EnvelopeError> {
        let mut lines = Lines { text, at: 0, line: 0 };
        lines.field("Return-Path")?;
        let laid_out_for = match lines.field("Delivered-To")? {
            Some(address) => Some(address.trim().parse().map_err(|error| lines.error(error))?),
            None => None,
        };
        let above = lines.at;
        let Some(sender) = lines.field("X-Sender")? else {
            return match lines.field("X-Receiver")? {
                Some(_) => Err(lines.error("X-Receiver stands before X-Sender")),
                None => Ok(None),
            };
        };
        let (reverse_path, parameters) =
            with_brackets(sender, |path| ReversePath::read(path).map(|(path, rest)| (path, rest.to_owned())))
                .map_err(|error| lines.error(error))?;
        let parameters = MailParameters::parse(&parameters).map_err(|error| lines.error(error))?;
        let mut envelope = Envelope { reverse_path, parameters, recipients: Vec::new() };
        while let Some(receiver) = lines.field("X-Receiver")? {
            if envelope.recipients.len() >= limits::ENVELOPE / limits::PATH {
                return Err(lines.error("too many recipients"));
            }
            envelope.recipients.push(read_recipient(receiver).map_err(|what| lines.error(what))?);
        }
        if lines.field("X-Sender")?.is_some() {
            return Err(lines.error("a second X-Sender"));
        }
        if envelope.recipients.is_empty() {
            return Err(lines.error("no X-Receiver follows X-Sender"));
        }
        let laid_out_for = laid_out_for.filter(|_| above > 0);
        Ok(Some(Found { envelope, laid_out_for, octets: lines.at }))
    }
}

impl Recipient {
    /// Octets of memory that it takes, or nearly so.
    pub fn memory(&self) -> usize {
        let domain = self.address.domain().map_or(0, |domain| domain.as_str().len());
        let asked = self.parameters.orcpt.as_ref().map_or(0, |orcpt| orcpt.kind.len() + orcpt.address.len());
        size_of::<Recipient>() + self.address.local_part().len() + domain + asked
    }
}

fn read_recipient(text: &str) -> Result<Recipient, String> {
    let (path, parameters) =
        with_brackets(text, |path| ReversePath::read(path).map(|(path, rest)| (path, rest.to_owned())))
            .map_err(|error| error.to_string())?;
    let ReversePath::Address(address) = path else { return Err("a recipient can't be <>".to_owned()) };
    let parameters = RcptParameters::parse(&parameters).map_err(|error| error.to_string())?;
    Ok(Recipient { address, parameters })
}

/// Brackets are optional in these fields; an X-Sender with no address at all is the null reverse-path.
fn with_brackets<T, E>(text: &str, read: impl Fn(&str) -> Result<T, E>) -> Result<T, E> {
    let text = text.trim_matches([' ', '\t']);
    read(if text.is_empty() { "<>" } else { text })
}

struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    /// The value of the next field if it has this name, in any case.
    fn field(&mut self, name: &str) -> Result<Option<&'a str>, EnvelopeError> {
        let rest = &self.text[self.at..];
        let named = rest.len() > name.len() && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes());
        if !named || rest[name.len()] != b':' {
            return Ok(None);
        }
        self.line += 1;
        let end = memchr::memchr(b'\n', rest).ok_or_else(|| self.error("the line has no end"))?;
        if matches!(rest.get(end + 1), Some(b' ' | b'\t')) {
            return Err(self.error("an envelope field can't be folded"));
        }
        self.at += end + 1;
        let value = &rest[name.len() + 1..end];
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        std::str::from_utf8(value).map(Some).map_err(|_| self.error("this is not UTF-8"))
    }

    fn error(&self, what: impl fmt::Display) -> EnvelopeError {
        EnvelopeError { line: self.line.max(1), what: what.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<Found>, EnvelopeError> {
        Envelope::read(text.as_bytes())
    }

    #[test]
    fn both_styles_of_brackets_and_any_case_are_read() {
        let found =
            read("x-sender: ann@example.org\nX-RECEIVER: <bob@example.net> NOTIFY=NEVER\n\nhello").unwrap().unwrap();
        assert_eq!(
            found.envelope.print(7),
            "X-Sender: <ann@example.org> SIZE=0000000007\r\nX-Receiver: <bob@example.net> NOTIFY=NEVER\r\n"
        );
        assert_eq!(read("X-Sender:\nX-Receiver: b@c.org\n").unwrap().unwrap().envelope.reverse_path, ReversePath::Null);
    }

    #[test]
    fn only_the_run_at_the_very_top_counts() {
        let text = "X-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\nReceived: x\r\nX-Receiver: <e@f.org>\r\n";
        let found = read(text).unwrap().unwrap();
        assert_eq!((found.envelope.recipients.len(), found.octets), (1, 44));
        assert_eq!(read("From: a@b.org\r\nX-Sender: <a@b.org>\r\n"), Ok(None));
    }

    #[test]
    fn the_fields_of_a_delivered_message_may_stand_above() {
        let text =
            "Return-Path: <a@b.org>\r\nDelivered-To: c@d.org\r\nX-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\n\r\n";
        let found = read(text).unwrap().unwrap();
        assert_eq!(found.laid_out_for.unwrap().to_string(), "c@d.org");
        assert_eq!(found.octets, text.len() - 2);
    }

    #[test]
    fn errors_know_their_line() {
        for (text, line) in [
            ("X-Receiver: <a@b.org>\n", 1),
            ("X-Sender: <a@b.org>\n\n", 1),
            ("X-Sender: <a@b.org> SIZE=x\nX-Receiver: <a@b.org>\n", 1),
            ("X-Sender: <a@b.org>\nX-Receiver: <a@>\n", 2),
            ("X-Sender: <a@b.org>\nX-Receiver: <>\n", 2),
            ("X-Sender: <a@b.org>\nX-Receiver: <c@d.org>\n folded\n", 2),
            ("X-Sender: <a@b.org>\nX-Receiver: <c@d.org>\nX-Sender: <a@b.org>\n", 3),
            ("X-Sender: <a@b.org>\nX-Receiver: <c@d.org>", 2),
        ] {
            assert_eq!(read(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn the_most_and_longest_recipients_fit() {
        let longest = limits::COMMAND_LINE + "X-Receiver: ".len() - "RCPT TO:".len();
        assert!(limits::RECIPIENTS_MOST * longest + limits::COMMAND_LINE <= limits::ENVELOPE);
        let receiver = "X-Receiver: <bob@example.net>\r\n".repeat(limits::RECIPIENTS_MOST);
        let found = read(&format!("X-Sender: <ann@example.org>\r\n{receiver}\r\n")).unwrap().unwrap();
        assert_eq!(found.envelope.recipients.len(), limits::RECIPIENTS_MOST);
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(
            sender in prop::option::of("[a-z]{1,8}"), locals in prop::collection::vec("[ -~]{1,20}", 1..5),
            smtputf8: bool, require_tls: bool, size in 0..10_000_000_000u64,
        ) {
            let domain: super::super::address::Domain = "example.org".parse().unwrap();
            let address = |local: &str| Address::new(local, domain.clone()).unwrap();
            let envelope = Envelope {
                reverse_path: sender.map_or(ReversePath::Null, |local| ReversePath::Address(address(&local))),
                parameters: MailParameters { smtputf8, require_tls, size: Some(size), ..MailParameters::default() },
                recipients: locals.iter().map(|local| Recipient { address: address(local), parameters: RcptParameters::default() }).collect(),
            };
            let text = envelope.print(size);
            prop_assert_eq!(&text[envelope.size_offset()..][..10], format!("{size:010}"));
            let found = read(&text).unwrap().unwrap();
            prop_assert_eq!(found.octets, text.len());
            prop_assert_eq!(found.envelope, envelope);
        }

        #[test]
        fn no_input_panics(octets in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Envelope::read(&octets);
            let _ = Envelope::read(&[b"X-Sender: ", &octets[..]].concat());
        }
    }
}
