//! The spool: every message this host is responsible for, as plain files whose place is their state.
//!
//! ```text
//! S0  nothing
//! S1  tmp/ID                    being received                  at start: removed
//! S2  queue/ID.eml              accepted: 250 was or will be    at start: due now
//! S3  queue/ID.eml + ID.state   tried or edited                 at start: due at the sooner of Next-Attempt and Retry-In
//! S4  queue/ID.state alone      removed, or moved by hand       at start: moved beside hold/ID.eml if there is one, else removed
//! S5  queue/ID.eml + hold/ID.state   moved back by hand         at start: the state is moved back too
//!
//! enter   write tmp/ID → rename to queue/ID.eml → sync file and queue/, shared by all who wait → answer 250
//! update  write tmp/ID.state, sync → rename over queue/ID.state → sync queue/
//! leave   unlink queue/ID.eml → unlink queue/ID.state; the removals of at most one second share a sync of queue/
//! taken   rename queue/ID.eml to tmp/ as soon as the last next hop has it → look at its state → unlink, or put it back
//! rename  queue/ID.eml → the mailbox's new/ → unlink queue/ID.state
//! report  write queue/ID.state, which names the report → commit the report → update or leave → deliver the report
//! fail    write failed/ID.state and failed/ID.eml.report, sync → rename queue/ID.eml → unlink queue/ID.state
//! ```
//!
//! | file | room |
//! | --- | --- |
//! | `draft` | a file in tmp/ that is being received |
//! | `writer` | the one thread that commits drafts, many with one flush |
//! | `answer` | how who waits for it hears of that |
//! | `schedule` | what is due when, in memory |
//! | `entry` | an accepted message as it is found on the disk |
//! | `line_ends` | LF and CR LF become CR LF |
//! | `drop_error` | why what a person wrote can't be taken |
//! | `lines_by_hand` | line ends that a person wrote |
//! | `claim` | one delivery thread's hold on one entry |
//! | `state` | the text of `ID.state` |
//! | `aside` | `failed/` and its reports |
//! | `sweep` | what is done once at start |
//! | `watch` | what a person changed by hand |
//! | `whereabouts` | in which folder a message is |
//! | `listing` | the queue as its files tell it, without a server |
//! | `selection` | which messages a person means |
//! | `by_hand` | what a person may do to a message, as a verb does it |
//! | `pickup` | `drop/` |
//!
//! An error is an `io::Error` that names the file. None of them loses a message: see P1–P5 in the design.

mod answer;
mod aside;
pub mod by_hand;
mod claim;
mod draft;
pub mod drop_error;
mod entry;
pub mod line_ends;
mod lines_by_hand;
pub mod listed;
pub mod listing;
pub mod pickup;
mod schedule;
pub mod selection;
mod settlement;
pub mod state;
mod sweep;
mod watch;
mod whereabouts;
mod writer;

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use claim::{Claim, Exit, Renamed};
pub use draft::Draft;
pub use entry::{Entry, Unfit};
pub use pickup::Pickup;
pub use schedule::Accepted;
pub use selection::Selection;
pub use settlement::Settlement;
pub use watch::Watch;
pub use writer::Writer;

use crate::io::clock::Now;
use crate::io::durable;
use crate::io::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError, Receiver, Sender, bounded};
use crate::limits;
use crate::mail::queue_id::QueueId;
use crate::maillog;
use schedule::Schedule;
use writer::Work;

/// The spool of a running server.
#[derive(Debug)]
pub struct Spool {
    folders: Folders,
    last_id: Mutex<Option<QueueId>>,
    schedule: Mutex<Schedule>,
    changed: Condvar,
    stopping: AtomicBool,
    /// Messages in `queue/` that are not on the schedule, because they could not be looked at yet.
    unseen: Mutex<BTreeSet<QueueId>>,
    /// Whether removals are not durable yet.
    removals_unsynced: AtomicBool,
    /// Held while they are made so.
    syncing_removals: Mutex<()>,
    work: Sender<Work>,
    /// The folder itself, locked for as long as the spool is open: a second server finds it taken.
    lock: File,
}

/// The paths in a spool.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Being received.
    pub tmp: PathBuf,
    /// Accepted.
    pub queue: PathBuf,
    /// Set aside by a person.
    pub hold: PathBuf,
    /// What could not be read, or failed and had nowhere to be returned to.
    pub failed: PathBuf,
    /// Where anyone allowed may put a message.
    pub drop: PathBuf,
}

impl Folders {
    /// The folders of the spool in `path`.
    pub fn of(path: &Path) -> Folders {
        let folder = |name| path.join(name);
        Folders {
            tmp: folder("tmp"),
            queue: folder("queue"),
            hold: folder("hold"),
            failed: folder("failed"),
            drop: folder("drop"),
        }
    }

    /// The spool itself.
    pub fn spool(&self) -> &Path {
        self.queue.parent().unwrap_or(Path::new("."))
    }

    fn all(&self) -> [&Path; 5] {
        [&self.tmp, &self.queue, &self.hold, &self.failed, &self.drop]
    }

    /// The message of an entry.
    pub fn eml(&self, id: QueueId) -> PathBuf {
        self.queue.join(eml(id))
    }

    /// The state of an entry.
    pub fn state(&self, id: QueueId) -> PathBuf {
        self.queue.join(state_file(id))
    }
}

fn eml(id: QueueId) -> String {
    format!("{id}.eml")
}

fn state_file(id: QueueId) -> String {
    format!("{id}.state")
}

/// Locks the spool for a server. Who only looks whether one runs has the lock for a moment, and keeps none from starting.
fn lock(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    let mut looks = 10;
    loop {
        looks -= 1;
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if looks > 0 => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => {
                return Err(durable::located("lock", path, io::ErrorKind::WouldBlock.into()));
            }
            Err(TryLockError::Error(error)) => return Err(durable::located("lock", path, error)),
        }
    }
}

impl Spool {
    /// Opens the spool in `path`, makes its folders, and clears up what a crash may have left. The [`Writer`] has a thread
    /// of its own to be run in. Fails with `WouldBlock` if another server has it open.
    pub fn open(path: &Path) -> io::Result<(Spool, Writer)> {
        durable::create_dirs(path)?;
        let lock = lock(path)?;
        let folders = Folders::of(path);
        folders.all().into_iter().try_for_each(durable::create_dirs)?;
        let (work, waiting): (Sender<Work>, Receiver<Work>) = bounded(limits::COMMIT_QUEUE);
        let spool = Spool {
            folders,
            last_id: Mutex::default(),
            schedule: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            unseen: Mutex::default(),
            removals_unsynced: AtomicBool::new(false),
            syncing_removals: Mutex::default(),
            work,
            lock,
        };
        let writer = Writer::new(waiting, &spool.folders.queue)?;
        spool.sweep()?;
        Ok((spool, writer))
    }

    /// The paths.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// How many entries are queued.
    pub fn queued(&self) -> usize {
        self.schedule().len()
    }

    /// Whether there is room for a message of `size` octets beside what is to stay free.
    pub fn has_room(&self, size: u64, keep_free: u64) -> io::Result<bool> {
        let (octets, inodes) = durable::free_beside(&self.lock)?;
        Ok(octets >= size.saturating_add(keep_free) && inodes.is_none_or(|inodes| inodes >= limits::FREE_INODES))
    }

    /// Ends [`Spool::claim_due`] in all threads; claims that are held are finished by their holders.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Taken once, so that no thread is between its look at the flag and its wait.
        drop(self.schedule());
        self.changed.notify_all();
    }

    /// Ends the writer once everything handed to it before is committed.
    pub fn stop_writer(&self) {
        // It can only fail where the writer has ended already.
        let _ = self.work.send(Work::Stop);
    }

    /// Whether [`Spool::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a message, later than that of every other in the spool.
    pub fn new_id(&self) -> io::Result<QueueId> {
        let mut chance = [0; 2];
        getrandom::fill(&mut chance).map_err(io::Error::other)?;
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        let id = QueueId::after(*last, Now::read().wall, u16::from_ne_bytes(chance));
        *last = Some(id);
        Ok(id)
    }

    /// Lets no later id be before one that is in the spool already.
    fn saw_id(&self, id: QueueId) {
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        // One from beyond every clock was made up, and would leave no room for later ones.
        *last = (*last).max(Some(id).filter(|id| id.is_by_a_clock()));
    }
}

/// Where an error of one entry must not keep others from their turn.
fn log_error(id: QueueId, result: io::Result<()>) {
    if let Err(error) = result {
        maillog::spool_error(Some(id), error);
    }
}

/// Ends the writer, also where a test fails: it would wait for it.
#[cfg(test)]
pub(crate) struct StopWriter<'s>(pub &'s Spool);

#[cfg(test)]
impl Drop for StopWriter<'_> {
    fn drop(&mut self) {
        self.0.stop_writer();
    }
}
