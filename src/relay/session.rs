//! A session with a next hop, from the connection to QUIT.
//!
//! It is open, greeted, and as secure as was asked for, as long as the value lives; dropped, it only closes. After anything
//! that leaves the dialogue in doubt it is not reusable: what the hop says next could answer anything. A hop that is of
//! no use before that hears QUIT, if both sides know where they are.

use super::login;
use super::offers::{Hello, Offers};
use super::reply::Answer;
use super::security::{self, Protection, Security};
use super::stage::Stage;
use super::wire::{Said, Wire};
use super::{Peer, Refusal};
use crate::mail::outcome::Outcome;
use crate::mail::reply::Enhanced;

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub(super) wire: Wire,
    pub(super) offers: Offers,
    protection: Protection,
    pub(super) transactions: u32,
    /// The last transaction did not end with the hop's yes: it is to be told that it is over.
    pub(super) unfinished: bool,
    /// Both sides know where they are.
    pub(super) in_step: bool,
}

impl Session {
    /// Connects, waits for the greeting, says EHLO, or HELO to a hop that does not know it (RFC 5321 §3.2), begins TLS
    /// (RFC 3207) and logs in as `security` wants it. Where TLS fails and is not asked for, there is a second connection,
    /// in clear.
    pub fn open(peer: &Peer<'_>, security: &Security) -> Result<Session, Refusal> {
        match Opening::new(peer, security)?.run(true) {
            Err(refusal) if refusal.stage == Stage::Tls && security.allows_clear(peer) => {
                let mut session = Opening::new(peer, security)?.run(false)?;
                session.protection = Protection::Clear(Some(words(&refusal)));
                Ok(session)
            }
            opened => opened.map_err(|refusal| security.explained(refusal)),
        }
    }

    /// What the hop offers; nothing, if only HELO was to its liking.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Why a message with REQUIRETLS may not be sent in it, if so.
    pub fn lacks_require_tls(&self) -> Option<Outcome> {
        (!self.offers.require_tls).then(|| security::not_known(self.wire.host()))
    }

    /// What protects it.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Whether another message may be sent in this session.
    pub fn is_reusable(&self) -> bool {
        self.in_step && !self.wire.has_pending()
    }

    /// Whether the hop still waits for the next command, without waiting for it: one that closed has, or said 421
    /// meanwhile, does not.
    pub fn is_alive(&mut self) -> bool {
        self.in_step && self.wire.is_quiet()
    }

    /// How many transactions there were.
    pub fn messages(&self) -> u32 {
        self.transactions
    }

    /// Takes leave, and waits for the reply shortly (RFC 5321 §4.1.1.10). Nothing depends on it.
    pub fn quit(mut self) {
        if self.is_reusable() {
            let _ = self.wire.ask(Stage::Quit, "QUIT\r\n");
        }
    }
}

/// A session on its way.
struct Opening<'a> {
    peer: &'a Peer<'a>,
    security: &'a Security,
    wire: Wire,
}

impl<'a> Opening<'a> {
    fn new(peer: &'a Peer<'a>, security: &'a Security) -> Result<Opening<'a>, Refusal> {
        Ok(Opening { peer, security, wire: Wire::connect(peer)? })
    }

    fn run(mut self, with_tls: bool) -> Result<Session, Refusal> {
        if self.security.is_implicit() {
            self = self.secure()?;
        }
        let greeting = self.wire.reply(Stage::Greeting)?;
        self.accept(Stage::Greeting, &greeting)?;
        let mut hello = self.greet()?;
        if with_tls && self.wire.facts().is_none() {
            if hello.starttls {
                self = self.start_tls()?;
                // What was offered in clear anyone may have said (RFC 3207 §4.2).
                hello = self.greet().map_err(of_tls)?;
            } else if self.security.needs_tls() {
                let refusal = self.security.not_offered(self.wire.host());
                return Err(self.wire.leave(refusal));
            }
        }
        login::log_in(&mut self.wire, &hello.mechanisms, (self.peer, self.security))?;
        let protection = self.wire.facts().map_or(Protection::Clear(None), |facts| self.security.protection(facts));
        let suffices = self.security.suffices_for_messages(self.peer, self.wire.facts().is_some());
        let offers = Offers {
            require_tls: hello.offers.require_tls && suffices,
            logged_in: self.security.credentials().is_some(),
            ..hello.offers
        };
        let wire = self.wire;
        Ok(Session { wire, offers, protection, transactions: 0, unfinished: false, in_step: true })
    }

    fn greet(&mut self) -> Result<Hello, Refusal> {
        let name = self.peer.hello;
        let answer = self.wire.ask(Stage::Hello, &format!("EHLO {name}\r\n"))?;
        if answer.class() == 5 {
            let answer = self.wire.ask(Stage::Hello, &format!("HELO {name}\r\n"))?;
            self.accept(Stage::Hello, &answer)?;
            return Ok(Hello::default());
        }
        self.accept(Stage::Hello, &answer)?;
        Ok(Hello::read(&answer))
    }

    /// Goes on after a yes. Of a hop that says no leave is taken, before another is tried (RFC 8689 §4.2.1).
    fn accept(&mut self, stage: Stage, answer: &Answer) -> Result<(), Refusal> {
        match self.wire.judge(stage, answer, 2)? {
            Said::Yes(_) => Ok(()),
            Said::No(outcome) => Err(self.wire.leave(Refusal { stage, outcome })),
        }
    }

    fn start_tls(mut self) -> Result<Opening<'a>, Refusal> {
        let answer = self.wire.ask(Stage::Tls, "STARTTLS\r\n")?;
        match self.wire.judge(Stage::Tls, &answer, 2)? {
            Said::Yes(_) => self.secure(),
            Said::No(_) => {
                let text = format!("{} offers STARTTLS and refuses it: {}", self.wire.host(), answer.reply());
                Err(self.wire.leave(Refusal::deferred(Stage::Tls, Enhanced(4, 7, 4), text)))
            }
        }
    }

    fn secure(self) -> Result<Opening<'a>, Refusal> {
        let name = self.security.server_name(self.peer);
        Ok(Opening { wire: self.wire.upgrade(self.security, name)?, ..self })
    }
}

/// A hop that says nothing under TLS, though the handshake went well, has no TLS that works: with TLS 1.3 its side of the
/// handshake may fail after ours.
fn of_tls(refusal: Refusal) -> Refusal {
    match &refusal.outcome {
        Outcome::Deferred(cause) if cause.host.is_none() => Refusal { stage: Stage::Tls, ..refusal },
        _ => refusal,
    }
}

fn words(refusal: &Refusal) -> String {
    let (Outcome::Delivered(cause) | Outcome::Deferred(cause) | Outcome::Failed(cause)) = &refusal.outcome;
    cause.to_string()
}

#[cfg(test)]
mod tests;
