//! What a message is on the wire: how many octets, and where its top ends. Pure but for the reader it is given.
//!
//! [`measure`] counts exactly what `io::dot::Stuff` sends, without the dots it adds: a LF alone counts as CR LF, and so
//! does a missing line end at the end. Fails only with the reader's own errors.

use std::io::{self, Read};

use crate::limits;

/// The octets of the message in `reader`, once its line ends are CR LF.
pub fn measure(mut reader: impl Read) -> io::Result<u64> {
    let mut block = vec![0; limits::MESSAGE_BUFFER];
    let (mut octets, mut last) = (0, None);
    loop {
        let count = match reader.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            break;
        }
        let read = &block[..count];
        let bare = memchr::memchr_iter(b'\n', read).filter(|&at| {
            let before = if at == 0 { last } else { Some(read[at - 1]) };
            before != Some(b'\r')
        });
        octets += (count + bare.count()) as u64;
        last = read.last().copied();
    }
    Ok(octets
        + match last {
            None | Some(b'\n') => 0,
            Some(b'\r') => 1,
            Some(_) => 2,
        })
}

/// Cuts a message after its header, the empty line, and some lines of its body (TOP, RFC 1939 §7).
#[derive(Debug)]
pub struct Top {
    place: Reading,
    lines: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    HeaderLineStart,
    HeaderLineStartCr,
    HeaderText,
    Body,
    Over,
}

impl Top {
    /// For the first `lines` lines of the body.
    pub fn new(lines: u64) -> Top {
        Top { place: Reading::HeaderLineStart, lines }
    }

    /// How many of the next octets belong to the top.
    pub fn feed(&mut self, input: &[u8]) -> usize {
        use Reading::*;
        for (at, &octet) in input.iter().enumerate() {
            self.place = match (self.place, octet) {
                (Over, _) => return at,
                (HeaderLineStart | HeaderLineStartCr, b'\n') => Body,
                (HeaderLineStart, b'\r') => HeaderLineStartCr,
                (HeaderText, b'\n') => HeaderLineStart,
                (Body, b'\n') => {
                    self.lines -= 1;
                    Body
                }
                (Body, _) => Body,
                _ => HeaderText,
            };
            if self.place == Body && self.lines == 0 {
                self.place = Over;
            }
        }
        input.len()
    }

    /// Whether nothing that follows belongs to it.
    pub fn is_over(&self) -> bool {
        self.place == Reading::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::dot::{Stuff, Unstuff};
    use proptest::prelude::*;

    /// Gives its octets in pieces.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn top(message: &[u8], lines: u64, step: usize) -> Vec<u8> {
        let mut top = Top::new(lines);
        message.chunks(step).flat_map(|piece| piece[..top.feed(piece)].to_vec()).collect()
    }

    #[test]
    fn sizes_count_line_ends_as_they_are_sent() {
        for (message, size) in [
            (&b""[..], 0),
            (b"\n", 2),
            (b"\r\n", 2),
            (b"a", 3),
            (b"a\r", 3),
            (b"a\nb\r\n", 6),
            (b"a\r\r\n\n", 6),
            (b".\r\n..\r\n", 7),
        ] {
            assert_eq!(measure(message).unwrap(), size, "{message:?}");
        }
    }

    #[test]
    fn the_top_ends_after_so_many_lines_of_the_body() {
        let message = b"A: 1\r\n b\r\n\r\none\r\n\r\nthree\r\n";
        for (lines, expected) in [
            (0, &b"A: 1\r\n b\r\n\r\n"[..]),
            (1, b"A: 1\r\n b\r\n\r\none\r\n"),
            (2, b"A: 1\r\n b\r\n\r\none\r\n\r\n"),
            (3, message),
            (u64::MAX, message),
        ] {
            for step in 1..message.len() {
                assert_eq!(top(message, lines, step), expected, "{lines}");
            }
        }
    }

    #[test]
    fn a_header_ends_at_the_first_empty_line_and_nowhere_else() {
        for (message, expected) in [
            (&b"A: 1\n\nbody\n"[..], &b"A: 1\n\n"[..]),
            (b"\r\nbody\r\n", b"\r\n"),
            (b"A: 1\r\n\r\r\nB: 2\r\n\r\nbody", b"A: 1\r\n\r\r\nB: 2\r\n\r\n"),
            (b"A: 1\r\n \r\n\r\nbody", b"A: 1\r\n \r\n\r\n"),
            (b"A: 1", b"A: 1"),
            (b"", b""),
        ] {
            assert_eq!(top(message, 0, 64), expected, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_what_is_sent_without_its_dots(message in "[\r\n.a]{0,20}", step in 1..7usize) {
            let (mut stuff, mut wire) = (Stuff::default(), Vec::new());
            stuff.feed(message.as_bytes(), &mut wire);
            stuff.finish(&mut wire);
            let mut content = Vec::new();
            let (used, over) = Unstuff::default().feed(&wire, &mut content);
            prop_assert!(over && used == wire.len());
            prop_assert_eq!(measure(Pieces(message.as_bytes(), step)).unwrap(), content.len() as u64);
        }
    }
}
