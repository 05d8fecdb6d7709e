//! Bounded lines and blocks out of one read buffer.
//!
//! Promises: memory is the buffer and no more, whatever the peer sends; a line ends with CR LF and with nothing else;
//! what follows a line stays in the buffer for whoever reads next. Fails with the reader's own errors, and with
//! `InvalidData` once an overlong line has gone on for longer than is worth waiting for.

use std::io::{self, Read};

use crate::limits;

/// What [`LineReader::line`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its CR LF. It may hold any octet but LF.
    Text(&'a [u8]),
    /// A line ended by a bare LF: the peer and we no longer agree where lines end.
    BareLf,
    /// A line longer than allowed; it was read to its end and dropped.
    TooLong,
    /// The peer closed, perhaps in the middle of a line.
    End,
}

/// Reads lines and blocks from `R`.
pub struct LineReader<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> LineReader<R> {
    /// A reader with an empty buffer; memory is taken at the first read.
    pub fn new(inner: R) -> LineReader<R> {
        LineReader { inner, buffer: Vec::new(), start: 0 }
    }

    /// The reader below, for its timeouts.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The reader below, for TLS to take over. What was buffered is dropped: octets that came in clear behind STARTTLS or
    /// STLS may be someone else's, and are never obeyed (RFC 3207 §4.2, RFC 2595 §4).
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Whether something was read that nobody has consumed yet: the client pipelines, and can wait for its replies.
    pub fn has_pending(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// The next line of at most `most` octets with its CR LF.
    pub fn line(&mut self, most: usize) -> io::Result<Line<'_>> {
        let mut scanned = 0;
        loop {
            let pending = &self.buffer[self.start..];
            if let Some(at) = memchr::memchr(b'\n', &pending[scanned..]) {
                let (from, length) = (self.start, scanned + at + 1);
                self.start += length;
                if length > most {
                    return Ok(Line::TooLong);
                }
                return Ok(match self.buffer[from..from + length].strip_suffix(b"\r\n") {
                    Some(text) => Line::Text(text),
                    None => Line::BareLf,
                });
            }
            scanned = pending.len();
            if scanned >= most {
                return self.drop_overlong();
            }
            if self.fill(limits::COMMAND_BUFFER)? == 0 {
                return Ok(Line::End);
            }
        }
    }

    /// What is there to read: at least one octet, or none at the end. [`LineReader::consume`] says how much was used.
    pub fn block(&mut self, size: usize) -> io::Result<&[u8]> {
        if !self.has_pending() {
            self.fill(size)?;
        }
        Ok(&self.buffer[self.start..])
    }

    /// Marks `count` octets of the last block as used.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.buffer.len());
    }

    /// Gives a large buffer back once nothing is in it.
    pub fn shrink(&mut self) {
        if !self.has_pending() && self.buffer.capacity() > limits::COMMAND_BUFFER {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    fn drop_overlong(&mut self) -> io::Result<Line<'_>> {
        let mut dropped = 0;
        loop {
            let pending = &self.buffer[self.start..];
            if let Some(at) = memchr::memchr(b'\n', pending) {
                self.start += at + 1;
                return Ok(Line::TooLong);
            }
            dropped += pending.len();
            self.start = self.buffer.len();
            if dropped > limits::OVERLONG_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            if self.fill(limits::COMMAND_BUFFER)? == 0 {
                return Ok(Line::End);
            }
        }
    }

    fn fill(&mut self, size: usize) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + size, 0);
        let count = self.inner.read(&mut self.buffer[held..]);
        self.buffer.truncate(held + count.as_ref().copied().unwrap_or(0));
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its octets in pieces of `step`.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let octets = b"EHLO a\r\n\r\nbare\nA\rB\r\n0123456789\r\nlast\r\ncut";
        for step in 1..octets.len() {
            let mut reader = LineReader::new(Pieces(octets, step));
            assert_eq!(reader.line(10).unwrap(), Line::Text(b"EHLO a"), "step {step}");
            assert_eq!(reader.line(10).unwrap(), Line::Text(b""));
            assert_eq!(reader.line(10).unwrap(), Line::BareLf);
            assert_eq!(reader.line(10).unwrap(), Line::Text(b"A\rB"));
            assert_eq!(reader.line(10).unwrap(), Line::TooLong);
            assert_eq!(reader.line(10).unwrap(), Line::Text(b"last"));
            assert_eq!(reader.line(10).unwrap(), Line::End);
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut_off_with_flat_memory() {
        let mut reader = LineReader::new(io::repeat(b'x'));
        assert_eq!(reader.line(512).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(reader.buffer.capacity() < 4 * limits::COMMAND_BUFFER);
    }

    #[test]
    fn what_came_in_clear_behind_starttls_is_dropped() {
        let mut reader = LineReader::new(Pieces(b"STARTTLS\r\nMAIL FROM:<a@b.example>\r\nlater\r\n", 35));
        assert_eq!(reader.line(64).unwrap(), Line::Text(b"STARTTLS"));
        assert!(reader.has_pending());
        let mut reader = LineReader::new(reader.into_inner());
        assert_eq!(reader.line(64).unwrap(), Line::Text(b"later"));
    }

    #[test]
    fn a_block_takes_over_where_the_line_ended() {
        let mut reader = LineReader::new(Pieces(b"BDAT 3\r\nabcNOOP\r\n", 64));
        assert_eq!(reader.line(64).unwrap(), Line::Text(b"BDAT 3"));
        assert_eq!(&reader.block(64).unwrap()[..3], b"abc");
        reader.consume(3);
        assert_eq!(reader.line(64).unwrap(), Line::Text(b"NOOP"));
    }
}
