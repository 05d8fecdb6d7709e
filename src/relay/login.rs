//! AUTH (RFC 4954): this host logs in where it sends its mail.
//!
//! No fault here is final, for all of them are mended in the configuration or at the hop: the mail waits, and the words say
//! where to look. What the hop says yes to is believed only if it has shown what the mechanism asks of it.

use super::security::{Credentials, Security};
use super::stage::Stage;
use super::wire::{Said, Wire};
use super::{Peer, Refusal};
use crate::mail::reply::Enhanced;
use crate::mail::sasl::Bindings;
use crate::mail::sasl::client::{self, Exchange, Login, Setting, Start};

/// The password or the token is not the right one (RFC 5248 §2.4, X.7.8).
pub const REFUSED: Enhanced = Enhanced(4, 7, 8);

/// Logs in by the best of the mechanisms that are `offered`, if there is a login.
pub fn log_in(wire: &mut Wire, offered: &str, (peer, security): (&Peer<'_>, &Security)) -> Result<(), Refusal> {
    let Some(credentials) = security.credentials() else { return Ok(()) };
    let attempt = Attempt { security, credentials, host: wire.host().to_owned() };
    if !security.is_private(peer, wire.facts().is_some()) {
        return Err(wire.leave(attempt.in_clear()));
    }
    let facts = wire.facts();
    let setting = Setting {
        protected: true,
        bindings: Bindings {
            exporter: facts.and_then(|facts| facts.exporter).map(|octets| octets.to_vec()),
            server_end_point: facts.and_then(|facts| facts.server_end_point.clone()),
        },
        nonce: nonce().ok_or_else(|| attempt.broken("this system has no random numbers"))?,
        server: (peer.name.to_owned(), peer.address.port()),
    };
    match client::begin(offered, credentials.login.clone(), setting) {
        Ok(start) => attempt.exchange(wire, start),
        Err(why) => Err(wire.leave(attempt.unable(&why))),
    }
}

/// One login, for its words.
struct Attempt<'a> {
    security: &'a Security,
    credentials: &'a Credentials,
    host: String,
}

impl Attempt<'_> {
    fn exchange(&self, wire: &mut Wire, start: Start) -> Result<(), Refusal> {
        let initial = start.initial.map(|initial| format!(" {}", if initial.is_empty() { "=" } else { &initial }));
        let mut exchange: Exchange = start.exchange;
        let mut answer =
            wire.ask(Stage::Auth, &format!("AUTH {}{}\r\n", start.mechanism, initial.unwrap_or_default()))?;
        // It ends: no exchange has more than a few lines to give.
        while answer.code() == 334 {
            let challenge = answer.lines().next().map(String::from_utf8_lossy).unwrap_or_default();
            match exchange.respond(challenge.trim()) {
                Ok((line, next)) => {
                    exchange = next;
                    answer = wire.ask(Stage::Auth, &format!("{line}\r\n"))?;
                }
                Err(fault) => {
                    // RFC 4954 §4: this takes the login back. The connection is closed all the same.
                    let answered = wire.ask(Stage::Auth, "*\r\n");
                    let refusal = self.broken(fault);
                    return Err(if answered.is_ok() { wire.leave(refusal) } else { refusal });
                }
            }
        }
        match wire.judge(Stage::Auth, &answer, 2)? {
            Said::Yes(_) => exchange.accepted(None).map_err(|fault| wire.leave(self.broken(fault))),
            Said::No(_) if answer.class() == 5 => {
                let complaint = exchange.complaint().map(|words| format!(" ({words})")).unwrap_or_default();
                Err(wire.leave(self.refused(start.mechanism, &format!("{}{complaint}", answer.reply()))))
            }
            Said::No(outcome) => Err(wire.leave(Refusal { stage: Stage::Auth, outcome })),
        }
    }

    fn name(&self) -> &str {
        match &self.credentials.login {
            Login::Password { name, .. } | Login::Token { name, .. } => name,
        }
    }

    fn refused(&self, mechanism: &str, said: &str) -> Refusal {
        let (hop, host, name, key) = (self.security.hop(), &self.host, self.name(), &self.credentials.key);
        let text = format!(
            "{host} refuses the login of {name} by {mechanism}: {said}; look at relay.hops.\"{hop}\": user, and {key}"
        );
        Refusal::deferred(Stage::Auth, REFUSED, text)
    }

    fn unable(&self, why: &client::NoMechanism) -> Refusal {
        let text = format!("no login at {} as relay.hops.\"{}\" wants it: {why}", self.host, self.security.hop());
        Refusal::deferred(Stage::Auth, Enhanced(4, 7, 4), text)
    }

    fn in_clear(&self) -> Refusal {
        let text = format!(
            "the connection to {} is not encrypted, and nobody logs in there who could be overheard: the mail waits until \
             it offers TLS, or until relay.hops.\"{}\" has no user",
            self.host,
            self.security.hop()
        );
        Refusal::deferred(Stage::Auth, Enhanced(4, 7, 4), text)
    }

    fn broken(&self, fault: impl std::fmt::Display) -> Refusal {
        let text = format!("the login of {} at {} was broken off: {fault}", self.name(), self.host);
        Refusal::deferred(Stage::Auth, Enhanced(4, 7, 5), text)
    }
}

fn nonce() -> Option<String> {
    let mut octets = [0; 18];
    getrandom::fill(&mut octets).ok()?;
    Some(octets.iter().map(|octet| format!("{octet:02x}")).collect())
}
