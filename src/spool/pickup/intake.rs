//! Taking one file of `drop/`: everything that touches the disk.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use super::message::{self, Context, Owner};
use crate::io::account::Accounts;
use crate::io::clock::{self, Now};
use crate::io::durable;
use crate::limits;
use crate::mail::complete::Stamp;
use crate::mail::header::HopCounter;
use crate::mail::queue_id::QueueId;
use crate::maillog::{self, Origin};
use crate::route::Site;
use crate::spool::drop_error::{self, DropError};
use crate::spool::line_ends::Canonical;
use crate::spool::{Draft, Spool};

/// By what it is judged who may send what.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub site: &'a Site,
    pub accounts: &'a Accounts,
}

/// What became of a file.
pub(super) enum Taken {
    /// It is in the queue, and still in `drop/`: [`clear`] is next.
    Entry(QueueId),
    /// It is `NAME.bad` now.
    SetAside,
    /// It changed while it was read, and has its name again.
    GivenBack,
    /// It could not be given its name again: that is tried once more by [`give_back`].
    Hidden(QueueId),
    /// It was not there any more.
    Gone,
}

/// Why a file was not taken.
enum NotTaken {
    Refused(DropError),
    Changed,
    Disk(io::Error),
}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> NotTaken {
        NotTaken::Disk(error)
    }
}

impl From<DropError> for NotTaken {
    fn from(error: DropError) -> NotTaken {
        NotTaken::Refused(error)
    }
}

/// Gives the file the name under which it is taken, and takes it. An error leaves it as it was.
pub(super) fn rename_and_take(spool: &Spool, host: Host<'_>, name: &OsStr) -> io::Result<Taken> {
    let id = spool.new_id()?;
    let path = spool.folders().drop.join(name);
    match durable::rename_new(&path, &hidden(spool, id)) {
        Ok(()) => take(spool, host, id, name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken::Gone),
        Err(error) => Err(durable::located("take", &path, error)),
    }
}

/// Takes `drop/.ID`, which was `name` before.
pub(super) fn take(spool: &Spool, host: Host<'_>, id: QueueId, name: &OsStr) -> io::Result<Taken> {
    let path = hidden(spool, id);
    let waits = match commit(spool, host, id, (&path, name)) {
        Ok(id) => return Ok(Taken::Entry(id)),
        Err(NotTaken::Refused(error)) => match set_aside(spool, &path, name, &error) {
            Ok(()) => return Ok(Taken::SetAside),
            Err(error) => Err(error),
        },
        Err(NotTaken::Changed) => Ok(()),
        Err(NotTaken::Disk(error)) => Err(error),
    };
    if give_back(spool, id, name) {
        return waits.map(|()| Taken::GivenBack);
    }
    if let Err(error) = waits {
        maillog::drop_waits(Path::new(name), error);
    }
    Ok(Taken::Hidden(id))
}

/// Removes the file of an entry and lets the entry be delivered. Says whether it could.
pub(super) fn clear(spool: &Spool, id: QueueId) -> bool {
    let cleared = durable::remove(&hidden(spool, id)).and_then(|()| durable::sync_dir(&spool.folders().drop));
    match cleared {
        Ok(()) => spool.schedule_new(id),
        Err(ref error) => maillog::spool_error(Some(id), error),
    }
    cleared.is_ok()
}

fn hidden(spool: &Spool, id: QueueId) -> PathBuf {
    spool.folders().drop.join(format!(".{id}"))
}

fn commit(spool: &Spool, host: Host<'_>, id: QueueId, (path, name): (&Path, &OsStr)) -> Result<QueueId, NotTaken> {
    let site = host.site;
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_symlink() {
        return Err(DropError::new(0, "it is a symbolic link", "put a copy of the file itself here").into());
    }
    // Before it is opened: that alone fails for a socket, and means something to a device.
    if !kind.is_file() {
        return Err(DropError::new(0, "it is not a regular file", "put a file with the message here").into());
    }
    let mut file = match durable::open_untrusted(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(unreadable(host).into()),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    check_file(&metadata, site)?;
    if !spool.has_room(metadata.len(), site.config.limits.free_space)? {
        return Err(io::Error::from(io::ErrorKind::StorageFull).into());
    }
    let mut head = Vec::new();
    (&mut file).take((limits::DROP_HEADER + limits::ENVELOPE) as u64).read_to_end(&mut head)?;
    let owner = owner_of(&metadata, host)?;
    let origin = Origin { client: format!("drop/{}", name.display()), protocol: "drop" };
    let draft = write_draft(spool, site, id, Source { file: &mut file, head, owner })?;
    if changed(&metadata, &file.metadata()?) {
        return Err(NotTaken::Changed);
    }
    Ok(spool.commit_unscheduled(draft, origin)?)
}

fn unreadable(host: Host<'_>) -> DropError {
    let who = (host.accounts)(geteuid().as_raw()).ok().flatten().unwrap_or_else(|| "the server".to_owned());
    DropError::new(0, "the server may not read it", format!("chmod or chown it so that {who} can"))
}

fn check_file(metadata: &Metadata, site: &Site) -> Result<(), DropError> {
    if !metadata.is_file() {
        return Err(DropError::new(0, "it is not a regular file", "put a file with the message here"));
    }
    if metadata.nlink() > 1 {
        return Err(DropError::new(0, "the file has more than one name (hard links)", "put a copy of it here"));
    }
    if metadata.len() > site.config.limits.message_size {
        return Err(DropError::new(
            0,
            "the message is larger than limits.message_size",
            "make it smaller, or raise the limit",
        ));
    }
    Ok(())
}

fn changed(before: &Metadata, after: &Metadata) -> bool {
    (before.len(), before.mtime(), before.mtime_nsec()) != (after.len(), after.mtime(), after.mtime_nsec())
}

fn owner_of(metadata: &Metadata, host: Host<'_>) -> Result<Owner, NotTaken> {
    let uid = Uid::from_raw(metadata.uid());
    if uid == geteuid() || (uid.is_root() && host.site.config.drop.trust_root) {
        return Ok(Owner::Trusted);
    }
    match (host.accounts)(uid.as_raw())? {
        Some(name) => Ok(Owner::Login(name)),
        None => Err(DropError::new(
            0,
            "the file's owner has no login on this host",
            "chown it to the account that sends it",
        )
        .into()),
    }
}

/// A file being read, and its first octets.
struct Source<'a> {
    file: &'a mut File,
    head: Vec<u8>,
    owner: Owner,
}

fn write_draft(spool: &Spool, site: &Site, id: QueueId, source: Source<'_>) -> Result<Draft, NotTaken> {
    let date = clock::rfc5322(Now::read().wall);
    let stamp = Stamp { date: date.clone(), unique: id.to_string(), hostname: site.config.hostname.clone() };
    let context = Context {
        default_domain: site.config.first_domain(),
        owner: &source.owner,
        config: &site.config,
        stamp: &stamp,
    };
    let dropped = message::read(&source.head, &context)?;
    let mut hops = HopCounter::default();
    hops.feed(&dropped.header);
    if hops.count() >= site.config.limits.hops {
        return Err(DropError::new(
            0,
            "the message has been through too many hosts; it loops",
            "look for a forward to this host",
        )
        .into());
    }
    let mailbox = site.single_mailbox(&dropped.envelope);
    let mut draft = spool.begin_as(id, dropped.envelope, mailbox.as_ref())?;
    let owner = match &source.owner {
        Owner::Trusted => "trusted",
        Owner::Login(name) => name,
    };
    write!(draft, "Received: by {} (drop folder, owner {owner})\r\n\tid {id};\r\n\t{date}\r\n", site.config.hostname)?;
    draft.write_all(&dropped.header)?;
    let mut body = Canonical::after_lines(dropped.header_lines);
    let mut output = Vec::new();
    body.feed(&source.head[dropped.body_offset..], &mut output)?;
    let mut block = vec![0; limits::MESSAGE_BUFFER];
    loop {
        draft.write_all(&output)?;
        output.clear();
        match source.file.read(&mut block)? {
            0 => break,
            count => body.feed(&block[..count], &mut output)?,
        }
    }
    body.finish(&mut output)?;
    draft.write_all(&output)?;
    Ok(draft)
}

/// The file becomes `NAME.bad`, after `NAME.report` is on the disk.
fn set_aside(spool: &Spool, path: &Path, name: &OsStr, error: &DropError) -> io::Result<()> {
    let folder = &spool.folders().drop;
    let named = |number: usize, ending: &str| {
        let mut named = name.to_owned();
        named.push(if number == 0 { String::new() } else { format!(".{number}") });
        named.push(ending);
        folder.join(named)
    };
    let free =
        |number: &usize| [".bad", ".report"].iter().all(|ending| named(*number, ending).symlink_metadata().is_err());
    let number = (0..10_000).find(free).ok_or(io::ErrorKind::AlreadyExists)?;
    let (bad, report) = (named(number, ".bad"), named(number, ".report"));
    let shown = bad.file_name().unwrap_or(name).display().to_string();
    durable::write_new(&report, drop_error::report(&shown, error).as_bytes())?;
    // It quotes nothing, and whoever dropped the file is to read it.
    let readable = fs::set_permissions(&report, fs::Permissions::from_mode(0o644));
    if let Err(error) = readable.and_then(|()| durable::rename_new(path, &bad)) {
        // Without the file it would be taken for one.
        durable::remove(&report)?;
        return Err(durable::located("set aside", &bad, error));
    }
    durable::sync_dir(folder)?;
    maillog::drop_refused(&bad, &report, error);
    Ok(())
}

/// Gives `drop/.ID` its own name again, or one beside a new file that has it. Says whether it could, or there is none.
pub(super) fn give_back(spool: &Spool, id: QueueId, name: &OsStr) -> bool {
    match durable::rename_beside(&hidden(spool, id), &spool.folders().drop, name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            maillog::spool_error(Some(id), error);
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_report_stays_of_what_is_not_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let gone = spool.folders().drop.join(".0TQXGV0000001");
        assert!(set_aside(&spool, &gone, OsStr::new("m"), &DropError::new(0, "it is wrong", "mend it")).is_err());
        assert_eq!(fs::read_dir(&spool.folders().drop).unwrap().count(), 0, "it would be taken for a message");
    }
}
