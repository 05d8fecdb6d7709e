//! `drop/`: anyone allowed may put a message here; it is taken, or set aside with a report.
//!
//! ```text
//! drop/NAME → drop/.ID → read from one descriptor → queue/ID.eml, not yet scheduled → unlink drop/.ID, sync → scheduled
//! ```
//!
//! What is moved in is taken at once; what is written in place, once it was closed and unchanged for a while. Nothing is
//! removed that is not in the queue, and nothing overwritten: a file that can't be taken becomes `NAME.bad` beside
//! `NAME.report`, one that changes while it is read is given back, and lack of space or an error of the disk leaves it
//! where it is, to be tried again. After a crash a `.ID` whose entry exists is removed at start, else taken again.
//!
//! Of many that wait, the newest and the oldest are taken by turns: a hundred thousand files take minutes, and who drops one
//! after them waits for none of them.

mod intake;
pub mod message;

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::inotify::AddWatchFlags;

use super::Spool;
use super::sweep::{names, taken_as};
use super::watch::{Change, Events};
use crate::io::account::Accounts;
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maillog;
use crate::route::{CurrentSite, Site};
use intake::{Host, Taken};

/// The body of the pickup thread.
pub struct Pickup {
    events: Events,
    accounts: Accounts,
}

impl Pickup {
    /// Begins to watch; what happens from here on is noticed by [`Pickup::run`]. `accounts` knows whose files are dropped.
    pub fn new(spool: &Spool, accounts: Accounts) -> io::Result<Pickup> {
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CREATE;
        Ok(Pickup { events: Events::of(&spool.folders().drop, flags)?, accounts })
    }

    /// Takes files until the spool is stopped.
    pub fn run(&self, spool: &Spool, site: &CurrentSite) {
        let mut files = Files::new(spool, site, &self.accounts);
        files.resume();
        files.rescan();
        while !spool.is_stopping() {
            let mut wait = if files.ready.is_empty() { limits::WATCH } else { Duration::ZERO };
            let mut noticed = 0;
            while noticed < limits::DROP_CHANGES {
                let changes = self.events.next(wait);
                if changes.is_empty() {
                    break;
                }
                noticed += changes.len();
                changes.into_iter().for_each(|change| files.notice(change));
                wait = Duration::ZERO;
            }
            files.settle();
            files.take_some();
            files.uncleared.retain(|id| !intake::clear(spool, *id));
            // Its new name is seen as that of a new file.
            files.hidden.retain(|(id, name)| !intake::give_back(spool, *id, name));
        }
    }
}

/// The files of `drop/` that are not done with.
struct Files<'a> {
    spool: &'a Spool,
    site: &'a CurrentSite,
    accounts: &'a Accounts,
    waiting: HashMap<OsString, Waiting>,
    /// To be taken, the oldest first.
    ready: VecDeque<OsString>,
    /// Entries whose file in `drop/` could not be removed yet.
    uncleared: Vec<QueueId>,
    /// Files that could not be given their names back yet.
    hidden: Vec<(QueueId, OsString)>,
}

/// A file that may still be written to.
struct Waiting {
    stamp: Option<Stamp>,
    since: Instant,
    wait: Duration,
}

/// What tells whether it was.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: SystemTime,
    length: u64,
    /// When it last came, or was changed: `st_ctime`, in seconds and nanoseconds.
    since: (i64, i64),
}

impl<'a> Files<'a> {
    fn new(spool: &'a Spool, site: &'a CurrentSite, accounts: &'a Accounts) -> Files<'a> {
        let (waiting, ready) = (HashMap::new(), VecDeque::new());
        Files { spool, site, accounts, waiting, ready, uncleared: Vec::new(), hidden: Vec::new() }
    }

    /// What a crash left between its new name and the queue, or a panic between the queue and its removal.
    fn resume(&mut self) {
        for id in self.names().iter().filter_map(taken_as) {
            let name = OsString::from(id.to_string());
            let taken = match self.spool.is_entry(id) {
                Ok(true) => Ok(Taken::Entry(id)),
                Ok(false) => intake::take(self.spool, self.host(&self.site.get()), id, &name),
                Err(error) => Err(error),
            };
            self.note(name, taken);
        }
    }

    fn host<'b>(&'b self, site: &'b Site) -> Host<'b> {
        Host { site, accounts: self.accounts }
    }

    /// Whatever is there and was not noticed.
    fn rescan(&mut self) {
        for name in self.names() {
            if !self.waiting.contains_key(&name) && !self.is_left_alone(&name) {
                self.wait_for(name, limits::DROP_UNCLOSED);
            }
        }
    }

    fn names(&self) -> Vec<OsString> {
        names(&self.spool.folders().drop).unwrap_or_else(|error| {
            maillog::spool_error(None, error);
            Vec::new()
        })
    }

    fn notice(&mut self, change: Change) {
        match change {
            Change::Lost => self.rescan(),
            Change::File(name, _) if self.is_left_alone(&name) => {}
            // Given back by ourselves: taking it again at once would go on for ever.
            Change::File(name, what) if what.contains(AddWatchFlags::IN_MOVED_TO) && self.is_waiting(&name) => {}
            Change::File(name, what) if what.contains(AddWatchFlags::IN_MOVED_TO) => self.ready.push_back(name),
            Change::File(name, what) => {
                let closed = what.contains(AddWatchFlags::IN_CLOSE_WRITE);
                self.wait_for(name, if closed { limits::DROP_SETTLED } else { limits::DROP_UNCLOSED });
            }
        }
    }

    fn wait_for(&mut self, name: OsString, wait: Duration) {
        let stamp = self.stamp(&name);
        self.waiting.insert(name, Waiting { stamp, since: Instant::now(), wait });
    }

    /// What was unchanged for long enough is ready.
    fn settle(&mut self) {
        let is_due = |(_, file): &(&OsString, &Waiting)| file.since.elapsed() >= file.wait;
        let due: Vec<OsString> = self.waiting.iter().filter(is_due).map(|(name, _)| name.clone()).collect();
        let mut settled = Vec::new();
        for name in due {
            let Some(file) = self.waiting.remove(&name) else { continue };
            match self.stamp(&name) {
                Some(now) if Some(now) == file.stamp => settled.push((now.since, name)),
                Some(_) => self.wait_for(name, file.wait),
                None => {}
            }
        }
        settled.sort_unstable();
        // Behind what was moved in meanwhile.
        settled.into_iter().rev().for_each(|(_, name)| self.ready.push_front(name));
    }

    /// Takes the newest and the oldest by turns, for a while.
    fn take_some(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < limits::DROP_TURN && !self.spool.is_stopping() {
            let Some(newest) = self.ready.pop_back() else { return };
            self.take(newest);
            if let Some(oldest) = self.ready.pop_front() {
                self.take(oldest);
            }
        }
    }

    fn take(&mut self, name: OsString) {
        self.waiting.remove(&name);
        let taken = intake::rename_and_take(self.spool, self.host(&self.site.get()), &name);
        self.note(name, taken);
    }

    fn note(&mut self, name: OsString, taken: io::Result<Taken>) {
        match taken {
            Ok(Taken::Entry(id)) => {
                if !intake::clear(self.spool, id) {
                    self.uncleared.push(id);
                }
            }
            Ok(Taken::SetAside | Taken::Gone) => {}
            Ok(Taken::GivenBack) => self.wait_for(name, limits::DROP_SETTLED),
            Ok(Taken::Hidden(id)) => self.hidden.push((id, name)),
            Err(error) => {
                maillog::drop_waits(Path::new(&name), error);
                self.wait_for(name, limits::IO_RETRY);
            }
        }
    }

    /// Whether it is this very file that waits under its name.
    fn is_waiting(&self, name: &OsStr) -> bool {
        let inode = |stamp: Stamp| stamp.inode;
        let waits = self.waiting.get(name).and_then(|file| file.stamp).map(inode);
        waits.is_some() && waits == self.stamp(name).map(inode)
    }

    fn stamp(&self, name: &OsStr) -> Option<Stamp> {
        let metadata = self.spool.folders().drop.join(name).symlink_metadata().ok()?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let since = (metadata.ctime(), metadata.ctime_nsec());
        Some(Stamp { inode: metadata.ino(), modified, length: metadata.len(), since })
    }

    /// Hidden files are still being written; `.bad` files and their reports are for a person.
    fn is_left_alone(&self, name: &OsStr) -> bool {
        let text = name.as_encoded_bytes();
        let is_report = || {
            let stem = text.strip_suffix(b".report").map(String::from_utf8_lossy);
            let bad = stem.map(|stem| self.spool.folders().drop.join(format!("{stem}.bad")));
            bad.is_some_and(|bad| bad.symlink_metadata().is_ok())
        };
        text.starts_with(b".") || text.ends_with(b".bad") || is_report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::thread;

    struct World {
        _folder: tempfile::TempDir,
        spool: Spool,
        site: CurrentSite,
        drop: PathBuf,
    }

    impl World {
        fn new(config: &str) -> World {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _writer) = Spool::open(folder.path()).unwrap();
            let site = CurrentSite::new(Site {
                config: Config::parse(&format!("hostname = \"example.org\"\n{config}"), Path::new("")).unwrap(),
                users: Default::default(),
                aliases: Aliases::default(),
            });
            let drop = spool.folders.drop.clone();
            World { _folder: folder, spool, site, drop }
        }

        fn names(&self) -> Vec<OsString> {
            names(&self.drop).unwrap()
        }
    }

    fn nobody() -> Accounts {
        Arc::new(|_| Ok(None))
    }

    #[test]
    fn what_can_not_be_set_aside_has_its_name_again() {
        let (world, nobody) = (World::new(""), nobody());
        // With .bad behind it, it can be a name, and with .report it can't.
        let name = OsString::from("n".repeat(250));
        std::os::unix::fs::symlink("/nowhere", world.drop.join(&name)).unwrap();
        let mut files = Files::new(&world.spool, &world.site, &nobody);
        files.take(name.clone());
        assert_eq!(world.names(), std::slice::from_ref(&name));
        assert!(files.waiting.contains_key(&name), "and is tried again");
    }

    #[test]
    fn what_can_not_be_given_its_name_back_yet_has_it_later() {
        const ID: &str = "0TQXGV0000001";
        let world = World::new("[limits]\nfree_space = \"1000000GiB\"");
        let (hidden, named) = (world.drop.join(format!(".{ID}")), world.drop.join(ID));
        fs::write(&hidden, "From: a@b.example\n\n").unwrap();
        fs::write(&named, "another").unwrap();
        (1..1000).for_each(|number| fs::write(world.drop.join(format!("{ID}.{number}")), "another").unwrap());
        let pickup = Pickup::new(&world.spool, nobody()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| pickup.run(&world.spool, &world.site));
            thread::sleep(Duration::from_secs(1));
            let was_hidden = hidden.exists();
            fs::remove_file(&named).unwrap();
            let begun = Instant::now();
            while hidden.exists() && begun.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(5));
            }
            world.spool.stop();
            assert!(was_hidden, "every name was taken");
        });
        assert!(!hidden.exists() && fs::read_to_string(named).unwrap().contains("From"));
    }
}
