//! Quoted-printable and base64, as a stream (RFC 2045 §6.7, §6.8): output lines have at most 76 octets.
//!
//! No line of the output begins with `-`, so that none is taken for a boundary; decoding gives the same octets again.
//! Memory is one line. Cannot fail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets in an encoded line, without its end.
const LINE: usize = 76;
/// Octets that make a line of base64.
const GROUP: usize = LINE / 4 * 3;

/// Text in quoted-printable. Line ends stay line ends.
#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    /// Octets in the output line so far.
    column: usize,
    /// A blank that may be the last octet of its line.
    blank: Option<u8>,
}

impl QuotedPrintable {
    /// Takes octets of a line, without its end.
    pub(super) fn text(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &octet in octets {
            self.release_blank(false, out);
            match octet {
                b' ' | b'\t' => self.blank = Some(octet),
                _ => self.put(octet, octet.is_ascii_graphic() && octet != b'=', out),
            }
        }
    }

    /// Takes the CR LF of a line.
    pub(super) fn line_end(&mut self, out: &mut Vec<u8>) {
        self.finish(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes what is left.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.release_blank(true, out);
        self.column = 0;
    }

    /// A blank at the end of a line would be lost on the way (rule 3).
    fn release_blank(&mut self, is_last: bool, out: &mut Vec<u8>) {
        if let Some(blank) = self.blank.take() {
            self.put(blank, !is_last, out);
        }
    }

    fn put(&mut self, octet: u8, is_literal: bool, out: &mut Vec<u8>) {
        // One octet of the line is kept for the = of a soft line break, and a - takes three where it comes first.
        let width = if is_literal { 1 } else { 3 };
        if self.column + width >= LINE {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
        }
        if is_literal && (octet != b'-' || self.column > 0) {
            out.push(octet);
            self.column += 1;
            return;
        }
        let digit = |value: u8| b"0123456789ABCDEF"[usize::from(value & 15)];
        out.extend_from_slice(&[b'=', digit(octet >> 4), digit(octet)]);
        self.column += 3;
    }
}

/// Any octets in base64.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    /// Fewer octets than make a line.
    held: Vec<u8>,
    has_line: bool,
}

impl Base64 {
    /// Takes octets.
    pub(super) fn octets(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while !octets.is_empty() {
            let (taken, rest) = octets.split_at(octets.len().min(GROUP - self.held.len()));
            self.held.extend_from_slice(taken);
            octets = rest;
            if self.held.len() == GROUP {
                self.finish(out);
            }
        }
    }

    /// Writes what is left, without a line end.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.held.is_empty() {
            return;
        }
        if self.has_line {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(STANDARD.encode(&self.held).as_bytes());
        self.held.clear();
        self.has_line = true;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes what [`QuotedPrintable`] writes; panics on what it never writes.
    pub(in crate::mail::seven_bit) fn from_quoted_printable(text: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        let mut rest = text;
        while let [first, after @ ..] = rest {
            rest = after;
            match (first, after) {
                (b'=', [b'\r', b'\n', after @ ..]) => rest = after,
                (b'=', [high, low, after @ ..]) => {
                    let digits = [*high, *low];
                    found.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                    rest = after;
                }
                (octet, _) => found.push(*octet),
            }
        }
        found
    }

    /// Decodes base64 in lines.
    pub(in crate::mail::seven_bit) fn from_base64(text: &[u8]) -> Vec<u8> {
        let letters: Vec<u8> = text.iter().copied().filter(|octet| !b"\r\n".contains(octet)).collect();
        STANDARD.decode(letters).unwrap()
    }

    fn quoted_printable(text: &[u8], size: usize) -> Vec<u8> {
        let (mut encoder, mut out) = (QuotedPrintable::default(), Vec::new());
        for line in text.split_inclusive(|&octet| octet == b'\n') {
            let content = line.strip_suffix(b"\r\n");
            content.unwrap_or(line).chunks(size).for_each(|chunk| encoder.text(chunk, &mut out));
            if content.is_some() {
                encoder.line_end(&mut out);
            }
        }
        encoder.finish(&mut out);
        out
    }

    #[test]
    fn quoted_printable_as_rfc_2045_says() {
        for (text, expected) in [
            (&b""[..], String::new()),
            (b"plain text", "plain text".to_owned()),
            ("Grüße = 1\r\n".as_bytes(), "Gr=C3=BC=C3=9Fe =3D 1\r\n".to_owned()),
            (b"a \r\nb\t\r\nc ", "a=20\r\nb=09\r\nc=20".to_owned()),
            (b" \r\n\r\n", "=20\r\n\r\n".to_owned()),
            (b"-- \r\n--b--\r\n", "=2D-=20\r\n=2D-b--\r\n".to_owned()),
            (b"\0\x7f", "=00=7F".to_owned()),
            (&[b'x'; 80], format!("{}=\r\n{}", "x".repeat(75), "x".repeat(5))),
            (&[b'-'; 80], format!("=2D{}=\r\n=2D{}", "-".repeat(72), "-".repeat(6))),
            (&[0xff; 26], format!("{}=\r\n=FF", "=FF".repeat(25))),
        ] {
            assert_eq!(String::from_utf8(quoted_printable(text, 1000)).unwrap(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_again(octets in prop::collection::vec(any::<u8>(), 0..400), text in "([ \t=\\-.xyü]{0,90}\r\n){0,4}[ -~]{0,90}", size in 1..100usize) {
            let (mut encoder, mut out) = (Base64::default(), Vec::new());
            octets.chunks(size).for_each(|chunk| encoder.octets(chunk, &mut out));
            encoder.finish(&mut out);
            prop_assert_eq!(from_base64(&out), octets);
            let quoted = quoted_printable(text.as_bytes(), size);
            prop_assert_eq!(from_quoted_printable(&quoted), text.as_bytes());
            prop_assert_eq!(&quoted, &quoted_printable(text.as_bytes(), 1000));
            for line in [&out, &quoted].into_iter().flat_map(|text| text.split(|&octet| octet == b'\n')) {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                prop_assert!(line.is_ascii() && line.len() <= LINE && !line.starts_with(b"-"));
                prop_assert!(!line.ends_with(b" ") && !line.ends_with(b"\t"));
            }
        }
    }
}
