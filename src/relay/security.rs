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
use crate::mail::outcome::{Cause, Outcome};
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
    /// Whether it is a message that asks for TLS (RFC 8689), and not the configuration alone.
    for_message: bool,
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
        Ok(Security { hop: hop.to_string(), level, config, implicit: false, credentials: None, for_message: false })
    }

    /// The same, with TLS from the first octet on.
    pub fn implicit(self, implicit: bool) -> Security {
        Security { implicit, ..self }
    }

    /// The same, with a login.
    pub fn with(self, credentials: Option<Credentials>) -> Security {
        Security { credentials, ..self }
    }

    /// The same, for a message with REQUIRETLS or not: what it does not get then, its sender is to know.
    pub fn for_message(self, for_message: bool) -> Security {
        Security { for_message, ..self }
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

    /// What the failure of TLS with the server `name` means, if it is what failed.
    pub(super) fn failure(&self, error: &io::Error, name: &str) -> Option<Refusal> {
        let error = tls::of_tls(error)?;
        let text = tls::words(error, name, &self.hop);
        Some(match self.for_message && tls::is_lasting(error) {
            true => Refusal { stage: Stage::Tls, outcome: Outcome::Failed(Cause::local(UNPROTECTED, text)) },
            false => Refusal::deferred(Stage::Tls, Enhanced(4, 7, 5), text),
        })
    }

    /// What the refusal is to whoever does not know that the message asks for TLS. What another host said stays its own.
    pub(super) fn explained(&self, refusal: Refusal) -> Refusal {
        match self.for_message && refusal.stage == Stage::Tls {
            true => Refusal { outcome: asked_by_sender(refusal.outcome), ..refusal },
            false => refusal,
        }
    }

    /// Whether a server that this was agreed on with may be sent messages with REQUIRETLS, if it knows that (RFC 8689 §2).
    pub(super) fn suffices_for_messages(&self, peer: &Peer<'_>, is_encrypted: bool) -> bool {
        is_encrypted && self.level.proves_name() && peer.is_authentic
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
        if self.for_message {
            let outcome = Outcome::Failed(Cause::local(UNPROTECTED, format!("{host} offers no STARTTLS")));
            return Refusal { stage: Stage::Tls, outcome };
        }
        let text = format!(
            "{host} offers no STARTTLS, and relay.hops.\"{}\" asks for TLS: whoever took the offer out may listen; \
             tls = \"opportunistic\" there would send mail in clear",
            self.hop
        );
        Refusal::deferred(Stage::Tls, Enhanced(4, 7, 4), text)
    }
}

/// A server whose name nobody vouches for: its certificate would prove nothing to a message with REQUIRETLS.
pub fn not_authentic(name: &str) -> Outcome {
    let text = format!("DNS names {name} to take this mail, and no signature of DNSSEC that we trust vouches for that");
    asked_by_sender(Outcome::Failed(Cause::local(UNPROTECTED, text)))
}

/// The same, with the words that it is the message that asks for TLS. What another host said stays its own.
pub fn asked_by_sender(outcome: Outcome) -> Outcome {
    let explain = |mut cause: Cause| {
        if cause.host.is_none() {
            cause.reply = cause.reply.line(BY_SENDER);
        }
        cause
    };
    match outcome {
        Outcome::Delivered(cause) => Outcome::Delivered(cause),
        Outcome::Deferred(cause) => Outcome::Deferred(explain(cause)),
        Outcome::Failed(cause) => Outcome::Failed(explain(cause)),
    }
}

/// What a reply of this host means once its message is given up, if it is about TLS that the message asks for: not
/// that it took too long, but that there is none to be had (RFC 8689 §4.2.1).
pub fn never_protected(reply: &str) -> Option<Cause> {
    let words = reply.splitn(3, ' ').nth(2).filter(|words| words.ends_with(BY_SENDER))?;
    Some(Cause::local(UNPROTECTED, format!("given up: {words}")))
}

/// A server that can be spoken with as securely as can be, and does not know REQUIRETLS.
pub(super) fn not_known(host: &str) -> Outcome {
    let text = format!("{host} does not offer REQUIRETLS under TLS");
    asked_by_sender(Outcome::Failed(Cause::local(Enhanced(5, 7, 30), text)))
}

/// "Encryption needed" (RFC 8689 §4.2.1).
const UNPROTECTED: Enhanced = Enhanced(5, 7, 10);

const BY_SENDER: &str = "(the sender asked for REQUIRETLS)";

fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::super::Patience;
    use super::*;
    use crate::mail::sasl::Secret;

    fn peer(address: &str, name: &'static str) -> Peer<'static> {
        let (address, hello) = (address.parse().unwrap(), "mail.example.org");
        Peer { address, name, is_authentic: true, hello, patience: Patience::default() }
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
    fn messages_that_require_tls_want_a_proof_that_proves_something() {
        let authority = crate::tls::testing::Authority::new().certificate;
        let read = |_: &std::path::Path| -> io::Result<Vec<u8>> { Ok(authority.as_bytes().to_vec()) };
        let known = Level::Verified(tls::read_roots("ca".as_ref(), &read).unwrap());
        for (level, is_authentic, is_encrypted, expected) in [
            (known.clone(), true, true, true),
            (Level::Pinned([1; 32]), true, true, true),
            (known.clone(), false, true, false),
            (known, true, false, false),
            (Level::Required, true, true, false),
            (Level::Opportunistic, true, true, false),
        ] {
            let security = Security::new("mx.example", level).unwrap();
            let peer = Peer { is_authentic, ..peer("192.0.2.1:25", "mx.example") };
            assert_eq!(security.suffices_for_messages(&peer, is_encrypted), expected, "{security:?}");
        }
    }

    #[test]
    fn what_a_message_asked_for_in_vain_fails_where_it_would_again() {
        use rustls::{AlertDescription, CertificateError, Error};
        let of = |for_message: bool, error: &Error| {
            let security = Security::new("mx:far.example", Level::Required).unwrap().for_message(for_message);
            let refusal = security.failure(&io::Error::other(error.clone()), "mx.far.example").unwrap();
            match security.explained(refusal).outcome {
                Outcome::Failed(cause) | Outcome::Deferred(cause) => cause.to_string(),
                other => panic!("{other:?}"),
            }
        };
        for (error, expected) in [
            (CertificateError::UnknownIssuer.into(), "550 5.7.10 nobody we trust"),
            (CertificateError::NotValidForName.into(), "550 5.7.10 the certificate of mx.far.example"),
            (Error::NoCertificatesPresented, "550 5.7.10 mx.far.example shows no certificate"),
            // A certificate is renewed, and a clock set right.
            (CertificateError::Expired.into(), "451 4.7.5 the certificate of mx.far.example"),
            (CertificateError::NotValidYet.into(), "451 4.7.5 the certificate of mx.far.example"),
            (Error::AlertReceived(AlertDescription::InternalError), "451 4.7.5 mx.far.example ended the handshake"),
        ] {
            let text = of(true, &error);
            assert!(text.starts_with(expected) && text.ends_with(" (the sender asked for REQUIRETLS)"), "{text}");
            let text = of(false, &error);
            assert!(text.starts_with("451 4.7.5 ") && !text.contains("REQUIRETLS"), "{text}");
        }
        let not_offered = |for_message| {
            let security = Security::new("mx:far.example", Level::Required).unwrap().for_message(for_message);
            matches!(security.not_offered("mx.far.example").outcome, Outcome::Failed(_))
        };
        assert!(not_offered(true) && !not_offered(false));
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
