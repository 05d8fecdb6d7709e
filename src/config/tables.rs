//! The tables of the configuration, each with its defaults: one struct a `[table]`, one field a key.
//!
//! The reason of each default that is a limit stands in `limits.rs`. Values are read by `value`, whose errors show how
//! they are written right.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::value;
use crate::limits;
use crate::mail::address::{Address, AddressError, Domain, Host};
use crate::mail::next_hop::NextHop;

/// The addresses listened on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For mail from anywhere.
    pub smtp: Vec<SocketAddr>,
    /// For mail from this host's own people, who log in (RFC 6409).
    pub submission: Vec<SocketAddr>,
    /// The same with TLS from the first octet on (RFC 8314).
    pub submissions: Vec<SocketAddr>,
    /// For the owners of mailboxes.
    pub pop3: Vec<SocketAddr>,
    /// The same with TLS from the first octet on.
    pub pop3s: Vec<SocketAddr>,
}

impl Listen {
    /// One of these addresses that other hosts can connect to.
    pub fn outside(addresses: &[SocketAddr]) -> Option<&SocketAddr> {
        addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
    }
}

/// Who may send where.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Networks whose clients may send to any domain.
    #[serde(deserialize_with = "value::networks")]
    pub from: Vec<IpNet>,
    /// Where all mail for other hosts goes, unless [`Relay::domains`] names its domain.
    #[serde(deserialize_with = "value::from_text_maybe")]
    pub smarthost: Option<NextHop>,
    /// The one sender that the smarthost takes; senders of the local domains are rewritten to it.
    #[serde(deserialize_with = "value::from_text_maybe")]
    pub smarthost_sender: Option<Address>,
    /// Next hops of some domains.
    pub domains: BTreeMap<HopDomain, FixedHop>,
    /// What guards the senders that are rewritten when an alias leads to another host; unset, they are left alone.
    pub srs_secret: Option<String>,
    /// Next hops that get 8-bit text as it is, though they do not announce 8BITMIME.
    #[serde(deserialize_with = "value::from_texts")]
    pub eight_bit: Vec<NextHop>,
    /// How some next hops are spoken with.
    pub hops: BTreeMap<HopName, HopSettings>,
}

impl Relay {
    /// The next hop that [`Relay::domains`] names for a domain: its own, or that of the nearest one above it.
    pub fn hop_of(&self, domain: &Domain) -> Option<&NextHop> {
        let named = |domain: &Domain, below| self.domains.get(&HopDomain { domain: domain.clone(), below });
        let above = |domain: &Domain| domain.as_str().split_once('.')?.1.parse::<Domain>().ok();
        let parents = std::iter::successors(above(domain), above);
        named(domain, false).or_else(|| parents.into_iter().find_map(|parent| named(&parent, true))).map(|hop| &hop.0)
    }

    /// How this next hop is spoken with. The default is to ask for proof where a password would be shown, or all mail
    /// passes; a smarthost on this host itself is not asked for any.
    pub fn settings_of(&self, hop: &NextHop) -> HopSettings {
        let mut settings = self.hops.get(&HopName(hop.clone())).cloned().unwrap_or_default();
        let is_here = matches!(hop.host, Host::Literal(address) if address.is_loopback());
        let is_dear = settings.user.is_some() || (self.smarthost.as_ref() == Some(hop) && !is_here);
        settings.tls = settings.tls.or(is_dear.then_some(TlsLevel::Verified));
        settings
    }
}

/// A key of [`Relay::domains`]: a domain, or with a dot in front all below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HopDomain {
    /// The domain.
    pub domain: Domain,
    /// Whether those below it are meant, and not itself.
    pub below: bool,
}

impl<'de> Deserialize<'de> for HopDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HopDomain, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (name, below) = text.strip_prefix('.').map_or((text.as_str(), false), |name| (name, true));
        let domain = name.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")))?;
        Ok(HopDomain { domain, below })
    }
}

/// A value of [`Relay::domains`].
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct FixedHop(#[serde(deserialize_with = "value::from_text")] pub NextHop);

/// A key of [`Relay::hops`].
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct HopName(#[serde(deserialize_with = "value::from_text")] pub NextHop);

/// How one next hop is spoken with. Secrets are in files or come from commands, never here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct HopSettings {
    /// How much TLS it takes to speak with it; unset, `verified` for the smarthost and where there is a login, and
    /// `opportunistic` for others.
    pub tls: Option<TlsLevel>,
    /// A file with the certificates that may vouch for it, in place of the system's.
    pub ca: Option<PathBuf>,
    /// The SHA-256 of its public key, in base64: nothing else has to vouch for it then (RFC 7469 §2.4).
    pub pin: Option<String>,
    /// The name to log in with.
    pub user: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// A command that prints the password.
    pub password_command: Option<Vec<String>>,
    /// A command that prints an OAuth 2 access token (RFC 7628).
    pub token_command: Option<Vec<String>>,
}

impl HopSettings {
    /// The same, with proof of its name at least.
    pub fn verified(self) -> HopSettings {
        HopSettings { tls: Some(TlsLevel::Verified), ..self }
    }
}

/// How much TLS a next hop is spoken with.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TlsLevel {
    /// Where it is offered and works; else in clear (RFC 7435).
    Opportunistic,
    /// Always, with whomever it turns out to be.
    Required,
    /// Always, with a certificate that proves its name.
    Verified,
}

/// Who sends mail from here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    /// Networks whose clients may log in over a connection that is not encrypted.
    #[serde(deserialize_with = "value::networks")]
    pub cleartext: Vec<IpNet>,
    /// Whether clients may log in on the ports for mail from anywhere too.
    pub auth_on_25: bool,
    /// Whether Received leaves out the address of who logged in.
    pub hide_client: bool,
}

/// Certificates. Without one, a self-signed one is made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate with its chain, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// A folder of `NAME/fullchain.pem` and `NAME/privkey.pem`, for clients that ask for these names.
    pub certificates: Option<PathBuf>,
}

/// The POP3 server.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Pop3 {
    /// Networks whose clients may send their password in clear.
    #[serde(deserialize_with = "value::networks")]
    pub cleartext: Vec<IpNet>,
}

/// The drop folder.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Drop {
    /// Logins, and the addresses and `@domains` each may send as, besides its own name at the local domains.
    pub senders: BTreeMap<String, Vec<SenderGrant>>,
    /// Whether files of root may have any sender.
    pub trust_root: bool,
}

/// What a login may send as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderGrant {
    /// One address.
    Address(Address),
    /// Every address of a domain.
    Domain(Domain),
}

impl SenderGrant {
    /// Whether it is for this address.
    pub fn covers(&self, address: &Address) -> bool {
        match self {
            SenderGrant::Address(granted) => granted.folded() == address.folded(),
            SenderGrant::Domain(domain) => address.domain() == Some(domain),
        }
    }
}

impl FromStr for SenderGrant {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<SenderGrant, AddressError> {
        match text.strip_prefix('@') {
            Some(domain) => domain.parse().map(SenderGrant::Domain),
            None => text.parse().map(SenderGrant::Address),
        }
    }
}

impl<'de> Deserialize<'de> for SenderGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SenderGrant, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

/// How mail is delivered and when it is tried again.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// How many threads deliver.
    pub threads: usize,
    /// The shortest wait between two attempts.
    #[serde(deserialize_with = "value::duration")]
    pub retry_min: Duration,
    /// The longest wait between two attempts.
    #[serde(deserialize_with = "value::duration")]
    pub retry_max: Duration,
    /// How long a message waits until its sender is told that it is late.
    #[serde(deserialize_with = "value::duration")]
    pub warn_after: Duration,
    /// How long a message waits until it has failed.
    #[serde(deserialize_with = "value::duration")]
    pub give_up: Duration,
    /// The port of other hosts' servers.
    pub remote_port: u16,
    /// How long a connection to another host may take to come about.
    #[serde(deserialize_with = "value::duration")]
    pub connect_timeout: Duration,
    /// How long another host may take for a reply, where RFC 5321 §4.5.3.2 does not give it less.
    #[serde(deserialize_with = "value::duration")]
    pub reply_timeout: Duration,
    /// Connections to one next hop at a time.
    pub connections_per_hop: usize,
}

/// Sizes, rates and counts; the reason of each default stands in `limits.rs`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Octets in a message.
    #[serde(deserialize_with = "value::size")]
    pub message_size: u64,
    /// Recipients in a transaction.
    pub recipients: usize,
    /// Received fields at which a message loops.
    pub hops: usize,
    /// Errors in a session.
    pub errors: u32,
    /// How long a client may take for a command.
    #[serde(deserialize_with = "value::duration")]
    pub command_timeout: Duration,
    /// SMTP connections; unset, what memory, processes and descriptors allow.
    pub connections: Option<usize>,
    /// SMTP connections from one address, of IPv6 one /64; unset, all but a tenth.
    pub connections_per_client: Option<usize>,
    /// POP3 connections; unset, a quarter of the SMTP ones.
    pub pop3_connections: Option<usize>,
    /// Targets one message may be resolved to.
    pub targets: usize,
    /// Octets kept free on the spool's disk.
    #[serde(deserialize_with = "value::size")]
    pub free_space: u64,
    /// Reports that one sender gets in an hour.
    pub reports: usize,
}

/// Where names are looked up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The server that is asked; unset, what /etc/resolv.conf says.
    #[serde(deserialize_with = "value::server")]
    pub resolver: Option<SocketAddr>,
    /// Whether it is believed that it checked the signatures of what it says, as one on this host is in any case.
    pub trust_ad: bool,
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            smtp: vec![([127, 0, 0, 1], 25).into()],
            submission: Vec::new(),
            submissions: Vec::new(),
            pop3: vec![([127, 0, 0, 1], 110).into()],
            pop3s: Vec::new(),
        }
    }
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            from: loopback(),
            smarthost: None,
            smarthost_sender: None,
            domains: BTreeMap::new(),
            srs_secret: None,
            eight_bit: Vec::new(),
            hops: BTreeMap::new(),
        }
    }
}

impl Default for Pop3 {
    fn default() -> Pop3 {
        Pop3 { cleartext: loopback() }
    }
}

impl Default for Drop {
    fn default() -> Drop {
        Drop { senders: BTreeMap::new(), trust_root: true }
    }
}

impl Default for Delivery {
    fn default() -> Delivery {
        Delivery {
            threads: limits::DELIVERY_THREADS,
            retry_min: Duration::from_secs(5 * 60),
            retry_max: Duration::from_secs(3 * 3600),
            warn_after: Duration::from_secs(4 * 3600),
            give_up: Duration::from_secs(5 * 24 * 3600),
            remote_port: 25,
            connect_timeout: limits::CONNECT_TIMEOUT,
            reply_timeout: limits::RELAY_END_REPLY,
            connections_per_hop: limits::CONNECTIONS_PER_HOP,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size: limits::MESSAGE_SIZE,
            recipients: limits::RECIPIENTS,
            hops: limits::HOPS,
            errors: limits::ERRORS,
            command_timeout: limits::COMMAND_TIMEOUT,
            connections: None,
            connections_per_client: None,
            pop3_connections: None,
            targets: limits::TARGETS,
            free_space: limits::FREE_SPACE,
            reports: limits::REPORTS,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect()
}
