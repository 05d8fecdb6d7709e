//! Dot-stuffing both ways (RFC 5321 §4.5.2, RFC 1939 §3), as one strict automaton each.
//!
//! [`Unstuff`] finds the one true end, CR LF `.` CR LF, and nothing that only looks like it: a bare CR or LF is noted
//! and kept as content, so that the caller can refuse the message at its true end and stay in step. [`LineEnds`] watches
//! octets that came with a length of their own (BDAT). [`Stuff`] writes: it emits no bare LF and no unstuffed dot.

/// Reads the octets between DATA and its end.
#[derive(Debug, Default)]
pub struct Unstuff {
    state: Reading,
    bare: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    LineStart,
    Text,
    Cr,
    Dot,
    DotCr,
}

impl Unstuff {
    /// Appends the content in `input` to `content`. Returns how many octets were used, and whether the end was among
    /// them; what follows the end is left alone.
    pub fn feed(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        use Reading::*;
        let mut at = 0;
        while at < input.len() {
            if self.state == Text {
                let run = memchr::memchr2(b'\r', b'\n', &input[at..]).unwrap_or(input.len() - at);
                content.extend_from_slice(&input[at..at + run]);
                at += run;
                if at == input.len() {
                    break;
                }
            }
            let octet = input[at];
            at += 1;
            self.state = match (self.state, octet) {
                (LineStart, b'.') => Dot,
                (Dot, b'\r') => DotCr,
                (DotCr, b'\n') => return (at, true),
                (Cr, b'\n') => {
                    content.push(b'\n');
                    LineStart
                }
                (before, octet) => {
                    self.bare |= matches!(before, Cr | DotCr) || octet == b'\n';
                    if before == DotCr {
                        content.push(b'\r');
                    }
                    content.push(octet);
                    // The second CR of CR CR LF begins a line end again; the first was bare.
                    if octet == b'\r' { Cr } else { Text }
                }
            };
        }
        (at, false)
    }

    /// Whether a CR stood without its LF, or a LF without its CR.
    pub fn saw_bare(&self) -> bool {
        self.bare
    }
}

/// Watches the line ends of octets whose length is known beforehand.
#[derive(Debug, Default)]
pub struct LineEnds {
    last: Option<u8>,
    bare: bool,
}

impl LineEnds {
    /// Looks at the next octets.
    pub fn feed(&mut self, input: &[u8]) {
        for at in memchr::memchr2_iter(b'\r', b'\n', input) {
            let before = if at == 0 { self.last } else { Some(input[at - 1]) };
            let after = input.get(at + 1);
            self.bare |= match input[at] {
                b'\n' => before != Some(b'\r'),
                _ => after.is_some_and(|&octet| octet != b'\n'),
            };
        }
        if let Some(&first) = input.first() {
            self.bare |= self.last == Some(b'\r') && first != b'\n';
            self.last = input.last().copied();
        }
    }

    /// Whether a CR stood without its LF, or a LF without its CR, now that everything was seen.
    pub fn saw_bare(&self) -> bool {
        self.bare || self.last == Some(b'\r')
    }

    /// Whether the last line was ended.
    pub fn ended(&self) -> bool {
        matches!(self.last, None | Some(b'\n'))
    }
}

/// Writes a message for DATA or RETR: dots stuffed, a LF alone made CR LF.
#[derive(Debug, Default)]
pub struct Stuff {
    last: Option<u8>,
}

impl Stuff {
    /// Appends `input` to `output` in its stuffed form.
    pub fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) {
        for &octet in input {
            match octet {
                b'.' if matches!(self.last, None | Some(b'\n')) => output.extend_from_slice(b".."),
                b'\n' if self.last != Some(b'\r') => output.extend_from_slice(b"\r\n"),
                _ => output.push(octet),
            }
            self.last = Some(octet);
        }
    }

    /// Appends the end: the last line's CR LF if it has none, then `.` CR LF.
    pub fn finish(self, output: &mut Vec<u8>) {
        output.extend_from_slice(match self.last {
            None | Some(b'\n') => b".\r\n",
            Some(b'\r') => b"\n.\r\n",
            Some(_) => b"\r\n.\r\n",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unstuff(stream: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, bool, bool) {
        let (mut dots, mut content, mut used) = (Unstuff::default(), Vec::new(), 0);
        for piece in stream.chunks(step) {
            let (count, done) = dots.feed(piece, &mut content);
            used += count;
            if done {
                return (content, stream[used..].to_vec(), dots.saw_bare(), true);
            }
        }
        (content, Vec::new(), dots.saw_bare(), false)
    }

    #[test]
    fn only_the_true_end_ends() {
        for (stream, content, rest, bare) in [
            (&b".\r\n"[..], &b""[..], &b""[..], false),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n", false),
            (b"..\r\n...\r\n.a\r\n.\r\n", b".\r\n..\r\na\r\n", b"", false),
            (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n", b"", true),
            (b"a\r\n.\n\r\n.\r\n", b"a\r\n\n\r\n", b"", true),
            (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\r\n", b"", true),
            (b"a\r.\r\nb\r\n.\r\n", b"a\r.\r\nb\r\n", b"", true),
            (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", b"", true),
            (b"a\r\r\n.\r\n", b"a\r\r\n", b"", true),
            (b"a\r\n\0.\r\nb\r\n.\r\n", b"a\r\n\0.\r\nb\r\n", b"", false),
        ] {
            for step in 1..=stream.len() {
                let found = unstuff(stream, step);
                assert_eq!(found, (content.to_vec(), rest.to_vec(), bare, true), "{stream:?} in {step}s");
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_stuffed_is_unstuffed(lines in prop::collection::vec("[.a]{0,4}", 0..8), step in 1..9usize) {
            let message: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let (mut stuff, mut wire) = (Stuff::default(), Vec::new());
            for piece in message.chunks(step) {
                stuff.feed(piece, &mut wire);
            }
            stuff.finish(&mut wire);
            prop_assert_eq!(unstuff(&wire, step), (message, Vec::new(), false, true));
        }

        #[test]
        fn bare_ends_are_seen_however_cut(octets in "[\r\na]{0,12}", step in 1..5usize) {
            let mut ends = LineEnds::default();
            octets.as_bytes().chunks(step).for_each(|piece| ends.feed(piece));
            let rest = octets.replace("\r\n", "");
            prop_assert_eq!(ends.saw_bare(), rest.contains(['\r', '\n']));
        }
    }
}
