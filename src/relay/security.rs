//! How much TLS it takes to speak with a hop, who logs in there, and what came of it.
//!
//! The rules stand here, in one place: when mail may go in clear, and when a login may be sent. A secret goes out under
//! TLS alone, or to this host itself, where nobody can listen.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::{Peer, Refusal, Stage};
use crate::io::tls::{Agreed, TlsFacts};
use crate::mail::reply::Enhanced;
use crate::mail::sasl::client::Login;
use crate::tls::{self, Level};

/// What a session asks for before any mail is shown.
#[derive(Clone, Debug)]
pub struct Security {
    /// The next hop as `relay.hops` names it, for words about what to do.
    hop: String,
    level: Level,
    config: Arc<ClientConfig>,
    /// Whether TLS begins with the first octet (RFC 8314), and not with STARTTLS.
    implicit: bool,
    credentials: Option<Credentials>,
}

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The name and the secret.
    pub login: Login,
    /// The key of the configuration that the secret is from, for words about what to do.
    pub key: String,
}

/// What protects a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing; with the reason, where TLS was offered and failed.
    Clear(Option<String>),
    /// TLS.
    Tls {
        /// What both sides agreed on.
        agreed: Agreed,
        /// What the hop has proved: `verified`, `pinned`, or else `unverified`.
        proof: &'static str,
    },
}

impl fmt::Display for Protection {
    /// As it stands in the log.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protection::Clear(_) => out.write_str("none"),
            Protection::Tls { agreed, proof } => write!(out, "{agreed} {proof}"),
        }
    }
}

impl Security {
    /// What the hop of this name has to prove, by STARTTLS. An error is about the authorities, in words.
    pub fn new(hop: impl fmt::Display, level: Level) -> Result<Security, String> {
        let config = tls::client_config(&level)?;
        Ok(Security { hop: hop.to_string(), level, config, implicit: false, credentials: None })
    }

    /// The same, with TLS from the first octet on.
    pub fn implicit(self, implicit: bool) -> Security {
        Security { implicit, ..self }
    }

    /// The same, with a login.
    pub fn with(self, credentials: Option<Credentials>) -> Security {
        Security { credentials, ..self }
    }

    /// As if tickets were used: some hops give them unasked.
    #[cfg(test)]
    pub(super) fn allow_tickets(&mut self) {
        let mut config = (*self.config).clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(1);
        self.config = Arc::new(config);
    }

    /// The name of the hop, in the configuration.
    pub(super) fn hop(&self) -> &str {
        &self.hop
    }

    pub(super) fn is_implicit(&self) -> bool {
        self.implicit
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The name that the certificate has to be for: that of the server, or its address.
    pub(super) fn server_name(&self, peer: &Peer<'_>) -> ServerName<'static> {
        let address = || ServerName::from(peer.address.ip().to_canonical());
        ServerName::try_from(peer.name.to_owned()).unwrap_or_else(|_| address())
    }

    /// What TLS has to say about its failure with the server `name`, if it is what failed.
    pub(super) fn words(&self, error: &io::Error, name: &str) -> Option<String> {
        tls::of_tls(error).map(|error| tls::words(error, name, &self.hop))
    }

    /// Whether there is no session without TLS.
    pub(super) fn needs_tls(&self) -> bool {
        !self.level.allows_clear()
    }

    /// Whether mail may be sent in clear where there is no TLS.
    pub(super) fn allows_clear(&self, peer: &Peer<'_>) -> bool {
        !self.needs_tls() && !self.implicit && (self.credentials.is_none() || is_here(peer.address.ip()))
    }

    /// Whether nobody can listen.
    pub(super) fn is_private(&self, peer: &Peer<'_>, encrypted: bool) -> bool {
        encrypted || is_here(peer.address.ip())
    }

    pub(super) fn protection(&self, facts: &TlsFacts) -> Protection {
        Protection::Tls { agreed: facts.agreed.clone(), proof: self.level.proof() }
    }

    /// A hop without STARTTLS, where there has to be TLS.
    pub(super) fn not_offered(&self, host: &str) -> Refusal {
        let text = format!(
            "{host} offers no STARTTLS, and relay.hops.\"{}\" asks for TLS: whoever took the offer out may listen; \
             tls = \"opportunistic\" there would send mail in clear",
            self.hop
        );
        Refusal::deferred(Stage::Tls, Enhanced(4, 7, 4), text)
    }
}

fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::super::Patience;
    use super::*;
    use crate::mail::sasl::Secret;

    fn peer(address: &str, name: &'static str) -> Peer<'static> {
        Peer { address: address.parse().unwrap(), name, hello: "mail.example.org", patience: Patience::default() }
    }

    #[test]
    fn clear_text_is_for_those_alone_who_ask_for_no_more() {
        let (far, here) = (peer("192.0.2.1:25", "mx.example"), peer("127.0.0.1:25", "127.0.0.1"));
        let of = |level: Level| Security::new("mx.example", level).unwrap();
        let login = Login::Password { name: "ann".into(), password: Secret(b"x".to_vec()) };
        let credentials = Some(Credentials { login, key: "key".into() });
        for (security, at_far, at_home) in [
            (of(Level::Opportunistic), true, true),
            (of(Level::Opportunistic).with(credentials), false, true),
            (of(Level::Opportunistic).implicit(true), false, false),
            (of(Level::Required), false, false),
            (of(Level::Pinned([1; 32])), false, false),
        ] {
            assert_eq!((security.allows_clear(&far), security.allows_clear(&here)), (at_far, at_home), "{security:?}");
        }
    }

    #[test]
    fn a_secret_is_shown_where_nobody_can_listen() {
        let security = Security::new("mx.example", Level::Opportunistic).unwrap();
        for (address, encrypted, private) in [
            ("192.0.2.1:25", false, false),
            ("192.0.2.1:25", true, true),
            ("127.0.0.2:25", false, true),
            ("[::ffff:127.0.0.1]:25", false, true),
        ] {
            assert_eq!(security.is_private(&peer(address, "mx"), encrypted), private, "{address} {encrypted}");
        }
    }

    #[test]
    fn the_certificate_is_to_be_for_the_servers_name() {
        let security = Security::new("mx:far.example", Level::Opportunistic).unwrap();
        for (address, name, expected) in [
            ("192.0.2.1:25", "mx.example", "mx.example"),
            ("192.0.2.1:25", "192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:25", "no name at all", "192.0.2.1"),
        ] {
            assert_eq!(security.server_name(&peer(address, name)).to_str(), expected);
        }
    }
}
