//! The part of a connection that takes messages, by DATA and by BDAT.
//!
//! Whatever is wrong with one, the rest of it is read, so that the client stays in step; a 250 is said once the spool has
//! it on the disk.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::super::receipt::{Receipt, storage_reply};
use super::super::received::{self, Client};
use super::{Connection, End, Port};
use crate::io::clock::{self, Now};
use crate::limits;
use crate::mail::complete::{Completion, Stamp};
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;
use crate::mail::reply::{self, Reply};
use crate::maillog::{self, Origin};
use crate::route::Site;
use crate::spool::Draft;

/// One BDAT.
pub(super) struct Chunk {
    pub size: u64,
    pub last: bool,
    /// With the first chunk of a message.
    pub envelope: Option<Envelope>,
}

impl Connection<'_> {
    /// Takes a message up to its dot.
    #[inline(never)]
    pub(super) fn data(&mut self, envelope: Envelope, site: &Site) -> Result<(), End> {
        self.reply(&reply::start_data());
        self.flush()?;
        // The file is made while the client hears that: the message has come by then, and is not waited for. Room for it was
        // looked for at MAIL; another error is the reply at its end.
        let draft = self.begin(envelope, site);
        let completion = draft.as_ref().ok().and_then(|draft| self.completion(draft.id(), site));
        let mut receipt = Receipt::up_to_dot(draft, site.config.limits.message_size).completing(completion);
        let begun = Instant::now();
        loop {
            let block = self.message_block(begun, receipt.size())?;
            if block.is_empty() {
                return Err(End::Gone);
            }
            let (used, done) = receipt.feed(block);
            self.reader.consume(used);
            if done {
                return self.finish(receipt, site);
            }
            if receipt.is_endless() {
                return Err(End::Told(reply::endless(), "a message without an end"));
            }
        }
    }

    /// Takes a chunk of a message, which may be all of it.
    #[inline(never)]
    pub(super) fn chunk(&mut self, chunk: Chunk, site: &Site) -> Result<(), End> {
        let mut receipt = match (chunk.envelope, self.chunks.take()) {
            (Some(envelope), _) => match self.begin(envelope, site) {
                Ok(draft) => {
                    let id = draft.id();
                    Receipt::in_chunks(draft, site.config.limits.message_size).completing(self.completion(id, site))
                }
                Err(error) => {
                    self.read_chunk(chunk.size, |_| {})?;
                    let refusal = storage_reply(&error);
                    self.refuse_chunk(chunk.last, refusal, Some(error));
                    return Ok(());
                }
            },
            (None, Some(receipt)) => receipt,
            // The session hands out chunks only between the first and the last.
            (None, None) => return Err(End::Told(reply::internal_error(), "a chunk without its message")),
        };
        self.read_chunk(chunk.size, |octets| _ = receipt.feed(octets))?;
        if chunk.last {
            return self.finish(receipt, site);
        }
        match receipt.is_refused() {
            Some(refusal) => self.refuse_chunk(false, refusal, None),
            None => {
                self.chunks = Some(receipt);
                self.reply(&reply::chunk_ok());
            }
        }
        Ok(())
    }

    fn refuse_chunk(&mut self, last: bool, refusal: Reply, error: Option<io::Error>) {
        self.refuse_message(refusal, 0, error);
        if !last {
            self.session.chunk_refused();
        }
    }

    /// Reads the octets of a chunk, and gives each block to `take`.
    pub(super) fn read_chunk(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<(), End> {
        let most = self.server.site.get().config.limits.message_size.saturating_add(limits::MESSAGE_OVERRUN);
        if size > most {
            return Err(End::Told(reply::endless(), "a chunk larger than is worth reading"));
        }
        let (begun, mut left) = (Instant::now(), size);
        while left > 0 {
            let block = self.message_block(begun, size - left)?;
            if block.is_empty() {
                return Err(End::Gone);
            }
            let count = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&block[..count]);
            self.reader.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// The next octets of a message that has been coming since `begun`.
    fn message_block(&mut self, begun: Instant, size: u64) -> Result<&[u8], End> {
        if !self.reader.has_pending() {
            // A client that pipelines may wait for what was said before its message.
            self.flush()?;
        }
        let whole = limits::DATA_TIMEOUT + Duration::from_secs(size / limits::DATA_RATE);
        let stream = self.reader.get_mut();
        stream.set_timeout(limits::DATA_BLOCK_TIMEOUT);
        stream.set_deadline(whole.saturating_sub(begun.elapsed()));
        // Most messages are small, and need no large buffer.
        let expected = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(self.reader.block(expected.clamp(limits::FIRST_BLOCK, limits::MESSAGE_BUFFER))?)
    }

    fn begin(&mut self, envelope: Envelope, site: &Site) -> io::Result<Draft> {
        let mailbox = site.single_mailbox(&envelope);
        let mut draft = self.server.spool.begin(envelope, mailbox.as_ref())?;
        draft.keep_free(site.config.limits.free_space);
        if let Some(client) = self.received_from(site) {
            let us = (site.config.hostname.as_str(), draft.id());
            let field = received::field(&client, draft.envelope(), us, &clock::rfc5322(Now::read().wall));
            draft.write_all(field.as_bytes())?;
        }
        Ok(draft)
    }

    /// What the Received field says of the client.
    fn received_from(&mut self, site: &Site) -> Option<Client> {
        let names = &self.server.names;
        let name = self.name.get_or_insert_with(|| names.of(self.client)).clone();
        let has_logged_in = self.session.user().is_some();
        Some(Client {
            address: self.client,
            name,
            hello: self.session.hello()?.clone(),
            has_logged_in,
            cipher: self.reader.get_mut().tls().map(|facts| facts.agreed.cipher),
            is_hidden: has_logged_in && site.config.submission.hide_client,
        })
    }

    /// How the header of a message is completed: where its way begins, and nowhere else (RFC 6409 §8).
    fn completion(&self, id: QueueId, site: &Site) -> Option<Completion> {
        if self.port == Port::Smtp {
            return None;
        }
        let date = clock::rfc5322(Now::read().wall);
        let stamp = Stamp { date, unique: id.to_string(), hostname: site.config.hostname.clone() };
        Some(Completion::new(stamp, site.config.first_domain().clone()))
    }

    /// The end of a message: it is on the disk before the client is told so.
    fn finish(&mut self, receipt: Receipt, site: &Site) -> Result<(), End> {
        let size = receipt.size();
        match receipt.finish(site.config.limits.hops) {
            Err(refusal) => self.refuse_message(refusal, size, None),
            Ok(draft) => {
                let client = self.received_from(site);
                let protocol = client.map_or("SMTP", |client| received::protocol(&client, draft.envelope()));
                let origin = Origin { client: self.client.to_string(), protocol };
                match self.server.spool.commit(draft, origin) {
                    Ok(id) => {
                        self.session.message_over(true);
                        self.reply(&reply::accepted(id));
                    }
                    Err(error) => self.refuse_message(storage_reply(&error), size, Some(error)),
                }
            }
        }
        Ok(())
    }

    fn refuse_message(&mut self, refusal: Reply, size: u64, error: Option<io::Error>) {
        if let Some(error) = error {
            maillog::spool_error(None, error);
        }
        maillog::rejected(self.client, self.session.reverse_path(), size, &refusal);
        self.session.message_over(false);
        self.reply(&refusal);
    }
}
