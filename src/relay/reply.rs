//! A reply of a next hop, collected octet by octet within bounds (RFC 5321 §4.2).
//!
//! No I/O: octets in as they come, an [`Answer`] out once its last line has ended. Lines may end with LF alone. Whatever
//! is no reply (a line without a code, codes that differ, a line or a reply without an end) is [`Rubbish`], and what
//! follows it can't be told apart from anything: the session is over.

use crate::limits;
use crate::mail::reply::Reply;

/// A whole reply: at most [`limits::REPLY_LINES`] lines of [`limits::REPLY_LINE_KEPT`] octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    code: u16,
    lines: Vec<Vec<u8>>,
}

impl Answer {
    /// The three digits, 100 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The first digit, which says yes, go on, not now or no.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The text of each line, in whatever octets the hop sent.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(Vec::as_slice)
    }

    /// The reply in the form that log, state and reports take.
    pub fn reply(&self) -> Reply {
        Reply::foreign(self.code, self.lines())
    }
}

/// Why something is no reply, in words that follow "its reply".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rubbish(pub &'static str);

/// A reply as far as it has come.
#[derive(Debug, Default)]
pub struct Collector {
    line: Vec<u8>,
    line_octets: usize,
    code: Option<u16>,
    lines: Vec<Vec<u8>>,
}

impl Collector {
    /// Takes the next octets. Returns how many were used, and the reply once it is whole; what follows it is left alone.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>), Rubbish> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            let end = memchr::memchr(b'\n', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            self.take(piece)?;
            used += piece.len() + usize::from(end.is_some());
            if end.is_some() && self.end_line()? {
                let lines = std::mem::take(&mut self.lines);
                return Ok((used, self.code.take().map(|code| Answer { code, lines })));
            }
        }
        Ok((used, None))
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Rubbish> {
        self.line_octets += piece.len();
        if self.line_octets >= limits::REPLY_LINE {
            return Err(Rubbish("has a line without an end"));
        }
        let room = limits::REPLY_LINE_KEPT.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..room.min(piece.len())]);
        Ok(())
    }

    /// Whether that was the last line.
    fn end_line(&mut self) -> Result<bool, Rubbish> {
        let mut line = std::mem::take(&mut self.line);
        self.line_octets = 0;
        if line.ends_with(b"\r") {
            line.pop();
        }
        let (code, goes_on) = split_code(&line).ok_or(Rubbish("has a line without a code"))?;
        if self.code.is_some_and(|before| before != code) {
            return Err(Rubbish("has lines with different codes"));
        }
        if self.lines.len() == limits::REPLY_LINES {
            return Err(Rubbish("has lines without an end"));
        }
        line.drain(..line.len().min(4));
        self.code = Some(code);
        self.lines.push(line);
        Ok(!goes_on)
    }
}

/// The code of a line, and whether another line follows.
fn split_code(line: &[u8]) -> Option<(u16, bool)> {
    let &[first @ b'1'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', ref rest @ ..] = line else { return None };
    let goes_on = match rest.first() {
        Some(b'-') => true,
        // Some leave the space out where no text follows (RFC 5321 §4.2.1 allows it).
        Some(b' ') | None => false,
        Some(_) => return None,
    };
    let digit = |octet: u8| u16::from(octet - b'0');
    Some((digit(first) * 100 + digit(second) * 10 + digit(third), goes_on))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `octets` in pieces of `step`; the first reply or what is wrong, and how many octets it took.
    fn collect(octets: &[u8], step: usize) -> Result<(usize, Option<Answer>), Rubbish> {
        let mut collector = Collector::default();
        let mut at = 0;
        for piece in octets.chunks(step) {
            let (used, answer) = collector.feed(piece)?;
            at += used;
            if answer.is_some() {
                return Ok((at, answer));
            }
        }
        Ok((at, None))
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let octets = b"250-mx.example\r\n250-SIZE 1\n250 \r\n354 next";
        for step in 1..octets.len() {
            let (used, answer) = collect(octets, step).unwrap();
            let answer = answer.unwrap();
            assert_eq!((answer.code(), used), (250, octets.len() - 8), "step {step}");
            assert_eq!(answer.lines().collect::<Vec<_>>(), [&b"mx.example"[..], b"SIZE 1", b""]);
        }
    }

    #[test]
    fn a_reply_may_have_no_text() {
        for octets in [&b"250\r\n"[..], b"250\n", b"250 \r\n"] {
            assert_eq!(collect(octets, 64).unwrap().1.unwrap().reply().to_string(), "250", "{octets:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_told() {
        let endless = [b"250 ".to_vec(), vec![b'x'; limits::REPLY_LINE]].concat();
        let lines = b"250-x\r\n".repeat(limits::REPLY_LINES + 1);
        for (octets, why) in [
            (&b"hello\r\n"[..], "has a line without a code"),
            (b"\r\n", "has a line without a code"),
            (b"25\r\n", "has a line without a code"),
            (b"2500 x\r\n", "has a line without a code"),
            (b"650 x\r\n", "has a line without a code"),
            (b"250-x\r\n550 y\r\n", "has lines with different codes"),
            (&endless, "has a line without an end"),
            (&lines, "has lines without an end"),
        ] {
            assert_eq!(collect(octets, 64), Err(Rubbish(why)));
        }
    }

    #[test]
    fn a_long_line_is_kept_in_part() {
        let octets = [b"550 ".to_vec(), vec![b'x'; 1500], b"\r\n".to_vec()].concat();
        let answer = collect(&octets, 100).unwrap().1.unwrap();
        assert_eq!(answer.lines().map(<[u8]>::len).sum::<usize>(), limits::REPLY_LINE_KEPT - 4);
    }

    proptest! {
        #[test]
        fn no_input_panics_or_grows(
            start in "(250[- ]x{0,20}\\r?\\n){0,120}(250-)?", octets in prop::collection::vec(any::<u8>(), 0..2500),
            step in 1..2500usize,
        ) {
            let octets = [start.as_bytes(), &octets].concat();
            let mut collector = Collector::default();
            for piece in octets.chunks(step) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let Ok((used, answer)) = collector.feed(rest) else { return Ok(()) };
                    prop_assert!(used > 0 && (answer.is_some() || used == rest.len()));
                    prop_assert!(collector.lines.len() <= limits::REPLY_LINES);
                    prop_assert!(collector.line.len() <= limits::REPLY_LINE_KEPT);
                    if let Some(answer) = answer {
                        let text = answer.reply().to_string();
                        prop_assert!(text.len() <= limits::REPLY_TEXT + 16 && !text.chars().any(char::is_control));
                    }
                    rest = &rest[used..];
                }
            }
        }
    }
}
