//! A claim: one delivery thread's hold on one entry. Dropped, it goes back unchanged and is tried again later, unless the
//! message has left.
//!
//! Promise P3: an outcome is on the disk before the next attempt. One that can't be written stays in memory, and the
//! entry is not tried again until it is. A person may move, touch or edit the files meanwhile: an entry that went to
//! `hold/` has its outcome written there, and edits of the state are kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entry::{Entry, Unfit};
use super::schedule::{Round, Schedule};
use super::settlement::Settlement;
use super::state::State;
use super::whereabouts::Whereabouts;
use super::{Spool, eml, log_error, state_file};
use crate::io::clock::Now;
use crate::io::durable;
use crate::io::sync::MutexGuard;
use crate::io::table;
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maildir::{Maildir, Name};
use crate::maillog;

/// One entry, claimed.
#[derive(Debug)]
pub struct Claim<'s> {
    spool: &'s Spool,
    /// Its name.
    pub id: QueueId,
    /// The message.
    pub entry: Entry,
    /// What its state file says, if there is one.
    pub state: Option<State>,
    /// Whether the entry was found in the queue, at start or moved there, so that a mailbox may have it already.
    pub was_found: bool,
    /// Whether someone asked for this attempt, whatever is known of the hosts it leads to.
    pub asked: bool,
    /// The targets that had their turn in this round of attempts already, by their place in the state.
    pub tried: Vec<usize>,
    waited: Duration,
    state_text: Option<String>,
    open: bool,
    /// Whether the message has left the queue already.
    left: bool,
}

/// Whether a delivery by rename could be had.
#[derive(Debug)]
pub enum Renamed {
    /// The file is in the mailbox, and the entry is gone.
    Done,
    /// It has to be a copy.
    Impossible,
    /// Someone has moved or removed the message since it was claimed, or was about to be.
    Gone,
}

impl Spool {
    /// Waits until an entry is due and claims it. `None` once the spool is stopped.
    pub fn claim_due(&self) -> Option<Claim<'_>> {
        let mut schedule = self.schedule();
        loop {
            if self.is_stopping() {
                return None;
            }
            let now = Now::read().boot;
            if let Some(id) = schedule.claim(now) {
                match schedule.wants_another(id, now) {
                    true => self.rouse(schedule),
                    false => drop(schedule),
                }
                if let Some(claim) = self.open_claim(id) {
                    return Some(claim);
                }
                schedule = self.schedule();
                continue;
            }
            let wait = schedule.next_due().map_or(LONGEST_WAIT, |due| due.saturating_sub(now).min(LONGEST_WAIT));
            schedule.idle += 1;
            schedule = match self.changed.wait_timeout(schedule, wait) {
                Ok((schedule, _)) => schedule,
                Err(poisoned) => poisoned.into_inner().0,
            };
            schedule.idle -= 1;
        }
    }

    /// Lets one of the threads that wait look again, and find the lock free; each that finds more than it takes wakes the
    /// next.
    pub(super) fn rouse(&self, schedule: MutexGuard<'_, Schedule>) {
        let is_any_idle = schedule.idle > 0;
        drop(schedule);
        if is_any_idle {
            self.changed.notify_one();
        }
    }

    /// Opens what was claimed, or does with it what its files ask for.
    fn open_claim(&self, id: QueueId) -> Option<Claim<'_>> {
        match self.try_open(id) {
            Ok(claim) => claim,
            Err(error) => {
                maillog::spool_error(Some(id), error);
                self.give_back(id, limits::IO_RETRY);
                None
            }
        }
    }

    fn try_open(&self, id: QueueId) -> io::Result<Option<Claim<'_>>> {
        let (unwritten, written, was_found, waited) = {
            let mut schedule = self.schedule();
            let Some(slot) = schedule.slot_mut(id) else { return Ok(None) };
            (slot.unwritten.take(), slot.written.take(), slot.was_found, slot.waited(Now::read().boot))
        };
        if let Some(settlement) = unwritten {
            self.write_outcome(id, *settlement)?;
            return Ok(None);
        }
        let is_as_written = written.is_some();
        let entry = match written.map_or_else(|| Entry::open(&self.folders.eml(id)), |entry| Ok(*entry)) {
            Ok(entry) => entry,
            Err(Unfit::Gone) => {
                self.follow(id);
                return Ok(None);
            }
            Err(Unfit::Unreadable(error)) => return Err(error),
            Err(Unfit::WrongFormat(what)) => {
                self.set_aside_with_state(id, &what, MEND_ENTRY)?;
                self.schedule().forget(id);
                // Put back meanwhile, it was not news to the watch: it is now.
                log_error(id, self.came(id));
                return Ok(None);
            }
        };
        let state_text = if is_as_written { None } else { read_state(&self.folders.state(id))? };
        let mut state = match self.parse_state(id, state_text.as_deref())? {
            Ok(state) => state,
            Err(what) => {
                self.set_state_aside(id, &what)?;
                self.schedule().forget(id);
                log_error(id, self.came(id));
                return Ok(None);
            }
        };
        state.iter_mut().try_for_each(|state| self.confirm_reports(state))?;
        let (asked, tried) = self.schedule().begin_attempt(id, Now::read().boot);
        let (open, left) = (true, false);
        Ok(Some(Claim { spool: self, id, entry, state, was_found, asked, tried, waited, state_text, open, left }))
    }

    /// The state in the text of its file, or what is wrong with it. Who empties it is about to write it: for a while that is
    /// an error of the moment. Taken for none, everybody would get the message, also those who have it.
    fn parse_state(&self, id: QueueId, text: Option<&str>) -> io::Result<Result<Option<State>, String>> {
        if text.is_some_and(is_blank) {
            let path = self.folders.state(id);
            let written = path.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            return match Now::read().wall.saturating_sub(written) < limits::IO_RETRY {
                true => Err(durable::located("read", &path, io::Error::other(BLANK))),
                false => Ok(Err(BLANK.to_owned())),
            };
        }
        Ok(text.map(str::parse::<State>).transpose().map_err(|error| error.to_string()))
    }

    /// Settles what the reports that were on their way have told, by whether they are in the queue.
    pub(super) fn confirm_reports(&self, state: &mut State) -> io::Result<()> {
        let reports: Vec<QueueId> = state.reports().collect();
        for report in reports {
            state.confirm(report, self.is_entry(report)?);
        }
        Ok(())
    }

    /// Writes down what became of an entry and does what follows. An error leaves the outcome in memory.
    fn write_outcome(&self, id: QueueId, settlement: Settlement) -> io::Result<()> {
        let begun = Now::read().boot;
        match self.try_write_outcome(id, &settlement) {
            Ok(Wrote::Waits) => {
                // As the state says, however slow the disk: another time there would be a change by hand.
                let left = settlement.retry.saturating_sub(Now::read().boot.saturating_sub(begun));
                self.wait_again(id, left, settlement.broken_off);
            }
            Ok(Wrote::Left) => {
                self.schedule().forget(id);
                // Released while this was written, it was not news to the watch: it is now.
                log_error(id, self.came(id));
            }
            Err(error) => {
                if let Some(slot) = self.schedule().slot_mut(id) {
                    slot.unwritten = Some(Box::new(settlement));
                }
                return Err(error);
            }
        }
        if !settlement.reports.is_empty() {
            // A report may be gone as soon as it is scheduled: what it is about must not come back after a power cut.
            self.sync_removals();
            settlement.reports.into_iter().for_each(|report| self.schedule_new(report));
        }
        Ok(())
    }

    fn try_write_outcome(&self, id: QueueId, settlement: &Settlement) -> io::Result<Wrote> {
        let text = settlement.state.to_string();
        // A person may move the message between a look and what follows from it: then it is looked for again.
        for _ in 0..LOOKS {
            match self.whereabouts(id)? {
                Whereabouts::Hold => {
                    let draft = self.folders.tmp.join(state_file(id));
                    durable::replace(&self.folders.hold.join(state_file(id)), &draft, text.as_bytes())?;
                    maillog::held(id);
                    durable::remove(&self.folders.state(id))?;
                    return Ok(Wrote::Left);
                }
                Whereabouts::Nowhere => {
                    maillog::removed(id, "by hand");
                    durable::remove(&self.folders.state(id))?;
                    return Ok(Wrote::Left);
                }
                Whereabouts::Queue if settlement.state.is_pending() || settlement.report_missing => {
                    self.replace_state(id, &text)?;
                    return Ok(Wrote::Waits);
                }
                Whereabouts::Queue => {
                    if self.leave(id, &settlement.state)? {
                        return Ok(Wrote::Left);
                    }
                }
            }
        }
        Err(durable::located("settle", &self.folders.eml(id), io::ErrorKind::ResourceBusy.into()))
    }

    /// Takes a message out of the queue of which nothing is left to do. Says whether it was still there.
    fn leave(&self, id: QueueId, state: &State) -> io::Result<bool> {
        if state.is_untold() {
            match self.fail(id, state) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                other => other?,
            }
        } else if durable::remove_if_there(&self.folders.eml(id))? {
            maillog::removed(id, "done");
        } else {
            return Ok(false);
        }
        durable::remove(&self.folders.state(id))?;
        self.note_removal();
        Ok(true)
    }

    /// What follows where a message has left the queue before anything else was said of it.
    fn finish_leaving(&self, id: QueueId, has_state: bool) {
        maillog::removed(id, "done");
        self.note_removal();
        self.forget(id, has_state);
        // Put there again meanwhile, it was not news to the watch.
        log_error(id, self.came(id));
    }

    /// At the end of the server: outcomes that could not be written so far, tried once more.
    pub fn write_unwritten(&self) {
        let ids = self.schedule().unwritten();
        for id in ids {
            let unwritten = self.schedule().slot_mut(id).and_then(|slot| slot.unwritten.take());
            log_error(id, unwritten.map_or(Ok(()), |settlement| self.write_outcome(id, *settlement)));
        }
    }

    fn give_back(&self, id: QueueId, after: Duration) {
        self.wait_again(id, after, None);
    }

    fn wait_again(&self, id: QueueId, after: Duration, broken_off: Option<Vec<usize>>) {
        let now = Now::read().boot;
        let next = now.saturating_add(after);
        match broken_off {
            Some(tried) => self.schedule().park(id, Round { tried, next }, now),
            None => self.schedule().give_back(id, next, now),
        }
        // Moved while it was claimed, it was nobody's change by hand to notice.
        self.look_again(id);
        self.changed.notify_one();
    }

    /// Lets an entry be claimed that was broken off, because a next hop has room again. Says whether there is such an entry.
    pub fn wake(&self, id: QueueId) -> bool {
        let is_known = self.schedule().wake(id, Now::read().boot);
        self.changed.notify_one();
        is_known
    }

    /// A message has left: so does its state, if it has one.
    fn forget(&self, id: QueueId, has_state: bool) {
        self.schedule().forget(id);
        if has_state {
            log_error(id, durable::remove(&self.folders.state(id)));
        }
    }
}

/// How often a message is looked for that someone moves to and fro.
const LOOKS: usize = 10;

enum Wrote {
    Waits,
    Left,
}

/// A clock that stood still while the machine slept is caught up with this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

const MEND_ENTRY: &str = "if it is a message, move it to drop/, which takes any form and adds what is missing; if it was \
                          edited, take SIZE= out of its X-Sender first";

fn is_blank(state: &str) -> bool {
    state.trim().is_empty()
}

const BLANK: &str = "it is empty";

impl Claim<'_> {
    /// How long this host has seen the message wait.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Writes down what is known of the targets while the attempt goes on. From here on they are never resolved again. An
    /// error too where a person has edited the state meanwhile: the attempt must end, for settling it minds the edit.
    pub fn record(&mut self, state: &State) -> io::Result<()> {
        if self.edited_state().is_some() {
            return Err(io::Error::other("the state was edited during the attempt, which ends here"));
        }
        let text = state.to_string();
        self.spool.replace_state(self.id, &text)?;
        self.state_text = Some(text);
        Ok(())
    }

    /// Delivers by one rename into `maildir`, which is all that has to be done. An error leaves the claim as it was.
    pub fn rename_into(&mut self, maildir: &Maildir, hostname: &str) -> io::Result<Renamed> {
        if self.entry.links > 1 {
            return Ok(Renamed::Impossible);
        }
        let name = Name { id: self.id, target: 1, hostname };
        match maildir.take(&self.path(), name, self.entry.size) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(Renamed::Impossible),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !durable::exists(&self.path())? => {
                self.open = false;
                self.spool.follow(self.id);
                return Ok(Renamed::Gone);
            }
            Err(error) => return Err(durable::located("deliver into", maildir.path(), error)),
        }
        self.open = false;
        self.spool.forget(self.id, self.state_text.is_some());
        Ok(Renamed::Done)
    }

    /// The message, and its way out of the queue for when nothing is left to do.
    pub fn entry_and_exit(&mut self) -> (&mut Entry, Exit<'_>) {
        let folders = &self.spool.folders;
        let (queued, outside) = (folders.eml(self.id), folders.tmp.join(eml(self.id)));
        let (state, state_text) = (folders.state(self.id), self.state_text.as_deref());
        let exit = Exit { id: self.id, queued, outside, state, state_text, left: &mut self.left };
        (&mut self.entry, exit)
    }

    /// Ends the attempt: writes down the outcome, and does what follows from it.
    pub fn settle(mut self, mut settlement: Settlement) {
        if self.left {
            return;
        }
        self.open = false;
        let now = Now::read();
        let state = &mut settlement.state;
        if let Some(slot) = self.spool.schedule().slot_mut(self.id) {
            state.waited = slot.waited(now.boot);
        }
        state.next_attempt = Some(now.wall + settlement.retry);
        state.retry_in = settlement.retry;
        if let Some(edited) = self.edited_state() {
            *state = state.merged_into(edited);
            // What a person gave up is told at the next attempt.
            settlement.report_missing |= !state.is_pending() && state.is_untold();
            // The places of its targets may be others now.
            settlement.broken_off = settlement.broken_off.map(|_| Vec::new());
        }
        if let Err(error) = self.spool.write_outcome(self.id, settlement) {
            maillog::spool_error(Some(self.id), error);
            self.spool.give_back(self.id, limits::IO_RETRY);
        }
    }

    /// Ends an attempt that came to nothing, because no next hop had room: there is nothing to write down. Unless it is woken
    /// before, it is tried again `after` so long.
    pub fn park(mut self, after: Duration) {
        self.open = false;
        let tried = std::mem::take(&mut self.tried);
        self.spool.wait_again(self.id, after, Some(tried));
    }

    /// The spool it is in.
    pub fn spool(&self) -> &Spool {
        self.spool
    }

    /// The state file, if it is not what was read or recorded at the beginning: a person changed it meanwhile. A change
    /// that can't be read is no reason to forget an outcome; it is replaced.
    fn edited_state(&self) -> Option<State> {
        let text = read_state(&self.spool.folders.state(self.id)).ok()?;
        if text == self.state_text { None } else { text.filter(|text| !is_blank(text))?.parse().ok() }
    }

    fn path(&self) -> PathBuf {
        self.spool.folders.eml(self.id)
    }
}

/// Takes a message out of the queue before that is logged: what a crash finds there comes to the next hop once more (P5).
/// A crash in the middle of it costs the edit of a person at most: everybody has the message.
#[derive(Debug)]
pub struct Exit<'c> {
    id: QueueId,
    queued: PathBuf,
    outside: PathBuf,
    state: PathBuf,
    state_text: Option<&'c str>,
    left: &'c mut bool,
}

impl Exit<'_> {
    /// Takes it out. Where that can't be done, or a person has changed the state, it is left to [`Claim::settle`].
    pub fn take(&mut self) {
        // First of all, by one call: between the reply and this lies next to nothing.
        if fs::rename(&self.queued, &self.outside).is_err() {
            return;
        }
        if read_state(&self.state).is_ok_and(|text| text.as_deref() == self.state_text) {
            *self.left = true;
            // What is left there is removed at the next start.
            log_error(self.id, durable::remove(&self.outside));
        } else {
            log_error(self.id, durable::rename_new(&self.outside, &self.queued));
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.left {
            self.spool.finish_leaving(self.id, self.state_text.is_some());
        } else if self.open {
            self.spool.give_back(self.id, limits::IO_RETRY);
        }
    }
}

/// The text of a state file. One that is not UTF-8 or too long reads as one line that no state has.
pub(super) fn read_state(path: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(durable::located("read", path, error)),
        Ok(metadata) if !metadata.is_file() => return Ok(Some("not a regular file".to_owned())),
        Ok(_) => {}
    }
    match table::read(path, limits::STATE_FILE) {
        Ok(text) => Ok(text),
        Err(_) if path.metadata().is_ok_and(|metadata| metadata.len() > limits::STATE_FILE) => {
            Ok(Some("longer than a state may be".to_owned()))
        }
        Err(error) if error.line.is_some() => Ok(Some("not UTF-8".to_owned())),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
