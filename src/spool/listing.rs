//! The queue as its files tell it, with or without a server: who looks needs no more than the right to read them.
//!
//! Entries come one by one in the order of their ids, which is that of their arrival; only the ids are held in memory.
//! Files change meanwhile: what is gone when it is its turn is left out, and what can't be read, or is no file at all, is
//! listed with its problem. Links are not followed, and a FIFO blocks nobody. Fails where a folder can't be read.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::claim::read_state;
use super::entry::{Entry, Unfit};
use super::listed::{Listed, Next, Place};
use super::selection::Selection;
use super::state::State;
use super::sweep::{is_touched, wait_of};
use super::{Folders, Spool, eml, state_file};
use crate::io::clock::Now;
use crate::io::durable;
use crate::mail::queue_id::QueueId;
use crate::maillog;

/// The messages of `folders` that `selection` means, oldest first.
pub fn each<'a>(folders: &'a Folders, selection: &'a Selection) -> io::Result<impl Iterator<Item = Listed> + 'a> {
    let mut found = Vec::new();
    for place in [Place::Queue, Place::Hold, Place::Failed] {
        find(folders, place, selection, &mut found)?;
    }
    found.sort_unstable();
    let listed = found.into_iter().filter_map(|found| read(folders, found));
    Ok(listed.filter(|listed| selection.matches(listed)))
}

/// What is known of a message by its name: twenty million of them are less than half a gigabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    id: QueueId,
    place: Place,
    /// In `failed/` a name that was taken got a number.
    number: Option<u16>,
}

fn find(folders: &Folders, place: Place, selection: &Selection, found: &mut Vec<Found>) -> io::Result<()> {
    let folder = folders.place(place);
    let located = |error| durable::located("read", folder, error);
    for entry in fs::read_dir(folder).map_err(located)? {
        let name = entry.map_err(located)?.file_name();
        let Some((id, ending)) = name.to_str().and_then(QueueId::of_file_name) else { continue };
        let number = match ending.strip_prefix("eml.") {
            Some(number) if place == Place::Failed => number.parse().ok(),
            _ => None,
        };
        if (ending == "eml" || number.is_some()) && selection.may_match(id) {
            found.push(Found { id, place, number });
        }
    }
    Ok(())
}

/// `None` if it is gone meanwhile.
fn read(folders: &Folders, Found { id, place, number }: Found) -> Option<Listed> {
    let name = number.map_or_else(|| eml(id), |number| format!("{}.{number}", eml(id)));
    let folder = folders.place(place);
    let (path, state_path) = (folder.join(name), folder.join(state_file(id)));
    let (size, envelope, mut problem) = match Entry::open(&path) {
        Ok(entry) => (entry.size, Some(entry.envelope), None),
        Err(Unfit::Gone) => return None,
        Err(Unfit::Unreadable(error)) => (size_of(&path)?, None, Some(format!("it can't be read: {}", error.kind()))),
        Err(Unfit::WrongFormat(what)) => (size_of(&path)?, None, Some(what)),
    };
    let state = read_state(&state_path).map_err(|error| error.to_string()).and_then(|text| match text {
        Some(text) => text.parse::<State>().map(Some).map_err(|error| format!("{}: {error}", state_file(id))),
        None => Ok(None),
    });
    let state = state.unwrap_or_else(|what| {
        problem.get_or_insert(what);
        None
    });
    let next = match (place, &state) {
        (Place::Hold | Place::Failed, _) => Next::Never,
        (Place::Queue, None) => Next::Now,
        (Place::Queue, Some(_)) if is_touched(&path, &state_path) => Next::Now,
        (Place::Queue, Some(state)) => next_by(state, Now::read().wall),
    };
    let waited = state.as_ref().map(|state| state.waited).unwrap_or_default();
    let arrived = Duration::from_secs(id.seconds());
    Some(Listed { id, place, path, size, envelope, state, arrived, waited, next, problem })
}

fn next_by(state: &State, wall: Duration) -> Next {
    match wait_of(state, wall) {
        Duration::ZERO => Next::Now,
        wait => Next::At(wall.saturating_add(wait)),
    }
}

/// Octets of what has this name, a link's own; `None` if it is gone.
fn size_of(path: &Path) -> Option<u64> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        metadata => Some(metadata.map(|metadata| metadata.len()).unwrap_or_default()),
    }
}

impl Spool {
    /// Makes the entries of `queue/` that `selection` means due now, or once the attempt under way is over. Returns how many.
    pub fn bring_forward(&self, selection: &Selection) -> io::Result<usize> {
        let mut found = Vec::new();
        find(&self.folders, Place::Queue, selection, &mut found)?;
        let mut brought = 0;
        for found in found {
            if read(&self.folders, found).is_some_and(|listed| selection.matches(&listed))
                && self.schedule().touch(found.id, Now::read().boot)
            {
                maillog::rescheduled(found.id, "asked for", Duration::ZERO);
                brought += 1;
                self.changed.notify_one();
            }
        }
        Ok(brought)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use std::os::unix::fs::symlink;

    const ENTRY: &str = "X-Sender: <a@b.org>\r\nX-Receiver: <c@d.org>\r\nSubject: x\r\n\r\nbody\r\n";

    fn folders() -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(folder.path());
        folders.all().into_iter().try_for_each(durable::create_dirs).unwrap();
        (folder, folders)
    }

    fn name(number: u64) -> String {
        QueueId::after(None, Duration::from_secs(number), 0).to_string()
    }

    fn list(folders: &Folders) -> Vec<Listed> {
        each(folders, &Selection::all()).unwrap().collect()
    }

    #[test]
    fn messages_of_all_folders_come_oldest_first() {
        let (_folder, folders) = folders();
        for (place, number, ending) in [
            (Place::Queue, 9, "eml"),
            (Place::Failed, 7, "eml.12"),
            (Place::Hold, 8, "eml"),
            (Place::Failed, 7, "eml"),
            (Place::Queue, 6, "eml"),
            // None of these is a message.
            (Place::Queue, 5, "eml.1"),
            (Place::Failed, 7, "eml.report"),
            (Place::Hold, 8, "state"),
        ] {
            let text =
                if ending == "state" { "Attempts: 3\nWaited: 70\nNext-Attempt: 2100-01-01T00:00:00Z" } else { ENTRY };
            fs::write(folders.place(place).join(format!("{}.{ending}", name(number))), text).unwrap();
        }
        let found = list(&folders);
        let seen: Vec<_> = found.iter().map(|listed| (listed.arrived.as_secs(), listed.place, listed.next)).collect();
        let expected = [
            (6, Place::Queue, Next::Now),
            (7, Place::Failed, Next::Never),
            (7, Place::Failed, Next::Never),
            (8, Place::Hold, Next::Never),
            (9, Place::Queue, Next::Now),
        ];
        assert_eq!(seen, expected);
        assert!(found[2].path.ends_with(format!("{}.eml.12", name(7))));
        assert_eq!((found[3].state.as_ref().unwrap().attempts, found[3].waited.as_secs()), (3, 70));
        assert_eq!((found[0].size, found[0].sender().unwrap().to_string()), (ENTRY.len() as u64, "a@b.org".to_owned()));
    }

    #[test]
    fn what_is_no_message_is_listed_with_its_problem_and_blocks_nobody() {
        let (_folder, folders) = folders();
        let path = |number| folders.queue.join(format!("{}.eml", name(number)));
        symlink("/etc/passwd", path(1)).unwrap();
        nix::unistd::mkfifo(&path(2), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::write(path(3), "X-Sender: <a@b.org> SIZE=0000000099\r\nX-Receiver: <c@d.org>\r\ntorn").unwrap();
        fs::create_dir(path(4)).unwrap();
        fs::write(path(5), ENTRY).unwrap();
        fs::write(folders.queue.join(format!("{}.state", name(5))), "Attempts: many\n").unwrap();
        let problems: Vec<String> = list(&folders).into_iter().map(|listed| listed.problem.unwrap()).collect();
        for (problem, words) in
            problems.iter().zip(["symbolic link", "regular file", "SIZE in X-Sender", "regular file", "line 1"])
        {
            assert!(problem.contains(words), "{problems:#?}");
        }
        assert_eq!(problems.len(), 5);
    }

    #[test]
    fn the_next_attempt_is_the_one_a_start_would_make() {
        let (_folder, folders) = folders();
        let (eml, state) = (folders.queue.join(eml_of(1)), folders.queue.join(format!("{}.state", name(1))));
        fs::write(&eml, ENTRY).unwrap();
        fs::write(&state, "Next-Attempt: 2100-01-01T00:00:00Z\n").unwrap();
        assert_eq!(list(&folders)[0].next, Next::At(Duration::from_secs(4_102_444_800)));
        fs::write(&state, "Next-Attempt: 2100-01-01T00:00:00Z\nRetry-In: 60\n").unwrap();
        let Next::At(next) = list(&folders)[0].next else { panic!("it waits") };
        assert!(next.abs_diff(Now::read().wall) < Duration::from_secs(62), "a clock that jumped delays nothing");
        fs::File::open(&eml).unwrap().set_modified(std::time::SystemTime::now() + Duration::from_secs(9)).unwrap();
        assert_eq!(list(&folders)[0].next, Next::Now);
    }

    fn eml_of(number: u64) -> String {
        format!("{}.eml", name(number))
    }

    #[test]
    fn a_header_is_cut_at_its_end_or_at_the_limit() {
        let (_folder, folders) = folders();
        fs::write(folders.queue.join(eml_of(1)), ENTRY).unwrap();
        let endless = format!("X-Sender: <>\nX-Receiver: <c@d.org>\n{}", "a: b\n".repeat(limits::SHOWN_HEADER));
        fs::write(folders.queue.join(eml_of(2)), endless).unwrap();
        let found = list(&folders);
        assert_eq!(found[0].header().unwrap(), b"Subject: x\r\n");
        assert_eq!(found[1].header().unwrap().len(), limits::SHOWN_HEADER);
        fs::remove_file(&found[0].path).unwrap();
        assert_eq!(found[0].header().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(list(&folders).len(), 1);
    }

    #[test]
    fn what_is_brought_forward_is_due_now() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(folder.path());
        folders.all().into_iter().try_for_each(durable::create_dirs).unwrap();
        for number in [1, 2] {
            let host = ["", "near.example", "far.example"][number as usize];
            fs::write(folders.queue.join(eml_of(number)), ENTRY.replace("d.org", host)).unwrap();
            let state = folders.queue.join(format!("{}.state", name(number)));
            fs::write(state, "Next-Attempt: 2100-01-01T00:00:00Z\n").unwrap();
        }
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let far = Selection::of_host("far.example".parse().unwrap());
        assert!(spool.schedule().claim(Now::read().boot).is_none());
        assert_eq!(spool.bring_forward(&far).unwrap(), 1);
        assert_eq!(spool.schedule().claim(Now::read().boot).map(|id| id.seconds()), Some(2));
    }
}
