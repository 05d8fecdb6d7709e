//! Where secrets come from: files and programs that the configuration names.
//!
//! Both may be for root alone, so every look at one goes through [`Secrets`], which the second process stands behind. A
//! secret is one line; what is empty is an error in plain words, and no secret is ever in one.

use std::fmt;
use std::io;
use std::path::Path;

/// Reads secret files, and runs the programs that print secrets.
pub trait Secrets: fmt::Debug + Send + Sync {
    /// The content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// What a program printed that ended well: its name, and its arguments.
    fn run(&self, command: &[String]) -> io::Result<Vec<u8>>;
}

/// The secret in what was read or printed: its first line.
pub fn first_line(content: &[u8]) -> io::Result<Vec<u8>> {
    let line = content.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"));
    }
    Ok(line.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_line() {
        for (content, expected) in [("abc\n", Some("abc")), ("a b\r\nc", Some("a b")), ("x", Some("x")), ("\nx", None)]
        {
            assert_eq!(
                first_line(content.as_bytes()).ok(),
                expected.map(|text| text.as_bytes().to_vec()),
                "{content:?}"
            );
        }
    }
}
