//! What `check` finds about mail for other hosts: keys that contradict one another, and next hops that lead nowhere.
//!
//! [`written`] and [`aliases`] only look at what was read; [`found`] asks DNS, and asks no more once it does not answer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::finding::Finding;
use crate::config::{Config, Listen};
use crate::dns::Resolver;
use crate::mail::address::ReversePath;
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::{Cause, Outcome};
use crate::relay::exchangers::{Names, Own, servers};
use crate::route::{End, Place, Site};

/// What is wrong as it is written.
pub fn written(config_path: &Path, config: &Config) -> Vec<Finding> {
    let (relay, delivery) = (&config.relay, &config.delivery);
    let mut findings: Vec<Finding> = relay.srs_secret.iter().filter_map(|_| is_read_by_others(config_path)).collect();
    if let (Some(sender), None) = (&relay.smarthost_sender, &relay.smarthost) {
        findings.push(Finding::warning(format!(
            "relay.smarthost_sender is {sender}, and there is no relay.smarthost: no sender becomes it; set both, or none"
        )));
    }
    for local in relay.domains.keys().filter(|key| !key.below && config.is_local(&key.domain)) {
        let domain = &local.domain;
        findings.push(Finding::warning(format!(
            "relay.domains has {domain}, and so has local_domains: its mail ends here; take it out of one of them"
        )));
    }
    if delivery.warn_after >= delivery.give_up {
        findings.push(Finding::warning(
            "delivery.warn_after is not below give_up: no sender hears that a message is late; lower it",
        ));
    }
    if delivery.threads == 1 {
        findings.push(Finding::warning(
            "delivery.threads is 1: a slow host elsewhere holds up mail for the mailboxes here; use 2 at least",
        ));
    }
    if delivery.remote_port != 25 {
        findings.push(Finding::warning(format!(
            "delivery.remote_port is {}: other hosts take mail on 25; to reach one host elsewhere, name the port with \
             it in relay.smarthost or relay.domains",
            delivery.remote_port
        )));
    }
    findings
}

/// Whoever knows the secret makes this host send mail to anyone.
fn is_read_by_others(config_path: &Path) -> Option<Finding> {
    let is_open = config_path.metadata().is_ok_and(|metadata| metadata.mode() & 0o004 != 0);
    is_open.then(|| {
        Finding::warning(format!(
            "{0}: anyone on this host may read relay.srs_secret; chmod o-r {0}, with the group of run_as",
            config_path.display()
        ))
    })
}

/// Aliases that send strangers' mail on with the strangers' senders, which SPF forbids this host to use.
pub fn aliases(site: &Site) -> Option<Finding> {
    Listen::outside(&site.config.listen.smtp).filter(|_| site.config.relay.srs_secret.is_none())?;
    let stranger = ReversePath::Address("someone@stranger.invalid".parse().ok()?);
    let keeps_sender = |end: &End| matches!(end.place, Place::NextHop(_)) && end.reverse_path == stranger;
    let leaves = |name: &&str| {
        let mut addresses = site.addresses_of(name).into_iter();
        addresses.any(|address| site.route(&address, &stranger).ends.iter().any(keeps_sender))
    };
    let mut names: Vec<&str> = site.aliases.names().map(|(name, _)| name).filter(leaves).collect();
    names.sort();
    let first = *names.first()?;
    let others = if names.len() > 1 { format!(" ({} such aliases in all)", names.len()) } else { String::new() };
    Some(Finding::warning(format!(
        "{}: the alias {first} leads to another host{others}, and relay.srs_secret is not set: hosts that check SPF refuse \
         what strangers send there; set it to what openssl rand -hex 16 prints",
        site.config.aliases.display()
    )))
}

/// Where the next hops of the configuration are.
pub fn found(config: &Config) -> Vec<Finding> {
    hops(config, &Resolver::new(&config.dns))
}

fn hops(config: &Config, names: &dyn Names) -> Vec<Finding> {
    let mut keys: BTreeMap<&NextHop, String> = BTreeMap::new();
    for (key, hop) in &config.relay.domains {
        let dot = if key.below { "." } else { "" };
        keys.entry(&hop.0).or_insert_with(|| format!("relay.domains: {dot}{}", key.domain));
    }
    keys.extend(config.relay.smarthost.iter().map(|hop| (hop, "relay.smarthost".to_owned())));
    let mut findings = Vec::new();
    for (hop, key) in keys {
        let cause = match servers(hop, names, &Own::of(config)) {
            Ok(found) => {
                findings.push(Finding::ok(format!("{key}: {hop} is at {}", found.servers[0].address)));
                continue;
            }
            Err(Outcome::Delivered(cause) | Outcome::Deferred(cause) | Outcome::Failed(cause)) => cause,
        };
        findings.push(lost(&key, hop, &cause));
        if is_about_dns(&cause) {
            // The other questions would take as long, and come to the same.
            break;
        }
    }
    findings
}

fn lost(key: &str, hop: &NextHop, cause: &Cause) -> Finding {
    if code(cause) == Some((4, 6)) {
        let mend = "name another host, or put the domain into local_domains";
        return Finding::error(format!("{key}: {hop} is this host itself, so that the mail goes nowhere; {mend}"));
    }
    Finding::warning(format!("{key}: {hop}: {cause}; until it can be found, the mail for it waits or fails"))
}

fn is_about_dns(cause: &Cause) -> bool {
    code(cause) == Some((4, 3))
}

fn code(cause: &Cause) -> Option<(u16, u16)> {
    cause.reply.enhanced().map(|code| (code.1, code.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::cli::finding::Level;
    use crate::dns::{Mx, NoAnswer};
    use crate::mail::address::Domain;
    use std::cell::Cell;
    use std::net::IpAddr;

    fn config(text: &str) -> Config {
        let top = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\n";
        Config::parse(&format!("{top}{text}"), Path::new("/x")).unwrap()
    }

    fn texts(findings: &[Finding]) -> String {
        findings.iter().map(|finding| format!("{:?} {}\n", finding.level, finding.text)).collect()
    }

    #[test]
    fn keys_that_do_not_do_what_was_meant_are_told() {
        for (text, expected) in [
            ("", ""),
            ("[relay]\nsrs_secret = \"sixteen letters!\"", ""),
            ("[relay]\nsmarthost_sender = \"a@b.example\"", "Warning relay.smarthost_sender is a@b.example"),
            ("[relay]\nsmarthost_sender = \"a@b.example\"\nsmarthost = \"b.example\"", ""),
            ("[relay.domains]\n\"example.org\" = \"b.example\"", "Warning relay.domains has example.org"),
            ("[relay.domains]\n\".example.org\" = \"b.example\"", ""),
            ("[delivery]\nwarn_after = \"1d\"\ngive_up = \"1d\"", "Warning delivery.warn_after"),
            ("[delivery]\nthreads = 1", "Warning delivery.threads is 1"),
            ("[delivery]\nthreads = 2", ""),
            ("[delivery]\nremote_port = 2525", "Warning delivery.remote_port is 2525"),
        ] {
            let found = texts(&written(Path::new("/not there"), &config(text)));
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
        }
    }

    #[test]
    fn aliases_to_other_hosts_need_a_secret_where_strangers_connect() {
        let of = |text: &str, aliases: &str| {
            let aliases = Aliases::parse(Path::new("/x/aliases"), aliases).unwrap();
            let site = Site { config: config(text), users: Default::default(), aliases };
            super::aliases(&site).map(|finding| finding.text).unwrap_or_default()
        };
        let open = "[listen]\nsmtp = [\"[::]:25\"]\n";
        let leads = "info: x@far.example\nroot: info\nhere: nobody\n";
        assert!(of(open, leads).contains("alias info leads to another host (2 such aliases in all)"));
        assert_eq!(of("", leads), "");
        assert_eq!(of(&format!("{open}[relay]\nsrs_secret = \"sixteen letters!\""), leads), "");
        assert_eq!(of(open, "here: nobody\nteam: x@far.example\nowner-team: here\n"), "");
    }

    /// One host that exists, one that does not, and a fault for all others; counts the questions.
    struct Zone(Cell<usize>);

    impl Names for Zone {
        fn mx(&self, _: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer> {
            self.0.set(self.0.get() + 1);
            Err(NoAnswer::Fault("SERVFAIL".into()))
        }

        fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            match host.as_str() {
                "here.example" => Ok(vec!["192.0.2.1".parse().unwrap()]),
                _ => Err(NoAnswer::NoSuchName),
            }
        }

        fn configured(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            self.addresses(host)
        }
    }

    #[test]
    fn next_hops_are_looked_for() {
        let of = |text: &str| {
            let zone = Zone(Cell::new(0));
            let config = config(&format!("[listen]\nsmtp = [\"192.0.2.9:25\"]\n[relay]\n{text}"));
            (texts(&hops(&config, &zone)), zone.0.get())
        };
        for (text, expected) in [
            ("smarthost = \"here.example\"", "Ok relay.smarthost: here.example is at 192.0.2.1:25"),
            ("smarthost = \"gone.example\"", "Warning relay.smarthost: gone.example: "),
            ("smarthost = \"192.0.2.9\"", "Error relay.smarthost: 192.0.2.9 is this host itself"),
            (
                "domains = { \".a.example\" = \"192.0.2.9:25\" }",
                "Error relay.domains: .a.example: 192.0.2.9:25 is this",
            ),
        ] {
            let found = of(text).0;
            assert!(found.starts_with(expected) && found.lines().count() == 1, "{text}: {found}");
        }
        let (found, questions) = of("domains = { \"a.example\" = \"mx:a.example\", \"b.example\" = \"mx:b.example\" }");
        assert!(found.starts_with("Warning relay.domains: a.example: mx:a.example: 451 4.4.3 "), "{found}");
        assert_eq!(questions, 1, "a fault is waited for once");
    }

    #[test]
    fn a_secret_is_for_no_other_eyes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, level) in [(0o600, None), (0o640, None), (0o644, Some(Level::Warning))] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(file.path(), mode).unwrap();
            assert_eq!(is_read_by_others(file.path()).map(|finding| finding.level), level);
        }
    }
}
