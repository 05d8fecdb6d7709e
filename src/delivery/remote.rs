//! Mail for one next hop: finding its servers, speaking with one after the other, and an outcome for each target.
//!
//! Promises: a target that a server said yes to is never offered to another; one that was not decided goes to the next
//! server in the same attempt, and nothing final comes of it while there is one that was not tried; sessions are used
//! again, by the settings they were opened with. No thread waits for room at a hop. Which outcome is logged and written
//! down is the attempt's business.
//!
//! A message with REQUIRETLS is spoken of to a server alone that has proved an authentic name (RFC 8689 §4.2.1). What it
//! asks for is nobody else's trouble: that a hop can't give it does not make the hop one that is down. `TLS-Required: No`
//! (RFC 8689 §3) has nothing to override here: it is about what a recipient's domain asks for, and only our own
//! configuration asks for TLS, which is obeyed whatever a message says.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content::{Asked, Outgoing};
use super::group::Group;
use super::hops::{Admission, Hops, Verdict};
use super::refused::{Refused, is_about_our_name, rest, verdict};
use super::trust::{Terms, Trust};
use crate::config::HopSettings;
use crate::dns::Resolver;
use crate::limits;
use crate::mail::address::ReversePath;
use crate::mail::envelope::Recipient;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::parameter::MailParameters;
use crate::mail::reply::Enhanced;
use crate::maillog;
use crate::relay::exchangers::{self, Own, Server};
use crate::relay::{self, Patience, Peer, Pool, Protection, Refusal, Session, Stage, Transaction};
use crate::route::{Site, Why};
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
    /// What servers have to prove, and who logs in.
    pub trust: Trust,
}

/// What came of a group.
#[derive(Debug)]
pub enum Turn {
    /// An answer for each target of the group, in its order; and for how long the hop is left alone now if it turned out to
    /// be down. Without an answer are those that go on once what became of the others is on the disk.
    Tried(Vec<Option<Answer>>, Option<Duration>),
    /// The hop has no room; the entry will be woken.
    Full,
    /// The hop is down, and is left alone for this long.
    Down(Cause, Duration),
}

/// What came of one target.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The outcome.
    pub outcome: Outcome,
    /// Whether the hop reports on what it took (RFC 3461).
    pub reports: bool,
    /// What protected the session, for the log.
    pub tls: Option<String>,
}

impl Answer {
    /// One that no session has part in.
    fn of(outcome: Outcome) -> Answer {
        Answer { outcome, reports: false, tls: None }
    }
}

impl Remote {
    /// Tries the targets of one group once, or as far as something was delivered. `ends`: nothing is left to do once all of
    /// them have the message, which then leaves the queue at once.
    pub fn deliver(&self, claim: &mut Claim<'_>, (group, ends): (&Group, bool), site: &Site) -> Turn {
        let settings = &site.config.delivery;
        let ticket = match self.hops.enter(&group.hop, claim.id, (claim.asked, settings)) {
            Admission::Granted(ticket) => ticket,
            Admission::Full => return Turn::Full,
            Admission::Down(cause, wait) => return Turn::Down(cause, wait),
        };
        let mut dialogue = Dialogue::new(self, (group, ends), site);
        let begun = Instant::now();
        dialogue.run(claim);
        if let Some(cause) = dialogue.waives_require_tls() {
            maillog::require_tls_waived(claim.id, &group.hop, &cause);
            dialogue.go_without_require_tls();
            dialogue.run(claim);
        }
        let (outcomes, verdict) = dialogue.end();
        let verdict = match verdict {
            Some(Verdict::Worked) if begun.elapsed() > limits::SLOW_TURN => Some(Verdict::Strained),
            verdict => verdict,
        };
        let (wake, down_for) = ticket.give_back(verdict, settings);
        let is_lost = wake.into_iter().filter(|id| !claim.spool().wake(*id)).count() > 0;
        if is_lost {
            self.hops.wake(settings, |id| claim.spool().wake(id));
        }
        Turn::Tried(outcomes, down_for)
    }

    /// What is due about once a second: sessions that nobody uses are ended, and a wake-up that was lost is made good.
    pub fn tend(&self, site: &Site, spool: &Spool) {
        self.hops.wake(&site.config.delivery, |id| spool.wake(id));
        self.pool.close_old();
    }
}

/// One group being tried.
struct Dialogue<'d> {
    remote: &'d Remote,
    group: &'d Group,
    ends: bool,
    site: &'d Site,
    settings: HopSettings,
    /// What is asked of the hop for the message.
    parameters: MailParameters,
    outcomes: Vec<Option<Answer>>,
    /// Why servers did not take what is undecided.
    refusals: Vec<Refused>,
    /// Whether a server took part in a transaction to its end.
    worked: bool,
}

impl<'d> Dialogue<'d> {
    fn new(remote: &'d Remote, (group, ends): (&'d Group, bool), site: &'d Site) -> Dialogue<'d> {
        let settings = site.config.relay.settings_of(&group.hop);
        let parameters = group.parameters.clone();
        Dialogue {
            remote,
            group,
            ends,
            site,
            // By these it is never given a session that was opened with less.
            settings: if parameters.require_tls { settings.verified() } else { settings },
            parameters,
            outcomes: vec![None; group.targets.len()],
            refusals: Vec::new(),
            worked: false,
        }
    }

    /// Why the message goes on without REQUIRETLS, if so: it is a report, or another without a sender, and would be lost
    /// for want of a hop that gives it (RFC 8689 §5).
    fn waives_require_tls(&self) -> Option<Cause> {
        let may = self.parameters.require_tls && self.group.reverse_path == ReversePath::Null && !self.is_over();
        let unprotected = self.refusals.iter().rev().find(|refused| matches!(refused, Refused::Unprotected(_)));
        match unprotected.filter(|_| may)?.outcome() {
            Outcome::Delivered(cause) | Outcome::Deferred(cause) | Outcome::Failed(cause) => Some(cause.clone()),
        }
    }

    fn go_without_require_tls(&mut self) {
        self.parameters.require_tls = false;
        self.settings = self.site.config.relay.settings_of(&self.group.hop);
        self.refusals.clear();
    }

    fn run(&mut self, claim: &mut Claim<'_>) {
        if let Some(session) = self.remote.pool.take(&self.group.hop, &self.settings) {
            // What it does not decide is tried with a new one: it may just have grown old.
            self.speak(session, claim);
            self.refusals.clear();
        }
        if self.is_over() {
            return;
        }
        let config = &self.site.config;
        let own = Own::of(config);
        let found = match exchangers::servers(&self.group.hop, &*self.remote.resolver, &own) {
            Ok(found) => found,
            Err(outcome) => return self.refusals.push(Refused::Unreachable(outcome)),
        };
        let mut only_ipv4 = false;
        let begun = Instant::now();
        for server in found.servers {
            if only_ipv4 && server.address.is_ipv6() {
                continue;
            }
            if self.is_over() {
                return;
            }
            if claim.spool().is_stopping() {
                return self.refusals.retain(|refused| matches!(refused.outcome(), Outcome::Deferred(_)));
            }
            if begun.elapsed() > limits::HOP_TURN {
                return self.leave_untried(too_late(&server));
            }
            if self.try_server(&server, claim) == Next::Stop {
                return;
            }
            only_ipv4 |= server.address.is_ipv6() && self.take_back_unnamed();
        }
        found.hidden.into_iter().for_each(|hidden| self.leave_untried(hidden));
    }

    /// There is a server that was not come to, for this reason.
    fn leave_untried(&mut self, why: Outcome) {
        self.refusals.insert(0, Refused::Untried(why));
    }

    fn try_server(&mut self, server: &Server, claim: &mut Claim<'_>) -> Next {
        if self.parameters.require_tls && !server.is_authentic {
            self.refusals.push(Refused::Unprotected(relay::not_authentic(&server.name)));
            return Next::Server;
        }
        let config = &self.site.config;
        let patience = Patience { connect: config.delivery.connect_timeout, reply: config.delivery.reply_timeout };
        let peer = Peer {
            address: server.address,
            name: &server.name,
            is_authentic: server.is_authentic,
            hello: config.hostname.as_str(),
            patience,
        };
        match self.open(&peer) {
            Ok(session) => {
                if let Protection::Clear(Some(why)) = session.protection() {
                    maillog::in_clear(claim.id, server, why);
                }
                self.speak(session, claim);
                Next::Server
            }
            Err(Unopened { refused, next }) => {
                self.refusals.push(refused);
                next
            }
        }
    }

    /// A session as the settings want it. A token that was asked for earlier may have grown old, and gets a successor.
    fn open(&self, peer: &Peer<'_>) -> Result<Session, Unopened> {
        let trust = &self.remote.trust;
        let terms = || {
            let terms = trust.terms(&self.group.hop, &self.settings).map_err(|outcome| self.without_terms(outcome))?;
            Ok(Terms { security: terms.security.for_message(self.parameters.require_tls), ..terms })
        };
        let Terms { security, is_old } = terms()?;
        let mut opened = Session::open(peer, &security);
        if is_refused(&opened) {
            trust.forget(&self.settings);
            if is_old {
                opened = Session::open(peer, &terms()?.security);
            }
        }
        if is_refused(&opened) {
            trust.forget(&self.settings);
        }
        opened.map_err(|refusal| Unopened::by_server(refusal, self.parameters.require_tls))
    }

    /// Why nothing can be asked of any server. Where only the message wants a proof, and this host has nothing to know
    /// it by, that is the message's trouble.
    fn without_terms(&self, outcome: Outcome) -> Unopened {
        let (hop, trust) = (&self.group.hop, &self.remote.trust);
        let is_raised = self.parameters.require_tls
            && !trust.knows_proof(hop, &self.settings)
            && trust.knows_proof(hop, &self.site.config.relay.settings_of(hop));
        let refused = match is_raised {
            true => Refused::Unprotected(relay::asked_by_sender(outcome)),
            false => Refused::Unreachable(outcome),
        };
        Unopened { refused, next: Next::Stop }
    }

    /// Offers the session what is undecided.
    fn speak(&mut self, mut session: Session, claim: &mut Claim<'_>) {
        let open: Vec<usize> = (0..self.outcomes.len()).filter(|at| self.outcomes[*at].is_none()).collect();
        match self.send(&mut session, &open, claim) {
            Ok(None) => {}
            Ok(Some(refusal)) => self.refusals.push(Refused::Broke(refusal.outcome)),
            // Another server may take it.
            Err(Unsent::Unfit(outcome)) => self.refusals.push(Refused::Unwilling(outcome)),
            Err(Unsent::Unprotected(outcome)) => self.refusals.push(Refused::Unprotected(outcome)),
            Err(Unsent::Disk(error)) => {
                maillog::spool_error(Some(claim.id), &error);
                let outcome = Outcome::Deferred(Cause::local(Enhanced(4, 3, 0), error.to_string()));
                open.iter().for_each(|at| self.outcomes[*at] = Some(Answer::of(outcome.clone())));
            }
        }
        self.remote.pool.give(&self.group.hop, &self.settings, session);
    }

    fn send(
        &mut self,
        session: &mut Session,
        open: &[usize],
        claim: &mut Claim<'_>,
    ) -> Result<Option<Refusal>, Unsent> {
        if let Some(outcome) = self.parameters.require_tls.then(|| session.lacks_require_tls()).flatten() {
            return Err(Unsent::Unprotected(outcome));
        }
        let (config, group) = (&self.site.config, self.group);
        let recipients: Vec<Recipient> = open.iter().map(|at| group.recipients[*at].clone()).collect();
        let (entry, exit) = claim.entry_and_exit();
        let mut outgoing = Outgoing::new(entry);
        outgoing.exit = Some(exit).filter(|_| self.ends && open.len() == group.targets.len());
        if let (Why::Smarthost, Some(sender)) = (group.why, &config.relay.smarthost_sender) {
            outgoing.rewrite_sender(sender, config)?;
        }
        let asked = Asked { reverse_path: &group.reverse_path, recipients: &recipients, parameters: &self.parameters };
        let as_it_is = config.relay.eight_bit.contains(&group.hop);
        let parameters = outgoing.fit(&asked, session.offers(), as_it_is)?.map_err(Unsent::Unfit)?;
        let transaction =
            Transaction { reverse_path: &group.reverse_path, recipients: &recipients, parameters: &parameters };
        let sent = session.send(&transaction, &mut outgoing);
        let (reports, tls) = (session.offers().dsn, session.protection().to_string());
        for (at, outcome) in open.iter().zip(sent.outcomes) {
            self.worked |= outcome.is_some();
            self.outcomes[*at] = outcome.map(|outcome| Answer { outcome, reports, tls: Some(tls.clone()) });
        }
        Ok(sent.broke)
    }

    /// Whether all is decided; or someone has the message, which must be on the disk before it is sent again.
    fn is_over(&self) -> bool {
        let has_it = |answer: &Option<Answer>| {
            answer.as_ref().is_some_and(|answer| matches!(answer.outcome, Outcome::Delivered(_)))
        };
        self.outcomes.iter().all(Option::is_some) || self.outcomes.iter().any(has_it)
    }

    /// Opens again what was refused over IPv6 because this host has no name there: over IPv4 it may have one. Says whether
    /// there was any.
    fn take_back_unnamed(&mut self) -> bool {
        let is_unnamed = |outcome: &Outcome| match outcome {
            Outcome::Deferred(cause) | Outcome::Failed(cause) => cause.host.is_some() && is_about_our_name(cause),
            Outcome::Delivered(_) => false,
        };
        let mut found = false;
        for outcome in &mut self.outcomes {
            if let Some(refusal) = outcome.take_if(|answer| is_unnamed(&answer.outcome)) {
                self.refusals.push(Refused::Broke(refusal.outcome));
                found = true;
            }
        }
        found
    }

    /// The outcome of each target, and what the hop has shown of itself.
    fn end(self) -> (Vec<Option<Answer>>, Option<Verdict>) {
        let verdict = verdict(self.worked, &self.refusals);
        if self.is_over() || self.refusals.is_empty() {
            return (self.outcomes, verdict);
        }
        let rest = rest(&self.refusals);
        let decided = self.outcomes.into_iter().map(|answer| answer.or_else(|| rest.clone().map(Answer::of)));
        (decided.collect(), verdict)
    }
}

/// The turn is over, and `server` is the first that was not tried.
fn too_late(server: &Server) -> Outcome {
    let text = format!("the servers before {server} took too long, so that it was not tried");
    Outcome::Deferred(Cause::local(Enhanced(4, 4, 2), text))
}

fn is_refused(opened: &Result<Session, Refusal>) -> bool {
    opened.as_ref().is_err_and(Refusal::is_about_login)
}

/// What follows a server that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next one, if anything is undecided.
    Server,
    /// None: it would say the same, and wrong passwords that come often are counted.
    Stop,
}

/// Why there is no session with a server.
struct Unopened {
    refused: Refused,
    next: Next,
}

impl Unopened {
    fn by_server(refusal: Refusal, require_tls: bool) -> Unopened {
        let next = if refusal.is_about_login() { Next::Stop } else { Next::Server };
        let refused = match (refusal.stage, require_tls) {
            (Stage::Tls, true) => Refused::Unprotected(refusal.outcome),
            _ => Refused::Unreachable(refusal.outcome),
        };
        Unopened { refused, next }
    }
}

/// Why a message was not offered to a session.
enum Unsent {
    Unfit(Outcome),
    Unprotected(Outcome),
    Disk(io::Error),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Unsent {
        Unsent::Disk(error)
    }
}
