//! The file of the log: written through a buffer, opened again when it was renamed or removed.
//!
//! A log that can't be written stops no mail: that goes to standard error, once, until it can be written again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The open file.
pub(super) struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
    failing: bool,
}

impl LogFile {
    /// Opens the log, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_owned(), file: BufWriter::new(append(path)?), failing: false })
    }

    /// Writes into the buffer.
    pub(super) fn write(&mut self, octets: &[u8]) {
        let result = self.file.write_all(octets);
        self.note(result);
    }

    /// Writes out what is buffered.
    pub(super) fn flush(&mut self) {
        let result = self.file.flush();
        self.note(result);
    }

    /// Opens the file anew if the path no longer leads to the one that is open.
    pub(super) fn reopen_if_moved(&mut self) {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let open = self.file.get_ref().metadata().map(identity).ok();
        if std::fs::metadata(&self.path).map(identity).ok() == open {
            return;
        }
        self.flush();
        let reopened = append(&self.path).map(|file| self.file = BufWriter::new(file));
        self.note(reopened);
    }

    fn note(&mut self, result: io::Result<()>) {
        if let (Err(error), false) = (&result, self.failing) {
            // The log itself is what fails: standard error is all that is left, and it may be closed too.
            let _ = writeln!(io::stderr(), "postrider: cannot write {}: {error}", self.path.display());
        }
        self.failing = result.is_err();
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_log_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"one\n");
        std::fs::rename(&path, &old).unwrap();
        log.reopen_if_moved();
        log.write(b"two\n");
        log.flush();
        assert_eq!((std::fs::read(old).unwrap(), std::fs::read(path).unwrap()), (b"one\n".to_vec(), b"two\n".to_vec()));
    }
}
