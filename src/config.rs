//! The configuration: one TOML file, read once and never written (DESIGN §6).
//!
//! An empty file is a safe one. What is wrong is a [`ConfigError`] that names the file and the line, shows the place and
//! says what would be right. Paths may be relative; they are meant from the folder of the configuration.

mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::limits;
use crate::mail::address::{Address, Domain};

/// Where the configuration is when nothing else was said.
pub const DEFAULT_PATH: &str = "/etc/postrider/postrider.toml";

/// Everything a person can set. Each key is documented in postrider.toml(5).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name of this host, in greetings, Received fields and file names.
    #[serde(deserialize_with = "value::from_text")]
    pub hostname: Domain,
    /// The domains whose mail ends here; the first is the one of names without a domain. Default: the hostname.
    #[serde(deserialize_with = "value::from_texts")]
    pub local_domains: Vec<Domain>,
    /// The spool directory.
    pub spool: PathBuf,
    /// Where the mailboxes are. Default: `mail` in the spool.
    pub mailboxes: PathBuf,
    /// Who gets the postmaster's mail.
    #[serde(deserialize_with = "value::from_text_maybe")]
    pub postmaster: Option<Address>,
    /// The users file.
    pub users: PathBuf,
    /// The aliases file.
    pub aliases: PathBuf,
    /// The log file, or `stderr`.
    pub log: LogTarget,
    /// The account to become once ports are bound.
    pub run_as: Option<String>,
    /// `[listen]`
    pub listen: Listen,
    /// `[relay]`
    pub relay: Relay,
    /// `[pop3]`
    pub pop3: Pop3,
    /// `[drop]`
    pub drop: Drop,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[limits]`
    pub limits: Limits,
}

/// Where the log goes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "PathBuf")]
pub enum LogTarget {
    /// Standard error, for a service manager to collect.
    Stderr,
    /// A file, opened again when it was renamed.
    File(PathBuf),
}

impl From<PathBuf> for LogTarget {
    fn from(path: PathBuf) -> LogTarget {
        if path.as_os_str() == "stderr" { LogTarget::Stderr } else { LogTarget::File(path) }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::Stderr => out.write_str("stderr"),
            LogTarget::File(path) => path.display().fmt(out),
        }
    }
}

/// The addresses listened on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For mail from anywhere.
    pub smtp: Vec<SocketAddr>,
    /// For the owners of mailboxes.
    pub pop3: Vec<SocketAddr>,
}

/// Who may send where.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Networks whose clients may send to any domain.
    #[serde(deserialize_with = "value::networks")]
    pub from: Vec<IpNet>,
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

impl<'de> Deserialize<'de> for SenderGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SenderGrant, D::Error> {
        let text = String::deserialize(deserializer)?;
        let grant = match text.strip_prefix('@') {
            Some(domain) => domain.parse().map(SenderGrant::Domain),
            None => text.parse().map(SenderGrant::Address),
        };
        grant.map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
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
    /// How long a message waits until it has failed.
    #[serde(deserialize_with = "value::duration")]
    pub give_up: Duration,
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
    /// SMTP connections from one address; unset, all but a tenth.
    pub connections_per_client: Option<usize>,
    /// POP3 connections; unset, a quarter of the SMTP ones.
    pub pop3_connections: Option<usize>,
    /// Targets one message may be resolved to.
    pub targets: usize,
    /// Octets kept free on the spool's disk.
    #[serde(deserialize_with = "value::size")]
    pub free_space: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            hostname: own_hostname(),
            local_domains: Vec::new(),
            spool: "/var/spool/postrider".into(),
            mailboxes: PathBuf::new(),
            postmaster: None,
            users: "/etc/postrider/users".into(),
            aliases: "/etc/postrider/aliases".into(),
            log: LogTarget::File("/var/log/postrider/mail.log".into()),
            run_as: None,
            listen: Listen::default(),
            relay: Relay::default(),
            pop3: Pop3::default(),
            drop: Drop::default(),
            delivery: Delivery::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        Listen { smtp: vec![([127, 0, 0, 1], 25).into()], pop3: vec![([127, 0, 0, 1], 110).into()] }
    }
}

impl Default for Relay {
    fn default() -> Relay {
        Relay { from: loopback() }
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
            give_up: Duration::from_secs(5 * 24 * 3600),
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
        }
    }
}

/// What is wrong with the configuration, and where.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read.
    Unreadable(PathBuf, io::Error),
    /// Something in it is wrong; the text shows line and column.
    Wrong(PathBuf, String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable(path, error) => write!(
                out,
                "{}: {error}; name the configuration with --config, or make an empty file there: it is a safe one",
                path.display()
            ),
            ConfigError::Wrong(path, what) => write!(out, "{}: {}", path.display(), what.trim_end()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the configuration in `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable(path.to_owned(), error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Config::parse(&text, folder).map_err(|what| ConfigError::Wrong(path.to_owned(), what))
    }

    /// Reads a configuration whose relative paths are meant from `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, String> {
        let mut config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check(text)?;
        if config.local_domains.is_empty() {
            config.local_domains.push(config.hostname.clone());
        }
        if config.mailboxes.as_os_str().is_empty() {
            config.mailboxes = config.spool.join("mail");
        }
        for path in [&mut config.spool, &mut config.mailboxes, &mut config.users, &mut config.aliases] {
            *path = folder.join(&*path);
        }
        if let LogTarget::File(path) = &mut config.log {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let delivery = &self.delivery;
        for (holds, key, mend) in [
            ((1..=1000).contains(&delivery.threads), "threads", "use 1 to 1000"),
            (!delivery.retry_min.is_zero(), "retry_min", "use at least 1s"),
            (delivery.retry_min <= delivery.retry_max, "retry_max", "use at least retry_min"),
            (!delivery.give_up.is_zero(), "give_up", "use at least 1s; RFC 5321 asks for 4d or 5d"),
            (self.limits.recipients >= 100, "recipients", "use at least 100 (RFC 5321 §4.5.3.1.8)"),
            (self.limits.message_size >= 64 * 1024, "message_size", "use at least 64KiB (RFC 5321 §4.5.3.1.7)"),
            (self.limits.hops >= 10, "hops", "use at least 10, or honest mail is refused"),
            (self.limits.errors >= 1, "errors", "use at least 1"),
            (self.limits.targets >= 1, "targets", "use at least 1"),
            (!self.limits.command_timeout.is_zero(), "command_timeout", "use at least 1s; RFC 5321 asks for 5m"),
            (self.limits.connections != Some(0), "connections", "use at least 1"),
            (self.limits.connections_per_client != Some(0), "connections_per_client", "use at least 1"),
            (self.limits.pop3_connections != Some(0), "pop3_connections", "use at least 1"),
        ] {
            if !holds {
                let has_key = |line: &str| {
                    let rest = line.trim_start().strip_prefix(key);
                    rest.is_some_and(|rest| rest.trim_start().starts_with('='))
                };
                let at = text.lines().position(has_key);
                let line = at.map(|at| format!("line {}: ", at + 1)).unwrap_or_default();
                return Err(format!("{line}{key} can't have this value: {mend}"));
            }
        }
        Ok(())
    }

    /// Whether mail for `domain` ends here.
    pub fn is_local(&self, domain: &Domain) -> bool {
        self.local_domains.contains(domain)
    }

    /// The domain of names without one.
    pub fn first_domain(&self) -> &Domain {
        self.local_domains.first().unwrap_or(&self.hostname)
    }

    /// Whether `client` may send to any domain.
    pub fn may_relay(&self, client: IpAddr) -> bool {
        contains(&self.relay.from, client)
    }

    /// Whether `client` may send its password in clear.
    pub fn may_log_in_clear(&self, client: IpAddr) -> bool {
        contains(&self.pop3.cleartext, client)
    }

    /// The keys that a running server can't take up, where `new` differs: paths, ports and the account.
    pub fn fixed_keys_changed(&self, new: &Config) -> Vec<&'static str> {
        [
            ("spool", self.spool != new.spool),
            ("mailboxes", self.mailboxes != new.mailboxes),
            ("users", self.users != new.users),
            ("aliases", self.aliases != new.aliases),
            ("log", self.log != new.log),
            ("run_as", self.run_as != new.run_as),
            ("listen", self.listen != new.listen),
            ("delivery.threads", self.delivery.threads != new.delivery.threads),
            ("limits.connections", self.limits.connections != new.limits.connections),
            ("limits.connections_per_client", self.limits.connections_per_client != new.limits.connections_per_client),
            ("limits.pop3_connections", self.limits.pop3_connections != new.limits.pop3_connections),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }
}

/// Addresses are compared after IPv4-mapped ones are unmapped (DESIGN §6).
fn contains(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|network| network.contains(&client))
}

fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect()
}

fn own_hostname() -> Domain {
    let name = dns_lookup::get_hostname().unwrap_or_default();
    name.parse().or_else(|_| "localhost".parse()).expect("localhost is a domain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/folder"))
    }

    #[test]
    fn an_empty_file_is_a_safe_one() {
        let config = parse("").unwrap();
        assert!(config.listen.smtp.iter().chain(&config.listen.pop3).all(|address| address.ip().is_loopback()));
        assert!(!config.may_relay("192.0.2.1".parse().unwrap()));
        assert_eq!(config.local_domains, std::slice::from_ref(&config.hostname));
        assert_eq!(config.mailboxes, Path::new("/var/spool/postrider/mail"));
    }

    #[test]
    fn values_are_read_with_their_units_and_relative_paths() {
        let config =
            parse("spool = \"s\"\n[delivery]\nretry_min = \"90s\"\n[limits]\nmessage_size = \"1MiB\"").unwrap();
        assert_eq!((config.spool, config.mailboxes), ("/folder/s".into(), "/folder/s/mail".into()));
        assert_eq!(config.delivery.retry_min, Duration::from_secs(90));
        assert_eq!(config.limits.message_size, 1 << 20);
    }

    #[test]
    fn mapped_addresses_are_unmapped() {
        let config = parse("[relay]\nfrom = [\"10.0.0.0/8\", \"192.0.2.7\"]").unwrap();
        for (client, may) in
            [("::ffff:10.1.2.3", true), ("192.0.2.7", true), ("192.0.2.8", false), ("127.0.0.1", false)]
        {
            assert_eq!(config.may_relay(client.parse().unwrap()), may, "{client}");
        }
    }

    #[test]
    fn each_error_names_line_and_mend() {
        for (text, line, mend) in [
            ("\nhostnam = \"x\"", "line 2", "hostname"),
            ("hostname = 3", "line 1", "string"),
            ("hostname = \"a b\"", "line 1", "letters, digits"),
            ("[delivery]\nretry_min = \"5 minutes\"", "line 2", "\"5m\""),
            ("[delivery]\nretry_min = \"0s\"", "line 2", "at least 1s"),
            ("[limits]\nmessage_size = \"big\"", "line 2", "\"50MiB\""),
            ("[limits]\nrecipients = 5", "line 2", "at least 100"),
            ("[limits]\nconnections_per_client = 1\nconnections = 0", "line 3", "at least 1"),
            ("[delivery]\ngive_up = \"0s\"", "line 2", "at least 1s"),
            ("[relay]\nfrom = [\"10/8\"]", "line 2", "192.0.2.0/24"),
            ("[listen]\nsmtp = [\"localhost\"]", "line 2", "socket address"),
            ("[drop.senders]\nann = [\"nobody\"]", "line 2", "local-part@domain"),
            ("spool = ", "line 1", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(mend), "{text}\n{error}");
        }
    }
}
