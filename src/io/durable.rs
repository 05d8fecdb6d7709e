//! Files that survive a power cut: what is synced, in which order, and with how few flushes.
//!
//! Every function returns the first error it meets; a failed sync is never repeated here, because the kernel has dropped
//! the dirty pages by then and a second call would succeed without them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, fstatfs};
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

use super::sandbox;

/// XFS_SUPER_MAGIC of linux/magic.h, which nix does not name on every target.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

/// Adds what was done to which file to an error's own words.
pub fn located(doing: &str, path: &Path, error: io::Error) -> io::Error {
    let mend = sandbox::mend(path, &error);
    io::Error::new(error.kind(), Located { doing: doing.to_owned(), path: path.to_owned(), error, mend })
}

#[derive(Debug)]
struct Located {
    doing: String,
    path: PathBuf,
    error: io::Error,
    mend: &'static str,
}

impl std::fmt::Display for Located {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "cannot {} {}: {}{}", self.doing, self.path.display(), self.error, self.mend)
    }
}

impl std::error::Error for Located {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Whether there was no room: disk, inodes or quota.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Creates a file that did not exist, readable by its owner alone.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| located("create", path, error))
}

/// Opens a file that someone else may have made: follows no link, blocks on no FIFO.
pub fn open_untrusted(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| located("open", path, error))
}

/// Makes a folder and those above it, 0700, and syncs the folders they were made in.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        create_dirs(above)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(|error| located("make the folder", path, error))?,
    }
    sync_dir(above.unwrap_or(Path::new(".")))
}

/// The folder that a file stands in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a folder: the names in it are on the disk.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| located("sync", path, error))
}

/// Whether something has this name. That it can't be told is an error, and not a no.
pub fn exists(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(located("look for", path, error)),
    }
}

/// Renames, and fails with `AlreadyExists` where something has the new name.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // A filesystem without the flag (some network ones): a link never replaces either.
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        Err(error) => Err(error.into()),
    }
}

/// Renames, over what has the name already.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Renames without replacing, to `name` in `folder`, or to `name.1`, `name.2`, … where it is taken. Returns the path.
pub fn rename_beside(from: &Path, folder: &Path, name: &std::ffi::OsStr) -> io::Result<PathBuf> {
    for number in 0..1000 {
        let mut tried = name.to_owned();
        if number > 0 {
            tried.push(format!(".{number}"));
        }
        let to = folder.join(tried);
        match rename_new(from, &to) {
            Ok(()) => return Ok(to),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(located("move here", &to, error)),
        }
    }
    Err(located("find a free name for", from, io::ErrorKind::AlreadyExists.into()))
}

/// Removes a file; one that is not there is as good as removed.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(path).map(|_| ())
}

/// As [`remove`]; says whether it was there.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(located("remove", path, error)),
    }
}

/// Writes a new file and syncs it. Whatever fails, no file is left behind.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(error) = written {
        remove(path)?;
        return Err(located("write", path, error));
    }
    Ok(())
}

/// Replaces `path` whole: written as `draft`, synced, renamed over it, and the folder synced.
pub fn replace(path: &Path, draft: &Path, content: &[u8]) -> io::Result<()> {
    remove(draft)?;
    write_new(draft, content)?;
    if let Err(error) = fs::rename(draft, path) {
        remove(draft)?;
        return Err(located("replace", path, error));
    }
    sync_dir(folder_of(path))
}

/// Free octets and, where they are counted, free inodes for an unprivileged account on the filesystem of `path`.
pub fn free(path: &Path) -> io::Result<(u64, Option<u64>)> {
    Ok(counted(&statvfs(path)?))
}

/// As [`free`], of a folder or a file that is open: no path is walked.
pub fn free_beside(open: &File) -> io::Result<(u64, Option<u64>)> {
    Ok(counted(&fstatvfs(open)?))
}

fn counted(stat: &Statvfs) -> (u64, Option<u64>) {
    // The types differ between targets.
    #[allow(clippy::unnecessary_cast)]
    let octets = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
    #[allow(clippy::unnecessary_cast)]
    let inodes = (stat.files() > 0).then(|| stat.files_available() as u64);
    (octets, inodes)
}

/// Makes batches of files durable with as few flushes as the filesystem allows.
#[derive(Debug)]
pub struct Flusher {
    folder: File,
    path: PathBuf,
    method: Method,
    slow: Duration,
    pause: Duration,
    per_file_until: Option<Instant>,
}

/// How a batch is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One `syncfs` for several files, and the `fsync` of one that is alone.
    Filesystem,
    /// One `fsync` a file and one for the folder.
    File,
}

impl Method {
    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Filesystem => "syncfs",
            Method::File => "fsync",
        }
    }
}

impl Flusher {
    /// For files that stand in `folder`. `syncfs` is used on ext4 and xfs from Linux 5.17, where it reports the errors of
    /// earlier writes, and where a first call succeeds. One that takes over `slow` is paid for others' writes: for
    /// `pause` each file is synced instead.
    pub fn new(path: &Path, slow: Duration, pause: Duration) -> io::Result<Flusher> {
        let folder = File::open(path).map_err(|error| located("open", path, error))?;
        let kind = fstatfs(folder.as_fd()).map(|stat| stat.filesystem_type());
        let known = matches!(kind, Ok(EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC));
        let sound = known && kernel_at_least(5, 17) && nix::unistd::syncfs(&folder).is_ok();
        let method = if sound { Method::Filesystem } else { Method::File };
        Ok(Flusher { folder, path: path.to_owned(), method, slow, pause, per_file_until: None })
    }

    /// What is used when nobody else writes.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Makes `files`, and the folder they were renamed into, durable. An error holds for all of them.
    pub fn flush<'a>(&mut self, mut files: impl ExactSizeIterator<Item = &'a File>) -> io::Result<()> {
        if self.method == Method::Filesystem && files.len() == 1 {
            // ext4 and xfs write metadata down in the order it came about: the sync of a file brings the name it got before,
            // and spares what syncfs writes beyond the journal, which for one message is more than the message.
            return files.try_for_each(File::sync_all).map_err(|error| located("sync a file in", &self.path, error));
        }
        let paused = self.per_file_until.is_some_and(|until| Instant::now() < until);
        if self.method == Method::Filesystem && !paused {
            let begun = Instant::now();
            nix::unistd::syncfs(&self.folder).map_err(|error| located("sync", &self.path, error.into()))?;
            if begun.elapsed() > self.slow {
                self.per_file_until = Instant::now().checked_add(self.pause);
            }
            return Ok(());
        }
        files.try_for_each(File::sync_all)?;
        self.flush_names()
    }

    /// Makes the names in the folder durable.
    pub fn flush_names(&self) -> io::Result<()> {
        self.folder.sync_all().map_err(|error| located("sync", &self.path, error))
    }
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = String::from_utf8_lossy(name.release().as_bytes()).into_owned();
    let mut numbers = release.split(|octet: char| !octet.is_ascii_digit()).map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(found_major), Some(found_minor)) => (found_major, found_minor) >= (major, minor),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_rename_never_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write_new(&a, b"a").unwrap();
        write_new(&b, b"b").unwrap();
        assert_eq!(rename_new(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(rename_beside(&a, folder.path(), OsStr::new("b")).unwrap(), folder.path().join("b.1"));
        assert_eq!(fs::read(&b).unwrap(), b"b");
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let (path, draft) = (folder.path().join("state"), folder.path().join("draft"));
        fs::write(&draft, b"left over").unwrap();
        replace(&path, &draft, b"one").unwrap();
        replace(&path, &draft, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(!draft.exists());
    }

    #[test]
    fn links_are_not_followed_and_fifos_do_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let (link, fifo) = (folder.path().join("link"), folder.path().join("fifo"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(open_untrusted(&link).is_err());
        assert!(open_untrusted(&fifo).is_ok());
    }

    #[test]
    fn errors_name_the_file() {
        let error = create_new(Path::new("/nowhere/file")).unwrap_err();
        assert!(error.to_string().starts_with("cannot create /nowhere/file: "), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
