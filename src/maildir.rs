//! Putting messages into a Maildir, durably and never over another file.
//!
//! A message enters `new/` whole: by one rename of its queue file, or as a copy that was written in `tmp/` and synced
//! first. The folder is made when the first message comes. A copy is done only once `new/` is synced too. Fails with the
//! error of whichever step failed; then the message is not in `new/`, or (a failed sync of `new/`) may be there twice
//! after the next attempt, and is never lost.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::io::durable;
use crate::mail::address::Address;
use crate::mail::queue_id::QueueId;

const FOLDERS: [&str; 3] = ["tmp", "cur", "new"];

/// One mailbox on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maildir {
    path: PathBuf,
}

/// The parts of a file name in a Maildir: `<seconds>.<id>R<n>.<host>,S=<size>,W=<size>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The message.
    pub id: QueueId,
    /// Which of its targets this is, from 1.
    pub target: usize,
    /// This host.
    pub hostname: &'a str,
}

impl Name<'_> {
    /// What no other message has, and no flag changes.
    fn base(&self) -> String {
        format!("{}{}.", self.start(), self.target)
    }

    /// What all targets of a message have in common.
    fn start(&self) -> String {
        format!("{}.{}R", self.id.seconds(), self.id)
    }

    /// The whole name of a file of `size` octets, all of whose lines end with CR LF.
    fn whole(&self, size: u64) -> String {
        format!("{}{},S={size},W={size}", self.base(), self.hostname)
    }
}

impl Maildir {
    /// The mailbox of `address` below `mailboxes`. `None` if its local-part can't be the name of a folder.
    pub fn of(mailboxes: &Path, address: &Address) -> Option<Maildir> {
        let (local_part, domain) = (address.local_part(), address.domain()?);
        let unsafe_name = local_part.is_empty()
            || local_part.starts_with('.')
            || local_part.contains('/')
            || local_part.chars().any(char::is_control);
        (!unsafe_name).then(|| Maildir { path: mailboxes.join(domain.as_str()).join(local_part) })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the file `from` into `new/` by one rename, which changes none of its octets.
    pub fn take(&self, from: &Path, name: Name<'_>, size: u64) -> io::Result<()> {
        let to = self.path.join("new").join(name.whole(size));
        match durable::rename_new(from, &to) {
            // There was no such folder. Another thread may just have made it, for another message.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create()?;
                durable::rename_new(from, &to)
            }
            other => other,
        }
    }

    /// Puts what `write` writes into `new/`, durably. `write` returns how many octets it wrote.
    pub fn copy(&self, name: Name<'_>, write: impl FnOnce(&mut File) -> io::Result<u64>) -> io::Result<()> {
        self.create()?;
        let draft = self.path.join("tmp").join(format!("{}{}", name.base(), name.hostname));
        durable::remove(&draft)?;
        let mut file = durable::create_new(&draft)?;
        let written = write(&mut file).and_then(|size| file.sync_all().map(|()| size));
        let folder = self.path.join("new");
        let moved = written.and_then(|size| {
            let to = folder.join(name.whole(size));
            durable::rename_new(&draft, &to).map(|()| to)
        });
        match moved {
            Ok(to) => durable::sync_dir(&folder).or_else(|error| {
                // Whether it is there after a power cut nobody knows: the next attempt writes it anew.
                durable::remove(&to)?;
                Err(error)
            }),
            Err(error) => {
                durable::remove(&draft)?;
                Err(durable::located("write into", &self.path, error))
            }
        }
    }

    /// Whether this message is in the mailbox already, and on the disk, whatever its reader has renamed it to and whichever
    /// of its targets it came as: a mailbox is a target once.
    pub fn has(&self, name: Name<'_>) -> io::Result<bool> {
        let start = name.start();
        for folder in ["new", "cur"] {
            let folder = self.path.join(folder);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                if entry?.file_name().as_encoded_bytes().starts_with(start.as_bytes()) {
                    // Whoever put it there may have been killed before it did this.
                    return durable::sync_dir(&folder).map(|()| true);
                }
            }
        }
        Ok(false)
    }

    fn exists(&self) -> bool {
        FOLDERS.iter().all(|folder| self.path.join(folder).is_dir())
    }

    fn create(&self) -> io::Result<()> {
        if self.exists() {
            return Ok(());
        }
        FOLDERS.iter().try_for_each(|folder| durable::create_dirs(&self.path.join(folder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn name(target: usize) -> Name<'static> {
        let id = QueueId::after(None, Duration::from_secs(1_795_000_000), 1);
        Name { id, target, hostname: "mail.example.org" }
    }

    fn maildir(folder: &Path) -> Maildir {
        Maildir::of(folder, &"ann@example.org".parse().unwrap()).unwrap()
    }

    #[test]
    fn both_ways_lead_into_new_under_a_name_with_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = maildir(folder.path());
        let queued = folder.path().join("queued");
        fs::write(&queued, b"a\r\n").unwrap();
        maildir.take(&queued, name(1), 3).unwrap();
        maildir.copy(name(2), |file| file.write_all(b"b\r\n").map(|()| 3)).unwrap();
        let mut found: Vec<_> = fs::read_dir(folder.path().join("example.org/ann/new")).unwrap().collect();
        found.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        assert!(found[0].as_ref().unwrap().file_name().to_str().unwrap().ends_with("R1.mail.example.org,S=3,W=3"));
        assert_eq!(found.len(), 2);
        assert!(!queued.exists());
    }

    #[test]
    fn nothing_is_ever_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = maildir(folder.path());
        maildir.copy(name(1), |file| file.write_all(b"one").map(|()| 3)).unwrap();
        let second = maildir.copy(name(1), |file| file.write_all(b"two").map(|()| 3));
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(maildir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_message_is_found_under_its_readers_name() {
        let folder = tempfile::tempdir().unwrap();
        let maildir = maildir(folder.path());
        assert!(!maildir.has(name(1)).unwrap());
        maildir.copy(name(1), |file| file.write_all(b"one").map(|()| 3)).unwrap();
        let entry = fs::read_dir(maildir.path().join("new")).unwrap().next().unwrap().unwrap();
        let seen = format!("{}:2,S", entry.file_name().to_str().unwrap());
        fs::rename(entry.path(), maildir.path().join("cur").join(seen)).unwrap();
        assert!(maildir.has(name(1)).unwrap());
        assert!(maildir.has(name(11)).unwrap(), "its number may change when targets are resolved anew");
        let other = Name { id: QueueId::after(Some(name(1).id), Duration::ZERO, 1), ..name(1) };
        assert!(!maildir.has(other).unwrap());
    }

    #[test]
    fn names_that_are_paths_are_no_mailboxes() {
        for address in
            ["\"../x\"@example.org", "\"a/b\"@example.org", "\".\"@example.org", "a@[192.0.2.1]", "\"\"@example.org"]
        {
            assert_eq!(Maildir::of(Path::new("/mail"), &address.parse().unwrap()), None, "{address}");
        }
    }
}
