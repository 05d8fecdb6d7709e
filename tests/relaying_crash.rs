//! Crashes while mail fails at other hosts: whatever the moment, each sender gets one report, and one only.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::hop::{Act, Exchanger, say};
use support::world::{Settings, World};
use support::{Server, eventually, files, have};

const RECORDS: &str = "far.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.2";

fn nobody_is_known(line: &str) -> Option<Act> {
    line.starts_with("RCPT").then(|| say("550 5.1.1 nobody here is called so"))
}

/// Messages in the queue of a server that does not run, each from a sender of its own, who reads ann's mailbox.
fn put(server: &Server, count: usize) {
    fs::create_dir_all(server.path("spool/queue")).unwrap();
    for at in 0..count {
        let entry = format!(
            "X-Sender: <ann+{at}@example.org>\r\nX-Receiver: <gone@far.example>\r\nX-Receiver: <lost@far.example>\r\n\
             Subject: {at}\r\n\r\nhello\r\n"
        );
        fs::write(server.path("spool/queue").join(format!("0TQXGV00{at:05}.eml")), entry).unwrap();
    }
}

/// How many reports each sender got.
fn reports(server: &Server) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for report in server.mailbox("ann@example.org") {
        let report = String::from_utf8(report).unwrap();
        let to = report.lines().find_map(|line| line.strip_prefix("To: ")).expect("a recipient");
        assert_eq!(report.matches("Action: failed\r\n").count(), 2, "{report}");
        *found.entry(to.to_owned()).or_default() += 1;
    }
    found
}

fn assert_each_has_one(server: &Server, count: usize, when: &str) {
    eventually(&format!("the queue is empty {when}"), || files(&server.path("spool/queue")).is_empty());
    let expected: BTreeMap<String, usize> = (0..count).map(|at| (format!("<ann+{at}@example.org>"), 1)).collect();
    assert_eq!(reports(server), expected, "{when}");
    assert!(files(&server.path("spool/failed")).is_empty(), "{when}");
}

#[test]
fn a_server_killed_again_and_again_reports_once_to_each() {
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &["PIPELINING"], nobody_is_known);
    let mut server = world.prepared(&Settings { delivery: "threads = 4\nretry_min = \"1s\"\n", ..Settings::default() });
    put(&server, 50);
    let mut kills = 0;
    while kills < 60 && (kills == 0 || !files(&server.path("spool/queue")).is_empty()) {
        server.run();
        // From 0 to 20 ms, in an order that meets every moment of the start and of the work.
        thread::sleep(Duration::from_micros(kills * 7919 % 20_000));
        server.kill();
        kills += 1;
    }
    assert!(kills > 5, "the test has to bite: {kills}");
    server.run();
    assert_each_has_one(&server, 50, &format!("after {kills} kills"));
}

#[test]
fn a_crash_before_any_step_of_a_report_neither_drops_nor_doubles_it() {
    if !have("strace", "a_crash_before_any_step_of_a_report_neither_drops_nor_doubles_it") {
        return;
    }
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["PIPELINING"], nobody_is_known);
    let mut crashes = 0;
    for call in ["rename", "renameat2", "unlink", "syncfs", "fsync", "openat", "write", "sendto"] {
        // What is opened before the first file of a message is not counted.
        let first = if call == "openat" { 6 } else { 1 };
        crashes += (first..first + 6).filter(|number| crash_at(&world, &far, call, *number)).count();
    }
    assert!(crashes > 15, "the test has to bite: {crashes}");
}

/// Says whether the server was killed at all.
fn crash_at(world: &World, far: &Exchanger, call: &str, number: usize) -> bool {
    let mut server = world.prepared(&Settings { delivery: "threads = 1\nretry_min = \"1s\"\n", ..Settings::default() });
    put(&server, 1);
    let asked_before = far.connections();
    let plain = server.command();
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "-o"]).arg(server.path("trace"));
    command.arg("-e").arg(format!("inject={call}:signal=KILL:when={number}"));
    command.arg(plain.get_program()).args(plain.get_args());
    server.run_as(command);
    let begun = Instant::now();
    while server.exited().is_none() && begun.elapsed() < Duration::from_secs(10) {
        if far.connections() > asked_before && files(&server.path("spool/queue")).is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let killed = server.exited().is_some();
    server.kill();
    server.run();
    assert_each_has_one(&server, 1, &format!("after {call} {number}"));
    killed
}
