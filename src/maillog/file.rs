//! The file of the log: lines gather in memory until someone has them written; it is opened again when it was renamed or
//! removed.
//!
//! Promises: lines stand in the order they came; a thread waits for the disk only if it asks for that, or once
//! [`limits::LOG_WAITS`] octets have gathered. A log that can't be written stops no mail: that goes to standard error, once,
//! and what has gathered is written when it can be again; what comes beyond that is dropped.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits;

/// The log, for all threads.
pub(super) struct LogFile {
    path: PathBuf,
    /// What is not being written yet.
    lines: Mutex<Vec<u8>>,
    /// Taken before `lines`.
    open: Mutex<Open>,
}

struct Open {
    file: File,
    /// What is being written.
    lines: Vec<u8>,
    /// Whether it could not be written at last.
    failing: bool,
    /// Whether the path leads elsewhere, and that can't be opened.
    astray: bool,
}

impl LogFile {
    /// Opens the log, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        let open = Open { file: append(path)?, lines: Vec::new(), failing: false, astray: false };
        Ok(LogFile { path: path.to_owned(), lines: Mutex::default(), open: Mutex::new(open) })
    }

    /// Adds to what has gathered.
    pub(super) fn write(&self, octets: &[u8]) {
        loop {
            {
                let mut lines = lock(&self.lines);
                if lines.len() < limits::LOG_WAITS {
                    return lines.extend_from_slice(octets);
                }
            }
            if !self.flush() {
                return;
            }
        }
    }

    /// Writes out what has gathered. Says whether it could.
    pub(super) fn flush(&self) -> bool {
        self.write_out(&mut lock(&self.open))
    }

    /// Opens the file anew if the path no longer leads to the one that is open.
    pub(super) fn reopen_if_moved(&self) {
        let mut open = lock(&self.open);
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let known = open.file.metadata().map(identity).ok();
        if std::fs::metadata(&self.path).map(identity).ok() == known {
            open.astray = false;
            return;
        }
        self.write_out(&mut open);
        let opened = append(&self.path).map(|file| open.file = file);
        if let (Err(error), false) = (&opened, open.astray) {
            let mend = "let the server's account write it and its folder; lines go where the old file is meanwhile";
            self.tell(format_args!("{error}; {mend}"));
        }
        open.astray = opened.is_err();
    }

    fn write_out(&self, open: &mut Open) -> bool {
        let written = open.write().and_then(|()| {
            open.lines = std::mem::take(&mut lock(&self.lines));
            open.write()
        });
        let is_written = written.is_ok();
        self.note(open, written);
        is_written
    }

    fn note(&self, open: &mut Open, result: io::Result<()>) {
        if let (Err(error), false) = (&result, open.failing) {
            self.tell(format_args!("{error}"));
        }
        open.failing = result.is_err();
    }

    /// The log itself is what fails: standard error is all that is left, and it may be closed too.
    fn tell(&self, what: fmt::Arguments<'_>) {
        let _ = writeln!(io::stderr(), "postrider: cannot write {}: {what}", self.path.display());
    }
}

impl Open {
    /// Writes all, or leaves what is not written.
    fn write(&mut self) -> io::Result<()> {
        while !self.lines.is_empty() {
            match self.file.write(&self.lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => _ = self.lines.drain(..written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let log = LogFile::open(&path).unwrap();
        log.write(b"one\n");
        std::fs::rename(&path, &old).unwrap();
        log.reopen_if_moved();
        log.write(b"two\n");
        log.flush();
        assert_eq!((std::fs::read(old).unwrap(), std::fs::read(path).unwrap()), (b"one\n".to_vec(), b"two\n".to_vec()));
    }

    #[test]
    fn what_can_not_be_opened_anew_is_told_once_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (here, away) = (folder.path().join("here"), folder.path().join("away"));
        std::fs::create_dir(&here).unwrap();
        let log = LogFile::open(&here.join("log")).unwrap();
        std::fs::rename(&here, &away).unwrap();
        for line in ["one\n", "two\n"] {
            log.reopen_if_moved();
            assert!(lock(&log.open).astray, "told, and for as long as this lasts");
            log.write(line.as_bytes());
            assert!(log.flush());
        }
        assert_eq!(std::fs::read(away.join("log")).unwrap(), b"one\ntwo\n");
        std::fs::create_dir(&here).unwrap();
        log.reopen_if_moved();
        assert!(here.join("log").exists());
        log.reopen_if_moved();
        assert!(!lock(&log.open).astray);
    }

    #[test]
    fn a_disk_that_stands_still_keeps_nobody_waiting_and_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogFile::open(&path).unwrap();
        let standing = log.open.lock().unwrap();
        let line = [&[b'x'; 127][..], b"\n"].concat();
        let lines = limits::LOG_WAITS / line.len();
        std::thread::scope(|threads| {
            threads.spawn(|| (0..lines).for_each(|_| log.write(&line))).join().unwrap();
            // From here on the disk is waited for.
            let waits = threads.spawn(|| log.write(b"last\n"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waits.is_finished());
            assert_eq!(log.lines.lock().unwrap().len(), limits::LOG_WAITS);
            drop(standing);
        });
        assert!(log.flush());
        let written = std::fs::read(path).unwrap();
        assert!(written.ends_with(b"x\nlast\n"));
        assert_eq!(written.len(), lines * line.len() + 5);
    }

    #[test]
    fn a_full_disk_costs_no_line_until_too_many_have_gathered() {
        let log = LogFile::open(Path::new("/dev/full")).unwrap();
        log.write(b"one\n");
        log.flush();
        log.write(b"two\n");
        log.flush();
        let mut open = log.open.lock().unwrap();
        assert_eq!((&open.lines[..], &log.lines.lock().unwrap()[..]), (&b"one\n"[..], &b"two\n"[..]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        open.file = append(&path).unwrap();
        drop(open);
        log.flush();
        assert_eq!(std::fs::read(path).unwrap(), b"one\ntwo\n");
    }
}
