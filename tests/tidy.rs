//! House rules as tests: the layers, the size of files, no `unsafe`, and a tree with nothing in it but what belongs there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms from the ground up (DESIGN §2). A module uses lower layers, or siblings of its own layer without a circle.
const LAYERS: [&[&str]; 6] = [
    &["io", "limits"],
    &["mail"],
    &["config", "users", "aliases", "route", "auth", "dns", "tls", "maillog"],
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

fn reaches(uses: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
    let Some(next) = uses.get(from) else { return false };
    next.iter().any(|name| name == to || (seen.insert(name.clone()) && reaches(uses, name, to, seen)))
}

#[test]
fn no_two_rooms_use_each_other() {
    let mut uses = uses();
    // lib.rs only lists the rooms.
    uses.remove("lib");
    for room in uses.keys() {
        assert!(!reaches(&uses, room, room, &mut BTreeSet::new()), "{room} leads back to itself");
    }
}

/// The modules of the room that a file is, from the outside in: `spool/pickup/mod.rs` is `spool`, `pickup`.
fn module(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut names: Vec<String> = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "mod");
    names
}

/// The paths that a text names by `crate::` or `super::`, groups taken apart; its unit tests do not count.
fn named_paths(text: &str, own: &[String]) -> Vec<Vec<String>> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let end = ["mod tests {", "pub mod tests {", "pub(crate) mod tests {"].iter();
    let end = end.filter_map(|start| code.find(&format!("#[cfg(test)]\n{start}"))).min().unwrap_or(code.len());
    let (code, mut found) = (&code[..end], Vec::new());
    for (start, above) in [("crate::", &[][..]), ("super::", &own[..own.len() - 1])] {
        for (at, _) in code.match_indices(start) {
            if !code[..at].ends_with("super::") {
                take_apart(&code[at + start.len()..], above, &mut found);
            }
        }
    }
    found
}

/// Adds each path of a `use` tree that stands under `above`; returns what follows the tree.
fn take_apart<'t>(tree: &'t str, above: &[String], found: &mut Vec<Vec<String>>) -> &'t str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        loop {
            rest = take_apart(rest, above, found).trim_start();
            match rest.strip_prefix(',').map(str::trim_start) {
                Some(next) if !next.starts_with('}') => rest = next,
                Some(next) => return &next[1..],
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = tree.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(tree.len());
    let (word, rest) = tree.split_at(end);
    let mut path = above.to_vec();
    match word {
        "super" => _ = path.pop(),
        "self" => {}
        _ => path.push(word.to_owned()),
    }
    match rest.strip_prefix("::") {
        Some(below) if !word.is_empty() => take_apart(below, &path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

/// Circles that are known and still to be mended.
const CIRCLES: &[[&str; 2]] = &[["relay/envelope", "relay/transaction"]];

/// What each module of a room uses of its siblings, a folder counting as one module for those beside it. The front of a
/// folder (`mod.rs`, or the file of its name) lists what is inside and may be named by it: what it says in the names of
/// others is its own word.
fn uses_of_siblings() -> BTreeMap<String, BTreeSet<String>> {
    let files = sources(&root().join("src"));
    let modules: BTreeSet<Vec<String>> = files
        .iter()
        .map(|path| module(path))
        .flat_map(|names| (1..=names.len()).map(move |n| names[..n].to_vec()))
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in &files {
        let own = module(path);
        for named in named_paths(&fs::read_to_string(path).unwrap(), &own) {
            let common = own.iter().zip(&named).take_while(|(own, named)| own == named).count();
            let is_sibling = common > 0 && own.len() > common && named.len() > common;
            if is_sibling && modules.contains(&named[..=common]) {
                uses.entry(own[..=common].join("/")).or_default().insert(named[..=common].join("/"));
            }
        }
    }
    uses
}

#[test]
fn no_two_siblings_in_a_room_use_each_other() {
    let mut uses = uses_of_siblings();
    assert!(uses["spool/pickup"].contains("spool/watch"), "the test sees nothing: {uses:?}");
    for [one, other] in CIRCLES {
        assert!(uses.get_mut(*one).is_some_and(|names| names.remove(*other)), "{one} is mended: remove it here");
    }
    for module in uses.keys() {
        assert!(!reaches(&uses, module, module, &mut BTreeSet::new()), "{module} leads back to itself: {uses:#?}");
    }
}

#[test]
fn a_sibling_is_seen_however_it_is_named() {
    let own = ["spool", "pickup", "intake"].map(str::to_owned);
    let text = "use super::{line_ends::{self, Canonical}, message};\nuse super::super::{watch,\n writer};\n\
                use crate::{limits, spool::claim};\nfn x() { super::a::b() }\n// super::comment\n\
                #[cfg(test)]\nmod tests {\n    use super::unseen;\n}\n";
    let found: BTreeSet<String> = named_paths(text, &own).iter().map(|path| path.join("/")).collect();
    let expected = [
        "limits",
        "spool/claim",
        "spool/pickup/a/b",
        "spool/pickup/line_ends",
        "spool/pickup/line_ends/Canonical",
        "spool/pickup/message",
        "spool/watch",
        "spool/writer",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
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
    let listed = output.ok().filter(|output| output.status.success());
    // Without git, as in a release that was unpacked, the folder itself tells; what a build makes is in it then.
    let top: BTreeSet<String> = match listed {
        Some(output) => {
            let listed = String::from_utf8(output.stdout).unwrap();
            listed.lines().filter_map(|path| path.split('/').next().map(str::to_owned)).collect()
        }
        None => {
            let entries = fs::read_dir(root()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !["target", "run"].contains(&&**name)).collect()
        }
    };
    assert!(top.contains("Cargo.toml"), "nothing was looked at: {top:?}");
    let known = ["Cargo.toml", "Cargo.lock", "Makefile", "README.md", "src", "etc", "tests"];
    for name in top {
        assert!(
            name.starts_with('.') || name.starts_with("LICENSE") || known.contains(&&*name),
            "{name} at the top level"
        );
    }
}
