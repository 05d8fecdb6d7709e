//! What the header of a part, or of a message, says about its body: RFC 2045 §5 and §6, as far as changing the encoding
//! needs it.
//!
//! Lenient where readers agree, and where they may not, a doubt is noted: a message in doubt is left alone. Bounded by
//! [`limits::MIME_FIELD`]. Never fails.

use crate::limits;

/// How a part is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Parts between lines that name the boundary.
    Multipart {
        /// Without the hyphens.
        boundary: Vec<u8>,
        /// Whether its parts are messages unless they say otherwise (RFC 2046 §5.1.5).
        is_digest: bool,
    },
    /// A message of its own.
    Message,
    /// text/*
    Text,
    /// Anything else that has no parts.
    Other,
    /// What may not be encoded or can't be read, and why.
    Closed(&'static str),
}

/// The encoding that a part claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// 7bit, or none.
    SevenBit,
    /// 8bit or binary: no encoding either.
    Wide,
    /// quoted-printable or base64.
    Encoded,
    /// Another.
    Unknown,
}

/// The fields of a header that tell, as they stream past.
#[derive(Debug, Default)]
pub(super) struct Fields {
    content_type: Option<Vec<u8>>,
    encoding: Option<Vec<u8>>,
    /// Whether MIME-Version stands there.
    pub(super) has_version: bool,
    /// Whether a signature stands there that covers the body.
    pub(super) is_signed: bool,
    /// What makes readers differ about this header.
    pub(super) doubt: Option<&'static str>,
    current: Current,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Current {
    #[default]
    None,
    Other,
    ContentType,
    Encoding,
}

const TWICE: &str = "a part has two Content-Type or Content-Transfer-Encoding fields";

impl Fields {
    /// A field of this name begins.
    pub(super) fn begin(&mut self, name: &[u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        self.has_version |= is("MIME-Version");
        self.is_signed |= ["DKIM-Signature", "ARC-Seal", "ARC-Message-Signature"].into_iter().any(is);
        self.current = match () {
            () if is("Content-Type") => Current::ContentType,
            () if is("Content-Transfer-Encoding") => Current::Encoding,
            () => Current::Other,
        };
        if self.value().is_some_and(|value| value.replace(Vec::new()).is_some()) {
            self.doubt = Some(TWICE);
        }
    }

    /// Octets of the field's value, without line ends.
    pub(super) fn extend(&mut self, octets: &[u8]) {
        let Some(value) = self.value().and_then(Option::as_mut) else { return };
        if value.len() + octets.len() > limits::MIME_FIELD {
            self.doubt = Some("a Content-Type or Content-Transfer-Encoding field is too long");
        } else {
            value.extend_from_slice(octets);
        }
    }

    /// Whether a field was begun.
    pub(super) fn has_begun(&self) -> bool {
        self.current != Current::None
    }

    /// Whether the field that was begun last is Content-Transfer-Encoding.
    pub(super) fn is_encoding(&self) -> bool {
        self.current == Current::Encoding
    }

    /// Whether Content-Type stands there.
    pub(super) fn has_type(&self) -> bool {
        self.content_type.is_some()
    }

    fn value(&mut self) -> Option<&mut Option<Vec<u8>>> {
        match self.current {
            Current::ContentType => Some(&mut self.content_type),
            Current::Encoding => Some(&mut self.encoding),
            Current::None | Current::Other => None,
        }
    }

    /// What Content-Transfer-Encoding says.
    pub(super) fn encoding(&self) -> Encoding {
        let Some(value) = &self.encoding else { return Encoding::SevenBit };
        let Some((word, rest)) = word(value, b"") else { return Encoding::Unknown };
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        match () {
            () if !skip(rest).is_empty() => Encoding::Unknown,
            () if is(b"7bit") => Encoding::SevenBit,
            () if is(b"8bit") || is(b"binary") => Encoding::Wide,
            () if is(b"quoted-printable") || is(b"base64") => Encoding::Encoded,
            () => Encoding::Unknown,
        }
    }

    /// What Content-Type says, and whether it names a multipart whose content is sealed by a signature or a key. In a
    /// multipart/digest, a part without one is a message.
    pub(super) fn kind(&self, is_in_digest: bool) -> (Kind, bool) {
        let is_encoded = !matches!(self.encoding(), Encoding::SevenBit | Encoding::Wide);
        let encoded = Kind::Closed("a multipart or a message inside is encoded as a whole");
        let Some(value) = &self.content_type else {
            let kind = match is_in_digest {
                true if is_encoded => encoded,
                true => Kind::Message,
                false => Kind::Text,
            };
            return (kind, false);
        };
        // RFC 2045 §5.2: what can't be read is plain text.
        let Some((main, sub, rest)) = media_type(value) else { return (Kind::Text, false) };
        let (is_main, is_sub) = (|name: &str| main == name.as_bytes(), |name: &str| sub == name.as_bytes());
        let is_sealed = is_main("multipart") && (is_sub("signed") || is_sub("encrypted"));
        let kind = match () {
            () if is_main("text") => Kind::Text,
            () if !is_main("multipart") && !is_main("message") => Kind::Other,
            () if is_encoded => encoded,
            () if is_main("multipart") => match boundary(rest) {
                Some(boundary) => Kind::Multipart { boundary, is_digest: is_sub("digest") },
                None => Kind::Closed("a multipart has no boundary that can be read"),
            },
            () if is_sub("rfc822") => Kind::Message,
            () if is_sub("global") => Kind::Closed("a message inside is an international one"),
            () => Kind::Closed("a part of this type may not be encoded"),
        };
        (kind, is_sealed)
    }
}

/// The type and the subtype in lower case, and what follows them.
fn media_type(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>, &[u8])> {
    let (main, rest) = word(value, b"/")?;
    let (sub, rest) = word(skip(rest).strip_prefix(b"/")?, b"/")?;
    Some((main.to_ascii_lowercase(), sub.to_ascii_lowercase(), rest))
}

/// The boundary among the parameters of a Content-Type field. `None` also where readers may find different ones.
fn boundary(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    loop {
        rest = skip(rest);
        if rest.is_empty() {
            return found;
        }
        rest = skip(rest.strip_prefix(b";")?);
        // A last semicolon is common.
        if rest.is_empty() {
            return found;
        }
        let (name, after) = word(rest, b"=")?;
        let (value, after) = parameter_value(skip(after).strip_prefix(b"=")?)?;
        rest = after;
        if name.eq_ignore_ascii_case(b"boundary") {
            let kept = value.trim_ascii_end().len();
            let fits = (1..=limits::MIME_BOUNDARY).contains(&kept);
            if found.is_some() || !fits {
                return None;
            }
            found = Some(value[..kept].to_vec());
        } else if name.to_ascii_lowercase().starts_with(b"boundary*") {
            return None;
        }
    }
}

/// A quoted string or a word, and what follows.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = skip(text);
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return word(text, b"").map(|(word, rest)| (word.to_vec(), rest));
    };
    let mut value = Vec::new();
    let mut octets = quoted.iter().enumerate();
    while let Some((at, &octet)) = octets.next() {
        match octet {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*octets.next()?.1),
            _ => value.push(octet),
        }
    }
    None
}

/// Octets up to a blank, a semicolon, a quote, a comment or one of `ends`; and what follows. More than the tokens of
/// RFC 2045, because boundaries with a slash or a colon come without quotes.
fn word<'a>(text: &'a [u8], ends: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let text = skip(text);
    let is_end = |octet: &u8| b" \t\r\n;\"()".contains(octet) || ends.contains(octet);
    let end = text.iter().position(is_end).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What follows blanks and comments, which may hold comments.
fn skip(text: &[u8]) -> &[u8] {
    let mut depth = 0_usize;
    let mut octets = text.iter().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b'\\' if depth > 0 => drop(octets.next()),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if depth > 0 => {}
            _ => return &text[at..],
        }
    }
    b""
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.begin(name.as_bytes());
            fields.extend(value.as_bytes());
        }
        fields
    }

    fn kind(value: &str) -> Kind {
        fields(&[("content-type", value)]).kind(false).0
    }

    #[test]
    fn boundaries_are_read_as_programs_write_them() {
        for (value, expected) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("Multipart/Mixed; BOUNDARY=\"a b\\\"c \"", Some("a b\"c")),
            (" multipart / mixed ; charset=x; boundary = abc ; ", Some("abc")),
            ("multipart/mixed (a (b) \\) c); (x) boundary(y)=(z)abc(w)", Some("abc")),
            ("multipart/mixed;\tboundary=----=_Part/1:2?", Some("----=_Part/1:2?")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("multipart/mixed; boundary=\"\"", None),
            ("multipart/mixed; boundary=\"abc", None),
            ("multipart/mixed; boundary=abc def", None),
            ("multipart/mixed; boundary=\"abc\"def", None),
            ("multipart/mixed; boundary=a; boundary=b", None),
            ("multipart/mixed; boundary*0=a; boundary*1=b", None),
            ("multipart/mixed boundary=abc", None),
        ] {
            let found = match kind(value) {
                Kind::Multipart { boundary, .. } => Some(String::from_utf8(boundary).unwrap()),
                Kind::Closed(_) => None,
                other => panic!("{value}: {other:?}"),
            };
            assert_eq!(found.as_deref(), expected, "{value}");
        }
        assert!(matches!(kind(&format!("multipart/x; boundary={}", "b".repeat(257))), Kind::Closed(_)));
    }

    #[test]
    fn types_decide_what_is_entered_and_how_it_is_encoded() {
        for (value, expected) in [
            ("text/html; charset=utf-8", Kind::Text),
            ("TEXT/x-diff", Kind::Text),
            ("text", Kind::Text),
            ("", Kind::Text),
            ("image/png", Kind::Other),
            ("application/pkcs7-mime", Kind::Other),
            ("Message/RFC822", Kind::Message),
            ("message/global", Kind::Closed("a message inside is an international one")),
            ("message/partial; id=x", Kind::Closed("a part of this type may not be encoded")),
        ] {
            assert_eq!(kind(value), expected, "{value}");
        }
        assert_eq!(fields(&[]).kind(true).0, Kind::Message);
        assert_eq!(fields(&[]).kind(false).0, Kind::Text);
        for (value, sealed) in [("multipart/signed", true), ("multipart/Encrypted", true), ("text/signed", false)] {
            assert_eq!(fields(&[("Content-Type", &format!("{value}; boundary=b"))]).kind(false).1, sealed, "{value}");
        }
        let encoded =
            fields(&[("Content-Transfer-Encoding", "base64"), ("Content-Type", "multipart/mixed; boundary=b")]);
        assert!(matches!(encoded.kind(false).0, Kind::Closed(_)));
        assert!(matches!(fields(&[("Content-Transfer-Encoding", "base64")]).kind(true).0, Kind::Closed(_)));
    }

    #[test]
    fn encodings_are_read_in_any_case_and_with_comments() {
        for (value, expected) in [
            ("8BIT", Encoding::Wide),
            (" binary (really)", Encoding::Wide),
            ("7bit", Encoding::SevenBit),
            ("Quoted-Printable", Encoding::Encoded),
            ("base64", Encoding::Encoded),
            ("x-uuencode", Encoding::Unknown),
            ("8bit 7bit", Encoding::Unknown),
            ("", Encoding::Unknown),
        ] {
            assert_eq!(fields(&[("Content-transfer-encoding", value)]).encoding(), expected, "{value}");
        }
        assert_eq!(fields(&[("Subject", "8bit")]).encoding(), Encoding::SevenBit);
    }

    #[test]
    fn what_stands_twice_or_is_endless_is_in_doubt() {
        assert_eq!(fields(&[("Content-Type", "text/plain"), ("CONTENT-TYPE", "text/html")]).doubt, Some(TWICE));
        assert!(fields(&[("Content-Type", &"x".repeat(limits::MIME_FIELD + 1))]).doubt.is_some());
        assert!(fields(&[("Subject", &"x".repeat(limits::MIME_FIELD + 1)), ("Subject", "")]).doubt.is_none());
    }

    #[test]
    fn signatures_are_seen_in_any_case() {
        for name in ["dkim-signature", "ARC-Seal", "Arc-Message-Signature"] {
            assert!(fields(&[(name, "x")]).is_signed, "{name}");
        }
        assert!(!fields(&[("X-DKIM-Signature", "x"), ("ARC-Authentication-Results", "x")]).is_signed);
    }

    proptest! {
        #[test]
        fn no_input_panics(value in "[a-z/;=\"\\\\() \u{ff}]{0,40}", octets in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut fields = fields(&[("Content-Type", &value), ("Content-Transfer-Encoding", &value)]);
            let _ = (fields.kind(false), fields.encoding());
            fields.extend(&octets);
            let _ = (fields.kind(false), fields.encoding(), boundary(&octets));
        }
    }
}
