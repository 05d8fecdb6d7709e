//! Small text files that people write: read whole, with a bound, and with errors that name file and line.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::sandbox;

/// What is wrong in a file, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; `None` if it is about the whole file.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub what: String,
}

impl LocatedError {
    /// An error about one line.
    pub fn at(path: &Path, line: usize, what: impl Into<String>) -> LocatedError {
        LocatedError { path: path.to_owned(), line: Some(line), what: what.into() }
    }

    /// An error about the whole file.
    pub fn of(path: &Path, what: impl Into<String>) -> LocatedError {
        LocatedError { path: path.to_owned(), line: None, what: what.into() }
    }
}

impl fmt::Display for LocatedError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        write!(out, ": {}", self.what)
    }
}

impl std::error::Error for LocatedError {}

/// Octets that most such files do not exceed.
const FIRST_READ: usize = 4096;

/// U+FEFF, the "byte order mark": it says that UTF-8 follows, and is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file of at most `most` octets of UTF-8, without the mark that some editors put at its top. A file that is not
/// there is `Ok(None)`.
pub fn read(path: &Path, most: u64) -> Result<Option<String>, LocatedError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| LocatedError::of(path, format!("{error}{}", sandbox::mend(path, &error))))?,
    };
    // With room from the beginning most are read with one call; a vector that grows asks for a little more each time.
    let mut octets = Vec::with_capacity(FIRST_READ);
    file.take(most + 1).read_to_end(&mut octets).map_err(|error| LocatedError::of(path, error.to_string()))?;
    if octets.len() as u64 > most {
        return Err(LocatedError::of(path, format!("the file is larger than {most} octets")));
    }
    text(octets).map(Some).map_err(|(line, what)| LocatedError::at(path, line, what))
}

/// The text of a file, without that mark; else the line, from 1, that is wrong, and how.
pub fn text(mut octets: Vec<u8>) -> Result<String, (usize, &'static str)> {
    if octets.starts_with(MARK) {
        octets.drain(..MARK.len());
    }
    String::from_utf8(octets).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        (1 + memchr::memchr_iter(b'\n', before).count(), "this is not UTF-8")
    })
}
