//! Where the message of an entry is: a person may move it at any time.
//!
//! An error is never taken for an absence: whoever can't look must not act as if nothing were there.

use std::io;

use super::{Spool, eml};
use crate::io::durable;
use crate::mail::queue_id::QueueId;

/// Where the message of an entry can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    Queue,
    Hold,
    Nowhere,
}

impl Spool {
    /// Where the message of an entry is now.
    pub(super) fn whereabouts(&self, id: QueueId) -> io::Result<Whereabouts> {
        let (queue, hold) = (&self.folders.queue, &self.folders.hold);
        // A person may move it between two looks. With a copy in hold/ it is queued all the same: taken for held, it
        // would be found in queue/ again, with nothing said of who has it.
        for (folder, place) in [(queue, Whereabouts::Queue), (hold, Whereabouts::Hold), (queue, Whereabouts::Queue)] {
            if durable::exists(&folder.join(eml(id)))? {
                return Ok(place);
            }
        }
        Ok(Whereabouts::Nowhere)
    }

    /// Whether there is a message of this id, in the queue or set aside.
    pub(super) fn is_entry(&self, id: QueueId) -> io::Result<bool> {
        for folder in [&self.folders.queue, &self.folders.hold, &self.folders.failed] {
            if durable::exists(&folder.join(eml(id)))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
