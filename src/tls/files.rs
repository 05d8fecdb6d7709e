//! How certificates and keys are come by, and how a change of them is noticed.
//!
//! Keys are often for root alone. So every look at one goes through [`Files`], which may ask another process; a file that
//! this account may not even look at is compared by its content.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::io::keeper::{Keeper, file};
use crate::io::secrets::Secrets;

/// What is known of a file without a comparison of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Device, inode, size, and when it was written last, in seconds and nanoseconds.
    Seen([u64; 3], [i64; 2]),
    /// The SHA-256 of a file that only its content can be had of.
    Content([u8; 32]),
    /// It can't be had.
    Missing(io::ErrorKind),
}

/// Where certificates and keys come from.
pub trait Files: Send + Sync {
    /// Reads a file of at most [`crate::limits::CERTIFICATE_FILE`] octets.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Whatever changes when the file does. Asked about once a second.
    fn stamp(&self, path: &Path) -> Stamp {
        match fs::metadata(path) {
            Ok(found) => Stamp::Seen([found.dev(), found.ino(), found.size()], [found.mtime(), found.mtime_nsec()]),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match self.read(path) {
                Ok(content) => Stamp::Content(Sha256::digest(content).into()),
                Err(error) => Stamp::Missing(error.kind()),
            },
            Err(error) => Stamp::Missing(error.kind()),
        }
    }

    /// The names of the folders in a folder, in order.
    fn folders(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(file::list(path)?.iter().map(|name| name.as_str().to_owned()).collect())
    }
}

/// What this account may read itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectFiles;

impl Files for DirectFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        file::read(path)
    }
}

/// What the second process may read besides.
impl Files for Arc<Keeper> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Secrets::read(&**self, path)
    }

    fn folders(&self, path: &Path) -> io::Result<Vec<String>> {
        self.list(path)
    }
}

/// Any function that reads.
impl<F: Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync> Files for F {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_file_changes_its_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        assert_eq!(DirectFiles.stamp(&path), Stamp::Missing(io::ErrorKind::NotFound));
        fs::write(&path, "one").unwrap();
        let first = DirectFiles.stamp(&path);
        assert_eq!(DirectFiles.stamp(&path), first);
        fs::write(&other, "two").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(DirectFiles.stamp(&path), first, "another file of the same size and time");
    }
}
