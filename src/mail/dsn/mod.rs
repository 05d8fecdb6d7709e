//! The text of a delivery status notification: what became of a message, told to its sender (RFC 3461, 3464, 6522,
//! 6533).
//!
//! A report has three parts: words for a person, fields for a program, and the message or its header. The third may be
//! large and is not held here: the caller writes [`Report::head`], then [`Report::returned`] of the original (without
//! its envelope), then [`Report::tail`]. A report is a pure value: whether to send one, and to whom, is decided
//! elsewhere.
//!
//! Nothing here fails. Every foreign word (a reply, a host, an address, a subject, what the sender gave as ENVID, ORCPT
//! or Message-ID) is made printable before it is written, so that none begins a line, a field or a part. Lines end with
//! CR LF and have at most 998 octets.

mod advice;
mod fields;
mod header;
mod safe;
mod said;
mod words;

use super::address::{Address, Domain};
use super::header::Header;
use super::parameter::{Body, OriginalRecipient, Ret};
use super::queue_id::QueueId;
use crate::limits;

/// What became of a message for one recipient (RFC 3464 §2.3.3), the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It was not delivered and never will be.
    Failed,
    /// It is still tried.
    Delayed,
    /// It is in the mailbox.
    Delivered,
    /// It went to a host that does not speak DSN, and no more will be reported.
    Relayed,
    /// It was sent on to several addresses, and no more will be reported.
    Expanded,
}

impl Action {
    /// All of them, the worst first.
    pub const ALL: [Action; 5] =
        [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded];

    /// The word of the Action field.
    pub fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }
}

/// One recipient as a report names it. Times are as RFC 5322 writes them.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// The address it was to go to at last.
    pub recipient: &'a Address,
    /// ORCPT, as the sender gave it.
    pub original: Option<&'a OriginalRecipient>,
    /// The recipient of the envelope that it came from: the same address, or an alias or a list.
    pub asked_for: &'a Address,
    /// What became of it.
    pub action: Action,
    /// The last reply in one line, such as `550 5.1.1 no such user here`.
    pub reply: Option<&'a str>,
    /// Whether it failed because this host tried for long enough, whatever the last reply was.
    pub gave_up: bool,
    /// Who gave it, such as `mx.example.net [192.0.2.1]`; `None` for this host.
    pub host: Option<&'a str>,
    /// When it was last tried.
    pub last_attempt: Option<&'a str>,
    /// Until when it is tried, for a delay.
    pub retry_until: Option<&'a str>,
}

/// The message that is reported on.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Its header, without the envelope: what is copied where [`Report::returned`] says headers.
    pub header: &'a [u8],
    /// How many octets it has.
    pub size: u64,
    /// Whether some of them are above 127.
    pub is_8bit: bool,
}

/// Who reads a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Who sent the message.
    Sender,
    /// The owner of a list that sent it on.
    Owner,
    /// The postmaster, because the message has no sender who could be told.
    Postmaster,
}

/// A report on one message.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// This host.
    pub hostname: &'a Domain,
    /// Its own queue id.
    pub id: QueueId,
    /// Bits that nobody can guess, for the line between the parts: see `Report::boundary`.
    pub chance: u64,
    /// The queue id of the message it is about.
    pub about: QueueId,
    /// Who is behind this server: answers go there (RFC 3464 §2), so it is a person's mailbox and can receive.
    pub from: &'a Address,
    /// The reverse-path of the message.
    pub to: &'a Address,
    /// Who that is.
    pub reader: Reader,
    /// Now, as RFC 5322 writes it.
    pub date: &'a str,
    /// When the message came, as RFC 5322 writes it.
    pub arrival: &'a str,
    /// ENVID, decoded.
    pub envid: Option<&'a str>,
    /// At least one.
    pub recipients: Vec<Reported<'a>>,
    /// RET, as the sender asked.
    pub ret: Option<Ret>,
    /// The message.
    pub original: Original<'a>,
}

impl<'a> Report<'a> {
    /// All up to where the original, or its header, is to be copied.
    pub fn head(&self) -> Vec<u8> {
        let words = words::words(self);
        let (kind, fields) = self.fields();
        let mut text = header::header(self, kind, self.widest(&words, &fields));
        text.push_str("\r\nThis is a report in three parts, in the form of MIME.\r\n");
        text.push_str(&self.opening("text/plain; charset=utf-8", "What happened", body_of(words.is_ascii())));
        text.push_str(&words);
        text.push_str(&self.opening(&format!("message/{kind}"), "The same for programs", body_of(fields.is_ascii())));
        text.push_str(&fields);
        let (kind, body) = self.third();
        text.push_str(&self.opening(kind, "The message", body));
        text.into_bytes()
    }

    /// What follows the original.
    pub fn tail(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary()).into_bytes()
    }

    /// How much of the original goes between head and tail: what RET asks for if something failed, else the header (RFC
    /// 3461 §4.3). Without RET, a message that is not large is returned whole.
    pub fn returned(&self) -> Ret {
        let has_failed = self.recipients.iter().any(|recipient| recipient.action == Action::Failed);
        match self.ret {
            _ if !has_failed => Ret::Headers,
            Some(ret) => ret,
            None if self.original.size <= limits::RETURNED => Ret::Full,
            None => Ret::Headers,
        }
    }

    /// Whether it can only go to a host with SMTPUTF8: an address in its own header is not ASCII. The parts alone never
    /// ask for it, so that a report reaches each sender who could send.
    pub fn needs_smtputf8(&self) -> bool {
        !self.to.is_ascii() || !self.from.is_ascii()
    }

    /// BODY= for its envelope.
    pub fn body(&self) -> Body {
        self.widest(&words::words(self), &self.fields().1)
    }

    /// What octets there are in any part or in its own header.
    fn widest(&self, words: &str, fields: &str) -> Body {
        let third_is_ascii = self.third().1 == Body::SevenBit;
        body_of(words.is_ascii() && fields.is_ascii() && third_is_ascii && !self.needs_smtputf8())
    }

    /// The line between the parts. Nothing in the report may hold it: the id is of this report alone, so that no older
    /// report that is returned inside has the same; the chance keeps whoever wrote the original from foreseeing the id
    /// and ending the third part early; and `=_` stands in no encoded text.
    fn boundary(&self) -> String {
        format!("=_{}_{:016X}", self.id, self.chance)
    }

    /// The subtype of the second part, which is the type of the report too (RFC 6522 §3), and its text.
    fn fields(&self) -> (&'static str, String) {
        let fields = fields::fields(self, self.needs_smtputf8());
        (if fields.is_ascii() { "delivery-status" } else { "global-delivery-status" }, fields)
    }

    /// The type of the third part, and what octets it has.
    fn third(&self) -> (&'static str, Body) {
        let header = self.original.header;
        // Octets that are no UTF-8 make no internationalized message, whatever else they are.
        let is_global = !header.is_ascii() && std::str::from_utf8(header).is_ok();
        let (kind, is_8bit) = match (self.returned(), is_global) {
            (Ret::Full, false) => ("message/rfc822", self.original.is_8bit),
            (Ret::Full, true) => ("message/global", true),
            (Ret::Headers, false) => ("text/rfc822-headers", false),
            (Ret::Headers, true) => ("message/global-headers", true),
        };
        (kind, body_of(header.is_ascii() && !is_8bit))
    }

    fn header(&self) -> Header<'a> {
        Header::split(self.original.header, 0)
    }

    /// The start of a part, with the line end that ends the one before (RFC 2046 §5.1.1).
    fn opening(&self, kind: &str, description: &str, body: Body) -> String {
        let encoding = transfer_encoding(body);
        format!(
            "\r\n--{}\r\nContent-Type: {kind}\r\nContent-Description: {description}\r\n{encoding}\r\n",
            self.boundary()
        )
    }
}

fn body_of(is_ascii: bool) -> Body {
    if is_ascii { Body::SevenBit } else { Body::EightBitMime }
}

fn transfer_encoding(body: Body) -> &'static str {
    match body {
        Body::SevenBit => "Content-Transfer-Encoding: 7bit\r\n",
        Body::EightBitMime => "Content-Transfer-Encoding: 8bit\r\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    pub fn address(text: &str) -> &'static Address {
        Box::leak(Box::new(text.parse().unwrap()))
    }

    pub fn original(kind: &str, address: &str) -> &'static OriginalRecipient {
        Box::leak(Box::new(OriginalRecipient { kind: kind.into(), address: address.into() }))
    }

    /// One failure, of a mailbox at another host.
    pub fn sample() -> Report<'static> {
        let failed = Reported {
            recipient: address("bob@example.net"),
            original: None,
            asked_for: address("bob@example.net"),
            action: Action::Failed,
            reply: Some("550 5.1.1 no such user here"),
            gave_up: false,
            host: Some("mx.example.net [192.0.2.1]"),
            last_attempt: Some("Mon, 23 Nov 2026 15:40:00 +0000"),
            retry_until: None,
        };
        let header =
            b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Ann <ann@example.org>\r\nMessage-ID: <1@a.example>\r\n\r\n";
        Report {
            hostname: address("x@mail.example.org").domain().unwrap(),
            id: QueueId::after(None, Duration::from_secs(1_795_000_100), 2),
            chance: 0x0123_4567_89AB_CDEF,
            about: QueueId::after(None, Duration::from_secs(1_795_000_000), 1),
            from: address("postmaster@example.org"),
            reader: Reader::Sender,
            to: address("ann@example.org"),
            date: "Mon, 23 Nov 2026 15:41:00 +0000",
            arrival: "Mon, 23 Nov 2026 15:36:51 +0000",
            envid: None,
            recipients: vec![failed],
            ret: None,
            original: Original { header, size: 1000, is_8bit: false },
        }
    }

    pub fn head(report: &Report<'_>) -> String {
        String::from_utf8(report.head()).unwrap()
    }

    #[test]
    fn only_a_failure_returns_the_message() {
        let returned = |action, ret, size| {
            let mut report = sample();
            report.recipients[0].action = action;
            (report.ret, report.original.size) = (ret, size);
            report.returned()
        };
        assert_eq!(returned(Action::Failed, None, limits::RETURNED), Ret::Full);
        assert_eq!(returned(Action::Failed, None, limits::RETURNED + 1), Ret::Headers);
        assert_eq!(returned(Action::Failed, Some(Ret::Full), u64::MAX), Ret::Full);
        assert_eq!(returned(Action::Failed, Some(Ret::Headers), 1), Ret::Headers);
        for action in &Action::ALL[1..] {
            assert_eq!(returned(*action, Some(Ret::Full), 1), Ret::Headers);
        }
    }

    #[test]
    fn each_part_has_the_type_of_what_it_holds() {
        let kinds = |change: &dyn Fn(&mut Report<'static>)| {
            let mut report = sample();
            report.original.header = b"Subject: x\r\n\r\n";
            change(&mut report);
            let head = head(&report);
            let kinds = head.split("\r\n--=_").skip(2).flat_map(|part| part.lines().nth(1));
            let kinds: Vec<&str> = kinds.map(|line| line.split(": ").nth(1).unwrap()).collect();
            (kinds.join(" "), report.body() == Body::EightBitMime, report.needs_smtputf8())
        };
        let utf8 = "Subject: Grüße\r\n\r\n".as_bytes();
        let expect = |kinds: &str, is_8bit, utf8| (kinds.to_owned(), is_8bit, utf8);
        let plain = "message/delivery-status message/rfc822";
        assert_eq!(kinds(&|_| ()), expect(plain, false, false));
        assert_eq!(kinds(&|report| report.original.is_8bit = true), expect(plain, true, false));
        assert_eq!(
            kinds(&|report| report.ret = Some(Ret::Headers)),
            expect("message/delivery-status text/rfc822-headers", false, false)
        );
        let recipient = |report: &mut Report<'static>| report.recipients[0].recipient = address("jörg@example.net");
        assert_eq!(kinds(&recipient), expect(plain, true, false));
        assert_eq!(
            kinds(&|report| {
                recipient(report);
                report.to = address("änn@example.org");
                report.original.header = utf8;
            }),
            expect("message/global-delivery-status message/global", true, true)
        );
        assert_eq!(
            kinds(&|report| (report.ret, report.original.header) = (Some(Ret::Headers), utf8)),
            expect("message/delivery-status message/global-headers", true, false)
        );
        assert_eq!(
            kinds(&|report| report.original.header = b"Subject: Gr\xfc\xdfe\r\n\r\n"),
            expect(plain, true, false)
        );
    }

    /// Text as an enemy would write it, of what this report would have to keep apart.
    fn foreign() -> impl Strategy<Value = String> {
        let boundary = "--=_0TQXGWJ000002_0123456789ABCDEF(--)?";
        let breaks = "\r\n|\r|\n|\u{85}|\u{2028}|\r\n\r\n";
        proptest::string::string_regex(&format!(
            "({breaks}|{boundary}|Action: delivered|> |Bcc: x@y.z|[ -~]|ö){{0,40}}"
        ))
        .unwrap()
    }

    /// The fields and boundaries, in their order. Folded lines belong to the one before; quoted ones are others' words.
    fn shape(text: &str) -> Vec<&str> {
        let lines = text.split("\r\n").filter(|line| !line.starts_with([' ', '>']));
        let name = |line| match str::split_once(line, ": ") {
            Some((name, _)) => Some(name),
            None => Some(line).filter(|line| line.starts_with("--=_")),
        };
        lines.filter_map(name).filter(|name| !matches!(*name, "In-Reply-To" | "References")).collect()
    }

    proptest! {
        #[test]
        fn no_foreign_text_adds_a_line_a_field_or_a_part(
            texts in prop::collection::vec(foreign(), 8), local in "[ -~ö\u{2028}]{1,30}", action in 0usize..5,
        ) {
            let mut report = sample();
            report.original.header = b"X: y\r\n\r\n";
            let quiet = with(&mut report, &vec![String::new(); 8], "x", action);
            let head = head(&quiet);
            let mut report = sample();
            let header = format!("Subject: {}\r\nFrom: {}\r\nMessage-ID: {}\r\n\r\n", texts[6], texts[7], texts[5]);
            report.original.header = header.leak().as_bytes();
            let loud = with(&mut report, &texts, &local, action);
            let loud = String::from_utf8(loud.head()).unwrap();
            prop_assert_eq!(shape(&loud), shape(&head));
            let broken = loud.replace("\r\n", "").chars().any(safe::breaks_a_line);
            prop_assert!(!broken, "{}", loud);
            prop_assert!(loud.split("\r\n").all(|line| line.len() <= limits::TEXT_LINE));
        }
    }

    fn with(report: &mut Report<'static>, texts: &[String], local: &str, action: usize) -> Report<'static> {
        let text = |at: usize| -> &'static str { format!("x{}", texts[at]).leak() };
        let host = report.hostname.clone();
        let one = &mut report.recipients[0];
        one.action = Action::ALL[action];
        one.recipient = Box::leak(Box::new(Address::new(local, host).unwrap()));
        one.asked_for = one.recipient;
        one.original = Some(original("rfc822", text(0)));
        one.reply = Some(text(1));
        one.host = Some(text(2));
        one.last_attempt = Some(text(3));
        report.envid = Some(text(4));
        report.clone()
    }
}
