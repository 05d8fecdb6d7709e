//! The spool as files: every state that a crash or a person can leave, met by the real binary.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::account::{can_run_as, run_as, start_as};
use support::{Server, eventually, files};

const ENTRY: &str =
    "X-Sender: <sender@far.example>\r\nX-Receiver: <ann@example.org>\r\nSubject: by hand\r\n\r\nhello\r\n";
const REMOTE: &str = "X-Sender: <sender@far.example>\r\nX-Receiver: <x@far.example>\r\nSubject: away\r\n\r\nhello\r\n";
const ID: &str = "0TQXGV0000001";
const OTHER_ID: &str = "0TQXGV0000002";

/// An account that nobody else uses.
const ACCOUNT: u32 = 54_004;

/// A spool with these files in it, before the server starts.
fn spool_with(found: &[(&str, &str)]) -> Server {
    let server = Server::with_spool("");
    found.iter().for_each(|(name, content)| fs::write(server.path("spool").join(name), content).unwrap());
    server
}

fn names(server: &Server, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = files(&server.path("spool").join(folder))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn in_spool(server: &Server, name: &str) -> PathBuf {
    server.path("spool").join(name)
}

#[test]
fn s1_drafts_are_removed_at_start() {
    let mut server = spool_with(&[("tmp/0TQXGV0000001", "half a mess"), ("tmp/0TQXGV0000002.state", "x")]);
    server.run();
    assert_eq!(names(&server, "tmp"), [""; 0]);
    assert!(server.log().contains("swept drafts=2 queued=0 aside=0"));
}

#[test]
fn s2_an_accepted_message_is_delivered_at_start() {
    let mut server = spool_with(&[(&format!("queue/{ID}.eml"), ENTRY)]);
    server.run();
    let found = server.wait_for("ann@example.org", 1);
    let text = String::from_utf8(found[0].clone()).unwrap();
    assert_eq!(
        text,
        "Return-Path: <sender@far.example>\r\nDelivered-To: ann@example.org\r\nSubject: by hand\r\n\r\nhello\r\n"
    );
    eventually("the queue is empty", || names(&server, "queue").is_empty());
}

#[test]
fn s3_a_tried_message_waits_for_its_time_and_those_who_have_it_get_no_second() {
    let state = "Attempts: 1\nWaited: 10\nRetry-In: 0\n\nTarget: ann@example.org\nVia: mailbox\nStatus: delivered\n\n\
                 Target: bob@example.org\nVia: mailbox\nRecipient: all@example.org\nReverse-Path: <owner@example.org>\nStatus: pending\n";
    let mut server = spool_with(&[(&format!("queue/{ID}.eml"), ENTRY), (&format!("queue/{ID}.state"), state)]);
    let waiting = "Attempts: 1\nNext-Attempt: 2099-01-01T00:00:00Z\nRetry-In: 3600\n";
    fs::write(in_spool(&server, &format!("queue/{OTHER_ID}.eml")), ENTRY).unwrap();
    fs::write(in_spool(&server, &format!("queue/{OTHER_ID}.state")), waiting).unwrap();
    server.run();
    let found = server.wait_for("bob@example.org", 1);
    assert!(found[0].starts_with(b"Return-Path: <owner@example.org>\r\nDelivered-To: bob@example.org\r\n"));
    eventually("only the waiting one is left", || names(&server, "queue").len() == 2);
    assert_eq!(server.mailbox("ann@example.org").len(), 0);
}

#[test]
fn s4_a_state_alone_follows_its_message_or_goes() {
    let mut server = spool_with(&[
        (&format!("queue/{ID}.state"), "Attempts: 1\n"),
        (&format!("hold/{ID}.eml"), ENTRY),
        (&format!("queue/{OTHER_ID}.state"), "Attempts: 1\n"),
    ]);
    server.run();
    assert_eq!(names(&server, "queue"), [""; 0]);
    assert_eq!(names(&server, "hold"), [format!("{ID}.eml"), format!("{ID}.state")]);
}

#[test]
fn what_has_a_wrong_format_is_set_aside_with_a_report_once() {
    let torn = ENTRY.replace("far.example>", "far.example> SIZE=0000009999");
    let mut server = spool_with(&[
        ("queue/hello.txt", "what is this"),
        (&format!("queue/{ID}.eml"), ""),
        (&format!("queue/{OTHER_ID}.eml"), &torn),
        ("queue/.hidden", "still being written"),
    ]);
    symlink("/etc/passwd", in_spool(&server, "queue/0TQXGV0000003.eml")).unwrap();
    nix::unistd::mkfifo(&in_spool(&server, "queue/0TQXGV0000004.eml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(in_spool(&server, "queue/0TQXGV0000005.eml")).unwrap();
    server.run();
    eventually("six are set aside", || names(&server, "failed").len() == 12);
    assert_eq!(names(&server, "queue"), [".hidden"]);
    let report = fs::read_to_string(in_spool(&server, &format!("failed/{OTHER_ID}.eml.report"))).unwrap();
    assert!(report.contains("SIZE in X-Sender is 9999, but 27 octets follow"), "{report}");
    eventually("each is in the log once", || server.log().matches(" set-aside ").count() == 6);
    server.stop();
    server.run();
    assert_eq!(names(&server, "failed").len(), 12);
}

#[test]
fn a_name_with_a_line_end_in_it_is_set_aside_in_one_line() {
    let mut server = spool_with(&[("queue/a\n2026 INFO - forged", ENTRY)]);
    server.run();
    fs::write(in_spool(&server, "queue/b\nb.eml"), ENTRY).unwrap();
    eventually("both are set aside", || names(&server, "failed").len() == 4);
    server.logged(&[" set-aside ", "b.eml"]);
    assert_eq!(server.log().matches(" set-aside ").count(), 2);
    assert!(!server.log().lines().any(|line| line.starts_with("2026 ") || line.starts_with("b.eml")));
}

#[test]
fn what_the_server_may_not_read_stays_and_is_delivered_once_it_may() {
    if !can_run_as("what_the_server_may_not_read_stays_and_is_delivered_once_it_may") {
        return;
    }
    let mut server = Server::prepared("", "");
    let command = start_as(&server, ACCOUNT, run_as(ACCOUNT));
    server.run_as(command);
    let (outside, queued) = (server.path("outside"), in_spool(&server, &format!("queue/{ID}.eml")));
    fs::write(&outside, ENTRY).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o000)).unwrap();
    fs::rename(&outside, &queued).unwrap();
    server.logged(&[" spool-error ", ID]);
    assert_eq!(names(&server, "queue"), [format!("{ID}.eml")]);
    fs::set_permissions(&queued, fs::Permissions::from_mode(0o644)).unwrap();
    server.wait_for("ann@example.org", 1);
    eventually("the queue is empty", || names(&server, "queue").is_empty());
}

#[test]
fn a_state_that_can_not_be_read_takes_its_message_along() {
    let files = [(&*format!("queue/{ID}.eml"), ENTRY), (&*format!("queue/{ID}.state"), "Attempts: 1\nStatus lost\n")];
    let mut server = spool_with(&files);
    server.run();
    eventually("both are set aside", || names(&server, "failed").len() == 3);
    let report = fs::read_to_string(in_spool(&server, &format!("failed/{ID}.eml.report"))).unwrap();
    assert!(report.contains("line 2"), "{report}");
    assert_eq!(server.mailbox("ann@example.org").len(), 0);
}

#[test]
fn a_second_server_on_the_same_spool_refuses_to_start() {
    let server = Server::start("");
    let output = server.command().stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another postrider has this spool open"), "{said}");
}

#[test]
fn ids_are_later_than_every_one_in_the_spool() {
    let mut server = spool_with(&[("hold/7ZZZZZZZZZZZZ.eml", ENTRY)]);
    server.run();
    let id = server.send(&["x@far.example"], "Subject: x\r\n\r\n");
    assert!(id.as_str() > "7ZZZZZZZZZZZZ", "{id}");
}

/// A server with one deferred message, which waits for a long time.
fn deferred() -> (Server, String) {
    let server = Server::start("");
    let id = server.send(&["x@far.example"], "Subject: away\r\n\r\nhello\r\n");
    server.logged(&[&id, " deferred ", "to=x@far.example"]);
    eventually("its state is written", || in_spool(&server, &format!("queue/{id}.state")).exists());
    (server, id)
}

/// What happens must happen within two seconds (DESIGN §3); the margin is for a busy machine.
fn soon(what: &str, holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    eventually(what, holds);
    assert!(begun.elapsed() < Duration::from_secs(10), "{what}: only after {:?}", begun.elapsed());
}

#[test]
fn moved_to_hold_it_is_set_aside_and_moved_back_it_goes_on() {
    let (server, id) = deferred();
    let (queued, held) = (in_spool(&server, &format!("queue/{id}.eml")), in_spool(&server, &format!("hold/{id}.eml")));
    fs::rename(&queued, &held).unwrap();
    soon("its state follows", || in_spool(&server, &format!("hold/{id}.state")).exists());
    server.logged(&[&id, " held"]);
    fs::rename(&held, &queued).unwrap();
    soon("its state comes back", || !in_spool(&server, &format!("hold/{id}.state")).exists());
    server.logged(&[&id, " released"]);
    assert!(Command::new("touch").arg(&queued).status().unwrap().success());
    soon("it is tried again", || server.log().matches(&format!("{id} deferred ")).count() == 2);
    let state = fs::read_to_string(in_spool(&server, &format!("queue/{id}.state"))).unwrap();
    assert!(state.starts_with("Attempts: 2\n"), "{state}");
}

#[test]
fn an_editor_at_work_is_not_disturbed() {
    let (server, id) = deferred();
    let state = in_spool(&server, &format!("queue/{id}.state"));
    assert!(Command::new("sed").args(["-i", "s/^Attempts: 1$/Attempts: 7/"]).arg(&state).status().unwrap().success());
    // As vim finds out whether it may write here.
    fs::write(in_spool(&server, "queue/4913"), "").unwrap();
    fs::remove_file(in_spool(&server, "queue/4913")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(names(&server, "failed"), [""; 0]);
    assert_eq!(names(&server, "queue"), [format!("{id}.eml"), format!("{id}.state")]);
    assert!(!server.log().contains("spool-error"));
}

#[test]
fn touched_it_is_tried_now() {
    let (server, id) = deferred();
    assert!(Command::new("touch").arg(in_spool(&server, &format!("queue/{id}.eml"))).status().unwrap().success());
    soon("it is tried again", || server.log().matches(&format!("{id} deferred ")).count() == 2);
}

#[test]
fn an_edited_state_is_obeyed_and_a_wrong_one_set_aside() {
    let (server, id) = deferred();
    let path = in_spool(&server, &format!("queue/{id}.state"));
    let edited =
        fs::read_to_string(&path).unwrap().replace("x@far.example", "bob@example.org").replace("next-hop", "mailbox");
    let edited: String =
        edited.lines().filter(|line| !line.starts_with("Next-Attempt")).map(|line| format!("{line}\n")).collect();
    let draft = server.path("edited");
    fs::write(&draft, edited).unwrap();
    fs::rename(&draft, &path).unwrap();
    server.wait_for("bob@example.org", 1);

    let id = server.send(&["y@far.example"], "Subject: y\r\n\r\n");
    server.logged(&[&id, " deferred "]);
    fs::write(in_spool(&server, &format!("queue/{id}.state")), "what is this\n").unwrap();
    soon("it is set aside", || in_spool(&server, &format!("failed/{id}.eml.report")).exists());
}

#[test]
fn removed_it_is_gone() {
    let (server, id) = deferred();
    fs::remove_file(in_spool(&server, &format!("queue/{id}.eml"))).unwrap();
    soon("its state goes too", || names(&server, "queue").is_empty());
    server.logged(&[&id, " removed ", "\"by hand\""]);
}

#[test]
fn put_into_the_queue_of_a_running_server_it_is_delivered_or_set_aside() {
    let server = Server::start("");
    let draft = server.path("draft");
    fs::write(&draft, ENTRY).unwrap();
    fs::rename(&draft, in_spool(&server, &format!("queue/{ID}.eml"))).unwrap();
    server.wait_for("ann@example.org", 1);
    fs::write(&draft, REMOTE).unwrap();
    fs::rename(&draft, in_spool(&server, "queue/notes.txt")).unwrap();
    soon("it is set aside", || in_spool(&server, "failed/notes.txt.report").exists());
}

#[test]
fn a_file_with_two_names_is_copied_and_the_other_name_kept() {
    let mut server = spool_with(&[]);
    let laid_out = "Return-Path: <sender@far.example>\r\nDelivered-To: ann@example.org\r\n";
    let kept = server.path("kept");
    fs::write(&kept, format!("{laid_out}{ENTRY}")).unwrap();
    fs::hard_link(&kept, in_spool(&server, &format!("queue/{ID}.eml"))).unwrap();
    server.run();
    server.wait_for("ann@example.org", 1);
    eventually("the queue is empty", || names(&server, "queue").is_empty());
    assert_eq!(fs::read_to_string(kept).unwrap(), format!("{laid_out}{ENTRY}"));
}

#[test]
fn a_copy_found_after_a_crash_is_not_made_twice() {
    let two = ENTRY.replace("Subject", "X-Receiver: <bob@example.org>\r\nSubject");
    let mut server = spool_with(&[(&format!("queue/{ID}.eml"), &two)]);
    let seen = server.path("spool/mail/example.org/ann/cur");
    fs::create_dir_all(&seen).unwrap();
    fs::create_dir_all(server.path("spool/mail/example.org/ann/new")).unwrap();
    fs::write(seen.join(format!("1795000000.{ID}R1.mail.example.org,S=9,W=9:2,S")), "read already").unwrap();
    server.run();
    server.wait_for("bob@example.org", 1);
    eventually("the queue is empty", || names(&server, "queue").is_empty());
    assert_eq!(server.mailbox("ann@example.org").len(), 0);
}

#[test]
fn line_ends_of_an_entry_by_hand_are_mended_or_it_is_set_aside() {
    let bare = ENTRY.replace("\r\n", "\n");
    let lone = ENTRY.replace("hello", "hel\rlo");
    let laid_out = format!("Return-Path: <sender@far.example>\nDelivered-To: ann@example.org\n{bare}");
    let mut server = spool_with(&[
        (&format!("queue/{ID}.eml"), &bare),
        (&format!("queue/{OTHER_ID}.eml"), &lone),
        ("queue/0TQXGV0000003.eml", &laid_out),
    ]);
    server.run();
    for message in server.wait_for("ann@example.org", 2) {
        let text = String::from_utf8(message).unwrap();
        assert!(text.ends_with("Subject: by hand\r\n\r\nhello\r\n"), "{text:?}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    }
    let report = server.path("spool/failed").join(format!("{OTHER_ID}.eml.report"));
    eventually("the other is set aside", || report.exists());
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("line 5: a CR without LF"), "{report}");
}

#[test]
fn a_made_up_id_does_not_bring_ids_to_their_end() {
    let mut server = spool_with(&[("hold/FZZZZZZZZZZZZ.eml", ENTRY), ("queue/8000000000000.eml", REMOTE)]);
    server.run();
    let ids: Vec<String> = (0..5).map(|_| server.send(&["ann@example.org"], "Subject: x\r\n\r\n")).collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| id.as_str() < "1" && id.as_str() > "0T"), "{ids:?}");
    server.wait_for("ann@example.org", 5);
}
