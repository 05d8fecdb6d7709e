//! The one writer: takes finished drafts and new states, and makes as many at a time durable as are waiting, with as few
//! flushes as the filesystem allows.
//!
//! Promises P1 and P2: an id is answered only once the file and its name are on the disk; an error of any step is the
//! answer of the whole batch, whose files are unlinked under the name they have by then. A failed sync is never repeated
//! and called good. A state is on the disk before it takes the place of the old one, and is answered once its name is
//! too: one flush for the messages and states of a batch, and another for the names of the states.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answer::{Answer, answer};
use super::claim::read_state;
use super::schedule::Accepted;
use super::{Draft, Spool, eml, log_error, state_file};
use crate::io::clock::Now;
use crate::io::durable::{self, Flusher, Method};
use crate::io::sync::Receiver;
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maillog::{self, Origin};

/// A finished draft, and who waits for it.
#[derive(Debug)]
pub(super) struct Commit {
    pub draft: Draft,
    pub origin: Origin,
    /// Whether it may be delivered at once, and then before those that came up to so much earlier.
    pub ahead: Option<Duration>,
    pub answer: Answer<io::Result<QueueId>>,
}

/// A state that was written as a draft and takes the place of another, and who waits for it.
#[derive(Debug)]
pub(super) struct Update {
    pub draft: PathBuf,
    pub file: File,
    pub to: PathBuf,
    pub answer: Answer<io::Result<()>>,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Work {
    Commit(Box<Commit>),
    Update(Box<Update>),
    Stop,
}

/// What is made durable together.
#[derive(Debug, Default)]
struct Batch {
    commits: Vec<Commit>,
    updates: Vec<Update>,
}

/// The body of the writer's thread.
#[derive(Debug)]
pub struct Writer {
    waiting: Receiver<Work>,
    flusher: Flusher,
}

impl Writer {
    pub(super) fn new(waiting: Receiver<Work>, queue: &Path) -> io::Result<Writer> {
        let flusher = Flusher::new(queue, limits::SYNCFS_SLOW, limits::SYNCFS_PAUSE)?;
        Ok(Writer { waiting, flusher })
    }

    /// How batches are made durable.
    pub fn method(&self) -> Method {
        self.flusher.method()
    }

    /// Works until it is told to stop.
    pub fn run(mut self, spool: &Spool) {
        while let Ok(first) = self.waiting.recv() {
            let mut batch = Batch::default();
            let mut stop = !batch.add(first);
            while !stop && batch.len() < limits::BATCH {
                match self.waiting.try_recv() {
                    Ok(work) => stop = !batch.add(work),
                    Err(_) => break,
                }
            }
            self.write(spool, batch);
            if stop {
                return;
            }
        }
    }

    fn write(&mut self, spool: &Spool, batch: Batch) {
        let mut renamed = Vec::with_capacity(batch.commits.len());
        announce(spool, &batch.commits);
        for mut commit in batch.commits {
            match rename(spool, &mut commit.draft) {
                Ok(()) => renamed.push(commit),
                Err(error) => commit.answer.send(Err(error)),
            }
        }
        let updates = batch.updates;
        if renamed.is_empty() && updates.is_empty() {
            return;
        }
        let messages = renamed.iter().map(|commit| &commit.draft.file);
        let files: Vec<&File> = messages.chain(updates.iter().map(|update| &update.file)).collect();
        match self.flusher.flush(files.into_iter()) {
            Ok(()) => {
                // From here on the mail is safe.
                accept(spool, renamed);
                self.replace(updates);
            }
            Err(error) => {
                maillog::spool_error(None, &error);
                for commit in renamed {
                    take_back(spool, &commit.draft);
                    commit.answer.send(Err(same(&error)));
                }
                updates.into_iter().for_each(|update| update.give_up(&error));
            }
        }
    }

    /// Lets states whose content is on the disk take their places.
    fn replace(&mut self, updates: Vec<Update>) {
        let mut replaced = Vec::with_capacity(updates.len());
        for update in updates {
            match fs::rename(&update.draft, &update.to) {
                Ok(()) => replaced.push(update),
                Err(error) => {
                    let error = durable::located("replace", &update.to, error);
                    update.give_up(&error);
                }
            }
        }
        if replaced.is_empty() {
            return;
        }
        let flushed = self.flusher.flush_names();
        for update in replaced {
            update.answer.send(flushed.as_ref().copied().map_err(same));
        }
    }
}

impl Batch {
    /// Says whether there may be more.
    fn add(&mut self, work: Work) -> bool {
        match work {
            Work::Commit(commit) => self.commits.push(*commit),
            Work::Update(update) => self.updates.push(*update),
            Work::Stop => return false,
        }
        true
    }

    fn len(&self) -> usize {
        self.commits.len() + self.updates.len()
    }
}

impl Update {
    fn give_up(self, error: &io::Error) {
        // What is left here is removed at the next start.
        let _ = durable::remove(&self.draft);
        self.answer.send(Err(same(error)));
    }
}

/// An error for one more who waits.
fn same(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Tells who waits for it that the mail of a batch is ours, and lets it be delivered. The log comes first and is
/// written out: who was told 250 finds the line, whatever happens next. Clients come before delivery, which nobody waits for.
fn accept(spool: &Spool, commits: Vec<Commit>) {
    if commits.is_empty() {
        return;
    }
    commits.iter().for_each(log_accepted);
    maillog::flush();
    let mut due = Vec::with_capacity(commits.len());
    for Commit { draft, ahead, answer, .. } in commits {
        let id = draft.id;
        // Whoever asked may be gone; the message is in the queue all the same.
        answer.send(Ok(id));
        due.extend(ahead.map(|ahead| Accepted { id, ahead, written: draft.into_entry().map(Box::new) }));
    }
    spool.schedule_all(due);
}

/// Nobody is to take the names that come now for a change by hand.
fn announce(spool: &Spool, commits: &[Commit]) {
    let mut schedule = spool.schedule();
    commits.iter().for_each(|commit| schedule.announce(commit.draft.id));
}

fn rename(spool: &Spool, draft: &mut Draft) -> io::Result<()> {
    let to = spool.folders.queue.join(eml(draft.id));
    // The id is later than every other in the spool, so nothing can have this name.
    let renamed = fs::rename(&draft.name.path, &to).map_err(|error| durable::located("move here", &to, error));
    match renamed {
        Ok(()) => draft.name.renamed = true,
        Err(_) => _ = spool.schedule().forget(draft.id),
    }
    renamed
}

/// The message was not accepted: it must not be found in the queue by the next start, nor after a power cut, when its sender
/// has sent it again.
fn take_back(spool: &Spool, draft: &Draft) {
    log_error(draft.id, durable::remove(&spool.folders.eml(draft.id)));
    spool.note_removal();
    spool.schedule().forget(draft.id);
}

fn log_accepted(commit: &Commit) {
    let Commit { draft, origin, .. } = commit;
    if let Some(first) = draft.envelope.recipients.first() {
        let recipients = draft.envelope.recipients.len();
        maillog::accepted(draft.id, &draft.envelope.reverse_path, &first.address, recipients, draft.size, origin);
    }
}

fn number_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Spool {
    /// Replaces the state of an entry: when this returns, it is on the disk.
    pub(super) fn replace_state(&self, id: QueueId, text: &str) -> io::Result<()> {
        let (draft, to) = (self.folders.tmp.join(state_file(id)), self.folders.state(id));
        if text.len() as u64 > limits::STATE_FILE {
            // It could not be read again.
            return Err(durable::located("write", &to, io::ErrorKind::FileTooLarge.into()));
        }
        if let Some(slot) = self.schedule().slot_mut(id) {
            // Before the watch can see it.
            slot.own_state = Some(number_of(text));
        }
        durable::remove(&draft)?;
        let mut file = durable::create_new(&draft)?;
        if let Err(error) = file.write_all(text.as_bytes()) {
            durable::remove(&draft)?;
            return Err(durable::located("write", &draft, error));
        }
        let (answer, answered) = answer();
        let update = Update { draft, file, to, answer };
        self.work.send(Work::Update(Box::new(update))).map_err(|_| io::Error::other("the writer has ended"))?;
        answered.wait().unwrap_or_else(|| Err(io::Error::other("the writer has ended")))
    }

    /// Whether the state file of an entry is as the server wrote it last.
    pub(super) fn is_own_state(&self, id: QueueId) -> bool {
        let own = self.schedule().slot_mut(id).and_then(|slot| slot.own_state);
        let found = read_state(&self.folders.state(id)).ok().flatten();
        own.is_some() && own == found.map(|text| number_of(&text))
    }

    /// Lets a committed message be delivered.
    pub fn schedule_new(&self, id: QueueId) {
        self.schedule_all([Accepted { id, ahead: Duration::ZERO, written: None }]);
    }

    /// Lets messages be delivered.
    pub(crate) fn schedule_all(&self, messages: impl IntoIterator<Item = Accepted>) {
        let now = Now::read().boot;
        let mut schedule = self.schedule();
        messages.into_iter().for_each(|new| schedule.begin(new, now));
        self.rouse(schedule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sync::Ordering;
    use crate::mail::envelope::{Envelope, Recipient};

    #[test]
    fn what_is_taken_back_is_gone_for_good_too() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let envelope = Envelope {
            reverse_path: "<a@far.example>".parse().unwrap(),
            parameters: Default::default(),
            recipients: vec![Recipient { address: "b@org.example".parse().unwrap(), parameters: Default::default() }],
        };
        let mut draft = spool.begin(envelope, None).unwrap();
        rename(&spool, &mut draft).unwrap();
        assert!(!spool.removals_unsynced.load(Ordering::SeqCst));
        take_back(&spool, &draft);
        assert!(spool.removals_unsynced.load(Ordering::SeqCst), "or the next start could find it");
        assert!(!spool.folders.eml(draft.id).exists());
    }
}
