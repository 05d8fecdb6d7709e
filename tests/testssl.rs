//! What testssl.sh finds at the ports that have TLS, at first or upgraded: protocols and ciphers, of which none may be
//! worse than its `OK`. What it says of each port is printed, for the notes.
#![allow(clippy::print_stderr)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;
use support::{Server, find, skip};

/// The ports as they are known, our protocols there, and how testssl.sh begins TLS.
const PORTS: [(u16, &str, &[&str]); 5] = [
    (25, "smtp", &["--starttls", "smtp"]),
    (587, "submission", &["--starttls", "smtp"]),
    (465, "submissions", &[]),
    (110, "pop3", &["--starttls", "pop3"]),
    (995, "pop3s", &[]),
];

/// Debian calls it without the ending.
const NAMES: [&str; 2] = ["testssl", "testssl.sh"];

/// What every version of it has to find: without these it has not looked.
const EXPECTED: [(&str, &str); 10] = [
    ("SSLv2", "not offered"),
    ("SSLv3", "not offered"),
    ("TLS1", "not offered"),
    ("TLS1_1", "not offered"),
    ("TLS1_2", "offered"),
    ("TLS1_3", "offered"),
    ("cipherlist_NULL", "not offered"),
    ("cipherlist_aNULL", "not offered"),
    ("cipherlist_EXPORT", "not offered"),
    ("cipherlist_LOW", "not offered"),
];

/// Runs it, and gives its findings.
fn findings(testssl: &Path, server: &Server, (number, protocol, starttls): (u16, &str, &[&str])) -> Vec<Value> {
    let file = server.path(&format!("{number}.json"));
    let mut command = Command::new(testssl);
    // Protocols, categories of ciphers, forward secrecy, preferences, and each cipher.
    command.args(["--quiet", "--color", "0", "--warnings", "off", "-p", "-s", "-f", "-P", "-E"]);
    // Whether its own OpenSSL can load GOST says nothing of this server.
    command.env("NO_ENGINE", "true");
    command.args(starttls).arg("--jsonfile").arg(&file).arg(server.address(protocol).to_string());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let json = std::fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{number}: {error}\n{json}\n{said}"))
}

fn text<'f>(finding: &'f Value, key: &str) -> &'f str {
    finding[key].as_str().unwrap_or_default()
}

#[test]
fn nothing_is_worse_than_ok() {
    let Some(testssl) = NAMES.into_iter().find_map(find) else {
        return skip("nothing_is_worse_than_ok", "testssl.sh is not installed");
    };
    let server =
        Server::start("submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\npop3s = [\"127.0.0.1:0\"]\n");
    let (testssl, server) = (&testssl, &server);
    let found: Vec<Vec<Value>> = thread::scope(|scope| {
        let all = PORTS.map(|port| scope.spawn(move || findings(testssl, server, port)));
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for ((number, ..), findings) in PORTS.into_iter().zip(found) {
        // It says that it knows of no service under TLS besides HTTP.
        let findings: Vec<&Value> = findings.iter().filter(|finding| text(finding, "id") != "service").collect();
        for finding in &findings {
            eprintln!("{number}: {} {}: {}", text(finding, "severity"), text(finding, "id"), text(finding, "finding"));
        }
        let worse = |finding: &&&Value| !matches!(text(finding, "severity"), "OK" | "INFO");
        assert_eq!(findings.iter().find(worse), None, "at port {number}");
        for (id, expected) in EXPECTED {
            let finding = findings.iter().find(|finding| text(finding, "id") == id);
            let is_expected = finding.is_some_and(|finding| text(finding, "finding").starts_with(expected));
            assert!(is_expected, "{id} at port {number}: {finding:?}");
        }
    }
}
