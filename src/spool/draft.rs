//! A draft: a file in `tmp/` that is being received. It is nobody's promise yet; dropped, it is unlinked.
//!
//! Small messages stay in memory until they are finished and are written with one call. The number in `SIZE=` is filled
//! in before the file can get its final name, so that a file that lost its end in a crash can be told from a whole one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use super::answer::answer;
use super::{Entry, Spool, writer};
use crate::io::durable;
use crate::limits;
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;
use crate::maillog::Origin;

/// A message being received.
#[derive(Debug)]
pub struct Draft {
    pub(super) id: QueueId,
    pub(super) envelope: Envelope,
    pub(super) file: File,
    pub(super) name: Temporary,
    /// Octets after the envelope.
    pub(super) size: u64,
    /// The mailbox to which one rename will deliver it.
    laid_out_for: Option<Address>,
    size_at: u64,
    buffer: Vec<u8>,
    flushed: u64,
    /// Octets that stay free on the disk while it is written.
    keep_free: u64,
}

/// The name of its file; dropped before that has its final one, it is unlinked.
#[derive(Debug)]
pub(super) struct Temporary {
    pub path: PathBuf,
    pub renamed: bool,
}

impl Spool {
    /// Begins a message. Where its one recipient is a mailbox of this host, `mailbox` lays it out for a delivery by one
    /// rename: the fields of a delivered message stand above its envelope.
    pub fn begin(&self, envelope: Envelope, mailbox: Option<&Address>) -> io::Result<Draft> {
        self.begin_as(self.new_id()?, envelope, mailbox)
    }

    /// As [`Spool::begin`], with an id that was taken before.
    pub fn begin_as(&self, id: QueueId, envelope: Envelope, mailbox: Option<&Address>) -> io::Result<Draft> {
        let path = self.folders.tmp.join(id.to_string());
        let file = durable::create_new(&path)?;
        let above = match mailbox {
            Some(mailbox) => format!("Return-Path: {}\r\nDelivered-To: {mailbox}\r\n", envelope.reverse_path),
            None => String::new(),
        };
        let size_at = (above.len() + envelope.size_offset()) as u64;
        let buffer = [above.as_bytes(), envelope.print(0).as_bytes()].concat();
        let (name, laid_out_for) = (Temporary { path, renamed: false }, mailbox.cloned());
        Ok(Draft { id, envelope, file, name, size: 0, laid_out_for, size_at, buffer, flushed: 0, keep_free: 0 })
    }

    /// Makes the message ours: when this returns its id, it is on the disk. The only way mail gets into the queue.
    pub fn commit(&self, draft: Draft, origin: Origin) -> io::Result<QueueId> {
        let ahead = if draft.laid_out_for.is_some() { limits::MAILBOX_FIRST } else { Duration::ZERO };
        self.write_down(draft, origin, Some(ahead))
    }

    /// As [`Spool::commit`], but nothing is delivered before [`Spool::schedule_new`].
    pub fn commit_unscheduled(&self, draft: Draft, origin: Origin) -> io::Result<QueueId> {
        self.write_down(draft, origin, None)
    }

    fn write_down(&self, mut draft: Draft, origin: Origin, ahead: Option<Duration>) -> io::Result<QueueId> {
        draft.finish()?;
        let (answer, answered) = answer();
        let commit = writer::Commit { draft, origin, ahead, answer };
        self.work.send(writer::Work::Commit(Box::new(commit))).map_err(|_| io::Error::other("the writer has ended"))?;
        answered.wait().unwrap_or_else(|| Err(io::Error::other("the writer has ended")))
    }
}

impl Draft {
    /// The name the message will have.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// From whom and to whom.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Octets written after the envelope.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// From now on it fails, as on a full disk, where less than this would stay free: nobody knows how long it gets.
    pub fn keep_free(&mut self, octets: u64) {
        self.keep_free = octets;
    }

    /// What is to be delivered by one rename, as [`Entry::open`] would find it now that it is finished.
    pub(super) fn into_entry(self) -> Option<Entry> {
        let mut envelope = self.envelope;
        envelope.parameters.size = Some(self.size);
        Some(Entry::laid_out(self.file, envelope, self.laid_out_for?, (self.flushed, self.size)))
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        self.look_for_room().and_then(|()| self.file.write_all(&self.buffer)).map_err(|error| self.failed(error))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Only now and then, which small messages never come to.
    fn look_for_room(&self) -> io::Result<()> {
        let looks = |octets| octets / limits::ROOM_STEP;
        let is_due = self.keep_free > 0 && looks(self.flushed + self.buffer.len() as u64) > looks(self.flushed);
        match is_due && durable::free_beside(&self.file)?.0 < self.keep_free {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn failed(&self, error: io::Error) -> io::Error {
        durable::located("write", &self.name.path, error)
    }

    fn finish(&mut self) -> io::Result<()> {
        let digits = format!("{:010}", self.size);
        if self.flushed == 0 {
            let at = self.size_at as usize;
            self.buffer[at..at + digits.len()].copy_from_slice(digits.as_bytes());
            return self.flush_buffer();
        }
        self.flush_buffer()?;
        let filled_in = self.file.write_all_at(digits.as_bytes(), self.size_at);
        filled_in.map_err(|error| self.failed(error))
    }
}

impl Write for Draft {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(octets);
        self.size += octets.len() as u64;
        if self.buffer.len() >= limits::MESSAGE_BUFFER {
            self.flush_buffer()?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // What is left here is removed at the next start.
            let _ = durable::remove(&self.path);
        }
    }
}
