//! One message to one next hop: as many transactions as the hop needs for its recipients, one outcome for each of them.
//!
//! Nothing is sent twice: a recipient is in a second transaction only if the hop did not accept it in the first. The
//! number of transactions is bounded, and so is the time of each.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::Refusal;
use super::envelope::{self, Command, Envelope};
use super::message::{self, Stop};
use super::offers::Offers;
use super::session::Session;
use super::stage::Stage;
use super::wire::{Said, Wire};
use crate::limits;
use crate::mail::address::ReversePath;
use crate::mail::envelope::Recipient;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::parameter::MailParameters;
use crate::mail::reply::Enhanced;

/// What is to be sent, but for its content.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// For MAIL.
    pub reverse_path: &'a ReversePath,
    /// For RCPT, one each.
    pub recipients: &'a [Recipient],
    /// As they are to be sent to a hop that knows them; SIZE is that of the content.
    pub parameters: &'a MailParameters,
}

/// A message.
pub trait Content {
    /// How many octets [`Content::reader`] gives.
    fn size(&self) -> u64;

    /// The message from its beginning, each time it is called. Each line ends with CR LF, the last one too.
    fn reader(&mut self) -> io::Result<Box<dyn Read + '_>>;

    /// The hop has it for all recipients. This is told before anything else is made of that reply.
    fn taken(&mut self) {}
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// One for each recipient, in the order of the transaction. `None`: not decided, and another host may be tried in the
    /// same attempt; [`Sent::broke`] is what it means if no other does better.
    pub outcomes: Vec<Option<Outcome>>,
    /// Why the hop can be told nothing more in this session, if so.
    pub broke: Option<Refusal>,
}

/// What is decided so far, and who waits for the next transaction.
#[derive(Debug)]
pub struct Progress {
    outcomes: Vec<Option<Outcome>>,
    waiting: VecDeque<usize>,
}

impl Progress {
    /// Decides one recipient.
    pub fn decide(&mut self, at: usize, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(at) {
            *place = Some(outcome);
        }
    }

    /// Decides all that are undecided.
    pub fn decide_rest(&mut self, outcome: &Outcome) {
        self.waiting.clear();
        for place in self.outcomes.iter_mut().filter(|place| place.is_none()) {
            *place = Some(outcome.clone());
        }
    }

    /// One for the next transaction.
    pub fn put_back(&mut self, at: usize) {
        self.waiting.push_back(at);
    }

    fn is_delivered(&self) -> bool {
        self.outcomes.iter().any(|outcome| matches!(outcome, Some(Outcome::Delivered(_))))
    }

    fn next_batch(&mut self) -> Vec<usize> {
        let count = self.waiting.len().min(limits::RELAY_RECIPIENTS);
        self.waiting.drain(..count).collect()
    }
}

impl Session {
    /// Sends a message to its recipients, in one transaction that ends with a yes: those for whom there was no room in it
    /// are undecided, and sent by another call once the caller has written down who has the message.
    pub fn send(&mut self, transaction: &Transaction<'_>, content: &mut dyn Content) -> Sent {
        let count = transaction.recipients.len();
        let mut progress = Progress { outcomes: vec![None; count], waiting: (0..count).collect() };
        self.refuse_unfit(transaction, content.size(), &mut progress);
        let last = self.transactions.saturating_add(limits::RELAY_TRANSACTIONS);
        let mut broke = None;
        while !progress.waiting.is_empty() && broke.is_none() {
            if self.transactions == last {
                let text = format!("{} took few recipients at a time; the others are sent later", self.wire.host());
                progress.decide_rest(&Outcome::Deferred(Cause::local(Enhanced(4, 5, 3), text)));
                break;
            }
            match self.transact(transaction, content, &mut progress) {
                Ok(()) if progress.is_delivered() => break,
                Ok(()) => continue,
                Err(Stop::Hop(refusal)) => broke = Some(refusal),
                Err(Stop::Content(error)) => progress.decide_rest(&unreadable(&error)),
            }
            self.in_step = false;
        }
        Sent { outcomes: progress.outcomes, broke }
    }

    /// Decides those that this hop can't be sent, whatever it would say.
    fn refuse_unfit(&self, transaction: &Transaction<'_>, size: u64, progress: &mut Progress) {
        if let Some(outcome) = transaction.parameters.require_tls.then(|| self.lacks_require_tls()).flatten() {
            return progress.decide_rest(&outcome);
        }
        let host = self.wire.host();
        let failed = |enhanced, text: String| Outcome::Failed(Cause::local(enhanced, text));
        if let Some(most) = self.offers.size.filter(|&most| most < size) {
            let text = format!("the message has {size} octets, and {host} takes {most} at most");
            return progress.decide_rest(&failed(Enhanced(5, 3, 4), text));
        }
        let utf8 = transaction.parameters.smtputf8;
        let sender_fits = utf8 || transaction.reverse_path.address().is_none_or(|address| address.is_ascii());
        if (utf8 && !self.offers.smtputf8) || !sender_fits {
            let text = format!("the message needs SMTPUTF8, which {host} does not offer");
            return progress.decide_rest(&failed(Enhanced(5, 6, 7), text));
        }
        for (at, recipient) in transaction.recipients.iter().enumerate() {
            if !utf8 && !recipient.address.is_ascii() {
                let text = "the address needs SMTPUTF8, and the message is sent without it".to_owned();
                progress.decide(at, failed(Enhanced(5, 6, 7), text));
            }
        }
        let outcomes = &progress.outcomes;
        progress.waiting.retain(|&at| outcomes[at].is_none());
    }

    /// One transaction, for as many as one may have.
    fn transact(
        &mut self,
        transaction: &Transaction<'_>,
        content: &mut dyn Content,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        if !self.in_step {
            let text = format!("the session with {} was over already", self.wire.host());
            let outcome = Outcome::Deferred(Cause::local(Enhanced(4, 4, 2), text));
            return Err(Refusal { stage: Stage::Mail, outcome }.into());
        }
        let size = content.size();
        let mut reader = match content.reader() {
            Ok(reader) => reader,
            // Nothing was said yet: the session is as good as before.
            Err(error) => {
                progress.decide_rest(&unreadable(&error));
                return Ok(());
            }
        };
        let batch = progress.next_batch();
        let reset = self.unfinished.then(envelope::reset);
        let commands = reset.into_iter().chain(envelope::commands(transaction, &batch, size, &self.offers));
        self.transactions += 1;
        self.unfinished = true;
        let (commands, offers) = (commands.collect::<Vec<_>>(), &self.offers);
        let envelope = self.wire.within(limits::RELAY_ENVELOPE, 0, |wire| say(wire, offers, &commands, progress))?;
        if envelope.accepted.is_empty() {
            return if envelope.go_ahead { self.send_nothing() } else { Ok(()) };
        }
        let chunking = self.offers.chunking;
        self.wire.within(limits::RELAY_MESSAGE, size, |wire| message::send(wire, &mut *reader, size, chunking))?;
        drop(reader);
        self.end(&envelope.accepted, content, progress)
    }

    /// RFC 2920 §3.1: a hop that wants a message nobody gets is sent an empty one.
    fn send_nothing(&mut self) -> Result<(), Stop> {
        let answer = self.wire.ask(Stage::Data, ".\r\n")?;
        self.wire.judge(Stage::Data, &answer, 2)?;
        Ok(())
    }

    /// From here on the hop may have the message: whatever happens is an outcome.
    fn end(&mut self, accepted: &[usize], content: &mut dyn Content, progress: &mut Progress) -> Result<(), Stop> {
        let answer = self.wire.reply(Stage::End);
        if accepted.len() == progress.outcomes.len() && answer.as_ref().is_ok_and(|answer| answer.class() == 2) {
            content.taken();
        }
        let said = answer.and_then(|answer| self.wire.judge(Stage::End, &answer, 2));
        let outcome = match &said {
            Ok(Said::Yes(cause)) => Outcome::Delivered(cause.clone()),
            Ok(Said::No(outcome)) => outcome.clone(),
            Err(refusal) => refusal.outcome.clone(),
        };
        accepted.iter().for_each(|&at| progress.decide(at, outcome.clone()));
        self.unfinished = !matches!(said?, Said::Yes(_));
        Ok(())
    }
}

/// Says the envelope.
fn say(wire: &mut Wire, offers: &Offers, commands: &[Command], progress: &mut Progress) -> Result<Envelope, Refusal> {
    let mut envelope = Envelope::default();
    let mut rest = commands;
    while rest.first().is_some_and(|next| !envelope.is_over(next)) {
        let (window, later) = rest.split_at(envelope::window(rest, offers));
        let octets: String = window.iter().map(|command| command.line.as_str()).collect();
        wire.send(window[0].stage(), octets.as_bytes())?;
        for command in window {
            let answer = wire.reply(command.stage())?;
            envelope.hear(command, &answer, wire, progress)?;
        }
        rest = later;
    }
    envelope.close(progress);
    Ok(envelope)
}

fn unreadable(error: &io::Error) -> Outcome {
    Outcome::Deferred(Cause::local(Enhanced(4, 3, 0), format!("the message could not be read on this host: {error}")))
}
