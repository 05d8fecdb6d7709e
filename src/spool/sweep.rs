//! What is done once at start: a crash may have left any state of the table in the spool's first page.
//!
//! Drafts are removed, what has a wrong name goes to `failed/`, a state without its message follows it to `hold/` or is
//! removed, and every entry is put on the schedule. Only names and state files are read, not messages: a long queue
//! costs little. Entries are opened when they are due.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::claim::read_state;
use super::settlement::Settlement;
use super::state::State;
use super::whereabouts::Whereabouts;
use super::{Spool, eml, log_error, state_file};
use crate::io::clock::Now;
use crate::io::durable;
use crate::mail::queue_id::QueueId;
use crate::maillog;

/// What a file in `queue/` is, by its name.
pub(super) enum Named {
    Eml(QueueId),
    State(QueueId),
    /// A name with a dot in front: someone is still writing it.
    Hidden,
    Foreign,
}

pub(super) fn named(name: &OsString) -> Named {
    let text = name.to_str().unwrap_or_default();
    match QueueId::of_file_name(text) {
        _ if text.starts_with('.') => Named::Hidden,
        Some((id, "eml")) => Named::Eml(id),
        Some((id, "state")) => Named::State(id),
        _ => Named::Foreign,
    }
}

const MEND_NAME: &str =
    "only the server names files in queue/; if this is a message, move it to drop/, and it will be sent";

impl Spool {
    pub(super) fn sweep(&self) -> io::Result<()> {
        let drafts = self.remove_drafts()?;
        let mut aside = 0;
        let mut states = Vec::new();
        let mut entries = Vec::new();
        let mut foreign = Vec::new();
        // A long queue has too many names to hold them all.
        for name in each_name(&self.folders.queue)? {
            let name = name?;
            match named(&name) {
                Named::Eml(id) => entries.push(id),
                Named::State(id) => states.push(id),
                Named::Hidden => {}
                Named::Foreign => foreign.push(name),
            }
        }
        for name in foreign {
            aside += usize::from(self.set_foreign_aside(&name));
        }
        if !entries.is_empty() {
            self.clear_taken_drops()?;
        }
        entries.iter().for_each(|&id| self.saw_id(id));
        self.see_other_ids()?;
        let mut with_state: HashSet<QueueId> = states.iter().copied().collect();
        let (brought_back, stuck) = self.bring_back_states()?;
        with_state.extend(brought_back);
        // Without its state it would go to everybody again.
        entries.retain(|id| !stuck.contains(id));
        let mut postponed = Vec::new();
        for &id in &entries {
            // Each state is read once: it is what the start of a long queue costs.
            let state = if with_state.remove(&id) { self.read_found(id) } else { None };
            postponed.extend(self.finish_reports(id, state.as_ref()));
            self.schedule_found(id, state.as_ref());
        }
        for id in with_state {
            postponed.extend(self.finish_reports(id, self.read_found(id).as_ref()));
        }
        for id in postponed {
            if self.schedule().forget(id) {
                self.schedule().announce(id);
            }
        }
        for id in states.into_iter().filter(|&id| !self.schedule().knows(id)) {
            log_error(id, self.follow_with_state(id));
        }
        maillog::swept(drafts, self.queued(), aside);
        Ok(())
    }

    /// Sets aside what only a person can have put into `queue/`, unless it is gone.
    pub(super) fn set_foreign_aside(&self, name: &OsStr) -> bool {
        let path = self.folders.queue.join(name);
        if path.symlink_metadata().is_err() {
            return false;
        }
        let result = self.set_aside(None, &path, "its name is not that of a queue entry", MEND_NAME);
        result.inspect_err(|error| maillog::spool_error(None, error)).is_ok()
    }

    fn remove_drafts(&self) -> io::Result<usize> {
        let drafts = names(&self.folders.tmp)?;
        for name in &drafts {
            let path = self.folders.tmp.join(name);
            if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                durable::remove(&path)?;
            }
        }
        Ok(drafts.len())
    }

    /// A dropped file that is an entry already: only its removal was missed. This comes before anything is scheduled, or
    /// the entry could be delivered, and the file taken again. Synced even if none is seen: a removal just before a
    /// crash may not be durable yet.
    fn clear_taken_drops(&self) -> io::Result<()> {
        for name in names(&self.folders.drop)? {
            if let Some(id) = taken_as(&name)
                && self.is_entry(id)?
            {
                durable::remove(&self.folders.drop.join(&name))?;
            }
        }
        durable::sync_dir(&self.folders.drop)
    }

    /// A report that was on its way when the server ended: if it got into the queue, that is written down before it can be
    /// delivered and be gone: nothing is before the end of the sweep. Returns the reports that have to wait, because that
    /// can't be written now: the entry that they are about is settled first.
    fn finish_reports(&self, id: QueueId, state: Option<&State>) -> Vec<QueueId> {
        let Some(state) = state else { return Vec::new() };
        let reports: Vec<QueueId> = state.reports().collect();
        if reports.is_empty() {
            return reports;
        }
        let (path, mut state) = (self.folders.state(id), state.clone());
        if let Err(error) = self.confirm_reports(&mut state) {
            // Looked at again before its attempt; at the worst it is told twice.
            maillog::spool_error(Some(id), error);
            return Vec::new();
        }
        let written = durable::replace(&path, &self.folders.tmp.join(state_file(id)), state.to_string().as_bytes());
        let Err(error) = written else { return Vec::new() };
        maillog::spool_error(Some(id), error);
        self.schedule_found(id, Some(&state));
        let (retry, _) = self.wait_by(id, Some(&state));
        let settlement = Settlement { state, retry, broken_off: None, reports: reports.clone(), report_missing: false };
        if let Some(slot) = self.schedule().slot_mut(id) {
            slot.unwritten = Some(Box::new(settlement));
        }
        reports
    }

    /// New ids are later than those in the other folders too, or a file moved back could meet its namesake.
    fn see_other_ids(&self) -> io::Result<()> {
        for folder in [&self.folders.hold, &self.folders.failed, &self.folders.drop] {
            for name in names(folder)? {
                let text = name.to_str().unwrap_or_default();
                let text = text.strip_prefix('.').unwrap_or(text);
                let id = text.split('.').next().and_then(|id| id.parse().ok());
                id.into_iter().for_each(|id| self.saw_id(id));
            }
        }
        Ok(())
    }

    /// Schedules an entry that was found at start.
    fn schedule_found(&self, id: QueueId, state: Option<&State>) {
        let (wait, waited) = self.wait_by(id, state);
        let now = Now::read().boot;
        let mut schedule = self.schedule();
        schedule.wait(id, now.saturating_add(wait), waited, now);
        if let Some(slot) = schedule.slot_mut(id) {
            slot.was_found = true;
        }
    }

    /// How long to wait by what the state file says, and how long was waited.
    pub(super) fn wait_by_state(&self, id: QueueId) -> (Duration, Duration) {
        self.wait_by(id, self.read_found(id).as_ref())
    }

    /// The state of an entry. A file that can't be read is looked at again, and judged, when the entry is opened: now.
    fn read_found(&self, id: QueueId) -> Option<State> {
        read_state(&self.folders.state(id)).ok().flatten()?.parse().ok()
    }

    fn wait_by(&self, id: QueueId, state: Option<&State>) -> (Duration, Duration) {
        match state {
            Some(state) if is_touched(&self.folders.eml(id), &self.folders.state(id)) => (Duration::ZERO, state.waited),
            Some(state) => (wait_of(state, Now::read().wall), state.waited),
            None => (Duration::ZERO, Duration::ZERO),
        }
    }

    /// S4: the message has left `queue/`; its state follows it to `hold/`, or goes.
    pub(super) fn follow_with_state(&self, id: QueueId) -> io::Result<()> {
        match self.whereabouts(id)? {
            Whereabouts::Hold => self.move_state(id, &self.folders.queue, &self.folders.hold),
            Whereabouts::Queue => Ok(()),
            Whereabouts::Nowhere => durable::remove(&self.folders.state(id)),
        }
    }

    /// S5: messages that were moved back while no server ran. Returns those whose states came along, and those whose could
    /// not: the watch looks at them.
    fn bring_back_states(&self) -> io::Result<(Vec<QueueId>, HashSet<QueueId>)> {
        let (mut moved, mut stuck) = (Vec::new(), HashSet::new());
        for name in names(&self.folders.hold)? {
            let Named::State(id) = named(&name) else { continue };
            match self.bring_back_state(id) {
                Ok(true) => moved.push(id),
                Ok(false) => {}
                Err(error) => {
                    log_error(id, Err(error));
                    self.note_unseen(id);
                    stuck.insert(id);
                }
            }
        }
        Ok((moved, stuck))
    }

    /// Moves the state of a message from `hold/` to `queue/` if the message was. Says whether it did.
    pub(super) fn bring_back_state(&self, id: QueueId) -> io::Result<bool> {
        let (queue, hold) = (&self.folders.queue, &self.folders.hold);
        // Where both folders have one, a crash kept the older one in queue/ from being removed; but a state beside a
        // message in hold/ is of that copy.
        let to_move = durable::exists(&hold.join(state_file(id)))?
            && self.whereabouts(id)? == Whereabouts::Queue
            && !durable::exists(&hold.join(eml(id)))?;
        if to_move {
            self.move_state(id, hold, queue)?;
        }
        Ok(to_move)
    }

    fn move_state(&self, id: QueueId, from: &Path, to: &Path) -> io::Result<()> {
        let path = to.join(state_file(id));
        match durable::rename(&from.join(state_file(id)), &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(durable::located("move here", &path, error)),
            _ => durable::sync_dir(to),
        }
    }
}

/// The sooner of what the wall clock says and what was left to wait when it was written, so that a clock that jumped
/// delays nothing by more than that.
pub(super) fn wait_of(state: &State, wall: Duration) -> Duration {
    let by_clock = state.next_attempt.map_or(Duration::ZERO, |next| next.saturating_sub(wall));
    // A person who sets Next-Attempt by hand may leave Retry-In out.
    if state.retry_in.is_zero() { by_clock } else { by_clock.min(state.retry_in) }
}

/// Whether the message was touched after its state was written: it is to be tried now, also if no server ran then.
pub(super) fn is_touched(eml: &Path, state: &Path) -> bool {
    let modified = |path: &Path| path.symlink_metadata().and_then(|metadata| metadata.modified()).ok();
    modified(eml).zip(modified(state)).is_some_and(|(eml, state)| eml > state)
}

/// The id as which a file in `drop/` is being taken, by its name `.ID`.
pub(super) fn taken_as(name: &OsString) -> Option<QueueId> {
    name.to_str()?.strip_prefix('.')?.parse().ok()
}

pub(super) fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    each_name(folder)?.collect()
}

fn each_name(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
    let located = move |error| durable::located("read", folder, error);
    let entries = fs::read_dir(folder).map_err(located)?;
    Ok(entries.map(move |entry| entry.map(|entry| entry.file_name()).map_err(located)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_of_both_clocks_counts() {
        let seconds = Duration::from_secs;
        for (next, retry_in, wall, expected) in [
            (Some(1000), 600, 700, 300),
            (Some(1000), 600, 100, 600),
            (Some(1000), 600, 0, 600),
            (Some(1000), 600, 5000, 0),
            (Some(1000), 0, 400, 600),
            (None, 600, 0, 0),
        ] {
            let state = State { next_attempt: next.map(seconds), retry_in: seconds(retry_in), ..State::default() };
            assert_eq!(wait_of(&state, seconds(wall)), seconds(expected));
        }
    }
}
