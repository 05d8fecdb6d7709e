//! Configurations: one that is taken means the same with a comment more, keeps its bounds and has whole paths; one that is
//! not gets an error that is worth reading.

use std::path::Path;

use postrider::config::{Config, LogTarget};
use postrider::limits;

pub fn check(octets: &[u8]) {
    let Ok(text) = str::from_utf8(octets) else { return };
    let folder = Path::new("/folder");
    let config = match Config::parse(text, folder) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.trim().is_empty());
            assert!(error.len() <= 4 * text.len() + 2000, "{} octets about {}", error.len(), text.len());
            return;
        }
    };
    assert_eq!(Config::parse(&format!("{text}\n# a comment\n"), folder).as_ref(), Ok(&config));
    assert!(config.fixed_keys_changed(&config).is_empty());
    let paths = [&config.spool, &config.mailboxes, &config.users, &config.aliases];
    assert!(paths.iter().all(|path| path.is_absolute()));
    assert!(
        matches!(&config.log, LogTarget::Stderr) || matches!(&config.log, LogTarget::File(path) if path.is_absolute())
    );
    assert!(!config.local_domains.is_empty());
    assert!(config.limits.recipients >= 100 && config.limits.message_size >= 64 * 1024);
    let delivery = &config.delivery;
    assert!(delivery.retry_min <= delivery.retry_max && !delivery.retry_min.is_zero());
    assert!([delivery.retry_max, delivery.warn_after, delivery.give_up].iter().all(|span| *span <= limits::SPAN));
    let _ = config.may_relay("192.0.2.1".parse().unwrap());
    let _ = config.relay.hop_of(&"a.far.example".parse().unwrap());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut texts: Vec<String> = [
        "",
        "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\nspool = \"s\"\nlog = \"stderr\"",
        "[delivery]\nretry_min = \"90s\"\nretry_max = \"3h\"\n[limits]\nmessage_size = \"1MiB\"",
        "[relay.domains]\n\"far.example\" = \"one.example\"\n\".far.example\" = \"mx:two.example:26\"",
        "[relay]\nfrom = [\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\"]\nsmarthost = \"[2001:db8::1]:587\"",
        "[drop.senders]\nann = [\"info@example.org\", \"@shop.example\"]",
        "[listen]\nsmtp = [\"[::]:25\"]\nsubmission = []",
        "[dns]\nresolver = \"127.0.0.1\"",
        "hostnam = \"x\"",
        "spool = \"\"\"a\nb\"\"\"\n[[tls]]",
        "a.b.c.d = { x = [1, 2, { y = 1979-05-27T07:32:00Z }] }",
    ]
    .map(str::to_owned)
    .into();
    let sample = super::dialogues::tests().join("../etc/postrider.toml");
    let sample = std::fs::read_to_string(sample).unwrap();
    // Each table of the sample for itself, and with its commented keys in force.
    let tables = sample.split("\n[").map(|table| format!("[{table}"));
    texts.extend(tables.clone().map(|table| table.replace("\n# ", "\n").replace("\n#", "\n")));
    texts.extend(tables);
    texts.into_iter().map(String::into_bytes).collect()
}
