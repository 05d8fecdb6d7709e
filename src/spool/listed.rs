//! One message of the spool as a person sees it: where it is, what its files say, and what is wrong with them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Folders;
use super::entry::{Entry, Unfit};
use super::state::State;
use crate::io::durable;
use crate::limits;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;

/// One message of the spool.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub id: QueueId,
    /// The folder it is in.
    pub place: Place,
    /// Its file.
    pub path: PathBuf,
    /// Octets of the file.
    pub size: u64,
    /// From whom and to whom; `None` if it can't be read.
    pub envelope: Option<Envelope>,
    /// What became of it so far, if something did.
    pub state: Option<State>,
    /// When it came, by the wall clock.
    pub arrived: Duration,
    /// How long servers had seen it wait when its state was written.
    pub waited: Duration,
    /// When it is tried next.
    pub next: Next,
    /// What is wrong with its files.
    pub problem: Option<String>,
}

/// The folder a message is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `queue/`
    Queue,
    /// `hold/`
    Hold,
    /// `failed/`
    Failed,
}

/// When a message is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Now, or as soon as a server runs.
    Now,
    /// At this time of the wall clock.
    At(Duration),
    /// Not before a person moves it back to the queue.
    Never,
}

impl Place {
    /// The name of the folder.
    pub fn name(self) -> &'static str {
        match self {
            Place::Queue => "queue",
            Place::Hold => "hold",
            Place::Failed => "failed",
        }
    }
}

impl Folders {
    /// The path of a folder.
    pub fn place(&self, place: Place) -> &Path {
        match place {
            Place::Queue => &self.queue,
            Place::Hold => &self.hold,
            Place::Failed => &self.failed,
        }
    }
}

impl Listed {
    /// The sender, unless the reverse-path is null or can't be read.
    pub fn sender(&self) -> Option<&Address> {
        self.envelope.as_ref()?.reverse_path.address()
    }

    /// The header of the message without the empty line after it, cut where it is longer than [`limits::SHOWN_HEADER`].
    pub fn header(&self) -> io::Result<Vec<u8>> {
        let mut entry = Entry::open(&self.path).map_err(|unfit| match unfit {
            Unfit::Gone => durable::located("open", &self.path, io::ErrorKind::NotFound.into()),
            Unfit::Unreadable(error) => error,
            Unfit::WrongFormat(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        })?;
        let mut head = entry.header()?;
        let ended = [&b"\n\r\n"[..], b"\n\n"].iter().find(|end| head.ends_with(end)).map(|end| end.len() - 1);
        head.truncate((head.len() - ended.unwrap_or(0)).min(limits::SHOWN_HEADER));
        Ok(head)
    }
}
