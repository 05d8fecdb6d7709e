//! The short form of `make soak` and of its sweep: a few seconds of each way in which a disk or a process ends.
//!
//! The work is done by tests/soak, in Python; each row is first played with a server that breaks its promise, and fails
//! where that is not seen. Needs root, loop devices, Python and a C compiler; where one is not to be had, each row is
//! named in the list of those skipped.

#![allow(clippy::print_stdout)]

mod support;

use std::process::Command;

/// The exit code for what can't be played on this machine.
const IMPOSSIBLE: i32 = 77;

/// Plays a program of tests/soak with the server under test.
fn play(test: &str, program: &str, arguments: &[&str]) {
    if !support::have("python3", test) || !support::is_root(test) {
        return;
    }
    let mut command = Command::new("python3");
    // Its compiled modules would be left in the tree.
    command.arg("-B").arg(format!("{}/tests/soak/{program}", env!("CARGO_MANIFEST_DIR")));
    command.args(["--binary", env!("CARGO_BIN_EXE_postrider")]).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if output.status.code() == Some(IMPOSSIBLE) || said.contains(" skipped: ") {
        let why = said.lines().find_map(|line| line.split(" skipped: ").nth(1)).unwrap_or(said.trim());
        return support::skip(test, why);
    }
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// A test for each row.
macro_rules! rows {
    ($($test:ident: $row:literal,)*) => {
        $(#[test]
        fn $test() {
            play(stringify!($test), "soak.py", &["--scale", "short", "--rows", $row]);
        })*
    };
}

rows! {
    nothing_is_lost_by_kill_9: "kill",
    nothing_is_lost_by_kill_9_while_it_relays: "kill-relay",
    nothing_is_lost_by_a_power_cut_on_ext4: "cut-ext4",
    nothing_is_lost_by_a_power_cut_on_xfs: "cut-xfs",
    nothing_is_lost_where_the_disk_of_the_spool_is_cut: "cut-spool",
    nothing_is_lost_where_the_disk_of_the_mailboxes_is_cut: "cut-mail",
    nothing_is_lost_where_syncs_fail: "failing-sync",
    nothing_is_lost_without_space: "no-space",
    nothing_is_lost_without_inodes: "no-inodes",
    nothing_is_lost_on_a_disk_that_is_read_only_for_a_while: "read-only",
    nothing_is_lost_on_a_slow_disk: "slow",
}

#[test]
fn no_failing_call_breaks_a_promise() {
    play("no_failing_call_breaks_a_promise", "sweep.py", &["--step", "9", "--patience", "2"]);
}
