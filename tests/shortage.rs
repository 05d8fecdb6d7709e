//! What the server does when the system has no more threads, descriptors, room or inodes for it: it says so at once, what
//! runs goes on, and once there is enough again it needs no restart (DESIGN P6, P8).

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use support::{Client, Server, eventually, files, have, is_root};

/// Accounts that nobody else uses: the limit of processes counts all that an account has.
const ACCOUNTS: [u32; 2] = [54_001, 54_002];

/// What runs a program as this account.
fn account(account: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={account}"), format!("--regid={account}"), "--clear-groups".to_owned()]);
    command.arg("prlimit");
    command
}

/// The command that starts `server` as this account, which owns its folder and has a copy of the program there.
fn started_as(server: &Server, owner: u32, limit: &str) -> Command {
    let program = server.path("postrider");
    fs::copy(env!("CARGO_BIN_EXE_postrider"), &program).unwrap();
    for path in files(server.folder.path()).iter().map(PathBuf::as_path).chain([server.folder.path()]) {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    let mut command = account(owner);
    command.arg(limit).arg(program).arg("serve").arg("--config").arg(server.path("postrider.toml"));
    command
}

fn can_change_account(test: &str) -> bool {
    is_root(test) && have("setpriv", test) && have("prlimit", test)
}

/// Gives the running server this limit, by a command that runs as its account.
fn limit(server: &Server, mut prlimit: Command, what: &str, most: usize) {
    let pid = server.pid().to_string();
    assert!(prlimit.args(["--pid", &pid, &format!("--{what}={most}")]).status().unwrap().success());
}

fn count(server: &Server, what: &str) -> usize {
    files(&Path::new("/proc").join(server.pid().to_string()).join(what)).len()
}

/// Hundredths of a second that the server has kept a processor busy.
fn busy(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Connects until one is turned away; returns those that are served.
fn connect_until_refused(server: &Server) -> Vec<Client> {
    let mut served = Vec::new();
    for _ in 0..100 {
        let mut client = server.smtp();
        let greeting = client.reply();
        if greeting.starts_with("421 ") {
            assert_eq!(client.rest(), "", "the connection is closed");
            return served;
        }
        assert!(greeting.starts_with("220 "), "{greeting}");
        served.push(client);
    }
    panic!("none was turned away");
}

/// While something is short: each is told at once, those inside go on, and no processor is kept busy. Then room again.
fn survives_the_shortage(server: &Server, mut served: Vec<Client>) {
    for _ in 0..20 {
        server.smtp().expect("421 4.3.2");
    }
    let before = busy(server);
    thread::sleep(Duration::from_secs(1));
    assert!(busy(server) - before < 30, "a processor is kept busy");
    served.iter_mut().for_each(|client| _ = client.ask("NOOP", "250"));
    served.drain(..3).for_each(|mut client| _ = client.ask("QUIT", "221"));
    eventually("there is room again", || server.smtp().reply().starts_with("220 "));
    served.iter_mut().for_each(|client| _ = client.ask("NOOP", "250"));
    served.clear();
    server.send(&["ann@example.org"], "Subject: after\r\n\r\n");
    server.wait_for("ann@example.org", 1);
}

#[test]
fn too_few_threads_to_start_are_an_error_with_its_mend() {
    if !can_change_account("too_few_threads_to_start_are_an_error_with_its_mend") {
        return;
    }
    for most in ["--nproc=1", "--nproc=8", "--nproc=20"] {
        let server = Server::prepared("", "");
        let Output { status, stderr, .. } =
            started_as(&server, ACCOUNTS[0], most).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(71), "{most}: {said}");
        assert!(said.contains("cannot start a thread") && said.contains("raise the limit of processes"), "{said}");
    }
}

#[test]
fn without_threads_a_new_client_is_told_and_the_others_are_served() {
    if !can_change_account("without_threads_a_new_client_is_told_and_the_others_are_served") {
        return;
    }
    let mut server = Server::prepared("", "");
    let command = started_as(&server, ACCOUNTS[1], "--nproc=1000");
    server.run_as(command);
    limit(&server, account(ACCOUNTS[1]), "nproc", count(&server, "task") + 6);
    let served = connect_until_refused(&server);
    assert_eq!(served.len(), 6);
    server.logged(&[" shortage ", "start a thread"]);
    survives_the_shortage(&server, served);
}

#[test]
fn without_descriptors_a_new_client_is_told_and_the_others_are_served() {
    if !have("prlimit", "without_descriptors_a_new_client_is_told_and_the_others_are_served") {
        return;
    }
    let server = Server::start("");
    limit(&server, Command::new("prlimit"), "nofile", count(&server, "fd") + 6);
    let served = connect_until_refused(&server);
    // One may be held by the other socket's thread.
    assert!((4..=6).contains(&served.len()), "{}", served.len());
    server.logged(&[" shortage ", "accept"]);
    survives_the_shortage(&server, served);
    assert_eq!(server.log().matches(" shortage ").count(), 1, "it is said once");
}
