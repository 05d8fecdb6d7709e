//! House rules as tests: the layers, the size of files, no `unsafe`, and a tree with nothing in it but what belongs there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms from the ground up (DESIGN §2). A module uses lower layers, or siblings of its own layer without a circle.
const LAYERS: [&[&str]; 6] = [
    &["io", "limits"],
    &["mail"],
    &["config", "users", "aliases", "route", "auth", "dns", "maillog"],
    &["spool", "maildir", "relay"],
    &["smtpd", "pop3", "delivery"],
    &["daemon", "cli", "main", "lib"],
];

/// Work never names work: these meet in the spool alone.
const STRANGERS: &[&str] = LAYERS[4];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The room a file of src/ is in: its folder, or its own name.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a text names by `crate::room` or `postrider::room`, groups of imports included.
fn named_rooms(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    for start in ["crate::", "postrider::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            let word = |text: &str| {
                text.trim()
                    .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                    .next()
                    .unwrap_or("")
                    .to_owned()
            };
            match rest.strip_prefix('{') {
                None => _ = found.insert(word(rest)),
                Some(group) => {
                    let mut depth = 0;
                    let end = group.find(|letter| {
                        depth += i32::from(letter == '{') - i32::from(letter == '}');
                        depth < 0
                    });
                    group[..end.unwrap()].split(',').for_each(|part| _ = found.insert(word(part)));
                }
            }
        }
    }
    found.retain(|name| layer(name).is_some());
    found
}

fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources(&root().join("src")) {
        let from = room(&path);
        let names = named_rooms(&fs::read_to_string(&path).unwrap());
        uses.entry(from.clone()).or_default().extend(names.into_iter().filter(|name| *name != from));
    }
    uses
}

#[test]
fn every_room_has_its_layer_and_uses_only_what_is_below() {
    for (from, names) in uses() {
        let own = layer(&from)
            .unwrap_or_else(|| panic!("src/{from} is in no layer: give it one in tests/tidy.rs and DESIGN §2"));
        for to in names {
            let below = layer(&to).unwrap();
            assert!(below <= own, "{from} (layer {own}) uses {to} (layer {below})");
            assert!(
                !(STRANGERS.contains(&&*from) && STRANGERS.contains(&&*to)),
                "{from} names {to}: work never names work"
            );
        }
    }
}

#[test]
fn no_two_rooms_use_each_other() {
    fn reaches(uses: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
        let Some(next) = uses.get(from) else { return false };
        next.iter().any(|name| name == to || (seen.insert(name.clone()) && reaches(uses, name, to, seen)))
    }
    let mut uses = uses();
    // lib.rs only lists the rooms.
    uses.remove("lib");
    for room in uses.keys() {
        assert!(!reaches(&uses, room, room, &mut BTreeSet::new()), "{room} leads back to itself");
    }
}

#[test]
fn the_vocabulary_does_no_io_and_support_knows_no_mail() {
    for path in sources(&root().join("src/mail")) {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["std::fs", "std::io", "std::thread", "SystemTime", "Instant::now", "log::", "crate::io", "maillog"]
        {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn a_layer_that_is_not_held_is_seen() {
    assert!(named_rooms("use crate::{io::line, spool::{Spool, state}, mail};").contains("spool"));
    assert!(named_rooms("    crate::delivery::run()").contains("delivery"));
    assert!(named_rooms("//! crate::spool").is_empty());
}

#[test]
fn files_are_short_or_say_why_and_open_with_their_purpose() {
    let tests = sources(&root().join("tests"));
    for path in sources(&root().join("src")).into_iter().chain(tests) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let top: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(top.len() > 30, "{} does not open with why it exists", path.display());
        assert!(
            lines <= 500 || top.contains("Long because"),
            "{} has {lines} lines and no reason at its top",
            path.display()
        );
    }
}

#[test]
fn there_is_no_unsafe_and_nothing_is_printed_past_the_log() {
    let forbidden =
        [concat!("uns", "afe "), concat!("printl", "n!("), concat!("todo", "!("), concat!("unimplement", "ed!(")];
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        for word in forbidden {
            let code = |line: &&str| !line.trim_start().starts_with("//") && line.contains(word);
            assert!(!text.lines().any(|line| code(&line)), "{}: {word}", path.display());
        }
    }
    assert!(fs::read_to_string(root().join("Cargo.toml")).unwrap().contains("unsafe_code = \"forbid\""));
}

#[test]
fn the_top_level_holds_what_belongs_there() {
    let output = Command::new("git").arg("-C").arg(root()).args(["ls-files"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return };
    let listed = String::from_utf8(output.stdout).unwrap();
    let top: BTreeSet<&str> = listed.lines().filter_map(|path| path.split('/').next()).collect();
    let known = ["Cargo.toml", "Cargo.lock", "Makefile", "README.md", "src", "etc", "tests"];
    for name in top {
        assert!(
            name.starts_with('.') || name.starts_with("LICENSE") || known.contains(&name),
            "{name} at the top level"
        );
    }
}
