//! The one writer: takes finished drafts and commits as many at a time as are waiting, with as few flushes as the
//! filesystem allows.
//!
//! Promises P1 and P2: an id is answered only once the file and its name are on the disk; an error of any step is the
//! answer of the whole batch, whose files are unlinked under the name they have by then. A failed sync is never repeated
//! and called good.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::{Draft, Spool, eml};
use crate::io::clock::Now;
use crate::io::durable::{self, Flusher, Method};
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maillog::{self, Origin};

/// A finished draft, and who waits for it.
#[derive(Debug)]
pub(super) struct Commit {
    pub draft: Draft,
    pub origin: Origin,
    pub answer: Sender<io::Result<QueueId>>,
}

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Work {
    Commit(Box<Commit>),
    Stop,
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

    /// Commits until it is told to stop.
    pub fn run(mut self, spool: &Spool) {
        while let Ok(first) = self.waiting.recv() {
            let mut batch = Vec::new();
            let mut stop = !add(&mut batch, first);
            while !stop && batch.len() < limits::BATCH {
                match self.waiting.try_recv() {
                    Ok(work) => stop = !add(&mut batch, work),
                    Err(_) => break,
                }
            }
            self.commit(spool, batch);
            if stop {
                return;
            }
        }
    }

    fn commit(&mut self, spool: &Spool, batch: Vec<Commit>) {
        let mut renamed = Vec::with_capacity(batch.len());
        for mut commit in batch {
            match rename(spool, &mut commit.draft) {
                Ok(()) => renamed.push(commit),
                Err(error) => answer(&commit, Err(error)),
            }
        }
        if renamed.is_empty() {
            return;
        }
        let flushed = self.flusher.flush(renamed.iter().map(|commit| &commit.draft.file));
        match flushed {
            // From here on the mail is safe.
            Ok(()) => {
                for commit in &renamed {
                    log_accepted(commit);
                }
                maillog::flush();
                for commit in renamed {
                    answer(&commit, Ok(commit.draft.id));
                }
            }
            Err(error) => {
                maillog::spool_error(None, &error);
                for commit in renamed {
                    take_back(spool, &commit.draft);
                    answer(&commit, Err(io::Error::new(error.kind(), error.to_string())));
                }
            }
        }
    }
}

fn add(batch: &mut Vec<Commit>, work: Work) -> bool {
    match work {
        Work::Commit(commit) => {
            batch.push(*commit);
            true
        }
        Work::Stop => false,
    }
}

fn rename(spool: &Spool, draft: &mut Draft) -> io::Result<()> {
    let to = spool.folders.queue.join(eml(draft.id));
    spool.schedule().announce(draft.id);
    // The id is later than every other in the spool, so nothing can have this name.
    let renamed = fs::rename(&draft.path, &to).map_err(|error| durable::located("move here", &to, error));
    match renamed {
        Ok(()) => draft.renamed = true,
        Err(_) => _ = spool.schedule().forget(draft.id),
    }
    renamed
}

/// The message was not accepted: it must not be found in the queue by the next start.
fn take_back(spool: &Spool, draft: &Draft) {
    if let Err(error) = durable::remove(&spool.folders.eml(draft.id)) {
        maillog::spool_error(Some(draft.id), error);
    }
    spool.schedule().forget(draft.id);
}

fn answer(commit: &Commit, result: io::Result<QueueId>) {
    // Whoever asked may be gone; the message is in the queue, or is not, all the same.
    let _ = commit.answer.send(result);
}

fn log_accepted(commit: &Commit) {
    let Commit { draft, origin, .. } = commit;
    if let Some(first) = draft.envelope.recipients.first() {
        let recipients = draft.envelope.recipients.len();
        maillog::accepted(draft.id, &draft.envelope.reverse_path, &first.address, recipients, draft.size, origin);
    }
}

impl Spool {
    /// Lets a committed message be delivered.
    pub fn schedule_new(&self, id: QueueId) {
        self.schedule_within(id, Duration::ZERO);
    }

    /// As [`Spool::schedule_new`], before those that came up to `ahead` earlier.
    pub(super) fn schedule_within(&self, id: QueueId, ahead: Duration) {
        let now = Now::read().boot;
        let mut schedule = self.schedule();
        // A person may have removed or moved it already.
        if schedule.knows(id) {
            schedule.wait(id, now.saturating_sub(ahead), Duration::ZERO, now);
            self.changed.notify_one();
        }
    }
}
