//! `postrider check`: what is wrong with the configuration and all that it names, each with its place and its mend.
//!
//! Nothing is changed and nothing is made. One mistake hides no other: what can't be read is left out, and the rest is
//! looked at. What is written is looked at here, what this host offers for it in `host.rs`, keys and commands in
//! `secrets.rs`, and what is about mail for other hosts in `onward.rs` and `hops.rs`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;

use super::finding::{Finding, Level};
use super::{Failure, become_run_as, exit, hops, host, onward, print, secrets};
use crate::aliases::Aliases;
use crate::config::{Config, Listen};
use crate::io::listener;
use crate::io::table::{self, LocatedError};
use crate::limits;
use crate::mail::address::{Address, Domain, ReversePath};
use crate::route::{End, Place, Site};
use crate::tls::{Certificates, DirectFiles};
use crate::users::Users;

/// Prints what there is to say, and returns the exit code.
pub fn run(config_path: &Path, offline: bool) -> Result<u8, Failure> {
    let findings = match Config::load(config_path) {
        Ok(config) => look(config_path, &config, offline),
        Err(error) => vec![Finding::error(error.to_string())],
    };
    let mut text = String::new();
    for finding in &findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        text.push_str(&format!("{level}: {}\n", finding.text));
    }
    print(&text)?;
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { exit::CONFIG } else { exit::OK })
}

fn look(config_path: &Path, config: &Config, offline: bool) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(format!("{}: the configuration can be read", config_path.display()))];
    // As whoever started it, like the server itself, for keys that only root may read.
    findings.extend(errors(Certificates::check(&config.tls, &DirectFiles)));
    findings.extend(hops::hops(config));
    let mut seen = Vec::new();
    if !offline {
        // As root still, like the server itself; the rest is seen with the eyes of run_as.
        findings.extend(host::ports(config));
        findings.extend(host::proxies(config, listener::is_of_this_host));
        findings.extend(host::accounts(config));
        seen = secrets::see(config);
        if let Err(failure) = become_run_as(config) {
            findings.push(Finding::error(failure.what));
        }
    }
    for path in [config_path, &config.users, &config.aliases] {
        findings.extend(writable_by_others(path));
    }
    let (users, of_users) = read_users(config);
    let (aliases, of_aliases) = read_aliases(config);
    findings.extend(of_users);
    findings.extend(of_aliases);
    let site = Site { config: config.clone(), users, aliases };
    findings.extend(lost_aliases(&site));
    findings.extend(postmaster(&site));
    findings.extend(open_relay(config));
    findings.extend(clear_passwords(config));
    findings.extend(believed_resolver(config));
    findings.extend(onward::written(config_path, config));
    findings.extend(onward::aliases(&site));
    if !offline {
        findings.extend(onward::found(config));
        findings.extend(host::folders(config));
        findings.extend(host::disk(config));
        findings.push(host::sandbox());
        findings.extend(secrets::files(&seen));
        findings.extend(secrets::commands(config));
        findings.extend(secrets::configuration(config_path, &seen));
    }
    findings
}

fn writable_by_others(path: &Path) -> Option<Finding> {
    let mode = path.metadata().ok()?.mode();
    let text = format!("{0}: anyone on this host may write it; chmod o-w {0}", path.display());
    (mode & 0o002 != 0).then(|| Finding::warning(text))
}

fn errors(found: Vec<LocatedError>) -> Vec<Finding> {
    let finding = |error: LocatedError| {
        let unreadable = error.line.is_none().then(|| host::unreadable(&error.path)).flatten();
        unreadable.unwrap_or_else(|| Finding::error(error.to_string()))
    };
    found.into_iter().map(finding).collect()
}

fn read_users(config: &Config) -> (Users, Vec<Finding>) {
    let path = &config.users;
    let text = match table::read(path, limits::TABLE_FILE) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let text = format!("{}: no users file yet; postrider user add makes it", path.display());
            return (Users::default(), vec![Finding::warning(text)]);
        }
        Err(error) => return (Users::default(), errors(vec![error])),
    };
    let (users, wrong) = Users::read(path, &text);
    let mut findings = errors(wrong);
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{}: users: {}", path.display(), users.addresses().count())));
    }
    if path.metadata().is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
        let text = "anyone on this host may read the passwords' hashes";
        findings.push(Finding::warning(format!("{0}: {text}; chmod o-r {0}", path.display())));
    }
    for user in users.addresses().filter(|user| !user.domain().is_some_and(|domain| config.is_local(domain))) {
        let text = format!("{}: {user} gets no mail: {} is not in local_domains", path.display(), user.host());
        findings.push(Finding::warning(text));
    }
    (users, findings)
}

fn read_aliases(config: &Config) -> (Aliases, Vec<Finding>) {
    let path = &config.aliases;
    let text = match table::read(path, limits::TABLE_FILE) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return (Aliases::default(), errors(vec![error])),
    };
    let (aliases, mut wrong) = parse_leniently(path, &text);
    wrong.extend(aliases.broken_lists().cloned());
    let mut findings = errors(wrong);
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{}: aliases: {}", path.display(), aliases.names().count())));
    }
    for (name, _) in aliases.names() {
        let domain = name.rsplit_once('@').and_then(|(_, domain)| domain.parse::<Domain>().ok());
        if let Some(domain) = domain.filter(|domain| !config.is_local(domain)) {
            let text = format!("{}: the alias {name} is never used: {domain} is not in local_domains", path.display());
            findings.push(Finding::warning(text));
        }
    }
    (aliases, findings)
}

/// Reads what can be read: each entry that is wrong is left out, until no other is.
fn parse_leniently(path: &Path, text: &str) -> (Aliases, Vec<LocatedError>) {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut wrong = Vec::new();
    loop {
        match Aliases::parse(path, &lines.join("\n")) {
            Ok(aliases) => return (aliases, wrong),
            Err(error) => {
                let line = error.line;
                wrong.push(error);
                // More would be too much to read; and each costs one reading of the file.
                let Some(line) = line.filter(|line| *line <= lines.len() && wrong.len() < 50) else {
                    return (Aliases::default(), wrong);
                };
                leave_out(&mut lines, line - 1);
            }
        }
    }
}

/// Empties an entry: its line and those that go on with it.
fn leave_out(lines: &mut [&str], at: usize) {
    lines[at] = "";
    for line in lines[at + 1..].iter_mut().take_while(|line| line.is_empty() || line.starts_with([' ', '\t', '#'])) {
        *line = "";
    }
}

/// Aliases whose mail, or a part of it, would come back.
fn lost_aliases(site: &Site) -> Vec<Finding> {
    let mut lost = BTreeSet::new();
    for (name, _) in site.aliases.names() {
        // What is wrong at one domain is seldom better at the next, and told once.
        let ends = site.addresses_of(name).iter().map(|address| nowhere(site, address)).find(|ends| !ends.is_empty());
        for (end, text) in ends.into_iter().flatten() {
            lost.insert(format!(
                "{}: the alias {name} leads nowhere at {end}: {text}; name a user or another address",
                site.config.aliases.display()
            ));
        }
    }
    lost.into_iter().map(Finding::warning).collect()
}

/// The ends that take no mail for good. Lists that can't be read are told where they stand.
fn nowhere(site: &Site, address: &Address) -> Vec<(Address, String)> {
    let for_good = |end: End| match end.place {
        Place::Nowhere(cause) if cause.reply.enhanced().is_none_or(|code| code.0 == 5) => {
            Some((end.address, cause.to_string()))
        }
        _ => None,
    };
    site.route(address, &ReversePath::Null).ends.into_iter().filter_map(for_good).collect()
}

/// Whether someone reads what is sent to the postmaster (RFC 5321 §4.5.1).
fn postmaster(site: &Site) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    for domain in &site.config.local_domains {
        let Ok(address) = Address::new("postmaster", domain.clone()) else { continue };
        let mend = "set postmaster in the configuration to an address that is read";
        for end in site.route(&address, &ReversePath::Null).ends {
            match end.place {
                Place::Nowhere(cause) => {
                    findings.insert(format!("{address} leads nowhere at {}: {cause}; {mend}", end.address));
                }
                Place::Mailbox if !site.users.contains(&end.address) => {
                    let text = "nobody can fetch the mail of the postmaster";
                    findings.insert(format!("{text}: {} is no user; add it, or {mend}", end.address));
                }
                Place::Mailbox | Place::NextHop(_) => {}
            }
        }
    }
    if findings.is_empty() {
        return vec![Finding::ok("the postmaster can be reached at every local domain")];
    }
    findings.into_iter().map(Finding::warning).collect()
}

/// Networks of strangers in relay.from, while strangers can connect: promise 2.
fn open_relay(config: &Config) -> Vec<Finding> {
    let Some(port) = Listen::outside(&config.listen.smtp) else { return Vec::new() };
    let strange = config.relay.from.iter().filter(|network| !is_private(network) && !is_single(network));
    let finding = |network: &IpNet| {
        let text = format!("relay.from has {network}, and listen.smtp has {port}: ");
        let mend = "name only the networks of your own clients";
        if network.prefix_len() == 0 {
            return Finding::error(format!("{text}this is an open relay, which spammers find within hours; {mend}"));
        }
        Finding::warning(format!("{text}every host of this public network may send anywhere through this one; {mend}"))
    };
    strange.map(finding).collect()
}

fn clear_passwords(config: &Config) -> Vec<Finding> {
    let (listen, mut findings) = (&config.listen, Vec::new());
    for (key, ports, networks) in [
        ("pop3", &listen.pop3, &config.pop3.cleartext),
        ("submission", &listen.submission, &config.submission.cleartext),
    ] {
        let Some(port) = Listen::outside(ports) else { continue };
        for network in networks.iter().filter(|network| !network.addr().to_canonical().is_loopback()) {
            findings.push(Finding::warning(format!(
                "{key}.cleartext has {network}, and listen.{key} has {port}: passwords can be overheard on the way; \
                 name only networks that nobody else is in"
            )));
        }
    }
    findings
}

/// Answers that anyone on the way may have made, and that are believed to be signed.
fn believed_resolver(config: &Config) -> Option<Finding> {
    let server = config.dns.resolver.filter(|_| config.dns.trust_ad)?.ip().to_canonical();
    (!is_private(&server.into())).then(|| {
        Finding::warning(format!(
            "dns.trust_ad is set, and {server} is beyond your own network: whoever sits on the way can make its answers; run \
             a resolver that checks signatures on this host, or leave dns.trust_ad out"
        ))
    })
}

fn is_single(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// Loopback, link-local, private and carriers' networks (RFC 1918, 3927, 4193, 4291, 6598): no stranger is in them.
fn is_private(network: &IpNet) -> bool {
    const PRIVATE: [(IpAddr, u8); 9] = {
        use std::net::{Ipv4Addr as V4, Ipv6Addr as V6};
        [
            (IpAddr::V4(V4::new(127, 0, 0, 0)), 8),
            (IpAddr::V4(V4::new(10, 0, 0, 0)), 8),
            (IpAddr::V4(V4::new(172, 16, 0, 0)), 12),
            (IpAddr::V4(V4::new(192, 168, 0, 0)), 16),
            (IpAddr::V4(V4::new(169, 254, 0, 0)), 16),
            (IpAddr::V4(V4::new(100, 64, 0, 0)), 10),
            (IpAddr::V6(V6::LOCALHOST), 128),
            (IpAddr::V6(V6::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
            (IpAddr::V6(V6::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
        ]
    };
    PRIVATE.iter().filter_map(|(address, length)| IpNet::new(*address, *length).ok()).any(|own| own.contains(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(&format!("local_domains = [\"example.org\", \"example.net\"]\n{text}"), Path::new("/x")).unwrap()
    }

    fn site(aliases: &str) -> Site {
        let users = ["ann@example.org"].iter().map(|user| user.parse().unwrap()).collect();
        Site { config: config(""), users, aliases: parse_leniently(Path::new("/x/aliases"), aliases).0 }
    }

    fn texts(findings: &[Finding]) -> String {
        findings.iter().map(|finding| format!("{:?} {}\n", finding.level, finding.text)).collect()
    }

    #[test]
    fn all_that_is_wrong_in_the_aliases_is_told_and_the_rest_is_read() {
        let text = "bad\n  goes on:\ninfo: ann\n\nb: |prog\n# note\n\tc\nd: /file\n";
        let (aliases, wrong) = parse_leniently(Path::new("aliases"), text);
        assert_eq!(wrong.iter().filter_map(|error| error.line).collect::<Vec<_>>(), [1, 5, 8]);
        assert_eq!(aliases.names().map(|(name, _)| name).collect::<Vec<_>>(), ["info"]);
    }

    #[test]
    fn aliases_that_lead_nowhere_are_told_once() {
        let found = lost_aliases(&site(
            "info: ann, bob\nloop: loop2\nloop2: loop\n@example.net: carol\nok: x@far.example\nl: :include:/nowhere\n",
        ));
        let text = texts(&found);
        for part in ["info leads nowhere at bob@example.org", "alias loop ", "alias @example.net leads"] {
            assert_eq!(text.matches(part).count(), 1, "{part}\n{text}");
        }
        assert!(!text.contains("alias ok") && !text.contains("alias l "), "{text}");
        assert!(found.iter().all(|finding| finding.level == Level::Warning));
    }

    #[test]
    fn the_postmaster_must_be_read_by_someone() {
        assert!(texts(&postmaster(&site(""))).contains("Warning nobody can fetch"));
        assert!(texts(&postmaster(&site("postmaster: gone"))).contains("leads nowhere at gone@example.org"));
        assert_eq!(postmaster(&site("postmaster: ann"))[0].level, Level::Ok);
    }

    #[test]
    fn open_relays_are_told() {
        for (from, smtp, expected) in [
            ("10.0.0.0/8", "0.0.0.0:25", ""),
            ("fd00::/8", "[::]:25", ""),
            ("198.51.100.7", "0.0.0.0:25", ""),
            ("198.51.100.0/24", "0.0.0.0:25", "Warning"),
            ("198.51.100.0/24", "127.0.0.1:25", ""),
            ("0.0.0.0/0", "0.0.0.0:25", "Error"),
            ("::/0", "[2001:db8::1]:25", "Error"),
            ("10.0.0.0/7", "0.0.0.0:25", "Warning"),
        ] {
            let config = config(&format!("[relay]\nfrom = [\"{from}\"]\n[listen]\nsmtp = [\"{smtp}\"]"));
            let found = texts(&open_relay(&config));
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{from} {smtp}: {found}");
        }
    }

    #[test]
    fn passwords_in_clear_beyond_this_host_are_told() {
        for (clear, pop3, told) in [
            ("127.0.0.0/8", "0.0.0.0:110", false),
            ("10.0.0.0/8", "0.0.0.0:110", true),
            ("10.0.0.0/8", "[::1]:110", false),
        ] {
            let config = config(&format!("[pop3]\ncleartext = [\"{clear}\"]\n[listen]\npop3 = [\"{pop3}\"]"));
            assert_eq!(clear_passwords(&config).len(), usize::from(told), "{clear} {pop3}");
        }
    }

    #[test]
    fn a_resolver_that_strangers_can_stand_before_is_told_where_it_is_believed() {
        for (resolver, trust, told) in [
            ("192.0.2.53:53", true, true),
            ("[2001:db8::53]:53", true, true),
            ("192.0.2.53:53", false, false),
            ("10.0.0.1:53", true, false),
            ("[::1]:53", true, false),
        ] {
            let config = config(&format!("[dns]\nresolver = \"{resolver}\"\ntrust_ad = {trust}"));
            assert_eq!(believed_resolver(&config).is_some(), told, "{resolver} {trust}");
        }
    }
}
