//! One attempt: the effects that a plan asks for, and the outcome of each target written down.
//!
//! An error is never the end of a message: it defers the target whose turn it was. Log lines are written once the
//! outcome is known, each with the target it is about. Mail for mailboxes here is delivered first; then each next hop
//! has its turn, and one without room breaks the round off until it has.

use std::collections::VecDeque;
use std::time::Duration;

use super::group::{self, Group};
use super::plan::{Plan, plan};
use super::remote::Turn;
use super::{Deliverer, local, patience, report};
use crate::io::clock::Now;
use crate::mail::address::Address;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;
use crate::maildir::Maildir;
use crate::maillog;
use crate::relay;
use crate::route::Site;
use crate::spool::state::{State, Status, Target, Told, Via};
use crate::spool::{Claim, Renamed, Settlement};

/// Tries one entry once.
pub fn attempt(mut claim: Claim<'_>, site: &Site, deliverer: &Deliverer) {
    let plan = plan(&claim.entry.envelope, claim.entry.laid_out_for.as_ref(), claim.state.as_ref(), site);
    match plan {
        Plan::Rename(address) => by_rename(claim, &address, site, deliverer),
        Plan::Targets { state, record } => {
            if record {
                maillog::expanded(claim.id, claim.entry.envelope.recipients.len(), state.targets.len());
                if let Err(error) = claim.record(&state) {
                    // Dropped, the claim goes back as it was.
                    return maillog::spool_error(Some(claim.id), error);
                }
            }
            Attempt::new(claim, state, site, deliverer).run();
        }
    }
}

fn by_rename(mut claim: Claim<'_>, address: &Address, site: &Site, deliverer: &Deliverer) {
    let renamed = match Maildir::of(&site.config.mailboxes, address) {
        Some(maildir) => claim.rename_into(&maildir, site.config.hostname.as_str()),
        None => Ok(Renamed::Impossible),
    };
    let (id, waited) = (claim.id, claim.waited());
    let failure = match renamed {
        Ok(Renamed::Done) => return maillog::delivered(id, address, ("rename", None), waited),
        Ok(Renamed::Gone) => return,
        Ok(Renamed::Impossible) => None,
        Err(error) => Some(Outcome::Deferred(local::broken(&error))),
    };
    let state = single(&claim, address);
    let mut attempt = Attempt::new(claim, state, site, deliverer);
    match failure {
        None => attempt.run(),
        Some(outcome) => {
            attempt.is_real = true;
            attempt.apply(0, outcome, None);
            attempt.settle();
        }
    }
}

/// The state of an entry whose only target is this mailbox.
fn single(claim: &Claim<'_>, address: &Address) -> State {
    let envelope = &claim.entry.envelope;
    let recipient = envelope.recipients.first().map_or(address, |recipient| &recipient.address);
    let target = Target::new(address.clone(), Via::Mailbox, recipient.clone(), envelope.reverse_path.clone());
    State { targets: vec![target], ..claim.state.clone().unwrap_or_default() }
}

/// An attempt under way.
struct Attempt<'a> {
    claim: Claim<'a>,
    state: State,
    site: &'a Site,
    deliverer: &'a Deliverer,
    /// The targets that had their turn in this round before.
    before: Vec<usize>,
    /// Those that have it now.
    tried: Vec<usize>,
    /// Whether a next hop had no room.
    is_full: bool,
    /// Whether someone got it of whom the state on the disk does not say so yet.
    is_news: bool,
    /// Whether anything but hops that are down, or turned out to be, was tried.
    is_real: bool,
    /// How long the first of those is left alone.
    down_for: Option<Duration>,
}

impl<'a> Attempt<'a> {
    fn new(mut claim: Claim<'a>, state: State, site: &'a Site, deliverer: &'a Deliverer) -> Attempt<'a> {
        let before = std::mem::take(&mut claim.tried);
        let tried = Vec::new();
        Attempt {
            claim,
            state,
            site,
            deliverer,
            before,
            tried,
            is_full: false,
            is_news: false,
            is_real: false,
            down_for: None,
        }
    }

    fn run(mut self) {
        // What failed while it was resolved has no attempt to log it.
        let now = Now::read().wall;
        for target in self.state.targets.iter_mut().filter(|target| target.status == Status::Failed) {
            if target.when.is_none() {
                target.when = Some(now);
                maillog::failed(self.claim.id, &target.address, None, target.reply.as_deref().unwrap_or_default());
            }
        }
        for at in self.open(Via::Mailbox) {
            let outcome = local::to_mailbox(&mut self.claim, &self.state.targets[at], at + 1, self.site);
            self.is_real = true;
            self.apply(at, outcome, None);
        }
        for at in self.open(Via::Alias) {
            // There is nothing to try, and its reply says why.
            self.state.targets[at].when = Some(Now::read().wall);
            self.tried.push(at);
            self.is_real = true;
        }
        let mut groups: VecDeque<Group> = self.groups().into();
        while let Some(group) = groups.pop_front() {
            let goes_on = !self.claim.spool().is_stopping() && (!self.is_news || self.record());
            if !goes_on {
                // What is known is written down with the rest, or kept in memory until it can be.
                self.is_full = true;
                break;
            }
            if let Some(rest) = self.try_hop(&group) {
                groups.push_front(rest);
            }
        }
        self.settle();
    }

    /// The targets of one kind whose turn it is.
    fn open(&self, via: Via) -> Vec<usize> {
        let is_open = |(at, target): &(usize, &Target)| {
            target.via == via && target.status == Status::Pending && !self.before.contains(at)
        };
        self.state.targets.iter().enumerate().filter(is_open).map(|(at, _)| at).collect()
    }

    /// The targets at other hosts, as they go out together.
    fn groups(&self) -> Vec<Group> {
        let day = Now::read().day();
        group::groups(&self.open(Via::NextHop), &self.state.targets, &self.claim.entry.envelope, (self.site, day))
    }

    /// Writes down what was found so far, before more is tried: the next transaction may take minutes, and a crash in it
    /// must not send to anyone again. Says whether it could.
    fn record(&mut self) -> bool {
        let recorded = self.claim.record(&self.state);
        self.is_news &= recorded.is_err();
        recorded.inspect_err(|error| maillog::spool_error(Some(self.claim.id), error)).is_ok()
    }

    /// Tries a group, and returns the part of it that goes on once what was found is on the disk.
    fn try_hop(&mut self, group: &Group) -> Option<Group> {
        let ends =
            group.targets.len() == self.state.targets.len() && !report::may_tell_success(&self.claim.entry.envelope);
        let outcomes = match self.deliverer.remote.deliver(&mut self.claim, (group, ends), self.site) {
            Turn::Full => {
                self.is_full = true;
                return None;
            }
            Turn::Down(cause, wait) => {
                self.note_down(wait);
                group.targets.iter().for_each(|at| self.apply(*at, Outcome::Deferred(cause.clone()), None));
                return None;
            }
            Turn::Tried(outcomes, down_for) => {
                match down_for {
                    Some(wait) => self.note_down(wait),
                    None => self.is_real = true,
                }
                outcomes
            }
        };
        let mut undecided = Vec::new();
        for (place, (at, answer)) in group.targets.iter().zip(outcomes).enumerate() {
            let Some(answer) = answer else {
                undecided.push(place);
                continue;
            };
            self.apply(*at, answer.outcome, answer.tls.as_deref());
            let target = &mut self.state.targets[*at];
            if answer.reports && target.status == Status::Delivered {
                // The sender's wish went with the message: the next host tells what becomes of it.
                target.told = Told::End;
            }
        }
        group.part(&undecided)
    }

    fn note_down(&mut self, wait: Duration) {
        self.down_for = Some(self.down_for.map_or(wait, |first| first.min(wait)));
    }

    /// Notes the outcome of one target, and what protected it.
    fn apply(&mut self, at: usize, outcome: Outcome, tls: Option<&str>) {
        self.tried.push(at);
        let (id, waited) = (self.claim.id, self.claim.waited());
        let target = &mut self.state.targets[at];
        if target.told == Told::End {
            // A person had it tried again, and what was told is not its end any more.
            target.told = Told::Nothing;
        }
        let cause = match outcome {
            Outcome::Delivered(cause) => {
                target.status = Status::Delivered;
                self.is_news = true;
                maillog::delivered(id, &target.address, (cause.host.as_deref().unwrap_or("copy"), tls), waited);
                cause
            }
            Outcome::Deferred(cause) => cause,
            Outcome::Failed(cause) => {
                target.status = Status::Failed;
                maillog::failed(id, &target.address, cause.host.as_deref(), &cause.to_string());
                cause
            }
        };
        target.gave_up = false;
        target.reply = Some(cause.to_string());
        target.host = cause.host;
        target.when = Some(Now::read().wall);
    }

    /// Ends the attempt: what is pending waits, or is given up; who has to be told is told.
    fn settle(mut self) {
        if self.is_full && self.tried.is_empty() {
            self.claim.tried = self.before;
            return self.claim.park(patience::parked(patience::chance()));
        }
        self.state.attempts = self.state.attempts.saturating_add(1);
        let (settings, waited) = (&self.site.config.delivery, self.claim.waited());
        let retry = patience::next_wait(waited, settings, patience::chance());
        let retry = match self.down_for {
            // While the hop is left alone, there is nothing to try.
            Some(wait) if !self.is_real => retry.max(wait + patience::spread(wait, patience::chance())),
            _ => retry,
        };
        let give_up = patience::is_over(waited, settings);
        for at in self.tried.clone() {
            self.end_turn(at, give_up, retry);
        }
        let late = patience::is_late(waited, settings);
        let due = report::due(&mut self.state, &self.claim.entry.envelope, late, self.site);
        let told = report::queue(&mut self.claim, &mut self.state, due, (self.site, &self.deliverer.storm));
        self.claim.settle(Settlement {
            state: self.state,
            retry,
            broken_off: self.is_full.then(|| [self.before, self.tried].concat()),
            reports: told.committed,
            report_missing: told.is_missing,
        });
    }

    fn end_turn(&mut self, at: usize, give_up: bool, retry: Duration) {
        let target = &mut self.state.targets[at];
        if target.status != Status::Pending {
            return;
        }
        let why = target.reply.clone().unwrap_or_default();
        if give_up {
            target.status = Status::Failed;
            let unprotected = relay::never_protected(&why).filter(|_| target.host.is_none());
            target.gave_up = unprotected.is_none();
            let why = match unprotected {
                Some(cause) => target.reply.insert(cause.to_string()).clone(),
                None => Cause::local(Enhanced(5, 4, 7), format!("given up; the last reply was: {why}")).to_string(),
            };
            maillog::failed(self.claim.id, &target.address, target.host.as_deref(), &why);
        } else {
            maillog::deferred(self.claim.id, &target.address, target.host.as_deref(), &why, retry);
        }
    }
}
