//! The configuration: one TOML file, read once and never written (DESIGN §6).
//!
//! An empty file is a safe one. What is wrong is a [`ConfigError`] that names the file and the line, shows the place and
//! says what would be right. Paths may be relative; they are meant from the folder of the configuration.

mod tables;
mod value;

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use toml::de::DeTable;

use crate::io::{sandbox, table};
use crate::limits;
use crate::mail::address::{Address, Domain};
pub use tables::{
    Delivery, Dns, Drop, HopDomain, HopName, HopSettings, Limits, Listen, Pop3, Relay, SenderGrant, Submission, Tls,
    TlsLevel,
};

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
    /// `[submission]`
    pub submission: Submission,
    /// `[pop3]`
    pub pop3: Pop3,
    /// `[drop]`
    pub drop: Drop,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[limits]`
    pub limits: Limits,
    /// `[tls]`
    pub tls: Tls,
    /// `[dns]`
    pub dns: Dns,
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
            submission: Submission::default(),
            pop3: Pop3::default(),
            drop: Drop::default(),
            delivery: Delivery::default(),
            limits: Limits::default(),
            tls: Tls::default(),
            dns: Dns::default(),
        }
    }
}

/// What is wrong with the configuration, and where.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can't be read, and what to do about it.
    Unreadable(PathBuf, io::Error, &'static str),
    /// Something in it is wrong; the text shows line and column.
    Wrong(PathBuf, String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable(path, error, mend) => write!(out, "{}: {error}{mend}", path.display()),
            ConfigError::Wrong(path, what) => write!(out, "{}: {}", path.display(), what.trim_end()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    fn unreadable(path: &Path, error: io::Error) -> ConfigError {
        let mend = match (sandbox::mend(path, &error), error.kind()) {
            ("", io::ErrorKind::NotFound) => {
                "; name the configuration with --config, or make an empty file there: it is a safe one"
            }
            ("", io::ErrorKind::PermissionDenied) => "; let this account read it, or do this as root",
            (mend, _) => mend,
        };
        ConfigError::Unreadable(path.to_owned(), error, mend)
    }
}

impl Config {
    /// Reads the configuration in `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let octets = fs::read(path).map_err(|error| ConfigError::unreadable(path, error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let text = table::text(octets).map_err(|(line, what)| format!("line {line}: {what}"));
        text.and_then(|text| Config::parse(&text, folder)).map_err(|what| ConfigError::Wrong(path.to_owned(), what))
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
        let tls = &mut config.tls;
        let of_hops = config.relay.hops.values_mut().flat_map(|hop| [&mut hop.ca, &mut hop.password_file]);
        let optional = [&mut tls.certificate, &mut tls.key, &mut tls.certificates].into_iter().chain(of_hops);
        optional.flatten().for_each(|path| *path = folder.join(&*path));
        Ok(config)
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let delivery = &self.delivery;
        for (holds, key, mend) in [
            ((1..=1000).contains(&delivery.threads), "delivery.threads", "use 1 to 1000"),
            (!delivery.retry_min.is_zero(), "delivery.retry_min", "use at least 1s"),
            (delivery.retry_min <= delivery.retry_max, "delivery.retry_max", "use at least retry_min"),
            (!delivery.warn_after.is_zero(), "delivery.warn_after", "use at least 1s; RFC 5321 asks for patience"),
            (!delivery.give_up.is_zero(), "delivery.give_up", "use at least 1s; RFC 5321 asks for 4d or 5d"),
            (delivery.remote_port != 0, "delivery.remote_port", "use 25; other hosts listen there"),
            (!delivery.connect_timeout.is_zero(), "delivery.connect_timeout", "use at least 1s"),
            (!delivery.reply_timeout.is_zero(), "delivery.reply_timeout", "use at least 1s; RFC 5321 asks for 5m"),
            (delivery.connections_per_hop >= 1, "delivery.connections_per_hop", "use at least 1"),
            (self.limits.recipients >= 100, "limits.recipients", "use at least 100 (RFC 5321 §4.5.3.1.8)"),
            (self.limits.recipients <= limits::RECIPIENTS_MOST, "limits.recipients", "use at most 4000"),
            (self.limits.message_size >= 64 * 1024, "limits.message_size", "use at least 64KiB (RFC 5321 §4.5.3.1.7)"),
            (self.limits.hops >= 10, "limits.hops", "use at least 10, or honest mail is refused"),
            (self.limits.errors >= 1, "limits.errors", "use at least 1"),
            (self.limits.targets >= 1, "limits.targets", "use at least 1"),
            (self.limits.reports >= 1, "limits.reports", "use at least 1"),
            (
                self.relay.srs_secret.as_ref().is_none_or(|secret| secret.len() >= limits::SRS_SECRET),
                "relay.srs_secret",
                "use at least 16 characters; who guesses it can send through this host",
            ),
            (!self.limits.command_timeout.is_zero(), "limits.command_timeout", "use at least 1s; RFC 5321 asks for 5m"),
            (self.limits.connections != Some(0), "limits.connections", "use at least 1"),
            (self.limits.connections_per_client != Some(0), "limits.connections_per_client", "use at least 1"),
            (self.limits.pop3_connections != Some(0), "limits.pop3_connections", "use at least 1"),
        ] {
            if !holds {
                let line = line_of(text, key).map(|line| format!("line {line}: ")).unwrap_or_default();
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

    /// Whether `client` may send its password in clear to read its mail.
    pub fn may_log_in_clear(&self, client: IpAddr) -> bool {
        contains(&self.pop3.cleartext, client)
    }

    /// Whether `client` may send its password in clear to send mail.
    pub fn may_submit_clear(&self, client: IpAddr) -> bool {
        contains(&self.submission.cleartext, client)
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

fn own_hostname() -> Domain {
    let name = dns_lookup::get_hostname().unwrap_or_default();
    name.parse().or_else(|_| "localhost".parse()).expect("localhost is a domain")
}

/// Where `table.key` has its value, however that is written.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (table, key) = key.split_once('.')?;
    let tables = DeTable::parse(text).ok()?;
    let value = tables.get_ref().get(table)?.get_ref().get(key)?;
    Some(text[..value.span().start].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_where_there_is_none_an_empty_file_is_advised() {
        let said = |kind: io::ErrorKind| ConfigError::unreadable(Path::new("/x"), kind.into()).to_string();
        assert!(said(io::ErrorKind::NotFound).contains("make an empty file"));
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::IsADirectory, io::ErrorKind::Other] {
            assert!(!said(kind).contains("empty"), "{}", said(kind));
        }
        assert!(said(io::ErrorKind::PermissionDenied).contains("let this account read it"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"# one\n# f\xfcr zwei\n").unwrap();
        let said = Config::load(file.path()).unwrap_err().to_string();
        assert!(said.ends_with(": line 2: this is not UTF-8"), "{said}");
    }

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
    fn the_nearest_domain_names_the_next_hop() {
        let config = parse(
            "[relay.domains]\n\"far.example\" = \"one.example\"\n\".far.example\" = \"two.example\"\n\
             \".deep.far.example\" = \"three.example:26\"",
        )
        .unwrap();
        for (domain, hop) in [
            ("far.example", Some("one.example")),
            ("a.far.example", Some("two.example")),
            ("deep.far.example", Some("two.example")),
            ("a.b.deep.far.example", Some("three.example:26")),
            ("notfar.example", None),
        ] {
            let found = config.relay.hop_of(&domain.parse().unwrap()).map(ToString::to_string);
            assert_eq!(found.as_deref(), hop, "{domain}");
        }
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
            ("[delivery]\ngive_up = \"18446744073709551615s\"", "line 2", "\"3650d\" at most"),
            ("[delivery]\nretry_max = \"3651d\"", "line 2", "\"3650d\" at most"),
            ("[limits]\nmessage_size = \"big\"", "line 2", "\"50MiB\""),
            ("[limits]\nrecipients = 5", "line 2", "at least 100"),
            ("[limits]\nrecipients = 4001", "line 2", "at most 4000"),
            ("[relay]\nhops = {}\n[limits]\nhops = 3", "line 4", "at least 10"),
            ("limits.hops = 3\nrelay.hops = {}", "line 1", "at least 10"),
            ("\nlimits = { errors = 20, hops = 3 }\nrelay.hops = {}", "line 2", "at least 10"),
            ("[limits]\nconnections_per_client = 1\nconnections = 0", "line 3", "at least 1"),
            ("[delivery]\ngive_up = \"0s\"", "line 2", "at least 1s"),
            ("[relay]\nfrom = [\"10/8\"]", "line 2", "192.0.2.0/24"),
            ("[listen]\nsmtp = [\"localhost\"]", "line 2", "socket address"),
            ("[drop.senders]\nann = [\"nobody\"]", "line 2", "local-part@domain"),
            ("[relay]\nsmarthost = \"smtp.example:x\"", "line 2", "a port is a number"),
            ("[relay]\nsmarthost_sender = \"ann\"", "line 2", "local-part@domain"),
            ("[relay]\ndomains = { \"a b\" = \"x.example\" }", "line 2", "letters, digits"),
            ("[relay]\ndomains = { \"a.example\" = \"mx:\" }", "line 2", "missing"),
            ("[delivery]\nremote_port = 0", "line 2", "use 25"),
            ("[dns]\nresolver = \"localhost\"", "line 2", "127.0.0.1:53"),
            ("[relay]\nsrs_secret = \"\"", "line 2", "at least 16"),
            ("spool = ", "line 1", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(mend), "{text}\n{error}");
        }
    }
}
