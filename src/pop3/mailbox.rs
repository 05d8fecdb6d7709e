//! The files behind a listing: finding, reading and removing the messages of a Maildir that others use too.
//!
//! Promises: no file is renamed, made or locked; links, folders and FIFOs are no messages and are never read through; a
//! file that another reader renames is found again. new/ is read before cur/, so that a message on its way from one to
//! the other is seen. A folder that is not there is empty. Fails with the first error of the disk that is not simply an
//! absent file; nothing is removed but by [`Mailbox::remove_deleted`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::listing::{Folder, Found, Listing};
use super::message;
use crate::io::durable::{self, located};
use crate::limits;

/// An open mailbox.
#[derive(Debug)]
pub struct Mailbox {
    folder: PathBuf,
    /// Its messages.
    pub listing: Listing,
}

/// The octets of a message: as many as there were when it was opened, however it grows.
pub type Content = io::Take<File>;

impl Mailbox {
    /// Reads the names in the Maildir `folder`, and the messages whose names don't state their sizes.
    pub fn open(folder: &Path) -> io::Result<Mailbox> {
        let mut mailbox = Mailbox { folder: folder.to_owned(), listing: Listing::new(find(folder)?) };
        let mut gone = Vec::new();
        for index in mailbox.listing.indexes() {
            if mailbox.listing.states_size(index) {
                continue;
            }
            match mailbox.measure(index)? {
                Some(size) => mailbox.listing.set_size(index, size),
                None => gone.push(index),
            }
        }
        mailbox.listing.retain(&gone);
        Ok(mailbox)
    }

    /// Opens a message. `None` if another reader has removed it.
    pub fn message(&mut self, index: usize) -> io::Result<Option<Content>> {
        for _ in 0..limits::POP3_READS {
            let path = self.path(index);
            match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.listing.relocate(&find(&self.folder)?),
                other => return other.map(Some),
            }
            if self.path(index) == path {
                break;
            }
        }
        Ok(None)
    }

    /// Removes what is marked as deleted, and returns how many files that were. What others removed before is no error;
    /// one file that can't be removed doesn't keep the others.
    pub fn remove_deleted(&mut self) -> (usize, io::Result<()>) {
        let mut marked = self.listing.deleted();
        let (mut removed, mut result) = (0, Ok(()));
        for _ in 0..limits::POP3_READS {
            let mut absent = Vec::new();
            for index in marked {
                let path = self.path(index);
                match fs::remove_file(&path) {
                    Ok(()) => removed += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => absent.push(index),
                    Err(error) => result = Err(located("remove", &path, error)),
                }
            }
            // One look for all that were not where they had been: a look each would be quadratic.
            marked = absent;
            if marked.is_empty() {
                break;
            }
            match find(&self.folder) {
                Ok(found) => self.listing.relocate(&found),
                Err(error) => return (removed, Err(error)),
            }
        }
        (removed, result)
    }

    fn path(&self, index: usize) -> PathBuf {
        let (folder, name) = self.listing.file(index);
        self.folder.join(folder.name()).join(OsStr::from_bytes(name))
    }

    fn measure(&mut self, index: usize) -> io::Result<Option<u64>> {
        match self.message(index) {
            Ok(Some(content)) => {
                let measured = message::measure(content);
                measured.map(Some).map_err(|error| located("read", &self.path(index), error))
            }
            Ok(None) => Ok(None),
            // Listed all the same, so that one file with wrong permissions neither hides nor bars the others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(fs::symlink_metadata(self.path(index)).ok().map(|metadata| metadata.len()))
            }
            Err(error) => Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<Content> {
    let file = durable::open_untrusted(path)?;
    let metadata = file.metadata().map_err(|error| located("look at", path, error))?;
    if !metadata.is_file() {
        return Err(located("read", path, io::Error::other("it is no regular file any more")));
    }
    Ok(file.take(metadata.len()))
}

fn find(folder: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for place in [Folder::New, Folder::Cur] {
        let path = folder.join(place.name());
        for _ in 0..limits::POP3_READS {
            let before = changed(&path);
            read_names(&path, place, &mut found).map_err(|error| located("list", &path, error))?;
            // What is renamed within a folder while it is read may be seen under neither name.
            if changed(&path) == before {
                break;
            }
        }
    }
    Ok(found)
}

fn changed(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder).and_then(|metadata| metadata.modified()).ok()
}

fn read_names(path: &Path, place: Folder, found: &mut Found) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if found.len() >= limits::POP3_MESSAGES {
            break;
        }
        // The kind stands in the folder itself: no file is looked at.
        let is_file = match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other?.is_file(),
        };
        if is_file && !name.as_bytes().starts_with(b".") {
            found.add(place, name.as_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new(files: &[(&str, &[u8])]) -> Fixture {
            let fixture = Fixture(tempfile::tempdir().unwrap());
            ["new", "cur", "tmp"].iter().for_each(|name| fs::create_dir(fixture.path(name)).unwrap());
            files.iter().for_each(|(name, content)| fs::write(fixture.path(name), content).unwrap());
            fixture
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open(&self) -> Mailbox {
            Mailbox::open(self.0.path()).unwrap()
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.path(from), self.path(to)).unwrap();
        }
    }

    fn read(mailbox: &mut Mailbox, index: usize) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        mailbox.message(index).unwrap()?.read_to_end(&mut content).unwrap();
        Some(content)
    }

    fn sizes(mailbox: &Mailbox) -> Vec<u64> {
        mailbox.listing.indexes().map(|index| mailbox.listing.size(index)).collect()
    }

    #[test]
    fn sizes_come_from_names_or_from_reading() {
        let fixture = Fixture::new(&[
            ("new/1.a,S=3,W=77", b"a\r\n"),
            ("new/2.b,S=2", b"a\n"),
            ("cur/3.c:2,S", b"a"),
            ("cur/4.d", b""),
        ]);
        assert_eq!(sizes(&fixture.open()), [77, 3, 3, 0]);
        assert_eq!(fixture.open().listing.octets(), 83);
    }

    #[test]
    fn a_stated_size_spares_the_file_a_look() {
        let fixture = Fixture::new(&[("new/1.a,W=5", b"abc\r\n")]);
        let read = |fixture: &Fixture| fs::metadata(fixture.path("new/1.a,W=5")).unwrap().accessed().unwrap();
        let before = read(&fixture);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fixture.open();
        assert_eq!(read(&fixture), before);
    }

    #[test]
    fn only_regular_files_with_plain_names_are_messages() {
        let fixture =
            Fixture::new(&[("new/1.a", b"a"), ("new/.hidden", b"x"), ("tmp/2.t", b"x"), ("cur/.x:2,S", b"x")]);
        fs::create_dir(fixture.path("cur/2.folder")).unwrap();
        symlink("/etc/passwd", fixture.path("new/3.link")).unwrap();
        symlink(fixture.path("new/1.a"), fixture.path("new/4.link,W=3")).unwrap();
        nix::unistd::mkfifo(&fixture.path("new/5.fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let hostile = OsStr::from_bytes(b"6.\xff \r\n+OK\"");
        fs::write(fixture.path("cur").join(hostile), b"six\r\n").unwrap();
        let mut mailbox = fixture.open();
        assert_eq!(mailbox.listing.left(), 2);
        assert_eq!(mailbox.listing.uid(1).len(), 64);
        assert_eq!(read(&mut mailbox, 1).unwrap(), b"six\r\n");
    }

    #[test]
    fn what_became_a_link_meanwhile_is_not_read_through() {
        let fixture = Fixture::new(&[("new/1.a,W=3", b"a\r\n"), ("new/2.b,W=3", b"b\r\n")]);
        let mut mailbox = fixture.open();
        for name in ["new/1.a,W=3", "new/2.b,W=3"] {
            fs::remove_file(fixture.path(name)).unwrap();
        }
        symlink("/etc/passwd", fixture.path("new/1.a,W=3")).unwrap();
        nix::unistd::mkfifo(&fixture.path("new/2.b,W=3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(mailbox.message(0).is_err());
        assert!(mailbox.message(1).is_err());
    }

    #[test]
    fn renamed_messages_are_found_again_and_removed_ones_are_gone() {
        let fixture = Fixture::new(&[("new/1.a,W=3", b"a\r\n"), ("cur/2.b:2,", b"b\r\n"), ("new/3.c", b"c\r\n")]);
        let mut mailbox = fixture.open();
        fixture.rename("new/1.a,W=3", "cur/1.a,W=3:2,S");
        fixture.rename("cur/2.b:2,", "cur/2.b:2,FRS");
        fs::remove_file(fixture.path("new/3.c")).unwrap();
        assert_eq!(read(&mut mailbox, 0).unwrap(), b"a\r\n");
        assert_eq!(read(&mut mailbox, 1).unwrap(), b"b\r\n");
        assert_eq!(read(&mut mailbox, 2), None);
        fixture.rename("cur/1.a,W=3:2,S", "new/1.a,W=3");
        assert_eq!(read(&mut mailbox, 0).unwrap(), b"a\r\n");
    }

    #[test]
    fn deletion_finds_what_was_renamed_and_touches_nothing_else() {
        let fixture = Fixture::new(&[("new/1.a", b"a"), ("new/2.b", b"b"), ("new/3.c", b"c"), ("cur/4.d:2,", b"d")]);
        let mut mailbox = fixture.open();
        [0, 1, 3].iter().for_each(|&index| mailbox.listing.delete(index));
        fixture.rename("new/1.a", "cur/1.a:2,S");
        fs::remove_file(fixture.path("new/2.b")).unwrap();
        let (removed, result) = mailbox.remove_deleted();
        assert!(result.is_ok());
        assert_eq!(removed, 2);
        assert_eq!(fs::read_dir(fixture.path("cur")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(fixture.path("new")).unwrap().count(), 1);
    }

    #[test]
    fn a_deletion_that_fails_is_told_and_the_others_are_done() {
        let fixture = Fixture::new(&[("new/1.a", b"a"), ("new/2.b", b"b")]);
        let mut mailbox = fixture.open();
        [0, 1].iter().for_each(|&index| mailbox.listing.delete(index));
        fs::remove_file(fixture.path("new/1.a")).unwrap();
        fs::create_dir(fixture.path("new/1.a")).unwrap();
        let (removed, result) = mailbox.remove_deleted();
        assert!(result.unwrap_err().to_string().contains("new/1.a"));
        assert_eq!(removed, 1);
    }

    #[test]
    fn a_mailbox_without_folders_is_empty_and_one_that_is_broken_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Mailbox::open(&folder.path().join("none")).unwrap().listing.left(), 0);
        fs::write(folder.path().join("new"), b"no folder").unwrap();
        assert!(Mailbox::open(folder.path()).is_err());
    }

    #[test]
    fn a_growing_message_ends() {
        let fixture = Fixture::new(&[("new/1.a", b"a")]);
        let mut mailbox = fixture.open();
        let mut content = mailbox.message(0).unwrap().unwrap();
        fs::write(fixture.path("new/1.a"), b"abcdef").unwrap();
        let mut read = Vec::new();
        content.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"a");
    }
}
