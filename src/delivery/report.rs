//! Telling senders what became of their mail: which report is due, and getting it into the queue exactly once.
//!
//! Promises: one report for all that happened to one message in one attempt; none about a message that is a report, whose
//! troubles the postmaster hears of once; none to who asked for none (RFC 3461 §4.1); none beyond what a [`Storm`]
//! allows; one about a message with REQUIRETLS has it too, and only the header of that message. The order is: the state
//! names the report → the report is committed → the message leaves or waits → the report is delivered. So a crash neither
//! doubles nor drops one. What can't be told stays untold in the state, and the message goes to `failed/`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use super::storm::Storm;
use crate::io::clock::{self, Now};
use crate::mail::address::{Address, ReversePath};
use crate::mail::dsn::{Action, Original, Reader, Report, Reported};
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

impl Due {
    /// Marks as told what is not worth a report of its own later. What failed stays untold: nobody may lose it.
    fn forgo(&self, state: &mut State) {
        for (at, action) in &self.items {
            match action {
                Action::Failed => {}
                Action::Delayed => state.targets[*at].told = Told::Late,
                _ => state.targets[*at].told = Told::End,
            }
        }
    }

    fn reader(&self, envelope: &Envelope) -> Reader {
        match envelope.reverse_path.address() {
            None => Reader::Postmaster,
            Some(sender) if *sender == self.to => Reader::Sender,
            Some(_) => Reader::Owner,
        }
    }
}

/// Whether someone may have to be told that the message was delivered.
pub fn may_tell_success(envelope: &Envelope) -> bool {
    envelope.recipients.iter().any(|recipient| recipient.parameters.wants_success())
}

/// Which reports are due after an attempt. What nobody wants to hear of is marked as told.
pub fn due(state: &mut State, envelope: &Envelope, late: bool, site: &Site) -> Vec<Due> {
    let mut due: Vec<Due> = Vec::new();
    let mut places: HashMap<Address, usize> = HashMap::new();
    let (of, mut wholes) = wholes(&state.targets, envelope);
    for (at, target) in state.targets.iter_mut().enumerate() {
        let whole = &mut wholes[of[at]];
        let Some(action) = action(target, (whole, envelope), late) else { continue };
        let to =
            match wants(target, (whole, envelope), action) && !whole.is_known(is_of_whole(target, envelope, action)) {
                true => addressee(target, envelope, action, site),
                false => Addressee::Nobody,
            };
        match to {
            Addressee::Nobody if action == Action::Delayed => target.told = Told::Late,
            Addressee::Nobody => target.told = Told::End,
            Addressee::Unknown => {}
            Addressee::Address(to) => {
                whole.is_told |= is_of_whole(target, envelope, action);
                let place = *places.entry(to.clone()).or_insert(due.len());
                match due.get_mut(place) {
                    Some(due) => due.items.push((at, action)),
                    None => due.push(Due { to, items: vec![(at, action)] }),
                }
            }
        }
    }
    due
}

/// A recipient of the envelope, with all the targets it stands for.
struct Whole {
    notify: Option<Notify>,
    targets: usize,
    /// Whether the sender knows, or is about to be told, that it was delivered as a whole.
    is_told: bool,
}

impl Whole {
    /// Success is told once of a recipient that stands for several.
    fn is_known(&self, of_whole: bool) -> bool {
        of_whole && self.is_told
    }
}

/// Each recipient once, and for each target which of them is its own.
fn wholes(targets: &[Target], envelope: &Envelope) -> (Vec<usize>, Vec<Whole>) {
    let asked = envelope.asked();
    let mut places: HashMap<&Address, usize> = HashMap::new();
    let mut wholes: Vec<Whole> = Vec::new();
    let mut of = Vec::new();
    for target in targets {
        let place = *places.entry(&target.recipient).or_insert_with(|| {
            let notify = asked.get(&target.recipient).and_then(|parameters| parameters.notify);
            wholes.push(Whole { notify, targets: 0, is_told: false });
            wholes.len() - 1
        });
        wholes[place].targets += 1;
        wholes[place].is_told |= target.status == Status::Delivered && target.told == Told::End;
        of.push(place);
    }
    (of, wholes)
}

/// Whether the action is one of the recipient as a whole, rather than of one target.
fn is_of_whole(target: &Target, envelope: &Envelope, action: Action) -> bool {
    action == Action::Expanded || (action == Action::Delivered && target.is_of_list(envelope))
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
    // What a list's members don't get is for its owner; that it got it is for who wrote to it.
    let is_success = !matches!(action, Action::Failed | Action::Delayed);
    let reverse_path = if is_success { &envelope.reverse_path } else { &target.reverse_path };
    match (reverse_path, action) {
        (ReversePath::Address(address), _) => Addressee::Address(address.clone()),
        (ReversePath::Null, Action::Failed) => {
            let postmaster = site.postmaster_mailbox();
            if target.recipient == postmaster { Addressee::Unknown } else { Addressee::Address(postmaster) }
        }
        (ReversePath::Null, _) => Addressee::Nobody,
    }
}

/// What there is to tell of a target, whether anyone wants to hear it or not.
fn action(target: &Target, (whole, envelope): (&Whole, &Envelope), late: bool) -> Option<Action> {
    match (target.status, target.told) {
        (_, Told::End) => None,
        (Status::Failed, _) => Some(Action::Failed),
        (Status::Pending, Told::Nothing) if late => Some(Action::Delayed),
        (Status::Pending, _) => None,
        (Status::Delivered, _) => Some(match target.via {
            // RFC 3461 §5.2.7.3: with a list, mail has come where it was sent; what the list sends is its own.
            _ if target.is_of_list(envelope) => Action::Delivered,
            _ if whole.targets > 1 => Action::Expanded,
            Via::Mailbox => Action::Delivered,
            _ => Action::Relayed,
        }),
    }
}

fn wants(target: &Target, (whole, envelope): (&Whole, &Envelope), action: Action) -> bool {
    let is_list = target.is_of_list(envelope);
    match (action, whole.notify) {
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
        if !storm.allows(&due.to, Now::read().boot, site) {
            maillog::report_capped(claim.id, &due.to, site.config.limits.reports);
            due.forgo(state);
            continue;
        }
        match claim.spool().new_id() {
            Ok(id) => {
                due.items.iter().for_each(|(at, _)| state.targets[*at].told = Told::By(id));
                named.push((id, due));
            }
            Err(error) => {
                storm.take_back(&due.to, site);
                queued.note(claim, Err(error));
            }
        }
    }
    if named.is_empty() {
        return queued;
    }
    if let Err(error) = claim.record(state) {
        queued.note(claim, Err(error));
        for (id, due) in named {
            state.confirm(id, false);
            storm.take_back(&due.to, site);
        }
        return queued;
    }
    for (id, due) in named {
        let committed = commit(claim, state, (id, &due), site);
        state.confirm(id, committed.is_ok());
        match committed {
            Ok(()) => maillog::reported(claim.id, id, &due.to, &actions(&due)),
            Err(_) => storm.take_back(&due.to, site),
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
    let asked = claim.entry.envelope.asked();
    let require_tls = claim.entry.envelope.parameters.require_tls;
    let report = Report {
        hostname: &site.config.hostname,
        id,
        chance: getrandom::u64().map_err(io::Error::other)?,
        about: claim.id,
        from: &site.postmaster_mailbox(),
        to: &due.to,
        reader: due.reader(&claim.entry.envelope),
        date: &times.now,
        arrival: &times.arrival,
        envid: claim.entry.envelope.parameters.envid.as_deref(),
        recipients: due
            .items
            .iter()
            .map(|(at, action)| {
                let target = &state.targets[*at];
                let original = asked.get(&target.recipient).and_then(|parameters| parameters.orcpt.as_ref());
                let is_whole = is_of_whole(target, &claim.entry.envelope, *action);
                Reported {
                    original,
                    ..reported(target, (*action, is_whole), times.attempts[*at].as_deref(), &times.retry_until)
                }
            })
            .collect(),
        // RFC 8689 §5: such a message never comes back whole, whatever RET says.
        ret: if require_tls { Some(Ret::Headers) } else { claim.entry.envelope.parameters.ret },
        original: Original { header: &header, size: claim.entry.body_size(), is_8bit },
    };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        parameters: MailParameters {
            body: Some(report.body()),
            smtputf8: report.needs_smtputf8(),
            require_tls,
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
            retry_until: clock::rfc5322(now.wall.saturating_add(left)),
            attempts: state.targets.iter().map(|target| target.when.map(clock::rfc5322)).collect(),
        }
    }
}

/// All but what the sender gave as ORCPT. `is_whole`: told is what became of the recipient, and not of this target.
fn reported<'a>(
    target: &'a Target,
    (action, is_whole): (Action, bool),
    last_attempt: Option<&'a str>,
    retry_until: &'a str,
) -> Reported<'a> {
    Reported {
        recipient: if is_whole { &target.recipient } else { &target.address },
        original: None,
        asked_for: &target.recipient,
        action,
        // What a host said of one of those behind it is no business of the sender's.
        reply: if is_whole { Some("250 2.0.0 sent on to all it stands for") } else { target.reply.as_deref() },
        gave_up: target.gave_up && action == Action::Failed,
        host: target.host.as_deref().filter(|_| !is_whole),
        last_attempt,
        retry_until: (action == Action::Delayed).then_some(retry_until),
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

#[cfg(test)]
mod tests;
