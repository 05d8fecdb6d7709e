//! A claim: one delivery thread's hold on one entry. Dropped, it goes back unchanged and is tried again later.
//!
//! Promise P3: an outcome is on the disk before the next attempt. One that can't be written stays in memory, and the
//! entry is not tried again until it is. A person may move, touch or edit the files meanwhile: an entry that went to
//! `hold/` has its outcome written there, and edits of the state are kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{Entry, Unfit};
use super::state::State;
use super::{Spool, state_file};
use crate::io::clock::Now;
use crate::io::durable;
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
    /// Whether the entry was there when the server started.
    pub found_at_start: bool,
    waited: Duration,
    state_text: Option<String>,
    open: bool,
}

/// Whether a delivery by rename could be had.
#[derive(Debug)]
pub enum Renamed {
    /// The file is in the mailbox, and the entry is gone.
    Done,
    /// It has to be a copy.
    Impossible,
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
                drop(schedule);
                if let Some(claim) = self.open_claim(id) {
                    return Some(claim);
                }
                schedule = self.schedule();
                continue;
            }
            let wait = schedule.next_due().map_or(LONGEST_WAIT, |due| due.saturating_sub(now).min(LONGEST_WAIT));
            schedule = match self.changed.wait_timeout(schedule, wait) {
                Ok((schedule, _)) => schedule,
                Err(poisoned) => poisoned.into_inner().0,
            };
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
        let (unwritten, found_at_start, waited) = {
            let mut schedule = self.schedule();
            let Some(slot) = schedule.slot_mut(id) else { return Ok(None) };
            (slot.unwritten.take(), slot.found_at_start, slot.waited(Now::read().boot))
        };
        if let Some(state) = unwritten {
            self.write_outcome(id, *state)?;
            return Ok(None);
        }
        let entry = match Entry::open(&self.folders.eml(id)) {
            Ok(entry) => entry,
            Err(Unfit::Gone) => {
                self.gone(id);
                return Ok(None);
            }
            Err(Unfit::Unreadable(error)) => return Err(error),
            Err(Unfit::WrongFormat(what)) => {
                self.set_aside(Some(id), &self.folders.eml(id), &what, MEND_ENTRY)?;
                self.forget_with_state(id);
                return Ok(None);
            }
        };
        let state_text = read_state(&self.folders.state(id))?;
        let state = match state_text.as_deref().map(str::parse::<State>).transpose() {
            Ok(state) => state,
            Err(error) => {
                self.set_aside_with_state(id, &error.to_string())?;
                self.schedule().forget(id);
                return Ok(None);
            }
        };
        let claim = Claim { spool: self, id, entry, state, found_at_start, waited, state_text, open: true };
        match &claim.state {
            // Every target has its outcome: only the end of it was missed.
            Some(state) if !state.targets.is_empty() && !state.is_pending() => {
                let state = state.clone();
                claim.settle(state, Duration::ZERO);
                Ok(None)
            }
            _ => Ok(Some(claim)),
        }
    }

    /// Writes down what became of an entry and does what follows. An error leaves the outcome in memory.
    fn write_outcome(&self, id: QueueId, state: State) -> io::Result<()> {
        let retry_in = state.retry_in;
        match self.try_write_outcome(id, &state) {
            Ok(Wrote::Waits) => {
                self.give_back(id, retry_in);
                // Moved between the look above and now, it was nobody's change by hand to notice.
                if !self.folders.eml(id).exists() {
                    self.gone(id);
                }
            }
            Ok(Wrote::Left) => _ = self.schedule().forget(id),
            Err(error) => {
                if let Some(slot) = self.schedule().slot_mut(id) {
                    slot.unwritten = Some(Box::new(state));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn try_write_outcome(&self, id: QueueId, state: &State) -> io::Result<Wrote> {
        let draft = self.folders.tmp.join(state_file(id));
        let text = state.to_string();
        if !self.folders.eml(id).exists() {
            if self.folders.hold.join(super::eml(id)).exists() {
                durable::replace(&self.folders.hold.join(state_file(id)), &draft, text.as_bytes())?;
                maillog::held(id);
            } else {
                maillog::removed(id, "by hand");
            }
            durable::remove(&self.folders.state(id))?;
            return Ok(Wrote::Left);
        }
        if state.is_pending() {
            durable::replace(&self.folders.state(id), &draft, text.as_bytes())?;
            return Ok(Wrote::Waits);
        }
        if state.is_untold() {
            self.fail(id, state)?;
        } else {
            durable::remove(&self.folders.eml(id))?;
            maillog::removed(id, "done");
        }
        durable::remove(&self.folders.state(id))?;
        self.removals_unsynced.store(true, std::sync::atomic::Ordering::Release);
        Ok(Wrote::Left)
    }

    fn give_back(&self, id: QueueId, after: Duration) {
        let now = Now::read().boot;
        self.schedule().give_back(id, now.saturating_add(after), now);
        self.changed.notify_one();
    }

    fn forget_with_state(&self, id: QueueId) {
        self.schedule().forget(id);
        if let Err(error) = durable::remove(&self.folders.state(id)) {
            maillog::spool_error(Some(id), error);
        }
    }
}

enum Wrote {
    Waits,
    Left,
}

/// A clock that stood still while the machine slept is caught up with this soon.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

const MEND_ENTRY: &str = "if it is a message, move it to drop/, which takes any form and adds what is missing; if it was \
                          edited, take SIZE= out of its X-Sender first";

impl Claim<'_> {
    /// How long this host has seen the message wait.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Writes down the targets, before the first attempt. From here on they are never resolved again.
    pub fn record(&mut self, state: &State) -> io::Result<()> {
        let text = state.to_string();
        let draft = self.spool.folders.tmp.join(state_file(self.id));
        durable::replace(&self.spool.folders.state(self.id), &draft, text.as_bytes())?;
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
            Err(error) => return Err(durable::located("deliver into", maildir.path(), error)),
        }
        self.open = false;
        if self.state_text.is_some() {
            self.spool.forget_with_state(self.id);
        } else {
            self.spool.schedule().forget(self.id);
        }
        Ok(Renamed::Done)
    }

    /// Ends the attempt: writes down the outcome, and does what follows from it. What is pending is tried again after
    /// `retry`.
    pub fn settle(mut self, mut state: State, retry: Duration) {
        self.open = false;
        let now = Now::read();
        state.waited = match self.spool.schedule().slot_mut(self.id) {
            Some(slot) => slot.waited(now.boot),
            None => state.waited,
        };
        state.next_attempt = Some(now.wall + retry);
        state.retry_in = retry;
        if let Some(edited) = self.edited_state() {
            state = state.merged_into(edited);
        }
        if let Err(error) = self.spool.write_outcome(self.id, state) {
            maillog::spool_error(Some(self.id), error);
            self.spool.give_back(self.id, limits::IO_RETRY);
        }
    }

    /// The state file, if it is not what was read or recorded at the beginning: a person changed it meanwhile. A change
    /// that can't be read is no reason to forget an outcome; it is replaced.
    fn edited_state(&self) -> Option<State> {
        let text = read_state(&self.spool.folders.state(self.id)).ok()?;
        if text == self.state_text { None } else { text?.parse().ok() }
    }

    fn path(&self) -> PathBuf {
        self.spool.folders.eml(self.id)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.open {
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
        Err(error) if error.line.is_some() => Ok(Some("not UTF-8".to_owned())),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
