//! Aliases: what is taken means the same with a comment more, every name has a route that ends within its bounds, and an
//! error names a line of the file.

use std::path::Path;
use std::sync::LazyLock;

use postrider::aliases::{AliasTarget, Aliases};
use postrider::config::Config;
use postrider::limits;
use postrider::mail::address::{Address, Domain, ReversePath};
use postrider::route::Site;
use postrider::users::Users;

use super::is_one_line;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\", \"second.example\"]";
    Config::parse(text, Path::new("/")).unwrap()
});

pub fn check(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    if text.contains(":include:") && text.contains('/') {
        // The files of this machine are no part of the input.
        return;
    }
    let path = Path::new("/nonexistent/aliases");
    let aliases = match Aliases::parse(path, text) {
        Ok(aliases) => aliases,
        Err(error) => {
            assert!(error.line.is_some_and(|line| (1..=text.lines().count()).contains(&line)), "{error}");
            return;
        }
    };
    assert_eq!(Aliases::parse(path, &format!("# a comment\n{text}\n\n# another\n")).as_ref(), Ok(&aliases));
    let names: Vec<String> = aliases.names().map(|(name, _)| name.to_owned()).collect();
    for (name, targets) in aliases.names() {
        assert!(is_one_line(name) && !targets.is_empty(), "{name:?}");
        targets.iter().for_each(check_target);
    }
    let users = ["ann", "bob"].map(|name| format!("{name}@example.org").parse().unwrap());
    let site = Site { config: CONFIG.clone(), users: Users::from_iter(users), aliases };
    names.iter().take(20).for_each(|name| check_route(&site, name));
}

fn check_target(target: &AliasTarget) {
    match target {
        AliasTarget::Address(address) => assert_eq!(address.to_string().parse().as_ref(), Ok(address)),
        AliasTarget::Name(name) | AliasTarget::Mailbox(name) => assert!(is_one_line(name), "{name:?}"),
        AliasTarget::Include(path) => assert!(path.starts_with("/nonexistent")),
    }
}

fn check_route(site: &Site, name: &str) {
    let (local_part, domain) = match name.strip_prefix('@') {
        Some(domain) => ("any", domain),
        None => name.rsplit_once('@').unwrap_or((name, "example.org")),
    };
    let Ok(domain) = domain.parse::<Domain>() else { return };
    let Ok(address) = Address::new(local_part, domain) else { return };
    let route = site.route(&address, &ReversePath::Null);
    assert!(!route.ends.is_empty(), "the mail for {address} would vanish");
    assert!(route.ends.len() + route.steps.len() <= 3 * limits::ROUTE_WORK);
    assert_eq!(site.route(&address, &ReversePath::Null), route, "twice the same");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut texts: Vec<String> = [
        "# comment\nInfo: Ann,\n\tbob@Far.example # both\n\n\"two words\": \\ann\nann@example.org: <carol@far.example>\n",
        "root: \\root\nowner-team: ann\nteam: :include:team\n@second.example: ann\n",
        "a: b\nb: c, a\nc: \\c, \"d e\"@far.example\n",
        "ann: ann, bob\nann+tag: bob\n",
        "a: \"|/bin/sh\"",
        "a: b@",
        "J\u{f6}rg: \u{130}@b\u{fc}cher.example\n",
        "\"a\\\"b\": \"c,d\", \"e:f\"\n",
    ]
    .map(str::to_owned)
    .into();
    let folder = super::dialogues::tests().join("dialogues");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("aliases: ")).collect();
        if !lines.is_empty() {
            texts.push(lines.join("\n"));
        }
    }
    texts.sort();
    texts.into_iter().map(String::into_bytes).collect()
}
