//! Logging in by SASL (RFC 4422), as SMTP (RFC 4954) and POP3 (RFC 5034) carry it: both sides, as pure state machines.
//!
//! [`server`] is asked by clients, [`client`] asks next hops. An exchange is consumed by each line and gives what comes
//! next, so that no step can be taken twice or left out; it holds what it needs, and nothing of it is shown in debugging
//! output. Nonces come from the caller. Lines are bounded, base64 is strict: one text for one value, padding and all.
//!
//! Passwords for SCRAM go through SASLprep (RFC 4013, by the crate `stringprep`). What SASLprep forbids, and what is no
//! UTF-8, is taken as its octets, as other servers do: such a password was set once, and must go on to work.

pub mod client;
pub mod keys;
mod message;
pub mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use keys::Keys;

use crate::limits;

/// How a client of ours may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// SCRAM (RFC 7677) that is bound to its TLS connection.
    ScramSha256Plus,
    /// SCRAM (RFC 7677): the password never crosses the wire.
    ScramSha256,
    /// Name and password in one response (RFC 4616).
    Plain,
    /// Name and password one after the other, as old clients know it (draft-murchison-sasl-login).
    Login,
}

impl Mechanism {
    /// The name in the registry.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// What is offered, best first: nothing unless the connection is `protected` (by TLS, or by the configuration's word);
    /// SCRAM only if every user can log in by it, because clients take the best and do not try another.
    pub fn offered(protected: bool, scram: bool, bindings: &Bindings) -> Vec<Mechanism> {
        let all = [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
        let fits = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256Plus => scram && !bindings.is_empty(),
            Mechanism::ScramSha256 => scram,
            Mechanism::Plain | Mechanism::Login => true,
        };
        all.into_iter().filter(|mechanism| protected && fits(mechanism)).collect()
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What is no mechanism of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMechanism;

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    /// In any case, as clients write it.
    fn from_str(text: &str) -> Result<Mechanism, UnknownMechanism> {
        let all = [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
        all.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(text)).ok_or(UnknownMechanism)
    }
}

/// What ties a login to its TLS connection, so that nobody in the middle can pass it on (RFC 5056).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// `tls-exporter` (RFC 9266): 32 octets of keying material.
    pub exporter: Option<Vec<u8>>,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of the server's certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl Bindings {
    /// Whether nothing is at hand, as without TLS.
    pub fn is_empty(&self) -> bool {
        self.exporter.is_none() && self.server_end_point.is_none()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_deref(),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }

    fn best(&self) -> Option<(&'static str, &[u8])> {
        ["tls-exporter", "tls-server-end-point"].into_iter().find_map(|name| Some((name, self.get(name)?)))
    }
}

/// A password or a token, which no debugging output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// The response that comes with the command, in base64: it may hold a password, so no debugging output shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Initial(pub String);

impl fmt::Debug for Initial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Initial")
    }
}

/// A name with its password, to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Who logs in.
    pub name: String,
    /// As whom (the authorization identity); empty means as himself. Whoever checks must refuse all but the same.
    pub authzid: String,
    /// As it came.
    pub password: Secret,
}

impl Credentials {
    /// Of someone who logs in as himself.
    pub fn new(name: &str, password: &[u8]) -> Credentials {
        Credentials { name: name.to_owned(), authzid: String::new(), password: Secret(password.to_owned()) }
    }
}

fn encoded(octets: impl AsRef<[u8]>) -> String {
    STANDARD.encode(octets)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Whether this can be the name of a user: some text without control characters.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= limits::CREDENTIAL && !text.contains(char::is_control)
}
