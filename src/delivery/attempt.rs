//! One attempt: the effects that a plan asks for, and the outcome of each target written down.
//!
//! An error is never the end of a message: it defers the target whose turn it was. Log lines are written once the
//! outcome is known, each with the target it is about.

use std::io::{self, Write};

use super::patience;
use super::plan::{Plan, plan};
use crate::io::clock::Now;
use crate::io::durable;
use crate::mail::address::Address;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;
use crate::maildir::{Maildir, Name};
use crate::maillog;
use crate::route::Site;
use crate::spool::state::{State, Status, Target, Via};
use crate::spool::{Claim, Renamed};

/// Tries one entry once.
pub fn attempt(mut claim: Claim<'_>, site: &Site) {
    let plan = plan(&claim.entry.envelope, claim.entry.laid_out_for.as_ref(), claim.state.as_ref(), site);
    match plan {
        Plan::Rename(address) => by_rename(claim, &address, site),
        Plan::Targets { state, record } => {
            if record {
                maillog::expanded(claim.id, claim.entry.envelope.recipients.len(), state.targets.len());
                if let Err(error) = claim.record(&state) {
                    // Dropped, the claim goes back as it was.
                    return maillog::spool_error(Some(claim.id), error);
                }
            }
            by_targets(claim, state, site);
        }
    }
}

fn by_rename(mut claim: Claim<'_>, address: &Address, site: &Site) {
    let Some(maildir) = Maildir::of(&site.config.mailboxes, address) else {
        return by_targets_of(claim, address, site);
    };
    let (id, waited) = (claim.id, claim.waited());
    match claim.rename_into(&maildir, site.config.hostname.as_str()) {
        Ok(Renamed::Done) => maillog::delivered(id, address, "rename", waited),
        Ok(Renamed::Impossible) => by_targets_of(claim, address, site),
        Err(error) => {
            let mut state = single(&claim, address);
            apply(&mut claim, &mut state, 0, Outcome::Deferred(broken(&error)));
            settle(claim, state, site);
        }
    }
}

fn by_targets_of(claim: Claim<'_>, address: &Address, site: &Site) {
    let state = single(&claim, address);
    by_targets(claim, state, site);
}

/// The state of an entry whose only target is this mailbox.
fn single(claim: &Claim<'_>, address: &Address) -> State {
    let envelope = &claim.entry.envelope;
    let recipient = envelope.recipients.first().map_or(address, |recipient| &recipient.address);
    let target = Target::new(address.clone(), Via::Mailbox, recipient.clone(), envelope.reverse_path.clone());
    State { targets: vec![target], ..claim.state.clone().unwrap_or_default() }
}

fn by_targets(mut claim: Claim<'_>, mut state: State, site: &Site) {
    // What failed while it was resolved has no attempt to log it.
    for target in state.targets.iter().filter(|target| target.status == Status::Failed && target.when.is_none()) {
        maillog::failed(claim.id, &target.address, None, target.reply.as_deref().unwrap_or_default());
    }
    for at in 0..state.targets.len() {
        if state.targets[at].status == Status::Pending {
            match try_target(&mut claim, &state.targets[at], at + 1, site) {
                Some(outcome) => apply(&mut claim, &mut state, at, outcome),
                None => state.targets[at].when = Some(Now::read().wall),
            }
        }
    }
    settle(claim, state, site);
}

/// `None` for what could not be resolved: there is nothing to try, and its reply says why.
fn try_target(claim: &mut Claim<'_>, target: &Target, number: usize, site: &Site) -> Option<Outcome> {
    match target.via {
        Via::Mailbox => Some(to_mailbox(claim, target, number, site)),
        Via::NextHop => Some(Outcome::Deferred(Cause::local(
            Enhanced(4, 4, 0),
            "this version does not deliver to other hosts yet; the message stays queued",
        ))),
        Via::Alias => None,
    }
}

fn to_mailbox(claim: &mut Claim<'_>, target: &Target, number: usize, site: &Site) -> Outcome {
    let maildir = Maildir::of(&site.config.mailboxes, &target.address).filter(|_| site.has_mailbox(&target.address));
    let Some(maildir) = maildir else {
        return Outcome::Failed(Cause::local(Enhanced(5, 1, 1), "the mailbox is not here any more"));
    };
    match copy(claim, &maildir, target, number, site) {
        Ok(()) => Outcome::Delivered(Cause::local(Enhanced(2, 0, 0), "in the mailbox")),
        Err(error) => Outcome::Deferred(broken(&error)),
    }
}

fn copy(claim: &mut Claim<'_>, maildir: &Maildir, target: &Target, number: usize, site: &Site) -> io::Result<()> {
    let name = Name { id: claim.id, target: number, hostname: site.config.hostname.as_str() };
    // Only a crash between the copy and its outcome can have left one.
    if claim.found_at_start && maildir.has(name)? {
        return Ok(());
    }
    maildir.copy(name, |file| {
        let top = format!("Return-Path: {}\r\nDelivered-To: {}\r\n", target.reverse_path, target.address);
        file.write_all(top.as_bytes())?;
        Ok(top.len() as u64 + claim.entry.copy_body(file)?)
    })
}

fn broken(error: &io::Error) -> Cause {
    let code = if durable::is_no_space(error) { Enhanced(4, 3, 1) } else { Enhanced(4, 3, 0) };
    Cause::local(code, error.to_string())
}

/// Notes the outcome of one target.
fn apply(claim: &mut Claim<'_>, state: &mut State, at: usize, outcome: Outcome) {
    let waited = claim.waited();
    let target = &mut state.targets[at];
    let cause = match outcome {
        Outcome::Delivered(cause) => {
            target.status = Status::Delivered;
            maillog::delivered(claim.id, &target.address, cause.host.as_deref().unwrap_or("copy"), waited);
            cause
        }
        Outcome::Deferred(cause) => cause,
        Outcome::Failed(cause) => {
            target.status = Status::Failed;
            maillog::failed(claim.id, &target.address, cause.host.as_deref(), &cause.to_string());
            cause
        }
    };
    target.reply = Some(cause.to_string());
    target.host = cause.host;
    target.when = Some(Now::read().wall);
}

/// Ends the attempt: what is pending waits, or is given up.
fn settle(claim: Claim<'_>, mut state: State, site: &Site) {
    state.attempts = state.attempts.saturating_add(1);
    let settings = &site.config.delivery;
    let retry = patience::next_wait(claim.waited(), settings, patience::chance());
    let give_up = patience::is_over(claim.waited(), settings);
    for target in state.targets.iter_mut().filter(|target| target.status == Status::Pending) {
        let why = target.reply.clone().unwrap_or_default();
        if give_up {
            target.status = Status::Failed;
            let why = format!("given up; the last reply was: {why}");
            let why = Cause::local(Enhanced(5, 4, 7), why).to_string();
            maillog::failed(claim.id, &target.address, target.host.as_deref(), &why);
            target.reply = Some(why);
        } else {
            maillog::deferred(claim.id, &target.address, target.host.as_deref(), &why, retry);
        }
    }
    claim.settle(state, retry);
}
