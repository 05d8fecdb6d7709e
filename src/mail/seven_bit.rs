//! A message with 8-bit octets, made into one of 7-bit octets for a next hop without 8BITMIME (RFC 6152 §3).
//!
//! Two passes over the stored message, so that memory stays flat whatever its size: a [`Survey`] says whether it can be
//! done and makes a [`Plan`], which a [`Rewriter`] carries out. Blocks may be cut anywhere.
//!
//! Parts that hold 8-bit octets are encoded, text in quoted-printable and everything else in base64, and so, if anything
//! is, parts with lines above 998 octets; labels of 8bit and binary that hold no more become 7bit. Readers decode exactly
//! the octets that were sent, and see the same parts. Messages inside are entered.
//!
//! It is [`Verdict::Impossible`], and the message fails with 5.6.3, where this promise can't be held: 8-bit octets under
//! a signature or a key (DKIM-Signature, ARC-Seal, ARC-Message-Signature, multipart/signed, multipart/encrypted), in a
//! header (that needs SMTPUTF8), in what is encoded already, around the parts of a multipart, or in a type that may not be
//! encoded; and 8-bit octets anywhere in a message whose structure readers may see differently.

mod encode;
mod lines;
mod part;
mod walk;

use crate::limits;
use encode::{Base64, QuotedPrintable};
use part::{Encoding, Kind};
use walk::{Event, HeaderEnd, Part, Walk};

/// What a [`Survey`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every octet has 7 bits already.
    SevenBit,
    /// It can be rewritten.
    Convertible(Plan),
    /// It can't, for this reason.
    Impossible(&'static str),
}

/// What is to change, part by part: at most [`limits::MIME_PARTS`] of a few octets each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    encoding: Option<NewEncoding>,
    adds_type: bool,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewEncoding {
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl NewEncoding {
    fn name(self) -> &'static str {
        match self {
            NewEncoding::SevenBit => "7bit",
            NewEncoding::QuotedPrintable => "quoted-printable",
            NewEncoding::Base64 => "base64",
        }
    }
}

/// MIME-Version in the header of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version {
    #[default]
    Stands,
    Missing,
    Added,
}

/// The first pass: looks at the whole message and decides.
#[derive(Debug, Default)]
pub struct Survey {
    walk: Walk,
    findings: Findings,
}

impl Survey {
    /// A survey that has seen nothing yet.
    pub fn new() -> Survey {
        Survey::default()
    }

    /// Takes the next octets of the message, from the first of its header on.
    pub fn feed(&mut self, octets: &[u8]) {
        let Survey { walk, findings } = self;
        walk.feed(octets, &mut |event| findings.take(event));
    }

    /// The verdict, once the last octet was taken.
    pub fn finish(self) -> Verdict {
        let Survey { mut walk, mut findings } = self;
        walk.finish(&mut |event| findings.take(event));
        if !findings.is_eight_bit {
            return Verdict::SevenBit;
        }
        match walk.doubt().or(findings.obstacle) {
            Some(why) => Verdict::Impossible(why),
            None => Verdict::Convertible(Plan { parts: findings.parts }),
        }
    }
}

#[derive(Debug, Default)]
struct Findings {
    parts: Vec<Change>,
    /// The part whose content is passing.
    content: Option<Content>,
    is_eight_bit: bool,
    /// Why it can't be done.
    obstacle: Option<&'static str>,
}

/// A part without parts.
#[derive(Debug)]
struct Content {
    encoded: Result<NewEncoding, &'static str>,
    has_type: bool,
    message: usize,
    is_eight_bit: bool,
    has_long_line: bool,
    /// Octets in the line so far.
    column: usize,
}

impl Findings {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Begin if self.parts.len() == limits::MIME_PARTS => {
                self.obstacle = self.obstacle.or(Some("it has too many parts"));
            }
            Event::Begin => self.parts.push(Change::default()),
            Event::Header(octets, _) => self.outside_content(octets, "a header field holds 8-bit octets"),
            Event::Frame(octets) => self.outside_content(octets, "8-bit octets stand around the parts of a multipart"),
            Event::Body(part, end) => self.begin_body(part, end),
            Event::Text(octets) => self.text(octets),
            Event::LineEnd => self.content.iter_mut().for_each(|content| content.column = 0),
            Event::End(_) => self.end_content(),
        }
    }

    fn outside_content(&mut self, octets: &[u8], obstacle: &'static str) {
        if !octets.is_ascii() {
            self.is_eight_bit = true;
            self.obstacle = self.obstacle.or(Some(obstacle));
        }
    }

    fn begin_body(&mut self, part: &Part, end: HeaderEnd) {
        if let Some(change) = self.parts.last_mut().filter(|_| end != HeaderEnd::Nothing && !part.is_sealed) {
            change.encoding = (part.encoding == Encoding::Wide).then_some(NewEncoding::SevenBit);
            if part.is_message && !part.has_version {
                change.version = Version::Missing;
            }
        }
        self.content = None;
        let encoded = match (&part.kind, part.encoding) {
            (Kind::Multipart { .. } | Kind::Message, _) => return,
            _ if part.is_sealed => Err("8-bit octets are under a signature or a key"),
            (Kind::Closed(why), _) => Err(*why),
            (_, Encoding::Encoded) => Err("8-bit octets stand in a part that is encoded already"),
            (_, Encoding::Unknown) => Err("8-bit octets stand in a part with an unknown encoding"),
            (Kind::Text, _) => Ok(NewEncoding::QuotedPrintable),
            (Kind::Other, _) => Ok(NewEncoding::Base64),
        };
        let (has_type, message) = (part.has_type, part.message);
        self.content =
            Some(Content { encoded, has_type, message, is_eight_bit: false, has_long_line: false, column: 0 });
    }

    fn text(&mut self, octets: &[u8]) {
        let Some(content) = &mut self.content else { return };
        content.column += octets.len();
        content.has_long_line |= content.column > limits::TEXT_LINE;
        if content.is_eight_bit || octets.is_ascii() {
            return;
        }
        content.is_eight_bit = true;
        self.is_eight_bit = true;
        self.obstacle = self.obstacle.or(content.encoded.err());
    }

    fn end_content(&mut self) {
        let Some(content) = self.content.take() else { return };
        let Ok(encoding) = content.encoded else { return };
        if !content.is_eight_bit && !content.has_long_line {
            return;
        }
        if let Some(change) = self.parts.last_mut() {
            change.encoding = Some(encoding);
            change.adds_type = content.is_eight_bit && !content.has_type;
        }
        for message in [0, content.message] {
            if let Some(change) = self.parts.get_mut(message).filter(|change| change.version == Version::Missing) {
                change.version = Version::Added;
            }
        }
    }
}

/// The second pass: writes the message anew. The octets must be those that were surveyed.
///
/// The size of the outcome is the sum of what a first run appends, which need not be kept.
#[derive(Debug)]
pub struct Rewriter<'p> {
    walk: Walk,
    writing: Writing<'p>,
}

impl<'p> Rewriter<'p> {
    /// A rewriter that has seen nothing yet.
    pub fn new(plan: &'p Plan) -> Rewriter<'p> {
        let writing = Writing { rest: &plan.parts, change: Change::default(), encoder: Encoder::None };
        Rewriter { walk: Walk::default(), writing }
    }

    /// Takes the next octets, and appends to `out` what is known of the outcome: at most a few times as many.
    pub fn feed(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let Rewriter { walk, writing } = self;
        walk.feed(octets, &mut |event| writing.take(event, out));
    }

    /// Appends what is left to `out`, once the last octet was taken.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        let writing = &mut self.writing;
        self.walk.finish(&mut |event| writing.take(event, out));
    }
}

#[derive(Debug)]
struct Writing<'p> {
    /// The changes to the parts that have not begun.
    rest: &'p [Change],
    /// To the one that has.
    change: Change,
    encoder: Encoder,
}

#[derive(Debug)]
enum Encoder {
    None,
    QuotedPrintable(QuotedPrintable),
    Base64(Base64),
}

impl Writing<'_> {
    fn take(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Begin => {
                self.change = self.rest.split_off_first().copied().unwrap_or_default();
            }
            Event::Header(_, true) if self.change.encoding.is_some() => {}
            Event::Header(octets, _) | Event::Frame(octets) => out.extend_from_slice(octets),
            Event::Body(_, end) => self.begin_body(end, out),
            Event::Text(octets) => match &mut self.encoder {
                Encoder::None => out.extend_from_slice(octets),
                Encoder::QuotedPrintable(encoder) => encoder.text(octets, out),
                Encoder::Base64(encoder) => encoder.octets(octets, out),
            },
            Event::LineEnd => match &mut self.encoder {
                Encoder::None => out.extend_from_slice(b"\r\n"),
                Encoder::QuotedPrintable(encoder) => encoder.line_end(out),
                Encoder::Base64(encoder) => encoder.octets(b"\r\n", out),
            },
            Event::End(is_last) => self.end_content(is_last, out),
        }
    }

    /// The fields that are new stand last in the header.
    fn begin_body(&mut self, end: HeaderEnd, out: &mut Vec<u8>) {
        let Change { encoding, adds_type, version } = self.change;
        if version == Version::Added {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if adds_type {
            // RFC 1428 §3: there is text in it, and nobody said which.
            out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
        }
        if let Some(encoding) = encoding {
            out.extend_from_slice(b"Content-Transfer-Encoding: ");
            out.extend_from_slice(encoding.name().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let has_changed = adds_type || version == Version::Added || encoding.is_some();
        if end == HeaderEnd::EmptyLine || (end == HeaderEnd::Body && has_changed) {
            out.extend_from_slice(b"\r\n");
        }
        self.encoder = match encoding {
            Some(NewEncoding::QuotedPrintable) => Encoder::QuotedPrintable(QuotedPrintable::default()),
            Some(NewEncoding::Base64) => Encoder::Base64(Base64::default()),
            Some(NewEncoding::SevenBit) | None => Encoder::None,
        };
    }

    fn end_content(&mut self, is_last: bool, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.encoder, Encoder::None) {
            Encoder::None => {}
            Encoder::QuotedPrintable(mut encoder) => encoder.finish(out),
            Encoder::Base64(mut encoder) => {
                encoder.finish(out);
                // Before a boundary the line end is the boundary's.
                if is_last {
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
