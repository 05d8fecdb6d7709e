//! Mail for one next hop: finding its servers, speaking with one after the other, and an outcome for each target.
//!
//! Promises: a target that a server said yes to is never offered to another; one that was not decided goes to the next
//! server in the same attempt; sessions are used again. No thread waits for room at a hop. Which outcome is logged and
//! written down is the attempt's business.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::content::{Asked, Outgoing};
use super::hops::{Admission, Hops, Ticket, Verdict};
use crate::dns::Resolver;
use crate::io::clock::Now;
use crate::limits;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::parameter::{MailParameters, Notify, RcptParameters};
use crate::mail::reply::Enhanced;
use crate::maillog;
use crate::relay::exchangers::{self, Own, Server};
use crate::relay::{Patience, Peer, Pool, Refusal, Session, Transaction};
use crate::route::{Site, Why};
use crate::spool::state::Target;
use crate::spool::{Claim, Spool};

/// What all threads that speak with other hosts share.
#[derive(Debug)]
pub struct Remote {
    /// What is known of each next hop.
    pub hops: Hops,
    /// Sessions that wait for another message.
    pub pool: Pool,
    /// Finds the servers.
    pub resolver: Arc<Resolver>,
}

/// The targets of one message that go to one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they go.
    pub hop: NextHop,
    /// What chose it.
    pub why: Why,
    /// Their places in the state.
    pub targets: Vec<usize>,
}

/// What came of a group.
#[derive(Debug)]
pub enum Turn {
    /// An outcome for each target of the group, in its order, and whether the hop reports on what it took (RFC 3461).
    Tried(Vec<(Outcome, bool)>),
    /// The hop has no room; the entry will be woken.
    Full,
    /// The hop is down, and is left alone for this long.
    Down(Cause, Duration),
}

impl Remote {
    /// Tries the targets of one group once.
    pub fn deliver(&self, claim: &mut Claim<'_>, group: &Group, targets: &[Target], site: &Site) -> Turn {
        let settings = &site.config.delivery;
        let ticket = match self.hops.enter(&group.hop, claim.id, (claim.asked, settings)) {
            Admission::Granted(ticket) => ticket,
            Admission::Full => return Turn::Full,
            Admission::Down(cause, wait) => return Turn::Down(cause, wait),
        };
        let envelope = claim.entry.envelope.clone();
        let mut dialogue = Dialogue {
            remote: self,
            group,
            site,
            parts: parts(group, targets, &envelope, site),
            outcomes: vec![None; group.targets.len()],
            refusals: Vec::new(),
            worked: false,
        };
        dialogue.run(claim);
        let (outcomes, verdict) = dialogue.end();
        self.give_back(ticket, verdict, claim, site);
        Turn::Tried(outcomes)
    }

    fn give_back(&self, ticket: Ticket<'_>, verdict: Option<Verdict>, claim: &Claim<'_>, site: &Site) {
        for id in ticket.give_back(verdict, &site.config.delivery) {
            claim.spool().wake(id);
        }
    }

    /// What is due about once a second: sessions that nobody uses are ended, and a wake-up that was lost is made good.
    pub fn tend(&self, site: &Site, spool: &Spool) {
        self.pool.close_old();
        self.hops.wake(&site.config.delivery, |id| spool.wake(id));
    }
}

/// Targets that go out with one reverse-path: one message to the hop.
struct Part {
    reverse_path: ReversePath,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// Their places in the group.
    places: Vec<usize>,
}

/// One group being tried.
struct Dialogue<'d> {
    remote: &'d Remote,
    group: &'d Group,
    site: &'d Site,
    parts: Vec<Part>,
    outcomes: Vec<Option<(Outcome, bool)>>,
    /// Why servers did not take what is undecided.
    refusals: Vec<Refused>,
    /// Whether a server took part in a transaction to its end.
    worked: bool,
}

/// Why a server was of no use.
enum Refused {
    /// It, or what should lead to it, can't be spoken with.
    Unreachable(Outcome),
    /// It broke off in the middle.
    Broke(Outcome),
}

impl Dialogue<'_> {
    fn run(&mut self, claim: &mut Claim<'_>) {
        if let Some(session) = self.remote.pool.take(&self.group.hop) {
            // What it does not decide is tried with a new one: it may just have grown old.
            self.speak(session, claim);
            self.refusals.clear();
        }
        if self.is_decided() {
            return;
        }
        let config = &self.site.config;
        let own = Own { hostname: &config.hostname, listen: &config.listen.smtp, port: config.delivery.remote_port };
        let servers = match exchangers::servers(&self.group.hop, &*self.remote.resolver, &own) {
            Ok(servers) => servers,
            Err(outcome) => return self.refusals.push(Refused::Unreachable(outcome)),
        };
        let mut only_ipv4 = false;
        for server in servers {
            if self.is_decided() {
                return;
            }
            if only_ipv4 && server.address.is_ipv6() {
                continue;
            }
            self.try_server(&server, claim);
            only_ipv4 |= server.address.is_ipv6() && self.take_back_unnamed();
        }
    }

    fn try_server(&mut self, server: &Server, claim: &mut Claim<'_>) {
        let config = &self.site.config;
        let patience = Patience { connect: config.delivery.connect_timeout, reply: config.delivery.reply_timeout };
        let peer = Peer { address: server.address, name: &server.name, hello: config.hostname.as_str(), patience };
        match Session::open(&peer) {
            Ok(session) => self.speak(session, claim),
            Err(Refusal { outcome, .. }) => self.refusals.push(Refused::Unreachable(outcome)),
        }
    }

    /// Offers the session what is undecided, part by part.
    fn speak(&mut self, mut session: Session, claim: &mut Claim<'_>) {
        let parts = std::mem::take(&mut self.parts);
        for part in &parts {
            let open: Vec<usize> =
                (0..part.places.len()).filter(|at| self.outcomes[part.places[*at]].is_none()).collect();
            if open.is_empty() {
                continue;
            }
            let outcome = match self.send(&mut session, part, &open, claim) {
                Ok(None) => continue,
                Ok(Some(refusal)) => {
                    self.refusals.push(Refused::Broke(refusal.outcome));
                    break;
                }
                Err(Unsent::Unfit(outcome)) => outcome,
                Err(Unsent::Disk(error)) => {
                    maillog::spool_error(Some(claim.id), &error);
                    Outcome::Deferred(Cause::local(Enhanced(4, 3, 0), error.to_string()))
                }
            };
            for at in open {
                self.outcomes[part.places[at]] = Some((outcome.clone(), false));
            }
        }
        self.parts = parts;
        self.remote.pool.give(&self.group.hop, session);
    }

    fn send(
        &mut self,
        session: &mut Session,
        part: &Part,
        open: &[usize],
        claim: &mut Claim<'_>,
    ) -> Result<Option<Refusal>, Unsent> {
        let config = &self.site.config;
        let recipients: Vec<Recipient> = open.iter().map(|at| part.recipients[*at].clone()).collect();
        let mut outgoing = Outgoing::new(&mut claim.entry);
        if let (Why::Smarthost, Some(sender)) = (self.group.why, &config.relay.smarthost_sender) {
            outgoing.rewrite_sender(sender, config)?;
        }
        let asked = Asked { reverse_path: &part.reverse_path, recipients: &recipients, parameters: &part.parameters };
        let as_it_is = config.relay.eight_bit.iter().any(|hop| hop.host == self.group.hop.host);
        let parameters = outgoing.fit(&asked, session.offers(), as_it_is)?.map_err(Unsent::Unfit)?;
        let transaction =
            Transaction { reverse_path: &part.reverse_path, recipients: &recipients, parameters: &parameters };
        let sent = session.send(&transaction, &mut outgoing);
        let reports = session.offers().dsn;
        for (at, outcome) in open.iter().zip(sent.outcomes) {
            self.worked |= outcome.is_some();
            self.outcomes[part.places[*at]] = outcome.map(|outcome| (outcome, reports));
        }
        Ok(sent.broke)
    }

    fn is_decided(&self) -> bool {
        self.outcomes.iter().all(Option::is_some)
    }

    /// Opens again what was refused over IPv6 because this host has no name there: over IPv4 it may have one. Says whether
    /// there was any.
    fn take_back_unnamed(&mut self) -> bool {
        let is_unnamed = |outcome: &Outcome| match outcome {
            Outcome::Deferred(cause) | Outcome::Failed(cause) => is_about_our_name(cause),
            Outcome::Delivered(_) => false,
        };
        let mut found = false;
        for outcome in &mut self.outcomes {
            if let Some((refusal, _)) = outcome.take_if(|(outcome, _)| is_unnamed(outcome)) {
                self.refusals.push(Refused::Broke(refusal));
                found = true;
            }
        }
        found
    }

    /// The outcome of each target, and what the hop has shown of itself.
    fn end(self) -> (Vec<(Outcome, bool)>, Option<Verdict>) {
        let undecided = self.refusals.iter().rev().map(Refused::outcome);
        // If one server can't be had now and another does not want it, now is the wrong time to tell.
        let deferred = undecided.clone().find(|outcome| matches!(outcome, Outcome::Deferred(_)));
        let rest = deferred.or_else(|| undecided.clone().next()).cloned();
        let verdict = match (self.worked, self.refusals.last()) {
            (true, None) => Some(Verdict::Worked),
            (true, Some(_)) => Some(Verdict::Strained),
            (false, None) => None,
            (false, Some(_)) => match &rest {
                Some(Outcome::Deferred(cause)) => Some(Verdict::Unreachable(cause.clone())),
                // It speaks, and says no to everybody.
                _ => None,
            },
        };
        let rest = rest.unwrap_or_else(|| {
            Outcome::Deferred(Cause::local(Enhanced(4, 4, 0), "no server of the next hop decided anything"))
        });
        (self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| (rest.clone(), false))).collect(), verdict)
    }
}

impl Refused {
    fn outcome(&self) -> &Outcome {
        match self {
            Refused::Unreachable(outcome) | Refused::Broke(outcome) => outcome,
        }
    }
}

/// Why a message was not offered to a session.
enum Unsent {
    Unfit(Outcome),
    Disk(io::Error),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Unsent {
        Unsent::Disk(error)
    }
}

/// Large providers refuse clients whose IPv6 address leads to no name, each in its own words.
fn is_about_our_name(cause: &Cause) -> bool {
    let reply = &cause.reply;
    let text = reply.to_string().to_ascii_lowercase();
    // RFC 7372 §3.
    reply.enhanced().is_some_and(|code| (code.1, code.2) == (7, 25))
        || ["ptr record", "reverse dns", "reverse hostname", "reverse name", "rdns", "ipv6 sending guidelines"]
            .iter()
            .any(|words| text.contains(words))
}

/// The parts of a group: one for each reverse-path.
fn parts(group: &Group, targets: &[Target], envelope: &Envelope, site: &Site) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (place, at) in group.targets.iter().enumerate() {
        let target = &targets[*at];
        let is_own = target.reverse_path == envelope.reverse_path;
        let reverse_path = sender_for(group, target, site);
        let recipient =
            Recipient { address: target.address.clone(), parameters: rcpt_parameters(target, targets, envelope) };
        let fits = |part: &&mut Part| part.reverse_path == reverse_path;
        match parts.iter_mut().find(fits) {
            Some(part) => {
                part.recipients.push(recipient);
                part.places.push(place);
            }
            None => {
                let mut parameters = envelope.parameters.clone();
                if !is_own {
                    // RFC 3461 §5.2.7.3: what a list sends is its own message, and its owner asked for nothing.
                    (parameters.ret, parameters.envid) = (None, None);
                }
                parts.push(Part { reverse_path, parameters, recipients: vec![recipient], places: vec![place] });
            }
        }
    }
    parts
}

/// The reverse-path as the hop gets it. A smarthost may take one sender only; what an alias sends on has a sender of this
/// host, so that SPF holds there (RFC 7208 §D.1). The null reverse-path stays what it is.
fn sender_for(group: &Group, target: &Target, site: &Site) -> ReversePath {
    let ReversePath::Address(sender) = &target.reverse_path else { return ReversePath::Null };
    if let (Why::Smarthost, Some(own), true) = (group.why, &site.config.relay.smarthost_sender, site.is_local(sender)) {
        return ReversePath::Address(own.clone());
    }
    let is_sent_on = target.address != target.recipient && !site.is_local(sender);
    let day = Now::read().wall.as_secs() / limits::SECONDS_A_DAY;
    let rewritten =
        site.srs().filter(|_| is_sent_on).and_then(|srs| srs.forward(sender, site.config.first_domain(), day));
    ReversePath::Address(rewritten.unwrap_or_else(|| sender.clone()))
}

/// What RCPT says for a target (RFC 3461 §5.2.7).
fn rcpt_parameters(target: &Target, targets: &[Target], envelope: &Envelope) -> RcptParameters {
    let asked = envelope.recipients.iter().find(|recipient| recipient.address == target.recipient);
    let Some(asked) = asked.filter(|_| target.reverse_path == envelope.reverse_path) else {
        return RcptParameters::default();
    };
    let mut parameters = asked.parameters.clone();
    let is_expanded = targets.iter().filter(|other| other.recipient == target.recipient).count() > 1;
    if let Some(notify) = parameters.notify.filter(|notify| is_expanded && notify.success) {
        // That it was expanded is all that the sender hears of success.
        parameters.notify = Some(Notify { success: false, ..notify });
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::reply::Reply;

    #[test]
    fn refusals_for_want_of_a_name_are_known_by_code_or_words() {
        for (code, text, expected) in [
            (Some(Enhanced(5, 7, 25)), "no", true),
            (Some(Enhanced(5, 7, 1)), "The IP you're using lacks a PTR record", true),
            (None, "cannot find your reverse hostname, [2001:db8::1]", true),
            (Some(Enhanced(5, 7, 1)), "spam", false),
        ] {
            let cause = Cause { reply: Reply::new(550, code, text), host: None };
            assert_eq!(is_about_our_name(&cause), expected, "{text}");
        }
    }
}
