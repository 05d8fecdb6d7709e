//! The clients' side of `tests/dialogues`: what the seeds of the sessions and commands are made of.

#[path = "octets.rs"]
mod octets;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use octets::unescape;

/// All that is said on one connection.
pub struct Said {
    pub is_pop3: bool,
    pub octets: Vec<u8>,
}

/// The folder of the tests, from wherever this file is built.
pub fn tests() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    if package.ends_with("tests/fuzz") { package.join("..") } else { package.join("tests") }
}

/// What each connection of each dialogue says; of very long repetitions the beginning.
pub fn all() -> Vec<Said> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(tests().join("dialogues")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .flat_map(|path| of(&fs::read_to_string(path).unwrap()))
        .filter(|said| !said.octets.is_empty())
        .collect()
}

/// Every line that is said, without its line end, once each.
pub fn lines(is_pop3: bool) -> Vec<Vec<u8>> {
    let of_protocol = all().into_iter().filter(|said| said.is_pop3 == is_pop3);
    let mut lines: Vec<Vec<u8>> = of_protocol
        .flat_map(|said| said.octets.split(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .map(|line| line.strip_suffix(b"\r").map(<[u8]>::to_vec).unwrap_or(line))
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

fn of(text: &str) -> Vec<Said> {
    let mut connections: Vec<Said> = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut now = 0;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "connect" => {
                let (protocol, name) = rest.split_once(' ').unwrap_or((rest, ""));
                now = connections.len();
                names.insert(name, now);
                connections.push(Said { is_pop3: protocol.starts_with("pop3"), octets: Vec::new() });
            }
            "turn" => now = names.get(rest).copied().unwrap_or(now),
            "C:" => connections[now].octets.extend([unescape(rest), b"\r\n".to_vec()].concat()),
            "C+" => connections[now].octets.extend(unescape(rest)),
            "C*" => {
                let (count, what) = rest.split_once(' ').unwrap();
                connections[now].octets.extend(unescape(what).repeat(count.parse::<usize>().unwrap().min(300)));
            }
            _ => {}
        }
    }
    connections
}
