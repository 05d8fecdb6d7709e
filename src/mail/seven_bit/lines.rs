//! A message in blocks, cut anywhere, taken apart into lines.
//!
//! A line of at most [`limits::TEXT_LINE`] octets comes in one piece, whatever the blocks were; a longer one may come in
//! several. Memory is bounded by that line and the largest block. Cannot fail; a CR or LF that stands alone is noted.

use crate::limits;

/// What follows a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More of the same line.
    More,
    /// CR LF.
    Line,
    /// Nothing: the message ends without CR LF.
    Message,
}

/// A line without its CR LF, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) octets: &'a [u8],
    /// Whether a line begins with it.
    pub(super) is_first: bool,
    pub(super) end: End,
}

impl<'a> Piece<'a> {
    /// The line, if it is one that fits.
    pub(super) fn whole_line(&self) -> Option<&'a [u8]> {
        let is_whole = self.is_first && self.end != End::More && self.octets.len() <= limits::TEXT_LINE;
        is_whole.then_some(self.octets)
    }
}

/// What is known between two blocks.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line's octets that no piece gave yet.
    held: Vec<u8>,
    /// Whether a piece of the line was given.
    is_inside: bool,
    /// Whether a CR or an LF stood alone.
    pub(super) has_bare_end: bool,
}

impl Lines {
    /// Takes the next octets.
    pub(super) fn feed(&mut self, mut octets: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        while let Some(at) = memchr::memchr(b'\n', octets) {
            let (line, rest) = octets.split_at(at + 1);
            octets = rest;
            if self.held.is_empty() {
                self.line(line, each);
                continue;
            }
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(line);
            self.line(&held, each);
            held.clear();
            self.held = held;
        }
        self.held.extend_from_slice(octets);
        if self.held.len() > limits::TEXT_LINE + 1 {
            let mut held = std::mem::take(&mut self.held);
            // It may be the first half of the line's end.
            let kept = usize::from(held.ends_with(b"\r"));
            let given = held.len() - kept;
            self.give(&held[..given], End::More, each);
            held.drain(..given);
            self.held = held;
        }
    }

    /// Gives what is left once the last octet was taken.
    pub(super) fn finish(&mut self, each: &mut impl FnMut(Piece<'_>)) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() || self.is_inside {
            self.give(&held, End::Message, each);
        }
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        let content = line.strip_suffix(b"\r\n").unwrap_or_else(|| {
            self.has_bare_end = true;
            &line[..line.len() - 1]
        });
        self.give(content, End::Line, each);
    }

    fn give(&mut self, octets: &[u8], end: End, each: &mut impl FnMut(Piece<'_>)) {
        self.has_bare_end |= memchr::memchr(b'\r', octets).is_some();
        each(Piece { octets, is_first: !self.is_inside, end });
        self.is_inside = end == End::More;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines, joined from their pieces, and whether a CR or LF stood alone.
    fn lines<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(Vec<u8>, End)>, bool) {
        let mut found: Vec<(Vec<u8>, End)> = Vec::new();
        let mut each = |piece: Piece<'_>| {
            assert!(piece.is_first || piece.whole_line().is_none());
            if piece.is_first {
                assert!(piece.end != End::More || piece.octets.len() > limits::TEXT_LINE);
                found.push((Vec::new(), End::More));
            }
            let last = found.last_mut().unwrap();
            assert_eq!(last.1, End::More);
            last.0.extend_from_slice(piece.octets);
            last.1 = piece.end;
        };
        let mut lines = Lines::default();
        blocks.into_iter().for_each(|block| lines.feed(block, &mut each));
        lines.finish(&mut each);
        (found, lines.has_bare_end)
    }

    #[test]
    fn lines_end_with_cr_lf() {
        let long = [b'x'; limits::TEXT_LINE * 3];
        let text = [b"a\r\n\r\n".as_slice(), &long, b"\r\nend"].concat();
        let expected = vec![
            (b"a".to_vec(), End::Line),
            (Vec::new(), End::Line),
            (long.to_vec(), End::Line),
            (b"end".to_vec(), End::Message),
        ];
        assert_eq!(lines([&*text]), (expected.clone(), false));
        assert_eq!(lines(text.chunks(1)), (expected, false));
        assert_eq!(lines([]).0, []);
        for bare in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"a\r", b"a\r\r\n"] {
            assert!(lines(bare.chunks(1)).1, "{bare:?}");
        }
    }

    proptest! {
        #[test]
        fn blocks_change_nothing(parts in prop::collection::vec((0..2100usize, "[\r\nx]{0,4}"), 0..6), size in 1..1500usize) {
            let text: Vec<u8> = parts.iter().flat_map(|(count, ends)| [b"y".repeat(*count), ends.clone().into_bytes()].concat()).collect();
            prop_assert_eq!(lines(text.chunks(size)), lines([&*text]));
        }
    }
}
