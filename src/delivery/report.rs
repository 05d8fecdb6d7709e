//! Telling senders what became of their mail: which report is due, and getting it into the queue exactly once.
//!
//! Promises: one report for all that happened to one message in one attempt; none about a message that is a report, whose
//! troubles the postmaster hears of once; none to who asked for none (RFC 3461 §4.1); no sender gets more than
//! `limits.reports` in an hour. The order is: the state names the report → the report is committed → the message leaves
//! or waits → the report is delivered. So a crash neither doubles nor drops one. What can't be told stays untold in the
//! state, and the message goes to `failed/`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::io::clock::{self, Now};
use crate::limits;
use crate::mail::address::{Address, ReversePath};
use crate::mail::dsn::{Action, Original, Report, Reported};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::parameter::{MailParameters, Notify, RcptParameters, Ret};
use crate::mail::queue_id::QueueId;
use crate::maillog::{self, Origin};
use crate::route::Site;
use crate::spool::Claim;
use crate::spool::state::{State, Status, Target, Told, Via};

/// A report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Who is told.
    pub to: Address,
    /// What about which targets, by their places in the state.
    pub items: Vec<(usize, Action)>,
}

/// How many reports each sender got of late.
#[derive(Debug, Default)]
pub struct Storm {
    told: Mutex<HashMap<Address, (Duration, usize)>>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Storm {
    /// Counts one more report to `to`. Says whether there may be one.
    fn allows(&self, to: &Address, most: usize, now: Duration) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= limits::REPORTS_KNOWN {
            told.retain(|_, (since, _)| now.saturating_sub(*since) < HOUR);
        }
        let (since, count) = told.entry(to.clone()).or_insert((now, 0));
        if now.saturating_sub(*since) >= HOUR {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= most
    }
}

/// Which reports are due after an attempt. What nobody wants to hear of is marked as told.
pub fn due(state: &mut State, envelope: &Envelope, late: bool, site: &Site) -> Vec<Due> {
    let mut due: Vec<Due> = Vec::new();
    for at in 0..state.targets.len() {
        let Some(action) = action(&state.targets, at, envelope, late) else { continue };
        let target = &state.targets[at];
        let to = match wants(target, envelope, action) && !is_expanded_already(&state.targets, at, action, &due) {
            true => addressee(target, envelope, action, site),
            false => Addressee::Nobody,
        };
        match to {
            Addressee::Nobody if action == Action::Delayed => state.targets[at].told = Told::Late,
            Addressee::Nobody => state.targets[at].told = Told::End,
            Addressee::Unknown => {}
            Addressee::Address(to) => match due.iter_mut().find(|due| due.to == to) {
                Some(due) => due.items.push((at, action)),
                None => due.push(Due { to, items: vec![(at, action)] }),
            },
        }
    }
    due
}

/// Who is to be told.
enum Addressee {
    Address(Address),
    /// No one, and that is right.
    Nobody,
    /// Someone should be, and there is nobody.
    Unknown,
}

fn addressee(target: &Target, envelope: &Envelope, action: Action, site: &Site) -> Addressee {
    // That a list was expanded is told to who wrote to it, not to its owner.
    let reverse_path = if action == Action::Expanded { &envelope.reverse_path } else { &target.reverse_path };
    match (reverse_path, action) {
        (ReversePath::Address(address), _) => Addressee::Address(address.clone()),
        (ReversePath::Null, Action::Failed) => {
            let postmaster = site.postmaster_mailbox();
            if target.recipient == postmaster { Addressee::Unknown } else { Addressee::Address(postmaster) }
        }
        (ReversePath::Null, _) => Addressee::Nobody,
    }
}

/// Whether the sender knows, or is about to be told, that the recipient of this target stands for several.
fn is_expanded_already(targets: &[Target], at: usize, action: Action, due: &[Due]) -> bool {
    let is_sibling = |other: usize| other != at && targets[other].recipient == targets[at].recipient;
    let is_known = |other: &usize| targets[*other].status == Status::Delivered && targets[*other].told == Told::End;
    action == Action::Expanded
        && ((0..targets.len()).filter(|other| is_sibling(*other)).any(|other| is_known(&other))
            || due.iter().flat_map(|due| &due.items).any(|(other, found)| is_sibling(*other) && *found == action))
}

/// What there is to tell of a target, whether anyone wants to hear it or not.
fn action(targets: &[Target], at: usize, envelope: &Envelope, late: bool) -> Option<Action> {
    let target = &targets[at];
    match (target.status, target.told) {
        (_, Told::End) => None,
        (Status::Failed, _) => Some(Action::Failed),
        (Status::Pending, Told::Nothing) if late => Some(Action::Delayed),
        (Status::Pending, _) => None,
        (Status::Delivered, _) => {
            let siblings = || targets.iter().filter(|other| other.recipient == target.recipient);
            let is_list = target.reverse_path != envelope.reverse_path;
            Some(match target.via {
                _ if is_list || siblings().count() > 1 => Action::Expanded,
                Via::Mailbox => Action::Delivered,
                _ => Action::Relayed,
            })
        }
    }
}

fn wants(target: &Target, envelope: &Envelope, action: Action) -> bool {
    let asked = envelope.recipients.iter().find(|recipient| recipient.address == target.recipient);
    let is_list = target.reverse_path != envelope.reverse_path;
    let notify = asked.and_then(|recipient| recipient.parameters.notify);
    match (action, notify) {
        // A list's owner hears of what fails, whatever the sender asked for.
        (Action::Failed, _) if is_list => true,
        (Action::Delayed, _) if is_list => false,
        (Action::Failed | Action::Delayed, None) => true,
        (Action::Failed, Some(Notify { failure, .. })) => failure,
        (Action::Delayed, Some(Notify { delay, .. })) => delay,
        (_, notify) => notify.is_some_and(|notify| notify.success),
    }
}

/// The reports of one attempt.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Those that were committed: not to be scheduled before the outcome is on the disk.
    pub committed: Vec<QueueId>,
    /// Whether one could not be, and is to be made at the next attempt.
    pub is_missing: bool,
}

/// Queues the reports that are due: the state is written first, and names them. An error leaves untold what it was about.
pub fn queue(claim: &mut Claim<'_>, state: &mut State, due: Vec<Due>, (site, storm): (&Site, &Storm)) -> Queued {
    let mut queued = Queued::default();
    let mut named = Vec::new();
    for due in due {
        if !storm.allows(&due.to, site.config.limits.reports, Now::read().boot) {
            maillog::report_capped(claim.id, &due.to, site.config.limits.reports);
            continue;
        }
        match claim.spool().new_id() {
            Ok(id) => {
                due.items.iter().for_each(|(at, _)| state.targets[*at].told = Told::By(id));
                named.push((id, due));
            }
            Err(error) => queued.note(claim, Err(error)),
        }
    }
    if named.is_empty() {
        return queued;
    }
    if let Err(error) = claim.record(state) {
        queued.note(claim, Err(error));
        named.iter().for_each(|(id, _)| state.confirm(*id, false));
        return queued;
    }
    for (id, due) in named {
        let committed = commit(claim, state, (id, &due), site);
        state.confirm(id, committed.is_ok());
        if committed.is_ok() {
            maillog::reported(claim.id, id, &due.to, &actions(&due));
        }
        queued.note(claim, committed.map(|()| id));
    }
    queued
}

impl Queued {
    fn note(&mut self, claim: &Claim<'_>, result: io::Result<QueueId>) {
        match result {
            Ok(id) => self.committed.push(id),
            Err(error) => {
                self.is_missing = true;
                maillog::spool_error(Some(claim.id), error);
            }
        }
    }
}

fn actions(due: &Due) -> String {
    let is_in = |action: &&Action| due.items.iter().any(|(_, found)| found == *action);
    Action::ALL.iter().filter(is_in).map(|action| action.name()).collect::<Vec<_>>().join(",")
}

fn commit(claim: &mut Claim<'_>, state: &State, (id, due): (QueueId, &Due), site: &Site) -> io::Result<()> {
    let now = Now::read();
    let header = claim.entry.header()?;
    let is_8bit = holds_8bit(claim)?;
    let times = Times::of(claim, state, now, site);
    let report = Report {
        hostname: &site.config.hostname,
        id,
        chance: getrandom::u64().map_err(io::Error::other)?,
        about: claim.id,
        from: &site.postmaster_mailbox(),
        to: &due.to,
        date: &times.now,
        arrival: &times.arrival,
        envid: claim.entry.envelope.parameters.envid.as_deref(),
        recipients: due
            .items
            .iter()
            .map(|(at, action)| reported(claim, &state.targets[*at], *action, (*at, &times)))
            .collect(),
        ret: claim.entry.envelope.parameters.ret,
        original: Original { header: &header, size: claim.entry.body_size(), is_8bit },
    };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        parameters: MailParameters {
            body: Some(report.body()),
            smtputf8: report.needs_smtputf8(),
            ..MailParameters::default()
        },
        recipients: vec![Recipient { address: due.to.clone(), parameters: RcptParameters::default() }],
    };
    let (head, tail, returned) = (report.head(), report.tail(), report.returned());
    let mailbox = site.single_mailbox(&envelope);
    let mut draft = claim.spool().begin_as(id, envelope, mailbox.as_ref())?;
    write!(
        draft,
        "Received: by {} (report on {})\r\n\tid {id};\r\n\t{}\r\n",
        site.config.hostname, claim.id, times.now
    )?;
    draft.write_all(&head)?;
    match returned {
        Ret::Full => _ = claim.entry.copy_body(&mut draft)?,
        Ret::Headers => draft.write_all(&header)?,
    }
    draft.write_all(&tail)?;
    let origin = Origin { client: format!("report/{}", claim.id), protocol: "report" };
    claim.spool().commit_unscheduled(draft, origin).map(|_| ())
}

/// The times that a report names, as RFC 5322 writes them.
struct Times {
    now: String,
    arrival: String,
    retry_until: String,
    attempts: Vec<Option<String>>,
}

impl Times {
    fn of(claim: &Claim<'_>, state: &State, now: Now, site: &Site) -> Times {
        let left = site.config.delivery.give_up.saturating_sub(claim.waited());
        Times {
            now: clock::rfc5322(now.wall),
            arrival: clock::rfc5322(Duration::from_secs(claim.id.seconds())),
            retry_until: clock::rfc5322(now.wall + left),
            attempts: state.targets.iter().map(|target| target.when.map(clock::rfc5322)).collect(),
        }
    }
}

fn reported<'a>(
    claim: &'a Claim<'_>,
    target: &'a Target,
    action: Action,
    (at, times): (usize, &'a Times),
) -> Reported<'a> {
    let asked = claim.entry.envelope.recipients.iter().find(|recipient| recipient.address == target.recipient);
    let is_expanded = action == Action::Expanded;
    Reported {
        recipient: if is_expanded { &target.recipient } else { &target.address },
        original: asked.and_then(|recipient| recipient.parameters.orcpt.as_ref()),
        asked_for: &target.recipient,
        action,
        // What a host said of one of those behind it is no business of the sender's.
        reply: if is_expanded { Some("250 2.0.0 sent on to all it stands for") } else { target.reply.as_deref() },
        host: target.host.as_deref().filter(|_| !is_expanded),
        last_attempt: times.attempts.get(at).and_then(Option::as_deref),
        retry_until: (action == Action::Delayed).then_some(times.retry_until.as_str()),
    }
}

fn holds_8bit(claim: &mut Claim<'_>) -> io::Result<bool> {
    let mut ascii = Ascii(true);
    claim.entry.copy_body(&mut ascii)?;
    Ok(!ascii.0)
}

/// Looks at what is written to it.
struct Ascii(bool);

impl Write for Ascii {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0 &= octets.is_ascii();
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
