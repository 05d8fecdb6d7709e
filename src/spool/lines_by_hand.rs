//! The line ends of an entry that a person put into the queue: as in a dropped file each LF or CR LF becomes CR LF, and a
//! lone CR or a NUL is a wrong format (DESIGN §3).
//!
//! The file itself is not changed: [`survey`] says what it comes to, and [`Lines`] gives it out. Fails with the reader's
//! errors, and with `InvalidData` if the file is no more what it was when it was surveyed.

use std::io::{self, Read};

use super::drop_error::DropError;
use super::line_ends::Canonical;
use crate::limits;

/// How many octets the message in `octets` has once its line ends are CR LF. `None` if they are already. `above` lines
/// stand above it in its file.
pub fn survey(mut octets: impl Read, above: usize) -> io::Result<Result<Option<u64>, DropError>> {
    let (mut canonical, mut block, mut ready) = (Canonical::after_lines(above), block(), Vec::new());
    let (mut read, mut given) = (0, 0);
    loop {
        let count = octets.read(&mut block)?;
        ready.clear();
        let fed = if count == 0 { canonical.finish(&mut ready) } else { canonical.feed(&block[..count], &mut ready) };
        if let Err(error) = fed {
            return Ok(Err(error));
        }
        read += count as u64;
        given += ready.len() as u64;
        if count == 0 {
            return Ok(Ok((read != given).then_some(given)));
        }
    }
}

/// A message with its line ends mended.
#[derive(Debug)]
pub struct Lines<R> {
    octets: R,
    /// `None` once the last octet was read.
    canonical: Option<Canonical>,
    block: Vec<u8>,
    ready: Vec<u8>,
    at: usize,
}

impl<R: Read> Lines<R> {
    /// Those of `octets`, from the first on.
    pub fn new(octets: R) -> Lines<R> {
        Lines { octets, canonical: Some(Canonical::after_lines(0)), block: block(), ready: Vec::new(), at: 0 }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let Some(canonical) = &mut self.canonical else { return Ok(0) };
            let count = self.octets.read(&mut self.block)?;
            let fed = match count {
                0 => canonical.finish(&mut self.ready),
                _ => canonical.feed(&self.block[..count], &mut self.ready),
            };
            if count == 0 {
                self.canonical = None;
            }
            fed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let count = out.len().min(self.ready.len() - self.at);
        out[..count].copy_from_slice(&self.ready[self.at..][..count]);
        self.at += count;
        Ok(count)
    }
}

fn block() -> Vec<u8> {
    vec![0; limits::MESSAGE_BUFFER]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_surveyed_is_what_is_given_out() {
        let edge = "x".repeat(limits::MESSAGE_BUFFER - 1);
        let at_the_edge = format!("{edge}\n.\n{edge}\r\n");
        for (text, given) in [
            ("", None),
            ("a\r\n.\r\n", None),
            ("a\n.\n", Some("a\r\n.\r\n".to_owned())),
            ("a\r\nb", Some("a\r\nb\r\n".to_owned())),
            (&at_the_edge, Some(format!("{edge}\r\n.\r\n{edge}\r\n"))),
        ] {
            let size = survey(text.as_bytes(), 0).unwrap().unwrap();
            assert_eq!(size, given.as_ref().map(|given| given.len() as u64));
            let mut found = String::new();
            Lines::new(text.as_bytes()).read_to_string(&mut found).unwrap();
            assert_eq!(found, given.unwrap_or(text.to_owned()));
        }
    }

    #[test]
    fn what_no_line_end_can_be_made_of_has_its_line() {
        for (text, line) in [("a\rb", 3), ("a\n\nb\0", 5), ("a\r", 3), ("\n\r", 4)] {
            assert_eq!(survey(text.as_bytes(), 2).unwrap().unwrap_err().line, line, "{text:?}");
            let error = Lines::new(text.as_bytes()).read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
