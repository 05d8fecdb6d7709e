//! Crashes between any two steps: the server is killed before its n-th call of each kind that changes a file or answers
//! a client, started again, and everything it had acknowledged must be there, once. And errors: the n-th call fails, and
//! nothing is called good that is not.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};
use support::{Server, eventually, files, have};

/// The server under strace, which does `what` to a system call.
fn run_with(server: &mut Server, what: &[&str]) {
    let plain = server.command();
    let mut command = strace(server, what);
    command.arg("-D").arg(plain.get_program()).args(plain.get_args());
    server.run_as(command);
}

fn strace(server: &Server, what: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o"]).arg(server.path("trace"));
    what.iter().for_each(|what| _ = command.arg("-e").arg(format!("inject={what}")));
    command
}

/// As [`run_with`], for a server that has started.
fn attach(server: &Server, what: &[&str]) -> Child {
    let strace = strace(server, what).arg("-p").arg(server.pid().to_string()).spawn().unwrap();
    eventually("strace watches every thread", || {
        let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        threads.flatten().all(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.contains("\nTracerPid:\t") && !status.contains("\nTracerPid:\t0\n")
        })
    });
    strace
}

/// Sends a message and returns its last reply; empty if the server died before.
fn try_send(server: &Server, to: &[&str], subject: &str) -> String {
    let recipients: String = to.iter().map(|to| format!("RCPT TO:<{to}>\r\n")).collect();
    let script = format!(
        "EHLO c.example\r\nMAIL FROM:<s@far.example>\r\n{recipients}DATA\r\nSubject: {subject}\r\n\r\nbody\r\nEND-{subject}\r\n.\r\nQUIT\r\n"
    );
    let Ok(mut stream) = TcpStream::connect(server.smtp_address()) else { return String::new() };
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut said = Vec::new();
    let _ = stream.write_all(script.as_bytes()).and_then(|()| stream.read_to_end(&mut said).map(|_| ()));
    let said = String::from_utf8_lossy(&said).into_owned();
    let after_data = said.split_once("\r\n354 ").and_then(|(_, rest)| rest.split_once("\r\n")).map(|(_, rest)| rest);
    after_data.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn copies(server: &Server, address: &str, subject: &str) -> usize {
    let whole = |message: &&Vec<u8>| {
        let text = String::from_utf8_lossy(message);
        let has = text.contains(&format!("Subject: {subject}\r\n"));
        assert!(!has || text.ends_with(&format!("END-{subject}\r\n")), "torn: {text}");
        has
    };
    server.mailbox(address).iter().filter(whole).count()
}

const MESSAGES: [(&str, &[&str]); 3] = [
    ("one", &["ann@example.org"]),
    ("many", &["ann@example.org", "bob@example.org", "x@far.example"]),
    ("two", &["bob@example.org"]),
];

#[test]
fn a_crash_before_any_step_loses_nothing_and_doubles_nothing() {
    if !have("strace", "a_crash_before_any_step_loses_nothing_and_doubles_nothing") {
        return;
    }
    let mut crashes = 0;
    for call in ["rename", "renameat2", "unlink", "syncfs", "fsync", "mkdir", "openat", "write", "sendto"] {
        // Before the first file of its own the loader opens a few.
        let first = if call == "openat" { 12 } else { 1 };
        for number in first..first + 5 {
            crashes += usize::from(crash_at(call, number));
        }
    }
    assert!(crashes > 15, "the test has to bite: {crashes}");
}

/// Says whether the server was killed at all.
fn crash_at(call: &str, number: usize) -> bool {
    let at = format!("{call} {number}");
    let mut server = Server::prepared("[delivery]\nthreads = 1\n", "");
    run_with(&mut server, &[&format!("{call}:signal=KILL:when={number}")]);
    if !server.log_since_start().contains(" listening protocol=pop3 ") {
        server.kill();
        server.run();
    }
    let acknowledged = MESSAGES.map(|(subject, to)| try_send(&server, to, subject).starts_with("250"));
    let begun = Instant::now();
    while server.exited().is_none() && begun.elapsed() < Duration::from_millis(150) {
        thread::sleep(Duration::from_millis(5));
    }
    let killed = server.exited().is_some();
    server.kill();
    server.run();
    for ((subject, to), acknowledged) in MESSAGES.into_iter().zip(acknowledged) {
        for address in to.iter().filter(|address| address.ends_with("example.org")) {
            if acknowledged {
                eventually(&format!("{subject} is with {address} after {at}"), || {
                    copies(&server, address, subject) > 0
                });
            }
        }
    }
    eventually("only what goes elsewhere is queued", || files(&server.path("spool/queue")).len() <= 2);
    for (subject, to) in MESSAGES {
        to.iter().for_each(|address| assert!(copies(&server, address, subject) <= 1, "{subject} twice after {at}"));
    }
    assert!(files(&server.path("spool/failed")).is_empty(), "{at}");
    eventually("no draft is left", || files(&server.path("spool/tmp")).is_empty());
    killed
}

#[test]
fn an_error_of_the_disk_is_never_called_good() {
    if !have("strace", "an_error_of_the_disk_is_never_called_good") {
        return;
    }
    // Calls are counted for each thread by itself: these are the writer's, once the certificate was made.
    for (what, replies) in [
        (&["fsync:error=EIO:when=2"][..], &["250", "451 4.3.0", "250"][..]),
        (&["rename:error=EIO:when=1"], &["451 4.3.0", "250"]),
        (&["rename:error=ENOSPC:when=1"], &["452 4.3.1", "250"]),
        (&["rename:error=EDQUOT:when=2"], &["250", "452 4.3.1", "250"]),
        (&["syncfs:error=ENOSYS", "fsync:error=EIO:when=1"], &["451 4.3.0", "250"]),
        (&["syncfs:error=ENOSYS", "fsync:error=EIO:when=2"], &["451 4.3.0", "250"]),
    ] {
        let mut server = Server::with_spool("");
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(server.path("spool/mail/example.org/ann").join(folder)).unwrap();
        }
        server.run();
        server.stop();
        run_with(&mut server, what);
        let said: Vec<String> =
            (0..replies.len()).map(|at| try_send(&server, &["ann@example.org"], &format!("m{at}"))).collect();
        let fits = |(said, expected): (&String, &&str)| said.starts_with(expected);
        assert!(said.iter().zip(replies).all(fits), "{what:?}: {said:?}");
        let taken = replies.iter().filter(|reply| **reply == "250").count();
        server.wait_for("ann@example.org", taken);
        for folder in ["tmp", "queue"] {
            eventually("nothing is left", || files(&server.path("spool").join(folder)).is_empty());
        }
    }
}

#[test]
fn an_error_is_the_answer_to_all_who_shared_the_flush() {
    if !have("strace", "an_error_is_the_answer_to_all_who_shared_the_flush") {
        return;
    }
    let mut server = Server::with_spool("");
    server.run();
    // Others come while the first is made durable, and have the next flush together.
    let mut strace = attach(&server, &["fsync:delay_enter=2000000", "syncfs:error=EIO"]);
    let replies = thread::scope(|scope| {
        let server = &server;
        let first = scope.spawn(|| try_send(server, &["ann@example.org"], "first"));
        thread::sleep(Duration::from_millis(500));
        let others: Vec<_> = ["second", "third", "fourth"]
            .map(|subject| scope.spawn(move || try_send(server, &["ann@example.org"], subject)))
            .into();
        others.into_iter().chain([first]).map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
    });
    let is_of_the_disk = |reply: &String| reply.starts_with("451 4.3.0");
    assert!(replies[..3].iter().all(is_of_the_disk) && replies[3].starts_with("250"), "{replies:?}");
    server.wait_for("ann@example.org", 1);
    eventually("nothing is left", || files(&server.path("spool/queue")).is_empty());
    assert_eq!(server.mailbox("ann@example.org").len(), 1);
    server.stop();
    strace.wait().unwrap();
}

#[test]
fn a_delivery_that_fails_is_tried_again_and_done_once() {
    if !have("strace", "a_delivery_that_fails_is_tried_again_and_done_once") {
        return;
    }
    for what in ["renameat2:error=EIO:when=1", "renameat2:error=ENOSPC:when=1"] {
        let mut server = Server::with_spool("[delivery]\nthreads = 1\nretry_min = \"1s\"\n");
        run_with(&mut server, &[what]);
        assert!(try_send(&server, &["ann@example.org"], "late").starts_with("250"));
        server.logged(&[" deferred ", "to=ann@example.org"]);
        server.wait_for("ann@example.org", 1);
        eventually("the queue is empty", || files(&server.path("spool/queue")).is_empty());
    }
}

#[test]
fn where_a_rename_is_impossible_it_is_a_copy() {
    if !have("strace", "where_a_rename_is_impossible_it_is_a_copy") {
        return;
    }
    let mut server = Server::with_spool("");
    run_with(&mut server, &["renameat2:error=EXDEV:when=1"]);
    assert!(try_send(&server, &["ann@example.org"], "far").starts_with("250"));
    let found = server.wait_for("ann@example.org", 1);
    assert!(!String::from_utf8_lossy(&found[0]).contains("X-Sender"));
    server.logged(&[" delivered ", "how=copy"]);
    assert!(fs::read_dir(server.path("spool/queue")).unwrap().next().is_none());
}
