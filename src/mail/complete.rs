//! What a message lacks of what each must have (RFC 5322 §3.6), added by the host where its way begins (RFC 6409 §8).
//!
//! Date and Message-ID are added below the other fields, and an address without a domain gets one (RFC 6409 §4.2); all
//! other octets stay as they came. Where a header ends with a line that is no field, an empty line is put before that,
//! so that what was text stays text. Never fails; a header larger than [`limits::DROP_HEADER`] passes as it is.

use super::address::Domain;
use super::header::{self, Header};
use super::rewrite;
use crate::limits;

/// The fields that hold addresses (RFC 5322 §3.6).
const ADDRESSES: [&str; 12] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Resent-From",
    "Resent-Sender",
    "Resent-Reply-To",
    "Resent-To",
    "Resent-Cc",
    "Resent-Bcc",
];

/// What the fields that are added say.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Now, as RFC 5322 writes it.
    pub date: String,
    /// The left side of a Message-ID, unique on this host.
    pub unique: String,
    /// The name of this host.
    pub hostname: Domain,
}

/// The fields that `header` lacks, each with its CR LF.
pub fn missing_fields(header: &Header<'_>, stamp: &Stamp) -> String {
    let mut text = String::new();
    if header.all("Date").next().is_none() {
        text.push_str(&format!("Date: {}\r\n", stamp.date));
    }
    if header.all("Message-ID").next().is_none() {
        text.push_str(&format!("Message-ID: <{}@{}>\r\n", stamp.unique, stamp.hostname));
    }
    text
}

/// A message that streams past, and whose header is not over yet.
#[derive(Debug)]
pub struct Completion {
    stamp: Stamp,
    default_domain: Domain,
    text: Vec<u8>,
    /// Where the first line begins that has not ended yet.
    line: usize,
}

/// What [`Completion::feed`] makes of some octets.
#[derive(Debug)]
pub enum Fed {
    /// The header goes on.
    More(Completion),
    /// These come in the place of all that was fed; what follows them is not to be changed.
    Done(Vec<u8>),
}

impl Completion {
    /// Before the first octet. A name without a domain is meant at `default_domain`.
    pub fn new(stamp: Stamp, default_domain: Domain) -> Completion {
        Completion { stamp, default_domain, text: Vec::new(), line: 0 }
    }

    /// Takes the next octets of the message.
    pub fn feed(mut self, octets: &[u8]) -> Fed {
        let before = self.text.len();
        self.text.extend_from_slice(octets);
        // What was there before holds no line end behind `line`.
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &self.text[before..]).map(|at| before + at + 1).collect();
        for end in ends {
            if self.is_over(end) {
                return Fed::Done(self.finish());
            }
            self.line = end;
        }
        if self.text.len() > limits::DROP_HEADER { Fed::Done(self.text) } else { Fed::More(self) }
    }

    /// At the end of a message that is nothing but its header, or after it.
    pub fn finish(self) -> Vec<u8> {
        let header = Header::split(&self.text, 0);
        let of_fields: usize = header.fields.iter().map(|field| field.octets.len()).sum();
        if of_fields > limits::DROP_HEADER {
            return self.text;
        }
        let mut out = Vec::with_capacity(self.text.len() + limits::TEXT_LINE);
        for field in &header.fields {
            let has_addresses = ADDRESSES.iter().any(|name| field.is(name));
            let qualified = if has_addresses { rewrite::qualified(field, &self.default_domain) } else { None };
            out.extend_from_slice(qualified.as_deref().unwrap_or(field.octets));
        }
        let added = missing_fields(&header, &self.stamp);
        let rest = &self.text[of_fields..];
        if !added.is_empty() {
            if !out.is_empty() && !out.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(added.as_bytes());
            if !header.ended && !rest.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(rest);
        out
    }

    /// Whether the line that ends at `end` is none of the header.
    fn is_over(&self, end: usize) -> bool {
        let line = &self.text[self.line..end];
        let is_continued = self.line > 0 && matches!(line.first(), Some(b' ' | b'\t'));
        !is_continued && header::name_end(line).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn completion() -> Completion {
        let stamp = Stamp { date: "DATE".into(), unique: "ID".into(), hostname: "mail.example.org".parse().unwrap() };
        Completion::new(stamp, "example.org".parse().unwrap())
    }

    /// What becomes of a message that comes in pieces of `step`.
    fn completed(text: &[u8], step: usize) -> Vec<u8> {
        let mut completion = Some(completion());
        let mut out = Vec::new();
        for piece in text.chunks(step) {
            match completion.take().map(|completion| completion.feed(piece)) {
                Some(Fed::More(more)) => completion = Some(more),
                Some(Fed::Done(octets)) => out = octets,
                None => out.extend_from_slice(piece),
            }
        }
        out.extend(completion.map(Completion::finish).unwrap_or_default());
        out
    }

    const ADDED: &str = "Date: DATE\r\nMessage-ID: <ID@mail.example.org>\r\n";

    #[test]
    fn what_is_missing_is_added_and_nothing_else_changes() {
        for (text, expected) in [
            ("From: a@b.org\r\n\r\nhi\r\n", format!("From: a@b.org\r\n{ADDED}\r\nhi\r\n")),
            ("From: Ann (x) <ann>\r\n\tb:\r\n\r\n", format!("From: Ann (x) <ann>\r\n\tb:\r\n{ADDED}\r\n")),
            ("from: Ann <ann>, bob\r\n\r\n", format!("from: Ann <ann@example.org>, bob@example.org\r\n{ADDED}\r\n")),
            ("sender: ann\r\nTO: b\r\n\r\n", format!("sender: ann@example.org\r\nTO: b@example.org\r\n{ADDED}\r\n")),
            (
                "Cc: a\r\nBcc: a\r\nReply-To: a\r\nSubject: a\r\n\r\n",
                format!(
                    "Cc: a@example.org\r\nBcc: a@example.org\r\nReply-To: a@example.org\r\nSubject: a\r\n{ADDED}\r\n"
                ),
            ),
            (
                "Resent-To: a, b@c\r\nResent-Sender: <a>\r\nResent-Date: a\r\n\r\n",
                format!(
                    "Resent-To: a@example.org, b@c\r\nResent-Sender: <a@example.org>\r\nResent-Date: a\r\n{ADDED}\r\n"
                ),
            ),
            // What is no local-part stays.
            (
                "To: no one:;, a b, \"\", .a, a..b, =?utf-8?q?J=C3=B6rg?=, <>, \"a b\"\r\n\r\n",
                format!(
                    "To: no one:;, a b, \"\", .a, a..b, =?utf-8?q?J=C3=B6rg?=, <>, \"a b\"@example.org\r\n{ADDED}\r\n"
                ),
            ),
            (
                "date: x\r\nSubject: 1\r\n 2\r\n\r\n",
                "date: x\r\nSubject: 1\r\n 2\r\nMessage-ID: <ID@mail.example.org>\r\n\r\n".into(),
            ),
            ("DATE: x\r\nmessage-id: y\r\n\r\nDate:", "DATE: x\r\nmessage-id: y\r\n\r\nDate:".into()),
            ("Date: x\r\nMessage-ID: y\r\nno field\r\n", "Date: x\r\nMessage-ID: y\r\nno field\r\n".into()),
            ("Subject: x\r\nno field\r\nDate: y\r\n", format!("Subject: x\r\n{ADDED}\r\nno field\r\nDate: y\r\n")),
            ("Subject: x\r\n", format!("Subject: x\r\n{ADDED}")),
            ("Subject: x", format!("Subject: x\r\n{ADDED}")),
            ("\r\ntext\r\n", format!("{ADDED}\r\ntext\r\n")),
            ("text\r\n", format!("{ADDED}\r\ntext\r\n")),
            ("", ADDED.to_owned()),
        ] {
            for step in 1..text.len() + 2 {
                let shown = String::from_utf8(completed(text.as_bytes(), step)).unwrap();
                assert!(shown == expected || text.is_empty(), "{text:?} by {step}: {shown:?}");
            }
        }
    }

    #[test]
    fn a_header_without_an_end_passes_as_it_is() {
        for line in ["X: y\r\n", "x"] {
            let text = line.repeat(limits::DROP_HEADER / line.len() + 1);
            let most = 32 * 1024;
            assert!(completed(text.as_bytes(), most) == text.as_bytes(), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_octet_is_lost_however_it_is_cut(text in "(A|Date|From|:|a|@|,|<|>|\\(|\"| |\t|\r\n|\n|\r){0,30}", step in 1..40_usize) {
            let whole = completed(text.as_bytes(), 1000);
            prop_assert_eq!(&completed(text.as_bytes(), step), &whole);
            let fields = Header::split(text.as_bytes(), 0).fields.len();
            prop_assert!(Header::split(&whole, 0).fields.len() >= fields);
        }
    }
}
