//! Changes to the users file: pure functions on its text, and one that applies them to the file.
//!
//! Every line that is not meant keeps its octets. The file is replaced whole, with its mode and owner, so that a reader
//! sees the old one or the new one. Two edits at once wait for one another on a lock of the file itself; no lock file is
//! left behind. A change after which the file could not be read is not made. Fails with an [`EditError`].

use std::fmt;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use super::{Users, check_name, split};
use crate::io::durable;
use crate::io::table::{self, LocatedError};
use crate::limits;
use crate::mail::address::Address;

/// Why the file was not changed.
#[derive(Debug)]
pub enum EditError {
    /// There is such a user already.
    Exists(Address),
    /// There is no such user.
    Missing(Address),
    /// The address can't be a user's, and why.
    Unfit(Address, &'static str),
    /// The file is wrong, or would be.
    Wrong(LocatedError),
    /// The file can't be written.
    Unwritable(io::Error),
}

impl fmt::Display for EditError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditError::Exists(address) => {
                write!(out, "{address} is a user already; postrider user passwd {address} sets another password")
            }
            EditError::Missing(address) => write!(out, "{address} is no user; postrider user list names them all"),
            EditError::Unfit(address, why) => write!(out, "{address}: {why}; choose another name"),
            EditError::Wrong(error) => error.fmt(out),
            EditError::Unwritable(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for EditError {}

impl From<io::Error> for EditError {
    fn from(error: io::Error) -> EditError {
        EditError::Unwritable(error)
    }
}

/// The text with one more user at its end.
pub fn with_user(text: &str, address: &Address, hash: &str) -> Result<String, EditError> {
    check_name(address).map_err(|why| EditError::Unfit(address.clone(), why))?;
    if text.lines().any(|line| is_of(line, address)) {
        return Err(EditError::Exists(address.clone()));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{gap}{}:{hash}\n", address.folded()))
}

/// The text with another password for a user; the fields after it stay.
pub fn with_password(text: &str, address: &Address, hash: &str) -> Result<String, EditError> {
    change_lines(text, address, |line| {
        let content = line.trim_end_matches(['\r', '\n']);
        let (end, mut fields) = (&line[content.len()..], content.splitn(3, ':'));
        let name = fields.next().unwrap_or_default();
        match fields.nth(1) {
            Some(further) => format!("{name}:{hash}:{further}{end}"),
            None => format!("{name}:{hash}{end}"),
        }
    })
}

/// The text without a user.
pub fn without_user(text: &str, address: &Address) -> Result<String, EditError> {
    change_lines(text, address, |_| String::new())
}

fn change_lines(text: &str, address: &Address, change: impl Fn(&str) -> String) -> Result<String, EditError> {
    let mut found = false;
    let mut changed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if is_of(line, address) {
            found = true;
            changed.push_str(&change(line));
        } else {
            changed.push_str(line);
        }
    }
    if found { Ok(changed) } else { Err(EditError::Missing(address.clone())) }
}

fn is_of(line: &str, address: &Address) -> bool {
    let name = split(line).and_then(|(name, _)| name.parse::<Address>().ok());
    name.is_some_and(|name| name.folded() == address.folded())
}

/// Applies a change to the file. One that is not there is made, readable by its owner and, if one is named, by `group`.
pub fn edit(
    path: &Path,
    group: Option<u32>,
    change: impl Fn(&str) -> Result<String, EditError>,
) -> Result<(), EditError> {
    // A link stays a link: what it leads to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let locked = match locked(path)? {
        Some(locked) => locked,
        None => {
            // Nothing is made for a change that can't be.
            change("")?;
            create(path, group)?;
            locked(path)?.ok_or_else(|| durable::located("lock", path, io::ErrorKind::NotFound.into()))?
        }
    };
    let text = table::read(path, limits::TABLE_FILE).map_err(EditError::Wrong)?.unwrap_or_default();
    let changed = change(&text)?;
    Users::parse(path, &changed).map_err(EditError::Wrong)?;
    save(path, &changed)?;
    drop(locked);
    Ok(())
}

/// The file, once nobody else edits it; `None` if it is not there.
fn locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| durable::located("open", path, error))?,
        };
        file.lock().map_err(|error| durable::located("lock", path, error))?;
        // Whoever had the lock before has put another file in its place, which others lock now.
        let mine = file.metadata().map_err(|error| durable::located("read", path, error))?;
        if fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (mine.dev(), mine.ino())) {
            return Ok(Some(file));
        }
    }
}

fn create(path: &Path, group: Option<u32>) -> io::Result<()> {
    let file = match durable::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    };
    if group.is_some() {
        fchown(&file, None, group).map_err(|error| durable::located("give to its group", path, error))?;
        file.set_permissions(Permissions::from_mode(0o640))?;
    }
    Ok(())
}

/// Replaces the file whole and keeps its mode and owner; a new one is readable by its owner alone. Not
/// `durable::replace`: under its new name the file must have the right owner at once, or a server that reloads can't
/// read it.
pub fn save(path: &Path, text: &str) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|error| durable::located("read", path, error))?),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    durable::remove(&draft)?;
    let file = durable::create_new(&draft)?;
    let saved = write(&file, text, old.as_ref())
        .map_err(|error| durable::located("write", &draft, error))
        .and_then(|()| fs::rename(&draft, path).map_err(|error| durable::located("replace", path, error)));
    if saved.is_err() {
        durable::remove(&draft)?;
    }
    saved?;
    durable::sync_dir(durable::folder_of(path))
}

fn write(mut file: &File, text: &str, old: Option<&Metadata>) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    if let Some(old) = old {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "{BLF-CRYPT}$2y$05$xsrQ1OZpLaAyD9mH8qIU0.XgdBqPrnctCnHba5Zz9tiUDIRMAAssS";
    const TEXT: &str = "# people\r\n\nAnn@example.org:OLD:1:2::/home/ann\r\n bad line\nbob@example.org:OLD";

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn every_other_line_keeps_its_octets() {
        let ann = address("ANN@example.org");
        assert_eq!(
            with_user(TEXT, &address("Carol@example.org"), "NEW").unwrap(),
            format!("{TEXT}\ncarol@example.org:NEW\n")
        );
        assert_eq!(
            with_password(TEXT, &ann, "NEW").unwrap(),
            "# people\r\n\nAnn@example.org:NEW:1:2::/home/ann\r\n bad line\nbob@example.org:OLD"
        );
        assert_eq!(
            with_password(TEXT, &address("bob@example.org"), "NEW").unwrap(),
            "# people\r\n\nAnn@example.org:OLD:1:2::/home/ann\r\n bad line\nbob@example.org:NEW"
        );
        assert_eq!(without_user(TEXT, &ann).unwrap(), "# people\r\n\n bad line\nbob@example.org:OLD");
        assert_eq!(with_user("", &ann, "NEW").unwrap(), "ann@example.org:NEW\n");
    }

    #[test]
    fn what_cannot_be_changed_is_told() {
        assert!(matches!(with_user(TEXT, &address("bob@Example.org"), "NEW"), Err(EditError::Exists(_))));
        assert!(matches!(with_user(TEXT, &address("\"a/b\"@example.org"), "NEW"), Err(EditError::Unfit(..))));
        assert!(matches!(with_password(TEXT, &address("x@example.org"), "NEW"), Err(EditError::Missing(_))));
        assert!(matches!(without_user(TEXT, &address("x@example.org")), Err(EditError::Missing(_))));
    }

    #[test]
    fn a_saved_file_keeps_its_mode_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        save(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        save(&path, "two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("users"), folder.path().join("link"));
        fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        edit(&link, None, |text| with_user(text, &address("ann@example.org"), HASH)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&path).unwrap().starts_with("ann@example.org:"));
    }

    #[test]
    fn nothing_is_made_for_a_change_that_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let missing = edit(&path, None, |text| without_user(text, &address("ann@example.org")));
        assert!(matches!(missing, Err(EditError::Missing(_))));
        assert!(!path.exists());
        fs::write(&path, "broken\n").unwrap();
        let wrong = edit(&path, None, |text| with_user(text, &address("ann@example.org"), HASH));
        assert!(matches!(wrong, Err(EditError::Wrong(LocatedError { line: Some(1), .. }))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "broken\n");
    }

    #[test]
    fn edits_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for at in 0..10 {
                        let user = address(&format!("u{thread}-{at}@example.org"));
                        edit(path, None, |text| with_user(text, &user, HASH)).unwrap();
                    }
                });
            }
        });
        assert_eq!(Users::load(&path).unwrap().addresses().count(), 80);
    }
}
