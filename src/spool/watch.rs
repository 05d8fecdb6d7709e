//! What a person changed by hand in `queue/` and `hold/`: noticed by inotify, and by a rescan where events were lost.
//!
//! The server's own changes are known to the schedule before they happen, so whatever differs from it was a person:
//! `mv queue/ID.eml hold/` sets aside, back again goes on, `touch` tries now, an edited `ID.state` is obeyed, `rm` removes.
//! The same thread keeps the promises that count in seconds: removals are synced, and the log is written out. An error
//! of one entry is logged and hides no other; what came and could not be looked at is looked at again each second.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use super::sweep::{Named, named, names};
use super::whereabouts::Whereabouts;
use super::{Spool, log_error};
use crate::io::clock::Now;
use crate::io::durable;
use crate::io::sync::{Ordering, PoisonError};
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maillog;

/// The body of the watching thread.
#[derive(Debug)]
pub struct Watch {
    events: Events,
}

/// How often events are read in a row, some tens each time: as many as the kernel holds, and then the clock has its turn.
const READS: usize = 256;

/// Events of one folder, waited for with a bound.
#[derive(Debug)]
pub(super) struct Events {
    inotify: Inotify,
}

/// What happened in a watched folder.
pub(super) enum Change {
    /// This, to the file of this name.
    File(OsString, AddWatchFlags),
    /// Events were lost: only the folder itself can tell.
    Lost,
}

impl Events {
    pub(super) fn of(folder: &Path, flags: AddWatchFlags) -> io::Result<Events> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(folder, flags).map_err(|error| durable::located("watch", folder, error.into()))?;
        Ok(Events { inotify })
    }

    /// What happened within `wait`.
    pub(super) fn next(&self, wait: Duration) -> Vec<Change> {
        // Whole milliseconds, and not too few: a wait of none, again and again, would be no wait.
        let wait = wait + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout);
        if !ready.is_ok_and(|count| count > 0) {
            return Vec::new();
        }
        match self.inotify.read_events() {
            Ok(events) => events.into_iter().filter_map(change).collect(),
            Err(_) => vec![Change::Lost],
        }
    }
}

fn change(event: InotifyEvent) -> Option<Change> {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return Some(Change::Lost);
    }
    Some(Change::File(event.name?, event.mask))
}

/// Changes without the coming of what has gone again since, as mail that was delivered: to look for it would be in vain.
fn settled(changes: Vec<Change>) -> impl Iterator<Item = Change> {
    let mut gone: HashMap<OsString, usize> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        if let Change::File(name, what) = change
            && what.intersects(WENT)
        {
            gone.insert(name.clone(), at);
        }
    }
    let is_over = move |at: usize, change: &Change| match change {
        Change::File(name, what) => what.intersects(CAME) && gone.get(name).is_some_and(|gone| *gone > at),
        Change::Lost => false,
    };
    changes.into_iter().enumerate().filter(move |(at, change)| !is_over(*at, change)).map(|(_, change)| change)
}

/// A file has got its name, or its content.
const CAME: AddWatchFlags = AddWatchFlags::IN_MOVED_TO.union(AddWatchFlags::IN_CLOSE_WRITE);

/// A file has lost its name.
const WENT: AddWatchFlags = AddWatchFlags::IN_MOVED_FROM.union(AddWatchFlags::IN_DELETE);

impl Watch {
    /// Begins to watch; what happens from here on is noticed by [`Watch::run`].
    pub fn new(spool: &Spool) -> io::Result<Watch> {
        let flags = CAME | WENT | AddWatchFlags::IN_ATTRIB;
        Ok(Watch { events: Events::of(&spool.folders.queue, flags)? })
    }

    /// Watches until the spool is stopped. `each_second` is called about as often. It begins with what events can't tell.
    pub fn run(&self, spool: &Spool, each_second: impl Fn()) {
        let mut ticked = Now::read().boot;
        let mut foreign = Foreign::default();
        // What came between the sweep and the first event, or before a panic that this thread was begun again after.
        foreign.notice(spool, Change::Lost);
        while !spool.is_stopping() {
            // What is done each second is not put off by what happens meanwhile.
            let passed = Now::read().boot.saturating_sub(ticked);
            let mut changes = self.events.next(limits::WATCH.saturating_sub(passed));
            if !changes.is_empty() {
                // Mail that comes and goes makes events too: they are read together and not one by one.
                thread::sleep(limits::WATCH_TOGETHER);
            }
            for _ in 0..READS {
                if changes.is_empty() {
                    break;
                }
                settled(changes).for_each(|change| foreign.notice(spool, change));
                changes = self.events.next(Duration::ZERO);
            }
            settled(changes).for_each(|change| foreign.notice(spool, change));
            let now = Now::read().boot;
            if now.saturating_sub(ticked) >= limits::WATCH {
                ticked = now;
                spool.sync_removals();
                spool.look_at_unseen();
                maillog::flush();
                maillog::reopen_if_moved();
                each_second();
                foreign.set_aside(spool, now);
            }
        }
    }
}

/// Files that are no entries, and since when they stand in `queue/`.
#[derive(Default)]
struct Foreign(HashMap<OsString, Duration>);

impl Foreign {
    /// Lets the spool see a change, and remembers what is no entry.
    fn notice(&mut self, spool: &Spool, change: Change) {
        let noticed = match change {
            Change::File(name, _) if matches!(named(&name), Named::Foreign) => {
                self.0.entry(name).or_insert_with(|| Now::read().boot);
                Ok(())
            }
            Change::File(name, what) => spool.notice(&name, what),
            Change::Lost => spool.rescan().map(|found| {
                found.into_iter().for_each(|name| _ = self.0.entry(name).or_insert_with(|| Now::read().boot));
            }),
        };
        if let Err(error) = noticed {
            maillog::spool_error(None, error);
        }
    }

    /// Those that stand there for long enough are no editor's.
    fn set_aside(&mut self, spool: &Spool, now: Duration) {
        self.0.retain(|name, since| {
            let is_new = now.saturating_sub(*since) < limits::FOREIGN_FILE;
            if !is_new {
                spool.set_foreign_aside(name);
            }
            is_new
        });
    }
}

impl Spool {
    /// Makes removals durable that are not yet.
    pub fn sync_removals(&self) {
        // Held for as long as it takes: whoever comes meanwhile must not go on before it is done.
        let _syncing = self.syncing_removals.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the sync, which may miss what is noted during it.
        if self.removals_unsynced.swap(false, Ordering::SeqCst)
            && let Err(error) = durable::sync_dir(&self.folders.queue)
        {
            self.note_removal();
            maillog::spool_error(None, error);
        }
    }

    /// Has a removal synced within a second. Waits for nobody.
    pub(super) fn note_removal(&self) {
        self.removals_unsynced.store(true, Ordering::SeqCst);
    }

    pub(crate) fn notice(&self, name: &OsString, what: AddWatchFlags) -> io::Result<()> {
        let (came, went) = (what.intersects(CAME), what.intersects(WENT));
        match named(name) {
            Named::Eml(id) if went => {
                if self.schedule().is_waiting(id) && !durable::exists(&self.folders.eml(id))? {
                    self.gone(id);
                }
                Ok(())
            }
            Named::Eml(id) if came => self.came(id),
            Named::Eml(id) => self.touched(id),
            Named::State(id) if came => {
                self.edited(id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Compares the folder with the schedule. Returns the names of what is no entry.
    fn rescan(&self) -> io::Result<Vec<OsString>> {
        let mut foreign = Vec::new();
        for name in names(&self.folders.queue)? {
            match named(&name) {
                Named::Eml(id) => log_error(id, self.came(id)),
                Named::Foreign => foreign.push(name),
                Named::State(_) | Named::Hidden => {}
            }
        }
        let waiting: Vec<QueueId> = self.schedule().waiting().collect();
        waiting.into_iter().for_each(|id| self.look_again(id));
        Ok(foreign)
    }

    /// Looks again at what came and could not be looked at. What was wrong is in the log already.
    fn look_at_unseen(&self) {
        let unseen = std::mem::take(&mut *self.unseen.lock().unwrap_or_else(PoisonError::into_inner));
        unseen.into_iter().for_each(|id| _ = self.came(id));
    }

    /// Someone put a message into `queue/`; if it came from `hold/`, its state comes along. After an error it is looked at
    /// again in a second.
    pub(super) fn came(&self, id: QueueId) -> io::Result<()> {
        self.see(id).inspect_err(|_| self.note_unseen(id))
    }

    /// Lets a message in `queue/` be looked at in a second.
    pub(super) fn note_unseen(&self, id: QueueId) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        // So many errors are no error of one entry: a rescan, a touch or the next start sees the others.
        if unseen.len() < limits::UNSEEN {
            unseen.insert(id);
        }
    }

    fn see(&self, id: QueueId) -> io::Result<()> {
        {
            let mut schedule = self.schedule();
            if schedule.is_waiting(id) {
                // It may be another file.
                schedule.changed(id);
            }
            if schedule.knows(id) {
                return Ok(());
            }
        }
        if !durable::exists(&self.folders.eml(id))? {
            return Ok(());
        }
        self.saw_id(id);
        self.bring_back_state(id)?;
        let (wait, waited) = self.wait_by_state(id);
        let now = Now::read().boot;
        {
            let mut schedule = self.schedule();
            // Another thread may have seen it meanwhile, and may be delivering it.
            if schedule.knows(id) {
                return Ok(());
            }
            schedule.wait(id, now.saturating_add(wait), waited, now);
            if let Some(slot) = schedule.slot_mut(id) {
                // Held since before the start, it may have been delivered by a server that was killed.
                slot.was_found = true;
            }
        }
        maillog::released(id, wait);
        self.changed.notify_one();
        Ok(())
    }

    /// A message that waited was not in `queue/` any more, at a look that may be over.
    pub(super) fn gone(&self, id: QueueId) {
        {
            let mut schedule = self.schedule();
            // Back since that look, it may be claimed, and whoever has it sees where it is. Forgotten, it would be
            // claimed once more.
            if !schedule.is_waiting(id) {
                return;
            }
            if schedule.slot_mut(id).is_some_and(|slot| slot.unwritten.is_some()) {
                // What became of it is not on the disk yet: whoever claims it writes it to where the message is.
                schedule.write_now(id, Now::read().boot);
                self.changed.notify_one();
                return;
            }
            // Known until its state has followed: claimed before, it would be tried without.
            schedule.forget(id);
            schedule.announce(id);
        }
        self.follow(id);
    }

    /// A message that this thread has, and nobody can claim, is not in `queue/`, or was not at its last look.
    pub(super) fn follow(&self, id: QueueId) {
        let followed = self.whereabouts(id).and_then(|place| {
            match place {
                Whereabouts::Hold => maillog::held(id),
                Whereabouts::Nowhere => maillog::removed(id, "by hand"),
                Whereabouts::Queue => {}
            }
            self.follow_with_state(id)
        });
        self.schedule().forget(id);
        // Released meanwhile, it was not news to the watch: it is now.
        for result in [followed, self.came(id)] {
            log_error(id, result);
        }
    }

    /// Whether the entry that was just given back was moved or removed meanwhile, when that was nobody's change to notice.
    pub(super) fn look_again(&self, id: QueueId) {
        match durable::exists(&self.folders.eml(id)) {
            Ok(true) => {}
            Ok(false) => self.gone(id),
            Err(error) => maillog::spool_error(Some(id), error),
        }
    }

    /// What is not known may have come unseen, between the sweep and the first look: a touch cures that too.
    fn touched(&self, id: QueueId) -> io::Result<()> {
        if !self.schedule().knows(id) {
            return self.came(id);
        }
        let was_waiting = {
            // One look: given back between two of them, it would be due and nobody told.
            let mut schedule = self.schedule();
            let is_waiting = schedule.is_waiting(id);
            schedule.touch(id, Now::read().boot) && is_waiting
        };
        if was_waiting {
            maillog::rescheduled(id, "touched", Duration::ZERO);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// The server writes states only while it holds the entry, and what it wrote says what it scheduled.
    fn edited(&self, id: QueueId) {
        let is_waiting = {
            let mut schedule = self.schedule();
            schedule.changed(id);
            schedule.is_waiting(id)
        };
        if !is_waiting || self.is_own_state(id) {
            return;
        }
        let (wait, waited) = self.wait_by_state(id);
        let now = Now::read().boot;
        if self.schedule().reschedule(id, now.saturating_add(wait), waited, now) {
            maillog::rescheduled(id, "edited", wait);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
