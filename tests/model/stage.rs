//! What a scene plays on: a spool with its files, threads that deliver, one that watches and one that writes, and a person.
//!
//! The threads keep the books: an entry that is claimed by a second thread before the first has let go of it fails the
//! model at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use loom::thread::{Builder, JoinHandle};
use nix::sys::inotify::AddWatchFlags;

use crate::limits;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::parameter::{MailParameters, RcptParameters};
use crate::mail::queue_id::QueueId;
use crate::maildir::Maildir;
use crate::maillog::Origin;
use crate::spool::listed::Listed;
use crate::spool::{Claim, Folders, Selection, Settlement, Spool, Watch, Writer, listing};
use crate::sync::Bell;
use crate::{clock, durable};

/// Real code wants more of a stack than loom gives.
const STACK: usize = 512 * 1024;

/// Longer than any entry waits in a scene whose time passes.
const RETRY: Duration = Duration::from_secs(400);

/// One message for ann, in files of this name.
const ENTRY: &str = "X-Sender: <s@far.example>\r\nX-Receiver: <ann@example.org>\r\n\r\nbody\r\n";

// The claims that threads have, all of one thread of this host.
thread_local!(static CLAIMED: RefCell<BTreeSet<QueueId>> = const { RefCell::new(BTreeSet::new()) });

#[derive(Clone)]
pub struct Stage {
    pub spool: Arc<Spool>,
    pub mailbox: Maildir,
    /// Rung at each change of a file, and at the end.
    pub bell: Bell,
    _folder: Arc<tempfile::TempDir>,
}

/// What an attempt comes to.
pub enum End {
    /// The message is taken into the mailbox; if it is still there.
    Taken,
    /// No next hop has room.
    Parked,
    /// Nothing comes of it, and so much time passes that it is due again.
    Dropped,
    /// This, and the same.
    Settled(Settlement),
}

pub fn id(number: u64) -> QueueId {
    QueueId::after(None, Duration::from_secs(1_790_000_000 + number), 0)
}

impl Stage {
    /// A spool with so many entries that were never tried, and its writer.
    pub fn with(entries: u64) -> (Stage, Writer) {
        CLAIMED.take();
        let bell = Bell::default();
        durable::reset(Some(bell.clone()));
        let folder = in_memory();
        let path = folder.path().join("spool");
        fs::create_dir_all(path.join("queue")).unwrap();
        (1..=entries).for_each(|number| put(&path, number));
        let mailbox = Maildir::of(folder.path(), &"ann@example.org".parse().unwrap()).unwrap();
        let (spool, writer) = Spool::open(&path).unwrap();
        (Stage { spool: Arc::new(spool), mailbox, bell, _folder: Arc::new(folder) }, writer)
    }

    /// Claims what is due, or comes to be. Whoever has a claim ends it by [`Stage::end`].
    pub fn claim(&self) -> Claim<'_> {
        let claim = self.spool.claim_due().unwrap();
        book(claim.id);
        claim
    }

    /// Begins a thread that delivers until the spool is stopped: `attempt` says what comes of each claim.
    pub fn deliver(&self, attempt: impl Fn(&mut Claim<'_>) -> End + Send + 'static) -> JoinHandle<()> {
        let stage = self.clone();
        begin(move || {
            while let Some(mut claim) = stage.spool.claim_due() {
                book(claim.id);
                let end = attempt(&mut claim);
                durable::step();
                stage.end(claim, end);
            }
        })
    }

    /// Lets go of a claim before anyone can have it again.
    pub fn end(&self, mut claim: Claim<'_>, end: End) {
        let id = claim.id;
        let let_go = || assert!(CLAIMED.with_borrow_mut(|claimed| claimed.remove(&id)));
        match end {
            End::Taken => {
                let taken = claim.rename_into(&self.mailbox, "mail.example.org");
                let_go();
                drop(claim);
                if taken.is_ok() {
                    self.bell.ring();
                }
            }
            End::Parked => {
                let_go();
                claim.park(limits::PARKED);
            }
            End::Dropped => {
                let_go();
                drop(claim);
                clock::pass(RETRY);
            }
            End::Settled(settlement) => {
                let_go();
                claim.settle(settlement);
                self.bell.ring();
                clock::pass(RETRY);
            }
        }
    }

    /// Begins a thread that does this.
    pub fn also(&self, body: impl FnOnce(&Stage) + Send + 'static) -> JoinHandle<()> {
        let stage = self.clone();
        begin(move || body(&stage))
    }

    /// The watch is told this of a message's file.
    pub fn sees(&self, id: QueueId, what: AddWatchFlags) {
        self.spool.notice(&format!("{id}.eml").into(), what).unwrap();
    }

    /// Begins the thread that watches.
    pub fn watch(&self) -> JoinHandle<()> {
        let stage = self.clone();
        let watch = Watch::new(&self.spool).unwrap();
        begin(move || {
            let heard = std::cell::Cell::new(0);
            watch.run(&stage.spool, || heard.set(stage.bell.wait(heard.get())));
            CLOSERS.send(watch).unwrap();
        })
    }

    /// Begins the thread that writes.
    pub fn write(&self, writer: Writer) -> JoinHandle<()> {
        let stage = self.clone();
        begin(move || writer.run(&stage.spool))
    }

    /// A client's message for the mailbox is committed.
    pub fn commit(&self) -> QueueId {
        let address: Address = "ann@example.org".parse().unwrap();
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            parameters: MailParameters::default(),
            recipients: vec![Recipient { address: address.clone(), parameters: RcptParameters::default() }],
        };
        let draft = self.spool.begin(envelope, Some(&address)).unwrap();
        self.spool.commit(draft, Origin { client: "127.0.0.1".to_owned(), protocol: "ESMTP" }).unwrap()
    }

    /// Stops the thread that writes; by then nothing is left.
    pub fn stop_writing(&self, thread: JoinHandle<()>) {
        self.spool.stop_writer();
        thread.join().unwrap();
        assert!(self.is_empty());
    }

    /// Waits until this holds.
    pub fn until(&self, holds: impl Fn(&Stage) -> bool) {
        let mut heard = self.bell.rung();
        while !holds(self) {
            heard = self.bell.wait(heard);
        }
    }

    /// Stops the threads that deliver and watch.
    pub fn stop(&self, threads: Vec<JoinHandle<()>>) {
        self.spool.stop();
        self.bell.ring();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// Whether the mailbox has so many messages.
    pub fn has_delivered(&self, messages: usize) -> bool {
        self.files(self.mailbox.path().join("new")).len() == messages
    }

    /// Whether nothing is left of any message: no file, and nothing that is known of it.
    pub fn is_empty(&self) -> bool {
        let Folders { queue, hold, failed, .. } = self.spool.folders().clone();
        [queue, hold, failed].into_iter().all(|folder| self.files(folder).is_empty()) && self.spool.queued() == 0
    }

    fn files(&self, folder: PathBuf) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// What a verb would find of the first message.
    pub fn listed(&self) -> Option<Listed> {
        listing::each(self.spool.folders(), &Selection::all()).unwrap().next()
    }
}

/// A thread has it from here on.
fn book(id: QueueId) {
    assert!(CLAIMED.with_borrow_mut(|claimed| claimed.insert(id)), "{id} is claimed twice");
}

fn put(spool: &Path, number: u64) {
    fs::write(spool.join(format!("queue/{}.eml", id(number))), ENTRY).unwrap();
}

/// Threads of this host that let go of an inotify each, for which the kernel takes tens of milliseconds.
static CLOSERS: LazyLock<crossbeam_channel::Sender<Watch>> = LazyLock::new(|| {
    let (sender, watches) = crossbeam_channel::bounded(1);
    for watches in vec![watches; 50] {
        std::thread::spawn(move || watches.into_iter().for_each(drop));
    }
    sender
});

fn begin(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    Builder::new().stack_size(STACK).spawn(body).unwrap()
}

/// A folder that costs no disk, where there is one.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
