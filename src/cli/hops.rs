//! What `check` finds in `relay.hops`: what a next hop has to prove, and who logs in there. Where the secrets are is looked
//! at in `secrets.rs`.

use super::finding::Finding;
use crate::config::{Config, HopSettings, TlsLevel};
use crate::mail::address::Host;
use crate::mail::next_hop::NextHop;
use crate::tls::{DirectFiles, Level};

/// All of it.
pub fn hops(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, settings) in &config.relay.hops {
        let key = format!("relay.hops.\"{}\"", name.0);
        if !is_used(&name.0, config) {
            findings.push(Finding::warning(format!(
                "{key}: no mail goes there; write it as relay.smarthost or relay.domains has it, with its port, or \
                 \"mx:\" and the domain where DNS says it"
            )));
        }
        if let Err(what) = Level::of(settings, &DirectFiles) {
            findings.push(Finding::error(format!("{key}: {what}")));
        }
        findings.extend(unheeded(&key, settings));
        findings.extend(secrets(&key, settings));
    }
    findings
}

/// Whether delivery may call a next hop so.
fn is_used(hop: &NextHop, config: &Config) -> bool {
    let relay = &config.relay;
    let is_named = relay.smarthost.as_ref() == Some(hop) || relay.domains.values().any(|fixed| fixed.0 == *hop);
    // Without a smarthost DNS may lead anywhere.
    let by_dns = hop.port.is_none() && (hop.by_mx || matches!(hop.host, Host::Literal(_)));
    is_named || (relay.smarthost.is_none() && by_dns)
}

/// Keys that another one makes idle.
fn unheeded(key: &str, settings: &HopSettings) -> Option<Finding> {
    let weak = matches!(settings.tls, Some(TlsLevel::Opportunistic | TlsLevel::Required));
    let idle = match (&settings.pin, &settings.ca) {
        (Some(_), _) if weak => "tls",
        (Some(_), Some(_)) => "ca",
        (None, Some(_)) if weak => "ca",
        _ => return None,
    };
    let by = if settings.pin.is_some() { "pin" } else { "tls" };
    Some(Finding::warning(format!("{key}: {idle} does nothing beside {by}; take out one of them")))
}

/// Whether there is a name and a secret, one of each.
fn secrets(key: &str, settings: &HopSettings) -> Option<Finding> {
    let all = [
        ("password_file", settings.password_file.is_some()),
        ("password_command", settings.password_command.is_some()),
        ("token_command", settings.token_command.is_some()),
    ];
    let named: Vec<&str> = all.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
    let empty = [&settings.password_command, &settings.token_command].into_iter().flatten().any(Vec::is_empty);
    let text = match (settings.user.is_some(), named.as_slice()) {
        _ if empty => "a command has no program; write it like [\"program\", \"argument\"]".to_owned(),
        (true, []) => "user is set, and no secret; set password_file, password_command or token_command".to_owned(),
        (false, [_]) => format!("{} is set, and no user; set user to the name to log in with", named[0]),
        (_, [_, _, ..]) => format!("{} are set at once; keep one of them", named.join(" and ")),
        (true, [_]) | (false, []) => return None,
    };
    Some(Finding::error(format!("{key}: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn found(text: &str) -> String {
        let top = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\n[relay]\n";
        let config = Config::parse(&format!("{top}{text}"), Path::new("/x")).unwrap();
        hops(&config).iter().map(|finding| format!("{:?} {}\n", finding.level, finding.text)).collect()
    }

    #[test]
    fn what_a_hop_has_to_prove_must_be_possible() {
        for (settings, expected) in [
            ("", ""),
            ("tls = \"required\"", ""),
            ("pin = \"abc\"", "Error relay.hops.\"mx:far.example\": \"abc\" is no pin"),
            ("ca = \"/not/there\"", "Error relay.hops.\"mx:far.example\": /not/there"),
            (
                "ca = \"/not/there\"\ntls = \"required\"",
                "Warning relay.hops.\"mx:far.example\": ca does nothing beside tls",
            ),
        ] {
            let found = found(&format!("[relay.hops.\"mx:far.example\"]\n{settings}\n"));
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{settings}: {found}");
        }
    }

    #[test]
    fn entries_that_nothing_leads_to_are_told() {
        let hop = "hops = { \"smtp.provider.example\" = { tls = \"required\" } }\n";
        for (more, used) in [
            ("", false),
            ("smarthost = \"smtp.provider.example\"\n", true),
            ("smarthost = \"smtp.provider.example:587\"\n", false),
            ("domains = { \"a.example\" = \"smtp.provider.example\" }\n", true),
        ] {
            assert_eq!(found(&format!("{hop}{more}")).contains("no mail goes there"), !used, "{more}");
        }
        for (name, smarthost, used) in [
            ("mx:a.example", "", true),
            ("mx:a.example", "smarthost = \"b.example\"\n", false),
            ("192.0.2.1", "", true),
        ] {
            let text = format!("{smarthost}hops = {{ \"{name}\" = {{ tls = \"required\" }} }}\n");
            assert_eq!(found(&text).contains("no mail goes there"), !used, "{text}");
        }
    }

    #[test]
    fn a_login_has_one_name_and_one_secret() {
        for (settings, expected) in [
            ("user = \"ann\"\npassword_command = [\"pass\", \"ann\"]", ""),
            ("user = \"ann\"", "user is set, and no secret"),
            ("token_command = [\"x\"]", "token_command is set, and no user"),
            (
                "user = \"a\"\npassword_command = [\"x\"]\ntoken_command = [\"x\"]",
                "password_command and token_command are set",
            ),
            ("user = \"a\"\npassword_command = []", "a command has no program"),
        ] {
            let found = found(&format!("[relay.hops.\"mx:far.example\"]\n{settings}\n"));
            let start = format!("Error relay.hops.\"mx:far.example\": {expected}");
            assert!(
                found.is_empty() == expected.is_empty() && (found.is_empty() || found.starts_with(&start)),
                "{found}"
            );
        }
    }
}
