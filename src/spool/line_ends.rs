//! Line ends of a dropped file: LF and CR LF become CR LF, and what is neither is refused (DESIGN §3).
//!
//! Pure. Fails with a [`DropError`] that names the line of a lone CR or of a NUL.

use super::drop_error::DropError;

/// Makes each LF or CR LF of a stream a CR LF; what can't be one is refused with its line.
#[derive(Debug)]
pub struct Canonical {
    line: usize,
    /// A CR was the last octet: what follows tells what it is.
    after_cr: bool,
    is_open: bool,
}

impl Canonical {
    /// For what follows the first `lines` lines of a file.
    pub fn after_lines(lines: usize) -> Canonical {
        Canonical { line: lines + 1, after_cr: false, is_open: false }
    }

    /// Appends the canonical form of the next octets.
    pub fn feed(&mut self, mut octets: &[u8], output: &mut Vec<u8>) -> Result<(), DropError> {
        while !octets.is_empty() {
            if self.after_cr && octets[0] != b'\n' {
                return Err(self.lone_cr());
            }
            self.after_cr = false;
            let Some(at) = memchr::memchr3(b'\n', b'\r', b'\0', octets) else {
                output.extend_from_slice(octets);
                self.is_open = true;
                return Ok(());
            };
            output.extend_from_slice(&octets[..at]);
            self.is_open |= at > 0;
            match octets[at] {
                b'\r' => self.after_cr = true,
                b'\n' => {
                    output.extend_from_slice(b"\r\n");
                    self.line += 1;
                    self.is_open = false;
                }
                _ => {
                    return Err(DropError::new(
                        self.line,
                        "a NUL octet stands here",
                        "send what is not text as a MIME attachment",
                    ));
                }
            }
            octets = &octets[at + 1..];
        }
        Ok(())
    }

    /// Ends the last line where the file did not.
    pub fn finish(&mut self, output: &mut Vec<u8>) -> Result<(), DropError> {
        if self.after_cr {
            return Err(self.lone_cr());
        }
        if self.is_open {
            output.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn lone_cr(&self) -> DropError {
        DropError::new(self.line, "a CR without LF stands here", "end each line with LF or CR LF")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `feed` makes of the octets, whole and split everywhere.
    fn canonical(octets: &[u8]) -> Result<Vec<u8>, usize> {
        let split = |at: usize| {
            let mut lines = Canonical::after_lines(10);
            let mut output = Vec::new();
            let parts = [&octets[..at], &octets[at..]];
            let fed = parts.iter().try_for_each(|part| lines.feed(part, &mut output));
            fed.and_then(|()| lines.finish(&mut output)).map(|()| output).map_err(|error| error.line)
        };
        let whole = split(0);
        for at in 1..=octets.len() {
            assert_eq!(split(at), whole, "split at {at}");
        }
        whole
    }

    #[test]
    fn line_ends_are_made_crlf_or_refused() {
        assert_eq!(canonical(b""), Ok(b"".to_vec()));
        assert_eq!(canonical(b"a\nb\r\n\nc"), Ok(b"a\r\nb\r\n\r\nc\r\n".to_vec()));
        assert_eq!(canonical(b"a\n\xff\n"), Ok(b"a\r\n\xff\r\n".to_vec()));
        assert_eq!(canonical(b"a\nb\rc\n"), Err(12));
        assert_eq!(canonical(b"a\n\r\r\n"), Err(12));
        assert_eq!(canonical(b"a\r"), Err(11));
        assert_eq!(canonical(b"a\n\nb\0"), Err(13));
    }

    proptest! {
        #[test]
        fn no_input_panics(octets in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = canonical(&octets);
        }
    }
}
