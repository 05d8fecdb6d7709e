//! What the server does when the system has no more threads, descriptors, room or inodes for it: it says so at once, what
//! runs goes on, and once there is enough again it needs no restart (DESIGN P6, P8).

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use support::account::{can_run_as, run_as, start_as};
use support::{Client, Server, eventually, files, have, is_root};

/// Accounts that nobody else uses: the limit of processes counts all that an account has.
const ACCOUNTS: [u32; 2] = [54_001, 54_002];

/// What runs a program as this account, with a limit.
fn limited(account: u32, limit: &str) -> Command {
    let mut command = run_as(account);
    command.args(["prlimit", limit]);
    command
}

fn can_limit(test: &str) -> bool {
    can_run_as(test) && have("prlimit", test)
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
    if !can_limit("too_few_threads_to_start_are_an_error_with_its_mend") {
        return;
    }
    for (most, what) in [("--nproc=1", "the second process"), ("--nproc=8", "a thread"), ("--nproc=20", "a thread")] {
        let server = Server::prepared("", "");
        let Output { status, stderr, .. } =
            start_as(&server, ACCOUNTS[0], limited(ACCOUNTS[0], most)).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(71), "{most}: {said}");
        assert!(
            said.contains(&format!("cannot start {what}")) && said.contains("raise the limit of processes"),
            "{said}"
        );
    }
}

#[test]
fn without_threads_a_new_client_is_told_and_the_others_are_served() {
    if !can_limit("without_threads_a_new_client_is_told_and_the_others_are_served") {
        return;
    }
    let mut server = Server::prepared("", "");
    let command = start_as(&server, ACCOUNTS[1], limited(ACCOUNTS[1], "--nproc=1000"));
    server.run_as(command);
    let mut prlimit = run_as(ACCOUNTS[1]);
    prlimit.arg("prlimit");
    // The second process counts too.
    limit(&server, prlimit, "nproc", count(&server, "task") + 1 + 6);
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

/// A small filesystem for the spool of a server; gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, options: &str) -> SmallDisk {
        fs::create_dir(&path).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        assert!(mount.unwrap().success());
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A client past EHLO.
fn greeted(server: &Server) -> Client {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client
}

#[test]
fn a_full_disk_refuses_new_mail_delivers_the_old_and_needs_no_restart() {
    if !is_root("a_full_disk_refuses_new_mail_delivers_the_old_and_needs_no_restart") {
        return;
    }
    let mut server = Server::prepared("[limits]\nfree_space = \"1MiB\"\n", "");
    let disk = SmallDisk::mount(server.path("spool"), "size=16m");
    server.run();
    let mut client = greeted(&server);
    // What is announced counts as if it were there.
    client.ask("MAIL FROM:<s@far.example> SIZE=20000000", "452 4.3.1");
    client.ask("MAIL FROM:<s@far.example> SIZE=10000000", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    let held = "X-Sender: <s@far.example>\r\nX-Receiver: <bob@example.org>\r\nSubject: old\r\n\r\n";
    fs::write(disk.0.join("hold/0TQXGV0000001.eml"), held).unwrap();

    // It fills up while a message comes.
    client.ask("DATA", "354");
    client.send(b"Subject: late\r\n\r\n");
    let mut fill = fs::File::create(disk.0.join("fill")).unwrap();
    while fill.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    client.send("0123456789abcdef\r\n".repeat(100_000).as_bytes());
    client.ask(".", "452 4.3.1");
    client.ask("MAIL FROM:<s@far.example>", "452 4.3.1");
    eventually("nothing is left of it", || files(&disk.0.join("tmp")).is_empty());
    fill.set_len(fill.metadata().unwrap().len() - 512 * 1024).unwrap();
    client.ask("MAIL FROM:<s@far.example>", "452 4.3.1");
    fs::rename(disk.0.join("hold/0TQXGV0000001.eml"), disk.0.join("queue/0TQXGV0000001.eml")).unwrap();
    server.wait_for("bob@example.org", 1);

    drop(fill);
    fs::remove_file(disk.0.join("fill")).unwrap();
    client.ask("MAIL FROM:<s@far.example>", "250");
    server.send(&["ann@example.org"], "Subject: new\r\n\r\n");
    server.wait_for("ann@example.org", 1);
}

#[test]
fn what_is_to_stay_free_stays_so_while_a_message_comes() {
    if !is_root("what_is_to_stay_free_stays_so_while_a_message_comes") {
        return;
    }
    let mut server = Server::prepared("[limits]\nfree_space = \"8MiB\"\n", "");
    let disk = SmallDisk::mount(server.path("spool"), "size=16m");
    server.run();
    let mut client = greeted(&server);
    let large = "0123456789abcdef\r\n".repeat(12 * 1024 * 1024 / 18);
    for (begin, end) in [("DATA\r\n", ".\r\n"), (&*format!("BDAT {}\r\n", large.len()), "")] {
        // Of its size nothing was said.
        client.ask("MAIL FROM:<s@far.example>", "250");
        client.ask("RCPT TO:<ann@example.org>", "250");
        client.send(begin.as_bytes());
        if !end.is_empty() {
            client.expect("354");
        }
        client.send(large.as_bytes());
        client.send(end.as_bytes());
        client.expect("452 4.3.1");
        assert!(files(&disk.0.join("tmp")).is_empty(), "nothing is left of it");
        client.ask("RSET", "250");
    }
    server.send(&["ann@example.org"], &format!("Subject: smaller\r\n\r\n{}", &large[..18 * 100_000]));
    server.wait_for("ann@example.org", 1);
}

#[test]
fn where_no_file_can_be_made_the_message_is_read_to_its_end_and_refused_there() {
    let server = Server::start("");
    let (tmp, away) = (server.path("spool/tmp"), server.path("spool/away"));
    let mut client = greeted(&server);
    fs::rename(&tmp, &away).unwrap();
    for text in ["", "Subject: late\r\n\r\nMAIL FROM:<no@command.example>\r\n", &"0123456789abcdef\r\n".repeat(10_000)]
    {
        client.ask("MAIL FROM:<s@far.example>", "250");
        client.ask("RCPT TO:<ann@example.org>", "250");
        client.ask("DATA", "354");
        client.send(text.as_bytes());
        client.ask(".", "451 4.3.0");
    }
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    client.send(b"BDAT 6 LAST\r\nA: b\r\n");
    client.expect("451 4.3.0");
    fs::rename(&away, &tmp).unwrap();
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    client.ask("DATA", "354");
    client.ask("A: b\r\n\r\n.", "250");
    server.wait_for("ann@example.org", 1);
    assert!(server.log().contains("cannot create"), "what to do is in the log");
}

#[test]
fn a_disk_without_inodes_refuses_new_mail_and_needs_no_restart() {
    if !is_root("a_disk_without_inodes_refuses_new_mail_and_needs_no_restart") {
        return;
    }
    let mut server = Server::prepared("[limits]\nfree_space = \"1MiB\"\n", "");
    let disk = SmallDisk::mount(server.path("spool"), "size=16m,nr_inodes=600");
    server.run();
    let mut client = greeted(&server);
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RSET", "250");
    let many = disk.0.join("many");
    fs::create_dir(&many).unwrap();
    (0..400).for_each(|number| fs::write(many.join(number.to_string()), "").unwrap());
    client.ask("MAIL FROM:<s@far.example>", "452 4.3.1");
    fs::remove_dir_all(&many).unwrap();
    server.send(&["ann@example.org"], "Subject: new\r\n\r\n");
    server.wait_for("ann@example.org", 1);
}
