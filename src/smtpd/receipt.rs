//! The octets of a message on their way into a draft, and the verdict at their end.
//!
//! Whatever is wrong is noted and the rest read on, so that the client gets one reply at the true end and stays in step. An
//! error of the disk is logged when it comes. Memory is one block.

use std::io::{self, Write};

use crate::io::dot::{LineEnds, Unstuff};
use crate::io::durable;
use crate::limits;
use crate::mail::complete::{Completion, Fed};
use crate::mail::header::HopCounter;
use crate::mail::reply::{self, Reply};
use crate::maillog;
use crate::spool::Draft;

/// A message being received.
pub struct Receipt {
    /// Or what the disk said, once that is logged.
    draft: io::Result<Draft>,
    framing: Framing,
    hops: HopCounter,
    content: Vec<u8>,
    /// How the header is completed, until that is done.
    completion: Option<Completion>,
    size: u64,
    most: u64,
}

/// How the end of the message is told.
enum Framing {
    Dot(Unstuff),
    Length(LineEnds),
}

impl Receipt {
    /// By DATA: up to a dot. At most `most` octets are kept, and none without a draft.
    pub fn up_to_dot(draft: io::Result<Draft>, most: u64) -> Receipt {
        Receipt::new(draft, Framing::Dot(Unstuff::default()), most)
    }

    /// By BDAT: as many as the chunks say.
    pub fn in_chunks(draft: Draft, most: u64) -> Receipt {
        Receipt::new(Ok(draft), Framing::Length(LineEnds::default()), most)
    }

    fn new(draft: io::Result<Draft>, framing: Framing, most: u64) -> Receipt {
        let (draft, hops) = (draft.map_err(logged), HopCounter::default());
        Receipt { draft, framing, hops, content: Vec::new(), completion: None, size: 0, most }
    }

    /// The same, with a header that will have what it lacks.
    pub fn completing(self, completion: Option<Completion>) -> Receipt {
        Receipt { completion, ..self }
    }

    /// Takes octets. Returns how many were used, and whether the dot was among them.
    pub fn feed(&mut self, octets: &[u8]) -> (usize, bool) {
        self.content.clear();
        self.content.reserve(octets.len());
        let (used, done) = match &mut self.framing {
            Framing::Dot(dots) => dots.feed(octets, &mut self.content),
            Framing::Length(ends) => {
                ends.feed(octets);
                self.content.extend_from_slice(octets);
                (octets.len(), false)
            }
        };
        self.size += self.content.len() as u64;
        self.hops.feed(&self.content);
        if self.size <= self.most
            && let Err(error) = self.keep()
        {
            self.draft = Err(logged(error));
        }
        (used, done)
    }

    fn keep(&mut self) -> io::Result<()> {
        let Ok(draft) = &mut self.draft else { return Ok(()) };
        let Some(completion) = self.completion.take() else { return draft.write_all(&self.content) };
        match completion.feed(&self.content) {
            Fed::More(completion) => self.completion = Some(completion),
            Fed::Done(octets) => draft.write_all(&octets)?,
        }
        Ok(())
    }

    /// Octets of content so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether so much came beyond the limit that waiting for the end is not worth it.
    pub fn is_endless(&self) -> bool {
        self.size > self.most.saturating_add(limits::MESSAGE_OVERRUN)
    }

    /// What can be said before the end: the message will not be taken.
    pub fn is_refused(&self) -> Option<Reply> {
        if self.size > self.most {
            return Some(reply::too_large());
        }
        self.draft.as_ref().err().map(storage_reply)
    }

    /// The verdict at the end: a draft to commit, or the reply.
    pub fn finish(self, most_hops: usize) -> Result<Draft, Reply> {
        if self.size > self.most {
            return Err(reply::too_large());
        }
        let (bare, unended) = match &self.framing {
            Framing::Dot(dots) => (dots.saw_bare(), false),
            Framing::Length(ends) => (ends.saw_bare(), !ends.ended()),
        };
        if bare {
            return Err(reply::bare_line_ends());
        }
        if self.hops.count() >= most_hops {
            return Err(reply::looping());
        }
        let rest = self.completion.map(Completion::finish).unwrap_or_default();
        let mut draft = self.draft.map_err(|error| storage_reply(&error))?;
        // DESIGN §3: messages are stored with a final CR LF.
        let end: &[u8] = if unended { b"\r\n" } else { b"" };
        let written = draft.write_all(&rest).and_then(|()| draft.write_all(end));
        written.map_err(|error| storage_reply(&logged(error)))?;
        Ok(draft)
    }
}

fn logged(error: io::Error) -> io::Error {
    maillog::spool_error(None, &error);
    error
}

/// What the client is told of an error of the disk.
pub fn storage_reply(error: &io::Error) -> Reply {
    if durable::is_no_space(error) { reply::no_space() } else { reply::cannot_store() }
}
