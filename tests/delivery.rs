//! Where accepted mail goes: aliases, lists and their owners, subaddresses, loops, and what fails for good.

mod support;

use std::fs;
use std::path::PathBuf;

use support::{Server, eventually, files};

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

/// The reply to RCPT alone.
fn rcpt(server: &Server, to: &str) -> String {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("HELO client.example", "250");
    client.ask("MAIL FROM:<sender@far.example>", "250");
    client.ask(&format!("RCPT TO:<{to}>"), "")
}

/// A transaction from `from`, with its replies to RCPT and to the end of the data.
fn say(server: &Server, from: &str, to: &[&str]) -> (Vec<String>, String) {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.ask(&format!("MAIL FROM:<{from}>"), "250");
    let replies = to.iter().map(|to| client.ask(&format!("RCPT TO:<{to}>"), "")).collect();
    client.ask("DATA", "354");
    client.send(b"Subject: hello\r\n\r\nhello\r\n");
    (replies, client.ask(".", ""))
}

fn with_suffix(server: &Server, folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = files(&server.path("spool").join(folder));
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found
}

fn queue_is_empty(server: &Server) {
    eventually("the queue is empty", || files(&server.path("spool/queue")).is_empty());
}

#[test]
fn an_alias_has_several_targets_and_each_gets_it_once() {
    let server = Server::start_with("", "info: ann, bob@example.org, INFO2\ninfo2: ann, \\bob\nann: ann\n");
    let (replies, end) =
        say(&server, "sender@far.example", &["info@example.org", "Ann@Example.org", "bob+x@example.org"]);
    assert!(replies.iter().all(|reply| reply.starts_with("250 2.1.5")) && end.starts_with("250"), "{replies:?}");
    for who in ["ann", "bob"] {
        let found = text(&server.wait_for(&format!("{who}@example.org"), 1)[0]);
        let top = format!("Return-Path: <sender@far.example>\r\nDelivered-To: {who}@example.org\r\nReceived: from ");
        assert!(found.starts_with(&top) && found.ends_with("\r\n\r\nhello\r\n"), "{found}");
        assert!(!found.contains("X-Receiver") && !found.contains(" for "), "{found}");
    }
    queue_is_empty(&server);
    server.logged(&[" expanded ", "recipients=3", "targets=2"]);
}

#[test]
fn an_included_list_is_taken_up_as_it_changes_and_its_owner_hears_of_it() {
    let server = Server::prepared("", "");
    let list = server.path("team");
    fs::write(server.path("aliases"), format!("team: :include:{}\nowner-team: bob\n", list.display())).unwrap();
    fs::write(&list, "# the team\nann\n").unwrap();
    let mut server = server;
    server.run();
    say(&server, "sender@far.example", &["team@example.org"]);
    let found = text(&server.wait_for("ann@example.org", 1)[0]);
    assert!(found.starts_with("Return-Path: <owner-team@example.org>\r\n"), "{found}");
    // A report to the list stays a report: or reports could be reported on.
    say(&server, "", &["team@example.org"]);
    let found = server.wait_for("ann@example.org", 2);
    assert!(found.iter().any(|message| text(message).starts_with("Return-Path: <>\r\n")));
    fs::write(&list, "bob@example.org\n").unwrap();
    server.logged(&[" reloaded "]);
    say(&server, "sender@far.example", &["team@example.org"]);
    server.wait_for("bob@example.org", 1);
    server.wait_for("ann@example.org", 2);
}

#[test]
fn a_list_that_cannot_be_read_defers_and_never_fails() {
    let mut server = Server::prepared("[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\n", "");
    let list = server.path("team");
    fs::write(server.path("aliases"), format!("team: bob, :include:{}\n", list.display())).unwrap();
    server.run();
    let (replies, end) = say(&server, "sender@far.example", &["team@example.org"]);
    assert!(replies[0].starts_with("250") && end.starts_with("250"), "{replies:?} {end}");
    server.wait_for("bob@example.org", 1);
    server.logged(&[" deferred ", "to=team@example.org", "reply=\"451 4.2.4 the list can't be read"]);
    fs::write(&list, "ann\n").unwrap();
    server.wait_for("ann@example.org", 1);
    queue_is_empty(&server);
    assert_eq!(server.mailbox("bob@example.org").len(), 1, "who had it gets no second");
}

#[test]
fn nobody_at_home_is_known_at_rcpt() {
    let server = Server::start_with("", "loop: pool\npool: loop\nghost: nobody-here\n@example.net: ann\n");
    let to =
        ["nobody@example.org", "loop@example.org", "ghost@example.org", "anything+at@example.net", "+@example.org"];
    let (replies, _) = say(&server, "sender@far.example", &to);
    for (reply, start) in replies.iter().zip(["550 5.1.1", "550 5.4.6", "550 5.1.1", "250 2.1.5", "550 5.1.1"]) {
        assert!(reply.starts_with(start), "{replies:?}");
    }
    server.wait_for("ann@example.org", 1);
}

#[test]
fn the_postmaster_always_has_a_mailbox() {
    let server = Server::start("");
    for to in ["postmaster", "Postmaster@example.org", "POSTMASTER@example.net"] {
        say(&server, "", &[to]);
    }
    let found = server.wait_for("postmaster@example.org", 3);
    assert!(found.iter().all(|message| text(message).starts_with("Return-Path: <>\r\n")));
}

/// Puts an entry into the queue by hand.
fn put(server: &Server, id: &str, entry: &str) {
    fs::write(server.path("spool/tmp/entry"), entry).unwrap();
    fs::rename(server.path("spool/tmp/entry"), server.path("spool/queue").join(format!("{id}.eml"))).unwrap();
}

const ID: &str = "0TQXGV0000001";

#[test]
fn the_sender_is_told_what_failed_and_the_others_get_theirs() {
    let server = Server::start("");
    put(
        &server,
        ID,
        "X-Sender: <bob@example.org>\r\nX-Receiver: <gone@example.org>\r\nX-Receiver: <ann@example.org>\r\n\
         Subject: x\r\n\r\nhello\r\n",
    );
    server.wait_for("ann@example.org", 1);
    let report = text(&server.wait_for("bob@example.org", 1)[0]);
    queue_is_empty(&server);
    assert!(report.starts_with("Return-Path: <>\r\nDelivered-To: bob@example.org\r\n"), "{report}");
    for part in [
        "Content-Type: multipart/report; report-type=delivery-status",
        "Final-Recipient: rfc822; gone@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Subject: x\r\n\r\nhello\r\n",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    assert!(!report.contains("Final-Recipient: rfc822; ann@"), "{report}");
    server.logged(&[" ERROR 0TQXGV0000001 failed ", "to=gone@example.org", "5.1.1"]);
    server.logged(&[" 0TQXGV0000001 reported to=bob@example.org ", "what=failed"]);
    assert_eq!(with_suffix(&server, "failed", "").len(), 0);
}

#[test]
fn what_fails_about_a_report_is_for_the_postmaster_once() {
    let server = Server::start("");
    put(&server, ID, "X-Sender: <>\r\nX-Receiver: <gone@example.org>\r\nSubject: x\r\n\r\nhello\r\n");
    let report = text(&server.wait_for("postmaster@example.org", 1)[0]);
    assert!(report.starts_with("Return-Path: <>\r\n") && report.contains("rfc822; gone@example.org"), "{report}");
    queue_is_empty(&server);
}

#[test]
fn what_nobody_can_be_told_goes_to_failed_and_can_be_tried_again_by_hand() {
    let server = Server::start("[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\ngive_up = \"1s\"\n");
    let mailbox = server.path("spool/mail/example.org/postmaster");
    fs::create_dir_all(mailbox.parent().unwrap()).unwrap();
    fs::write(&mailbox, "in the way").unwrap();
    put(&server, ID, "X-Sender: <>\r\nX-Receiver: <postmaster@example.org>\r\nSubject: x\r\n\r\nhello\r\n");
    eventually("it is in failed/", || with_suffix(&server, "failed", ".eml").len() == 1);
    queue_is_empty(&server);
    let [message] = with_suffix(&server, "failed", ".eml")[..].to_vec().try_into().unwrap();
    let [report] = with_suffix(&server, "failed", ".report")[..].to_vec().try_into().unwrap();
    assert!(fs::read_to_string(message).unwrap().ends_with("hello\r\n"));
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("postmaster@example.org does not have it: 451 4.3.0 "), "{report}");
    assert!(!report.contains("hello"), "{report}");
    // Tried again by hand, as the report says, with its old report still there.
    let in_spool = |name: &str| server.path("spool").join(name);
    fs::remove_file(&mailbox).unwrap();
    let state = fs::read_to_string(in_spool("failed/0TQXGV0000001.state")).unwrap();
    fs::write(in_spool("queue/0TQXGV0000001.state"), state.replace("Status: failed", "Status: pending")).unwrap();
    fs::rename(in_spool("failed/0TQXGV0000001.eml"), in_spool("queue/0TQXGV0000001.eml")).unwrap();
    server.wait_for("postmaster@example.org", 1);
    queue_is_empty(&server);
}

#[test]
fn what_is_tried_again_by_hand_is_reported_again() {
    let mut server = Server::with_spool("");
    put(&server, ID, "X-Sender: <ann@example.org>\r\nX-Receiver: <gone@example.org>\r\n\r\nhi\r\n");
    let state = "Target: gone@example.org\nReverse-Path: <ann@example.org>\nStatus: pending\nReported: yes\n";
    fs::write(server.path("spool/queue/0TQXGV0000001.state"), state).unwrap();
    server.run();
    server.logged(&["0TQXGV0000001 reported to=ann@example.org", "what=failed"]);
    server.wait_for("ann@example.org", 1);
}

#[test]
fn a_storm_of_reports_is_capped_and_nothing_is_lost() {
    let server = Server::start("[limits]\nreports = 2\n");
    for at in 1..=5 {
        let id = format!("0TQXGV000000{at}");
        put(&server, &id, "X-Sender: <bob@example.org>\r\nX-Receiver: <gone@example.org>\r\nSubject: x\r\n\r\nx\r\n");
    }
    queue_is_empty(&server);
    server.wait_for("bob@example.org", 2);
    assert_eq!(with_suffix(&server, "failed", ".eml").len(), 3);
    server.logged(&[" WARN ", " report-capped to=bob@example.org most=2"]);
}

#[test]
fn what_waits_too_long_is_reported_late_and_given_up() {
    let server =
        Server::start("[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\nwarn_after = \"1s\"\ngive_up = \"4s\"\n");
    let (replies, _) = say(&server, "ann@example.org", &["friend@far.example", "bob@example.org"]);
    assert!(replies[0].starts_with("250"), "127.0.0.1 may relay: {replies:?}");
    server.wait_for("bob@example.org", 1);
    server.logged(&[" deferred ", "to=friend@far.example", "4.4.3"]);
    server.logged(&[" ERROR ", " failed ", "to=friend@far.example", "5.4.7", "4.4.3"]);
    queue_is_empty(&server);
    let reports: String = server.wait_for("ann@example.org", 2).iter().map(|report| text(report)).collect();
    for part in ["Action: delayed", "Will-Retry-Until: ", "Action: failed", "given up"] {
        assert!(reports.contains(part), "{part}\n{reports}");
    }
    assert_eq!(server.mailbox("bob@example.org").len(), 1);
}

#[test]
fn a_mailbox_that_cannot_be_written_defers_and_says_so() {
    let server = Server::start("[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\n");
    fs::create_dir_all(server.path("spool/mail/example.org")).unwrap();
    fs::write(server.path("spool/mail/example.org/ann"), "in the way").unwrap();
    say(&server, "sender@far.example", &["ann@example.org"]);
    let line = server.logged(&[" deferred ", "to=ann@example.org", "4.3.0"]);
    assert!(line.contains("spool/mail/example.org/ann"), "the log says where: {line}");
    fs::remove_file(server.path("spool/mail/example.org/ann")).unwrap();
    server.wait_for("ann@example.org", 1);
    queue_is_empty(&server);
}

#[test]
fn a_user_is_there_as_soon_as_the_file_says_so() {
    let server = Server::start("");
    assert!(rcpt(&server, "carol@example.org").starts_with("550 5.1.1"));
    let users = fs::read_to_string(server.path("users")).unwrap();
    fs::write(server.path("users"), users.replace("bob@", "carol@")).unwrap();
    server.logged(&[" reloaded "]);
    say(&server, "a@far.example", &["carol@example.org"]);
    server.wait_for("carol@example.org", 1);
    fs::write(server.path("users"), "ann@example.org:not a hash\n").unwrap();
    let line = server.logged(&[" reload-failed "]);
    assert!(line.contains("users:1") || line.contains("line 1"), "{line}");
    assert!(rcpt(&server, "carol@example.org").starts_with("250"), "a wrong file leaves the old in place");
}

#[test]
fn a_users_file_that_is_moved_away_still_counts_until_there_is_another() {
    let server = Server::start("");
    fs::rename(server.path("users"), server.path("users.old")).unwrap();
    server.logged(&[" ERROR ", " reload-failed ", "users: the file is gone", "put it back"]);
    assert!(rcpt(&server, "bob@example.org").starts_with("250"));
    say(&server, "a@far.example", &["bob@example.org"]);
    server.wait_for("bob@example.org", 1);
    let users = fs::read_to_string(server.path("users.old")).unwrap();
    fs::write(server.path("users"), users.replace("bob@", "carol@")).unwrap();
    server.logged(&[" reloaded "]);
    assert!(rcpt(&server, "bob@example.org").starts_with("550 5.1.1"));
}

#[test]
fn what_waits_for_a_domain_arrives_here_once_the_domain_does() {
    let server = Server::start_with(
        "[delivery]\nretry_min = \"1s\"\nretry_max = \"1s\"\n",
        "friend@far.example: bob@example.org",
    );
    say(&server, "ann@example.org", &["friend@far.example", "other@away.example"]);
    server.logged(&[" deferred ", "to=friend@far.example", "4.4.3"]);
    server.configure("\"example.net\"]", "\"example.net\", \"far.example\"]");
    server.signal("HUP");
    server.wait_for("bob@example.org", 1);
    assert!(server.mailbox("ann@example.org").is_empty(), "nobody is told that it failed");
}
