//! What a person may do to a message with `mv`, `touch` and `rm`, done with care: the verbs of `postrider queue`.
//!
//! Each change is safe whether a server runs, starts or stops at any moment of it, because of four rules:
//!
//! - The message's file is moved or removed first, by one call that replaces nothing, and synced; it is in exactly one
//!   folder at any time. Where it is decides; its state only follows.
//! - A running server moves the state itself, for it may hold outcomes that are not written yet. Only without one it is
//!   moved here, never over another: where a server has just started and was faster, its own is newer and stays.
//! - A state that was left behind by a crash or a server that stopped is not lost: the next start takes it to where its
//!   message is (`sweep`). It never stands in `queue/` without its message where a start could take it for left over.
//! - A state in `queue/` is never written here: the server could have written a newer one since it was read. `retry`
//!   changes only that of a message in `failed/`, which no server reads.
//!
//! What is gone when it is its turn is [`Done::Gone`] and no error. An error leaves the message in one of its places.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::listed::{Listed, Place};
use super::state::{State, Status, Told};
use super::sweep::names;
use super::{Folders, eml, state_file};
use crate::io::durable;

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is made.
    Changed,
    /// The message is not there any more: it was delivered, removed or moved.
    Gone,
    /// It does not fit, and why.
    Refused(String),
}

/// Whether a server runs on this spool: it holds a lock. A shared one is enough to see it, and is given back at once.
pub fn is_running(spool: &Path) -> bool {
    File::open(spool).is_ok_and(|folder| matches!(folder.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Has a message tried now: by the server, or at its next start. One that failed begins anew.
pub fn retry(folders: &Folders, listed: &Listed) -> io::Result<Done> {
    match listed.place {
        Place::Queue => touch(&listed.path),
        Place::Hold => Ok(Done::Refused("it is held; release it".to_owned())),
        Place::Failed => requeue(folders, listed),
    }
}

/// Sets a message of the queue aside.
pub fn hold(folders: &Folders, listed: &Listed) -> io::Result<Done> {
    match listed.place {
        Place::Queue => {}
        Place::Hold => return Ok(Done::Refused("it is held already".to_owned())),
        Place::Failed => return Ok(Done::Refused("it has failed, and is not tried anyway".to_owned())),
    }
    let done = move_message(&listed.path, &folders.hold.join(eml(listed.id)))?;
    // An attempt under way ends, and the server writes its outcome beside the message.
    if done == Done::Changed && !is_running(folders.spool()) {
        bring_state(listed, &folders.queue, &folders.hold)?;
    }
    Ok(done)
}

/// Lets a message that was set aside go on.
pub fn release(folders: &Folders, listed: &Listed) -> io::Result<Done> {
    match listed.place {
        Place::Hold => {}
        Place::Queue => return Ok(Done::Refused("it is not held".to_owned())),
        Place::Failed => return Ok(Done::Refused("it is not held, but has failed; retry it".to_owned())),
    }
    let done = move_message(&listed.path, &folders.eml(listed.id))?;
    if done == Done::Changed && !is_running(folders.spool()) {
        bring_state(listed, &folders.hold, &folders.queue)?;
    }
    Ok(done)
}

/// Removes a message for good. An attempt under way may still deliver it.
pub fn remove(folders: &Folders, listed: &Listed) -> io::Result<Done> {
    match fs::remove_file(&listed.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::Gone),
        other => other.map_err(|error| durable::located("remove", &listed.path, error))?,
    }
    let folder = folders.place(listed.place);
    durable::sync_dir(folder)?;
    let state = folder.join(state_file(listed.id));
    match listed.place {
        // The server removes it, once no attempt can write it anew.
        Place::Queue if is_running(folders.spool()) => return Ok(Done::Changed),
        Place::Queue | Place::Hold => durable::remove(&state)?,
        Place::Failed => {
            durable::remove(&report_of(&listed.path))?;
            if namesakes(folders, listed)? == 0 {
                durable::remove(&state)?;
            }
        }
    }
    durable::sync_dir(folder)?;
    Ok(Done::Changed)
}

/// A server sees it; a start finds the message newer than its state.
fn touch(path: &Path) -> io::Result<Done> {
    let now = TimeSpec::UTIME_NOW;
    match utimensat(AT_FDCWD, path, &now, &now, UtimensatFlags::NoFollowSymlink) {
        Ok(()) => Ok(Done::Changed),
        Err(nix::Error::ENOENT) => Ok(Done::Gone),
        Err(error) => Err(durable::located("touch", path, error.into())),
    }
}

/// Failed → held → queued, the state ahead of the message as far as `hold/`: wherever this ends by a crash, the message
/// has its state beside it or where `release` and the next start find it. Straight into `queue/`, a start could come
/// between the two, and find a state without a message, or a message that goes to everybody again.
fn requeue(folders: &Folders, listed: &Listed) -> io::Result<Done> {
    if let Some(problem) = &listed.problem {
        return Ok(Done::Refused(format!("{problem}; its report says what to do")));
    }
    let id = listed.id;
    for taken in [folders.eml(id), folders.hold.join(eml(id))] {
        if taken.symlink_metadata().is_ok() {
            return Ok(Done::Refused(format!("{} is there already", taken.display())));
        }
    }
    if namesakes(folders, listed)? > 1 {
        return Ok(Done::Refused("failed/ has two messages of this id, and one state; retry them by hand".to_owned()));
    }
    if let Some(state) = &listed.state {
        let Some(state) = begun_anew(state) else {
            return Ok(Done::Refused("everybody has it; remove it".to_owned()));
        };
        let path = folders.failed.join(state_file(id));
        durable::replace(&path, &folders.tmp.join(state_file(id)), state.to_string().as_bytes())?;
        // One that an earlier try left there is older.
        let held = folders.hold.join(state_file(id));
        fs::rename(&path, &held).map_err(|error| durable::located("move here", &held, error))?;
        durable::sync_dir(&folders.hold)?;
    }
    let held = Listed { place: Place::Hold, path: folders.hold.join(eml(id)), ..listed.clone() };
    match move_message(&listed.path, &held.path)? {
        Done::Changed => {}
        other => return Ok(other),
    }
    durable::remove(&report_of(&listed.path))?;
    durable::sync_dir(&folders.failed)?;
    release(folders, &held)
}

/// With what failed to be tried again, at once and with patience. `None` if there is nothing to try.
fn begun_anew(state: &State) -> Option<State> {
    let mut state = State { waited: Duration::ZERO, next_attempt: None, retry_in: Duration::ZERO, ..state.clone() };
    for target in state.targets.iter_mut().filter(|target| target.status == Status::Failed) {
        (target.status, target.gave_up, target.told) = (Status::Pending, false, Told::Nothing);
    }
    state.is_pending().then_some(state)
}

/// Moves a message over no other, and syncs first where it came to be.
fn move_message(from: &Path, to: &Path) -> io::Result<Done> {
    match durable::rename_new(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::Gone),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Ok(Done::Refused(format!("{} is there already", to.display())));
        }
        other => other.map_err(|error| durable::located("move here", to, error))?,
    }
    for path in [to, from] {
        durable::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(Done::Changed)
}

fn bring_state(listed: &Listed, from: &Path, to: &Path) -> io::Result<()> {
    let name = state_file(listed.id);
    match durable::rename_new(&from.join(&name), &to.join(&name)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => return Ok(()),
        other => other.map_err(|error| durable::located("move here", &to.join(&name), error))?,
    }
    durable::sync_dir(to)?;
    durable::sync_dir(from)
}

fn report_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".report");
    name.into()
}

/// How many messages in `failed/` have this id, and so this state.
fn namesakes(folders: &Folders, listed: &Listed) -> io::Result<usize> {
    let start = eml(listed.id);
    let is_number = |rest: &str| rest.strip_prefix('.').is_some_and(|number| number.parse::<u16>().is_ok());
    let is_one = |name: &str| name.strip_prefix(&start).is_some_and(|rest| rest.is_empty() || is_number(rest));
    Ok(names(&folders.failed)?.iter().filter(|name| name.to_str().is_some_and(is_one)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool;
    use crate::spool::selection::Selection;
    use crate::spool::{listed, listing};

    const ID: &str = "0TQXGV0000001";
    const ENTRY: &str = "X-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\nSubject: x\r\n\r\nbody\r\n";
    const STATE: &str = "Attempts: 2\nWaited: 900\nNext-Attempt: 2100-01-01T00:00:00+00:00\nRetry-In: 600\n\
                         \nTarget: c@d.org\nVia: next-hop\nStatus: failed\nReported: yes\n\
                         \nTarget: e@d.org\nVia: next-hop\nStatus: delivered\n";

    /// A spool with this message, without a server.
    fn with(place: Place, name: &str, state: &str) -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(folder.path());
        folders.all().into_iter().try_for_each(durable::create_dirs).unwrap();
        fs::write(folders.place(place).join(name), ENTRY).unwrap();
        if !state.is_empty() {
            fs::write(folders.place(place).join(format!("{ID}.state")), state).unwrap();
        }
        (folder, folders)
    }

    fn the_one(folders: &Folders) -> Listed {
        listing::each(folders, &Selection::all()).unwrap().next().unwrap()
    }

    /// The files of a spool, as `folder/name`.
    fn files(folders: &Folders) -> Vec<String> {
        let inside = |place: Place| {
            let names = names(folders.place(place)).unwrap();
            names.into_iter().map(move |name| format!("{}/{}", place.name(), name.into_string().unwrap()))
        };
        let mut found: Vec<String> = [Place::Queue, Place::Hold, Place::Failed].into_iter().flat_map(inside).collect();
        found.sort();
        found
    }

    fn both(place: &str) -> Vec<String> {
        ["eml", "state"].map(|ending| format!("{place}/{ID}.{ending}")).to_vec()
    }

    #[test]
    fn hold_and_release_take_the_state_along_as_it_is() {
        let (_folder, folders) = with(Place::Queue, "0TQXGV0000001.eml", STATE);
        assert_eq!(hold(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), both("hold"));
        assert!(matches!(hold(&folders, &the_one(&folders)).unwrap(), Done::Refused(_)));
        assert_eq!(release(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), both("queue"));
        assert_eq!(fs::read_to_string(folders.queue.join(format!("{ID}.state"))).unwrap(), STATE);
        assert!(matches!(release(&folders, &the_one(&folders)).unwrap(), Done::Refused(_)));
    }

    #[test]
    fn a_server_moves_states_itself() {
        let (folder, folders) = with(Place::Queue, "0TQXGV0000001.eml", STATE);
        let server = Spool::open(folder.path()).unwrap();
        let listed = the_one(&folders);
        assert_eq!(hold(&folders, &listed).unwrap(), Done::Changed);
        assert_eq!(files(&folders), [format!("hold/{ID}.eml"), format!("queue/{ID}.state")]);
        assert_eq!(release(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), both("queue"));
        assert_eq!(remove(&folders, &listed).unwrap(), Done::Changed);
        assert_eq!(files(&folders), [format!("queue/{ID}.state")]);
        drop(server);
        Spool::open(folder.path()).unwrap();
        assert_eq!(files(&folders), [""; 0]);
    }

    #[test]
    fn a_state_that_was_left_behind_is_taken_along_at_the_next_start() {
        for (message, state) in [("hold", "queue"), ("queue", "hold")] {
            let (folder, folders) = with(Place::Queue, "0TQXGV0000001.eml", "");
            fs::rename(folders.eml(ID.parse().unwrap()), folder.path().join(message).join(format!("{ID}.eml")))
                .unwrap();
            fs::write(folder.path().join(state).join(format!("{ID}.state")), STATE).unwrap();
            Spool::open(folder.path()).unwrap();
            assert_eq!(files(&folders), both(message));
        }
    }

    #[test]
    fn no_message_is_replaced_and_a_newer_state_stays() {
        let (_folder, folders) = with(Place::Queue, "0TQXGV0000001.eml", STATE);
        let listed = the_one(&folders);
        fs::write(folders.hold.join(format!("{ID}.eml")), "another").unwrap();
        assert!(matches!(hold(&folders, &listed).unwrap(), Done::Refused(_)));
        assert_eq!(fs::read(folders.hold.join(format!("{ID}.eml"))).unwrap(), b"another");
        fs::remove_file(folders.hold.join(format!("{ID}.eml"))).unwrap();
        fs::write(folders.hold.join(format!("{ID}.state")), "Attempts: 3\n").unwrap();
        assert_eq!(hold(&folders, &listed).unwrap(), Done::Changed);
        assert_eq!(fs::read(folders.hold.join(format!("{ID}.state"))).unwrap(), b"Attempts: 3\n");
    }

    #[test]
    fn what_failed_begins_anew_and_what_is_delivered_stays_so() {
        let (_folder, folders) = with(Place::Failed, "0TQXGV0000001.eml.1", STATE);
        fs::write(folders.failed.join(format!("{ID}.eml.1.report")), "why").unwrap();
        assert_eq!(retry(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), both("queue"));
        let state = the_one(&folders).state.unwrap();
        assert_eq!((state.waited, state.next_attempt, state.attempts), (Duration::ZERO, None, 2));
        let targets: Vec<_> = state.targets.iter().map(|target| (target.status, target.told)).collect();
        assert_eq!(targets, [(Status::Pending, Told::Nothing), (Status::Delivered, Told::Nothing)]);
    }

    #[test]
    fn a_retry_that_was_cut_off_is_taken_up_again() {
        let (_folder, folders) = with(Place::Failed, "0TQXGV0000001.eml", "");
        fs::write(folders.hold.join(format!("{ID}.state")), STATE).unwrap();
        assert_eq!(retry(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), both("queue"));
    }

    #[test]
    fn what_can_not_be_retried_stays_where_it_is() {
        for (place, state, words) in [
            (Place::Failed, "Attempts: many\n", "line 1"),
            (Place::Failed, "Target: c@d.org\nStatus: delivered\n", "everybody has it"),
            (Place::Hold, STATE, "release it"),
        ] {
            let (_folder, folders) = with(place, "0TQXGV0000001.eml", state);
            let before = files(&folders);
            let done = retry(&folders, &the_one(&folders)).unwrap();
            assert!(matches!(&done, Done::Refused(why) if why.contains(words)), "{done:?}");
            assert_eq!(files(&folders), before);
        }
        let (_folder, folders) = with(Place::Failed, "0TQXGV0000001.eml", STATE);
        fs::write(folders.hold.join(format!("{ID}.eml")), "another").unwrap();
        let failed = listing::each(&folders, &Selection::all()).unwrap().last().unwrap();
        assert!(matches!(retry(&folders, &failed).unwrap(), Done::Refused(why) if why.contains("is there already")));
    }

    #[test]
    fn a_touched_message_is_due_at_the_next_start() {
        let (_folder, folders) = with(Place::Queue, "0TQXGV0000001.eml", STATE);
        let past = std::time::SystemTime::now() - Duration::from_secs(60);
        File::open(folders.queue.join(format!("{ID}.state"))).unwrap().set_modified(past).unwrap();
        File::open(folders.queue.join(format!("{ID}.eml"))).unwrap().set_modified(past).unwrap();
        assert!(matches!(the_one(&folders).next, listed::Next::At(_)));
        assert_eq!(retry(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(the_one(&folders).next, listed::Next::Now);
        assert_eq!(fs::read_to_string(folders.queue.join(format!("{ID}.state"))).unwrap(), STATE);
    }

    #[test]
    fn removed_is_gone_with_its_state_and_report() {
        for (place, name) in [
            (Place::Queue, "0TQXGV0000001.eml"),
            (Place::Hold, "0TQXGV0000001.eml"),
            (Place::Failed, "0TQXGV0000001.eml.2"),
        ] {
            let (_folder, folders) = with(place, name, STATE);
            if place == Place::Failed {
                fs::write(folders.failed.join(format!("{name}.report")), "why").unwrap();
            }
            let listed = the_one(&folders);
            assert_eq!(remove(&folders, &listed).unwrap(), Done::Changed);
            assert_eq!(files(&folders), [""; 0]);
            for change in [remove, retry, hold, release] {
                assert_ne!(change(&folders, &listed).unwrap(), Done::Changed);
            }
        }
    }

    #[test]
    fn a_namesake_keeps_its_state() {
        let (_folder, folders) = with(Place::Failed, "0TQXGV0000001.eml", STATE);
        fs::write(folders.failed.join(format!("{ID}.eml.1")), ENTRY).unwrap();
        assert!(matches!(retry(&folders, &the_one(&folders)).unwrap(), Done::Refused(_)));
        assert_eq!(remove(&folders, &the_one(&folders)).unwrap(), Done::Changed);
        assert_eq!(files(&folders), [format!("failed/{ID}.eml.1"), format!("failed/{ID}.state")]);
    }
}
