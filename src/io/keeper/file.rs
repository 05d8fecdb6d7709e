//! Reading small files that a configuration names, and whether root may read them for somebody else.
//!
//! Root who reads a path for another account must not be led astray: where that account could put a link in the place of
//! the file, or of a folder above it, it would get any file of this host. So root reads only where every folder and link
//! on the way belongs to root and can't be changed by others. Links are followed; certbot lives by them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::libc;

use super::message::Name;
use crate::io::durable::located;
use crate::limits;

/// The content of a regular file of at most [`limits::CERTIFICATE_FILE`] octets. A FIFO or a device blocks nobody.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut content = Vec::new();
    file.take(limits::CERTIFICATE_FILE as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limits::CERTIFICATE_FILE {
        let what = format!("it is larger than {} octets", limits::CERTIFICATE_FILE);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(content)
}

/// The names of the folders in `folder`, and of links to folders, in order; of at most [`limits::CERTIFICATES`] entries.
pub fn list(folder: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)?.take(limits::CERTIFICATES) {
        let name = entry?.file_name();
        let Some(name) = name.to_str().and_then(Name::parse) else { continue };
        match folder.join(name.as_str()).metadata() {
            Ok(found) if found.is_dir() => names.push(name),
            // Perhaps it is one: who may look there must say.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    names.sort();
    Ok(names)
}

/// Links on the way to a file that are followed, as the kernel has it.
const LINKS: u32 = 40;

/// Whether nobody but root decides what `path` leads to. The error names what others could change, and the mend.
pub fn only_root_decides(path: &Path) -> io::Result<()> {
    let mut at = PathBuf::from("/");
    let mut names = names_of(path, &mut at);
    let mut links = 0;
    let mut folder = fs::symlink_metadata(&at)?;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            at.pop();
            folder = fs::symlink_metadata(&at)?;
            continue;
        }
        let next = at.join(&name);
        let found = fs::symlink_metadata(&next).map_err(|error| located("look at", &next, error))?;
        judge(&at, &folder, &next, &found)?;
        if !found.is_symlink() {
            (at, folder) = (next, found);
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(io::Error::other(format!("{}: too many links", path.display())));
        }
        let mut inner = names_of(&fs::read_link(&next)?, &mut at);
        inner.append(&mut names);
        names = inner;
        folder = fs::symlink_metadata(&at)?;
    }
    Ok(())
}

/// The steps of a path; one from the root puts `at` there.
fn names_of(path: &Path, at: &mut PathBuf) -> VecDeque<OsString> {
    if path.is_absolute() {
        *at = PathBuf::from("/");
    }
    let name = |component: Component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether only root decides what stands at `path` in `folder`.
fn judge(folder: &Path, above: &Metadata, path: &Path, found: &Metadata) -> io::Result<()> {
    let told = |place: &Path, why: &str, mend: &str| {
        let mend = format!("as root: {mend} {}, or let the account in run_as read the file itself", place.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {why}; {mend}", place.display())))
    };
    let why = "others than root could put another file there, so the second process does not read it for the server";
    if found.uid() != 0 {
        return told(path, why, "chown root");
    }
    // In a sticky folder others can't move what is root's; but they can make a second name of a file, not of a folder.
    let sticky = above.mode() & 0o1000 != 0 && found.is_dir();
    if above.uid() != 0 {
        return told(folder, why, "chown root");
    }
    if above.mode() & 0o022 != 0 && !sticky {
        return told(folder, why, "chmod go-w");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "secret").unwrap();
        symlink("key", path("link")).unwrap();
        assert_eq!(read(&path("link")).unwrap(), b"secret");
        fs::write(path("most"), vec![0; limits::CERTIFICATE_FILE]).unwrap();
        assert_eq!(read(&path("most")).unwrap().len(), limits::CERTIFICATE_FILE);
        fs::write(path("large"), vec![0; limits::CERTIFICATE_FILE + 1]).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, words) in
            [("large", "larger than"), ("fifo", "no regular"), (".", "no regular"), ("gone", "No such")]
        {
            let error = read(&path(name)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn folders_and_links_to_folders_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.example", ".hidden"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        symlink("b.example", folder.path().join("a.example")).unwrap();
        symlink("nowhere", folder.path().join("c.example")).unwrap();
        fs::write(folder.path().join("README"), "").unwrap();
        let names: Vec<String> = list(folder.path()).unwrap().iter().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names, ["a.example", "b.example"]);
        assert_eq!(list(&folder.path().join("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// As root, in a folder of /tmp, which is sticky.
    #[test]
    fn root_is_not_led_astray() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("archive")).unwrap();
        fs::create_dir_all(path("live/a")).unwrap();
        fs::write(path("archive/key"), "").unwrap();
        symlink("../../archive/key", path("live/a/key")).unwrap();
        symlink(path("live"), path("short")).unwrap();
        let key = path("short/a/key");
        only_root_decides(&key).unwrap();
        assert_eq!(only_root_decides(&path("live/a/gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let refused = |why: &str| {
            let error = only_root_decides(&key).unwrap_err();
            assert!(error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains(why), "{error}");
        };
        for place in ["archive", "archive/key", "live", "live/a"] {
            chown(path(place), Some(65534), None).unwrap();
            refused("chown root");
            chown(path(place), Some(0), None).unwrap();
        }
        for place in ["archive", "live"] {
            fs::set_permissions(path(place), fs::Permissions::from_mode(0o770)).unwrap();
            refused("chmod go-w");
            fs::set_permissions(path(place), fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::os::unix::fs::lchown(path("short"), Some(65534), None).unwrap();
        refused("chown root");
        std::os::unix::fs::lchown(path("short"), Some(0), None).unwrap();
        only_root_decides(&key).unwrap();
        fs::set_permissions(path("archive"), fs::Permissions::from_mode(0o1777)).unwrap();
        refused("chmod go-w");
        symlink("loop", path("loop")).unwrap();
        assert!(only_root_decides(&path("loop")).unwrap_err().to_string().contains("too many links"));
    }
}
