//! `postrider route`: where mail for an address would go and why, and when it would be tried, without sending any.
//!
//! The steps come from [`Site::route`], the servers from [`exchangers::servers`] and the times from
//! [`patience::schedule`], which delivery uses too. DNS is asked, and no host is spoken to.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::words::{plain, span};
use super::{Failure, become_run_as, exit, print};
use crate::aliases::Aliases;
use crate::config::{Config, Delivery, HopSettings, TlsLevel};
use crate::delivery::patience;
use crate::dns::Resolver;
use crate::mail::address::{Address, ReversePath};
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::Outcome;
use crate::maildir::Maildir;
use crate::relay::exchangers::{self, Found, Own, Server};
use crate::relay::not_authentic;
use crate::route::{End, Place, Site};
use crate::users::Users;

/// Attempts that are named one by one; the others come about as regularly as the last of them.
const NAMED_ATTEMPTS: usize = 9;

/// Prints the route of mail for `address` and returns the exit code.
pub fn run(config: &Path, address: &str, from: Option<&str>) -> Result<u8, Failure> {
    let site = load(config)?;
    let address = parse::<Address>(address, "write it like")?;
    let sender = match from {
        Some(from) => parse(from, "write the sender like")?,
        None => ReversePath::Address(site.postmaster_mailbox()),
    };
    let route = site.route(&address, &sender);
    let mut text = format!("mail for {address}\n");
    for step in &route.steps {
        let _ = writeln!(text, "  {step}");
    }
    for end in &route.ends {
        text.push_str(&told(&site, end, &sender));
    }
    if route.ends.iter().any(is_tried_again) {
        text.push_str(&times(&site.config.delivery));
    }
    print(&text.lines().map(|line| plain(line) + "\n").collect::<String>())?;
    let arrives = |end: &End| !matches!(end.place, Place::Nowhere(_));
    Ok(if route.ends.iter().any(arrives) { exit::OK } else { exit::NO_USER })
}

/// Whether it may take more than one attempt by design, and not for want of a disk.
fn is_tried_again(end: &End) -> bool {
    match &end.place {
        Place::Mailbox => false,
        Place::NextHop(_) => true,
        Place::Nowhere(cause) => cause.reply.code() < 500,
    }
}

fn load(config: &Path) -> Result<Site, Failure> {
    let config = Config::load(config)?;
    become_run_as(&config)?;
    let wrong = |what: String| Failure::new(exit::CONFIG, what);
    let users = Users::load(&config.users).map_err(|error| wrong(error.to_string()))?;
    let aliases = Aliases::load(&config.aliases).map_err(|error| wrong(error.to_string()))?;
    Ok(Site { config, users, aliases })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str, mend: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| Failure::new(exit::DATA, format!("{text}: {error}; {mend} ann@example.org")))
}

fn told(site: &Site, end: &End, sender: &ReversePath) -> String {
    let mut text = match &end.place {
        Place::Mailbox => match Maildir::of(&site.config.mailboxes, &end.address) {
            Some(maildir) => format!("into the mailbox of {}: {}\n", end.address, maildir.path().display()),
            None => format!("into the mailbox of {}\n", end.address),
        },
        Place::NextHop(hop) => {
            let port = hop.port.unwrap_or(site.config.delivery.remote_port);
            let mut text = format!("as {} to {}, port {port}\n", end.address, host(hop));
            let found = exchangers::servers(hop, &Resolver::new(&site.config.dns), &Own::of(&site.config));
            hosts(&found).iter().for_each(|host| _ = writeln!(text, "  {host}"));
            let settings = site.config.relay.settings_of(hop);
            let _ = writeln!(text, "  {}", secured(&settings));
            if let Ok(found) = found {
                let _ = writeln!(text, "  with REQUIRETLS: {}", required(&found.servers, settings));
            }
            text
        }
        Place::Nowhere(cause) => format!("nowhere with {}: {cause}\n", end.address),
    };
    if end.reverse_path != *sender {
        let _ = writeln!(text, "  from there on the sender is {}", end.reverse_path);
    }
    text
}

/// How much TLS it takes, and who logs in.
fn secured(settings: &HopSettings) -> String {
    let proof = match (settings.tls, &settings.pin, &settings.ca) {
        (_, Some(_), _) => "under TLS, with the key that pin names",
        (None | Some(TlsLevel::Verified), None, Some(_)) => "under TLS, with a certificate that ca vouches for",
        (Some(TlsLevel::Verified), None, None) => "under TLS, with a certificate for its name",
        (Some(TlsLevel::Required), None, _) => "under TLS, with whomever it turns out to be",
        (None | Some(TlsLevel::Opportunistic), None, _) => "under TLS where it is offered and works, else in clear",
    };
    settings.user.as_ref().map_or_else(|| proof.to_owned(), |user| format!("{proof}, logged in as {user}"))
}

fn host(hop: &NextHop) -> String {
    let host = NextHop { port: None, by_mx: false, ..hop.clone() };
    if hop.by_mx { format!("the mail exchangers of {host}") } else { format!("the host {host}") }
}

/// The servers that delivery would try, in their order, or what keeps it from finding any.
fn hosts(found: &Result<Found, Outcome>) -> Vec<String> {
    match found {
        Ok(found) => {
            let hidden = found.hidden.iter().map(|hidden| format!("where none of these takes it, {}", would(hidden)));
            found.servers.iter().map(ToString::to_string).chain(hidden).collect()
        }
        Err(outcome) => vec![would(outcome)],
    }
}

fn would(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(cause) => format!("it would fail: {cause}"),
        Outcome::Deferred(cause) | Outcome::Delivered(cause) => format!("it would wait: {cause}"),
    }
}

/// What a message whose sender asks for TLS all the way gets (RFC 8689 §4.2.1).
fn required(servers: &[Server], settings: HopSettings) -> String {
    match servers.iter().find(|server| !server.is_authentic) {
        Some(server) => would(&not_authentic(&server.name)),
        None => format!("{}, to a host that offers it", secured(&settings.verified())),
    }
}

fn times(settings: &Delivery) -> String {
    let attempts: Vec<Duration> = patience::schedule(settings).take(NAMED_ATTEMPTS).collect();
    let named: Vec<String> = attempts.iter().skip(1).map(|waited| span(*waited)).collect();
    let mut text = "tried at once".to_owned();
    if !named.is_empty() {
        let _ = write!(text, "; where that fails for now, again after {}", named.join(", "));
    }
    let last = patience::schedule(settings).nth(NAMED_ATTEMPTS);
    if let Some((next, before)) = last.zip(attempts.last()) {
        let _ = write!(text, ", and then about every {}", span(next.saturating_sub(*before)));
    }
    let _ = write!(text, "\nthe sender is told of the delay after {}", span(settings.warn_after));
    let _ = writeln!(text, ", and gets it back after {}", span(settings.give_up));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_told_in_words() {
        let told = times(&Delivery::default());
        assert!(told.contains("again after 5 min, 10 min, 20 min, 40 min, 80 min, 2 h, 5 h, 8 h, "), "{told}");
        assert!(
            told.contains("about every 3 h\n") && told.contains("delay after 4 h, and gets it back after 5 d"),
            "{told}"
        );
        let hasty = Delivery { give_up: Duration::from_secs(1), ..Delivery::default() };
        assert!(times(&hasty).starts_with("tried at once; where that fails for now, again after 5 min\n"));
    }

    #[test]
    fn how_a_hop_is_spoken_with_is_told() {
        let text = "[relay]\nsmarthost = \"a.example\"\n[relay.hops.\"mx:b.example\"]\nuser = \"ann\"\n";
        let relay = Config::parse(text, Path::new("/x")).unwrap().relay;
        for (hop, expected) in [
            ("a.example", "under TLS, with a certificate for its name"),
            ("mx:b.example", "under TLS, with a certificate for its name, logged in as ann"),
            ("mx:c.example", "under TLS where it is offered and works, else in clear"),
        ] {
            assert_eq!(secured(&relay.settings_of(&hop.parse().unwrap())), expected);
        }
        let local = Config::parse("[relay]\nsmarthost = \"127.0.0.1:2525\"", Path::new("/x")).unwrap().relay;
        let here = local.settings_of(&"127.0.0.1:2525".parse().unwrap());
        assert_eq!(here, HopSettings::default(), "who is on this host itself has nothing to prove");
    }

    #[test]
    fn what_a_message_with_requiretls_gets_is_told() {
        let address = "192.0.2.1:25".parse().unwrap();
        for (is_authentic, settings, expected) in [
            (false, HopSettings::default(), "it would fail: 550 5.7.10 DNS names mx.far.example to take this mail, "),
            (true, HopSettings::default(), "under TLS, with a certificate for its name, to a host that offers it"),
            (
                true,
                HopSettings { pin: Some("x".into()), ..HopSettings::default() },
                "under TLS, with the key that pin names, to a host that offers it",
            ),
        ] {
            let told = required(&[Server { name: "mx.far.example".into(), address, is_authentic }], settings);
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn hops_are_told_in_words() {
        for (hop, expected) in [
            ("mx:far.example", "the mail exchangers of far.example"),
            ("mx:far.example:2525", "the mail exchangers of far.example"),
            ("relay.example:587", "the host relay.example"),
            ("192.0.2.7", "the host 192.0.2.7"),
        ] {
            assert_eq!(host(&hop.parse().unwrap()), expected);
        }
    }
}
