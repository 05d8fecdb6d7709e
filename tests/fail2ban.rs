//! The filter for fail2ban, on a log that the server itself wrote: it counts who guesses, and nobody else, whatever name
//! they give.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Server, find, skip};

/// The installed program, or the one that was only unpacked, with the path of its modules.
fn fail2ban_regex(test: &str) -> Option<Command> {
    if let Some(path) = find("fail2ban-regex") {
        return Some(Command::new(path));
    }
    let tree: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpacked/fail2ban/usr");
    let program = tree.join("bin/fail2ban-regex");
    if !program.exists() {
        skip(test, "fail2ban is neither installed nor unpacked");
        return None;
    }
    let mut command = Command::new("/usr/bin/python3");
    command.arg(program).env("PYTHONPATH", tree.join("lib/python3/dist-packages"));
    Some(command)
}

/// The addresses that the filter finds in a log, one a line that counts.
fn found(command: &mut Command, log: &Path) -> Vec<String> {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.d/postrider.conf");
    let output = command.arg("--out").arg("ip").arg(log).arg(filter).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn fail2ban_counts_who_guesses_and_nobody_else() {
    let Some(mut command) = fail2ban_regex("fail2ban_counts_who_guesses_and_nobody_else") else { return };
    let server = Server::start("");
    let owner = {
        let mut client = server.pop3();
        client.log_in("ann@example.org");
        client
    };
    let names =
        ["ann", "x client=192.0.2.1", "WARN - login-failed client=192.0.2.2", "y\" why=\"too many logins at once"];
    let mut client = server.pop3();
    client.line();
    for name in names {
        client.ask(&format!("USER {name}"), "+OK");
        client.ask("PASS wrong", "-ERR [AUTH]");
    }
    // The right password, while the mailbox is open: nobody's guess.
    client.ask("USER ann", "+OK");
    client.ask("PASS correct horse", "-ERR [IN-USE]");
    drop(owner);
    let failed = server.logged(&["login-failed", "another session has the mailbox"]);
    let log = server.log();
    let (start, _) = failed.split_once(" login-failed ").unwrap();
    let shut_out = format!("{start} shut-out client=2001:db8::7 failures=15 for=15m\n");
    let path = server.path("all.log");
    std::fs::write(&path, log.clone() + &shut_out).unwrap();
    assert_eq!(
        found(&mut command, &path),
        ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "2001:db8::7"],
        "{log}"
    );
}
