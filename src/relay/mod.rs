//! How Postrider speaks SMTP to a next hop: one straight-line client that waits for what it sends (RFC 5321).
//!
//! | file | room |
//! | --- | --- |
//! | `exchangers` | which servers a next hop has, in their order |
//! | `pool` | sessions that wait for another message |
//! | `stage` | where in the dialogue: how long to wait, and the words for what went wrong there |
//! | `reply` | octets become a reply, within bounds: pure |
//! | `offers` | what EHLO said: pure |
//! | `security` | how much TLS it takes, who logs in, and what came of it |
//! | `socket` | reads and writes that end at a deadline |
//! | `wire` | one connection, in clear or under TLS: octets out, replies in |
//! | `login` | AUTH |
//! | `session` | from the connection to QUIT |
//! | `transaction` | from MAIL to the end of the message, once or more for one message |
//! | `envelope` | the commands before the message, and what their replies decide |
//! | `message` | the octets of the message, and nothing after them unless all of them were sent |
//!
//! It knows nothing of queues. What a fault means, by the stage it
//! comes at; *refused* is [`Session::open`]'s [`Refusal`], `None` a recipient that another host may still get in the same
//! attempt, with [`Sent::broke`]:
//!
//! | stage | 4yz | 5yz | 421 | closed, silent | no reply, or one at the wrong time |
//! | --- | --- | --- | --- | --- | --- |
//! | connection | | | | refused: deferred 4.4.1 | |
//! | greeting | refused: deferred | refused: failed | as 4yz | refused: deferred 4.4.2 | refused: deferred 4.5.0 |
//! | EHLO | refused: deferred | HELO instead | as 4yz | as above | as above |
//! | HELO | refused: deferred | refused: failed | as 4yz | as above | as above |
//! | STARTTLS, handshake | refused: deferred, or in clear | the same | the same | the same | the same |
//! | AUTH | refused: deferred | refused: deferred 4.7.8 | as 4yz | refused: deferred 4.4.2 | refused: deferred 4.5.0 |
//! | MAIL | all deferred | all failed | `None` | `None`, 4.4.2 | `None`, 4.5.0 |
//! | RCPT | this one deferred | this one failed | `None` for all that are undecided | the same | the same |
//! | DATA | accepted ones deferred | accepted ones failed | `None` | `None`, 4.4.2 | `None`, 4.5.0 |
//! | message, before its last octet is sent | `None`, quoted | `None`, quoted | `None` | `None`, 4.4.2 | `None`, 4.5.0 |
//! | final reply | accepted ones deferred | accepted ones failed | deferred | deferred 4.4.2 | deferred 4.5.0 |
//!
//! Where [`Security`] lets it, TLS that is not to be had is done without, on a new connection in the same
//! [`Session::open`]. A login that is refused bounces no mail: it is mended in the configuration.
//!
//! A message with REQUIRETLS goes on in a session alone whose server has proved an authentic name and knows it (RFC 8689
//! §4.2.1): [`Session::lacks_require_tls`]. Where [`Security`] is [for such a message](Security::for_message) and TLS is
//! not to be had, it is refused: failed 5.7.10 if another attempt would come to the same, else deferred.
//!
//! After the last octet of a message was sent nothing is `None`: the hop may have it, and must not be doubled by another.
//! A 452 or 552 to RCPT where others were accepted means that these are enough for one transaction (RFC 5321
//! §4.5.3.1.10), and the rest goes in the next one; a 552 there is never for good. A message that can't be read on this side is never ended: its
//! recipients are deferred 4.3.0, and the session is over. What a hop does not offer is not used: BODY, RET, ENVID, NOTIFY and
//! ORCPT are left out, a message larger than its SIZE fails 5.3.4 and one that needs SMTPUTF8 5.6.7, unsent.

mod envelope;
pub mod exchangers;
mod login;
mod message;
mod offers;
mod pool;
pub mod reply;
mod security;
mod session;
mod socket;
mod stage;
mod transaction;
mod wire;

use std::net::SocketAddr;

use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;

pub use offers::Offers;
pub use pool::Pool;
pub use security::{Credentials, Protection, Security, asked_by_sender, never_protected, not_authentic};
pub use session::Session;
pub use stage::{Patience, Stage};
pub use transaction::{Content, Sent, Transaction};

/// The host to speak to.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name, for words, the log and the certificate.
    pub name: &'a str,
    /// See [`exchangers::Server::is_authentic`].
    pub is_authentic: bool,
    /// The name we give in EHLO: our hostname.
    pub hello: &'a str,
    /// How long to wait for it.
    pub patience: Patience,
}

/// Why a session did not come about, or went on no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it happened.
    pub stage: Stage,
    /// What it means for every recipient that no other host does better with: deferred or failed.
    pub outcome: Outcome,
}

impl Refusal {
    /// Something this host found itself, which may be otherwise next time.
    pub(crate) fn deferred(stage: Stage, enhanced: Enhanced, text: impl Into<String>) -> Refusal {
        Refusal { stage, outcome: Outcome::Deferred(Cause::local(enhanced, text)) }
    }

    /// Whether the hop does not take the password or the token.
    pub fn is_about_login(&self) -> bool {
        let Outcome::Deferred(cause) = &self.outcome else { return false };
        self.stage == Stage::Auth && cause.reply.enhanced() == Some(login::REFUSED)
    }
}
