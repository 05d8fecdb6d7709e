//! The drop folder as people use it: `cp`, `mv`, wrong files, foreign files, and crashes in the middle.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use support::account::{can_run_as, run_as, start_as};
use support::{Server, eventually, files};

/// An envelope in fields of its own.
const ENVELOPE: &str = "X-Sender: <sender@far.example>\nX-Receiver: <ann@example.org>\n\
                        Date: Thu, 1 Jan 2026 00:00:00 +0000\nMessage-ID: <1@far.example>\n";
/// An envelope in what people read.
const LETTER: &str = "From: Bob <bob@example.org>\nTo: Ann <ann@example.org>\nSubject: hello\n\nSECRET\n";

/// An account that nobody else uses.
const ACCOUNT: u32 = 54_003;

/// What no report and no log may quote.
const SECRET: &str = "SECRET";

fn drop_folder(server: &Server) -> PathBuf {
    server.path("spool/drop")
}

/// Writes a file elsewhere and renames it into the folder.
fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) {
    fs::write(server.path("outside"), content).unwrap();
    fs::rename(server.path("outside"), drop_folder(server).join(name)).unwrap();
}

/// The names in the folder but for the hidden ones.
fn names(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = files(&drop_folder(server))
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn report(server: &Server, name: &str) -> String {
    let path = drop_folder(server).join(format!("{name}.report"));
    let bad = drop_folder(server).join(format!("{name}.bad"));
    eventually(&format!("{name} has its report"), || path.exists() && bad.symlink_metadata().is_ok());
    fs::read_to_string(path).unwrap()
}

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

#[test]
fn both_envelope_styles_are_sent_and_the_folder_is_empty_again() {
    let server = Server::start("");
    put(&server, "fields", format!("{ENVELOPE}X-Mailer: x\n\none\n"));
    put(&server, "letter", LETTER);
    let found = server.wait_for("ann@example.org", 2);
    let fields = found.iter().map(|message| text(message)).find(|message| message.contains("\r\n\r\none")).unwrap();
    let (received, rest) = fields.split_once("Date:").unwrap();
    let top = "Return-Path: <sender@far.example>\r\nDelivered-To: ann@example.org\r\n\
               X-Sender: <sender@far.example> SIZE=0000000201\r\nX-Receiver: <ann@example.org>\r\nReceived: by ";
    assert!(received.starts_with(top), "{fields}");
    assert_eq!(rest, " Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@far.example>\r\nX-Mailer: x\r\n\r\none\r\n");
    let letter = found.iter().map(|message| text(message)).find(|message| message.contains("hello")).unwrap();
    assert!(letter.starts_with("Return-Path: <bob@example.org>\r\n"), "{letter}");
    assert!(letter.contains("\r\nDate: ") && letter.contains("\r\nMessage-ID: <"), "{letter}");
    assert!(letter.ends_with("\r\n\r\nSECRET\r\n"));
    eventually("drop/ is empty", || files(&drop_folder(&server)).is_empty());
    server.logged(&[" accepted ", "client=drop/letter", "protocol=drop"]);
}

#[test]
fn what_is_copied_or_written_slowly_is_taken_once_it_is_whole() {
    let server = Server::start("");
    fs::write(server.path("letter"), LETTER).unwrap();
    assert!(Command::new("cp").arg(server.path("letter")).arg(drop_folder(&server)).status().unwrap().success());
    let mut slow = fs::File::create(drop_folder(&server).join("slow")).unwrap();
    slow.write_all(LETTER.as_bytes()).unwrap();
    for line in 0..8 {
        thread::sleep(Duration::from_millis(700));
        writeln!(slow, "line {line}").unwrap();
    }
    drop(slow);
    let found = server.wait_for("ann@example.org", 2);
    assert_eq!(found.iter().filter(|message| text(message).ends_with("SECRET\r\n")).count(), 1);
    assert_eq!(found.iter().filter(|message| text(message).ends_with("line 6\r\nline 7\r\n")).count(), 1);
}

#[test]
fn bcc_gets_it_and_nobody_sees_it() {
    let server = Server::start("");
    put(&server, "m", LETTER.replace("Subject", "Bcc: ann@example.org,\n  bob@example.org\nSubject"));
    for address in ["ann@example.org", "bob@example.org"] {
        let message = text(&server.wait_for(address, 1)[0]);
        assert!(!message.to_lowercase().contains("bcc") && message.contains("Subject: hello"), "{message}");
    }
}

#[test]
fn what_cannot_be_sent_is_set_aside_with_line_and_mend_and_without_content() {
    let server = Server::start("[limits]\nmessage_size = \"64KiB\"\n");
    let many: String = (0..1001).map(|number| format!("X-Receiver: <u{number}@example.org>\n")).collect();
    let long_line = format!("{LETTER}{}\n", "x".repeat(70_000));
    let looping = format!("{}{LETTER}", "Received: from SECRET\n".repeat(50));
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("empty", "empty", vec![]),
        ("no-sender", "sender", b"To: ann@example.org\n\nSECRET\n".to_vec()),
        ("no-recipient", "recipient", b"From: bob@example.org\n\nSECRET\n".to_vec()),
        ("no-header", "line 1", b"SECRET text, and nothing else\n".to_vec()),
        ("bad-address", "line 2", b"From: bob@example.org\nTo: <SECRET@@example.org>\n\nx\n".to_vec()),
        ("bad-receiver", "line 2", b"X-Sender: <bob@example.org>\nX-Receiver: SECRET at home\n\nx\n".to_vec()),
        ("two-senders", "line 2", b"X-Sender: <SECRET@a.b>\nX-Sender: <b@a.b>\nX-Receiver: <a@a.b>\n\n".to_vec()),
        ("zero", "line 6", [LETTER.as_bytes(), b"a\0b"].concat()),
        ("carriage-return", "line 6", [LETTER.as_bytes(), b"a\rb"].concat()),
        ("many", "1000 recipients", format!("X-Sender: <b@a.b>\n{many}\nSECRET\n").into_bytes()),
        ("large", "message_size", long_line.into_bytes()),
        ("looping", "loops", looping.into_bytes()),
    ];
    cases.iter().for_each(|(name, _, content)| put(&server, name, content));
    for (name, expected, content) in &cases {
        let report = report(&server, name);
        assert!(report.contains(expected) && report.contains("What to do: "), "{name}:\n{report}");
        assert!(report.contains(&format!("mv {name}.bad {name}")), "{name}:\n{report}");
        assert!(!report.contains(SECRET), "{name}:\n{report}");
        assert_eq!(&fs::read(drop_folder(&server).join(format!("{name}.bad"))).unwrap(), content, "{name}");
        server.logged(&[" drop-refused ", &format!("{name}.bad")]);
    }
    assert!(!server.log().contains(SECRET));
    assert_eq!(names(&server).len(), 2 * cases.len());
}

#[test]
fn a_mended_file_is_sent_and_nothing_is_overwritten() {
    let server = Server::start("");
    let broken = LETTER.replace("To:", "Too:");
    put(&server, "m", &broken);
    report(&server, "m");
    put(&server, "m", &broken);
    report(&server, "m.1");
    let folder = drop_folder(&server);
    fs::write(folder.join("m.bad"), LETTER).unwrap();
    fs::rename(folder.join("m.bad"), folder.join("m")).unwrap();
    server.wait_for("ann@example.org", 1);
    eventually("the rest stays", || names(&server) == ["m.1.bad", "m.1.report", "m.report"]);
    // What is called a report, and reports nothing, is a message like any other.
    put(&server, "weekly.report", LETTER);
    server.wait_for("ann@example.org", 2);
}

#[test]
fn what_is_no_plain_file_is_refused_and_blocks_nobody() {
    let server = Server::start("");
    let folder = drop_folder(&server);
    fs::write(server.path("letter"), LETTER).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("fifo")).status().unwrap().success());
    symlink(server.path("letter"), folder.join("link")).unwrap();
    symlink("/dev/zero", folder.join("endless")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    fs::create_dir(folder.join("folder")).unwrap();
    fs::hard_link(server.path("letter"), folder.join("hard")).unwrap();
    let _socket = UnixListener::bind(folder.join("socket")).unwrap();
    put(&server, "good", LETTER);
    server.wait_for("ann@example.org", 1);
    for (name, why) in [
        ("fifo", "regular file"),
        ("link", "symbolic link"),
        ("endless", "symbolic link"),
        ("dangling", "symbolic link"),
        ("folder", "regular file"),
        ("hard", "hard links"),
        ("socket", "regular file"),
    ] {
        let report = report(&server, name);
        assert!(report.contains(why), "{name}: {report}");
    }
    assert_eq!(fs::read_to_string(server.path("letter")).unwrap(), LETTER, "the file behind the links");
    assert_eq!(server.mailbox("ann@example.org").len(), 1);
}

#[test]
fn a_name_with_a_line_end_in_it_is_a_name() {
    let server = Server::start("");
    put(&server, "two\nlines", LETTER);
    put(&server, "not\n2026 INFO - forged", "Subject: x\n\n");
    server.wait_for("ann@example.org", 1);
    report(&server, "not\n2026 INFO - forged");
    server.logged(&[" accepted ", "two"]);
    server.logged(&[" drop-refused ", "forged"]);
    assert!(!server.log().lines().any(|line| line.starts_with("2026 ") || line.starts_with("lines")));
    assert_eq!(names(&server).len(), 2);
}

#[test]
fn what_grows_while_it_is_read_is_taken_once_it_does_not() {
    let server = Server::start("");
    let (outside, line) = (server.path("outside"), "0123456789abcdef".repeat(4) + "\n");
    fs::write(&outside, format!("{LETTER}{}", line.repeat(300_000))).unwrap();
    let mut growing = fs::File::options().append(true).open(&outside).unwrap();
    let writer = thread::spawn(move || {
        for _ in 0..500 {
            growing.write_all(b"more\n").unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        growing.write_all(b"the end\n").unwrap();
    });
    fs::rename(&outside, drop_folder(&server).join("growing")).unwrap();
    writer.join().unwrap();
    let found = server.wait_for("ann@example.org", 1);
    assert!(found[0].ends_with(b"more\r\nthe end\r\n"));
    assert_eq!(text(&found[0]).matches("more\r\n").count(), 500);
    eventually("drop/ is empty", || files(&drop_folder(&server)).is_empty());
}

#[test]
fn what_the_server_may_not_read_is_set_aside() {
    if !can_run_as("what_the_server_may_not_read_is_set_aside") {
        return;
    }
    let mut server = Server::prepared("", "");
    let command = start_as(&server, ACCOUNT, run_as(ACCOUNT));
    server.run_as(command);
    fs::write(server.path("outside"), LETTER).unwrap();
    fs::set_permissions(server.path("outside"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::rename(server.path("outside"), drop_folder(&server).join("m")).unwrap();
    let report = report(&server, "m");
    assert!(report.contains("may not read it") && report.contains("chmod"), "{report}");
    // The log may be a second late.
    server.logged(&[" drop-"]);
    assert_eq!(server.log().matches(" drop-").count(), 1);
    // As the report says.
    let folder = drop_folder(&server);
    fs::set_permissions(folder.join("m.bad"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(folder.join("m.bad"), folder.join("m")).unwrap();
    server.wait_for("ann@example.org", 1);
}

#[test]
fn an_owner_sends_as_himself_and_as_what_was_granted() {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        support::skip("an_owner_sends_as_himself_and_as_what_was_granted", "only root gives files away");
        return;
    }
    let server = Server::start("[drop.senders]\ndaemon = [\"bob@example.org\", \"@far.example\"]\n");
    let from = |sender: &str| format!("From: {sender}\nTo: ann@example.org\nSubject: from {sender}\n\nx\n");
    let uid = |login: &str| nix::unistd::User::from_name(login).unwrap().unwrap().uid.as_raw();
    let owned = |name: &str, uid: u32, content: &str| {
        let path = server.path("outside");
        fs::write(&path, content).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), None).unwrap();
        fs::rename(&path, drop_folder(&server).join(name)).unwrap();
    };
    let daemon = uid("daemon");
    for (at, sender) in
        ["bob@example.org", "x@far.example", "daemon@example.org", "Daemon@EXAMPLE.net"].iter().enumerate()
    {
        owned(&format!("good{at}"), daemon, &from(sender));
    }
    server.wait_for("ann@example.org", 4);
    for (name, uid, content, why) in [
        ("stranger", daemon, from("ann@example.org"), "line 1: daemon"),
        ("other", uid("games"), from("bob@example.org"), "games"),
        ("nobody-at-all", 54321, from("bob@example.org"), "no login"),
        (
            "forged",
            daemon,
            format!("X-Sender: <bob@example.org>\nX-Receiver: <ann@example.org>\n{}", from("ann@example.org")),
            "line 3",
        ),
        ("sender", daemon, format!("Sender: bob@example.org\n{}", from("ann@example.org")), "line 2"),
    ] {
        owned(name, uid, &content);
        let report = report(&server, name);
        let found = report.replace("line 1 of stranger.bad\nWhat:      ", "line 1: ");
        assert!(found.contains(why), "{name}: {report}");
    }
    owned("root", 0, &from("anyone@anywhere.example"));
    server.wait_for("ann@example.org", 5);
}

#[test]
fn a_crash_leaves_nothing_lost_and_nothing_doubled() {
    let mut server = Server::with_spool("");
    let folder = drop_folder(&server);
    // Renamed, and not yet an entry.
    fs::write(folder.join(".0TQXGV0000001"), LETTER).unwrap();
    // An entry already, and only the removal missing.
    fs::write(folder.join(".0TQXGV0000002"), LETTER).unwrap();
    let entry = "X-Sender: <bob@example.org>\r\nX-Receiver: <ann@example.org>\r\nSubject: two\r\n\r\nx\r\n";
    fs::write(server.path("spool/queue/0TQXGV0000002.eml"), entry).unwrap();
    // The same, held by a person meanwhile.
    fs::write(folder.join(".0TQXGV0000003"), LETTER).unwrap();
    fs::write(server.path("spool/hold/0TQXGV0000003.eml"), entry).unwrap();
    // Someone's editor at work.
    fs::write(folder.join(".m.swp"), LETTER).unwrap();
    // Waiting since before the start.
    fs::write(folder.join("early"), LETTER.replace("hello", "early")).unwrap();
    server.run();
    let found = server.wait_for("ann@example.org", 3);
    for subject in ["Subject: hello", "Subject: two", "Subject: early"] {
        assert_eq!(found.iter().filter(|message| text(message).contains(subject)).count(), 1, "{subject}");
    }
    eventually("only the editor's file is left", || {
        files(&folder) == [folder.join(".m.swp")] && files(&server.path("spool/queue")).is_empty()
    });
    assert!(server.path("spool/hold/0TQXGV0000003.eml").exists());
    server.stop();
    server.run();
    thread::sleep(Duration::from_secs(3));
    server.wait_for("ann@example.org", 3);
}

#[test]
fn without_room_it_waits_where_it_is() {
    let server = Server::start("[limits]\nfree_space = \"1000000GiB\"\n");
    put(&server, "m", LETTER);
    server.logged(&[" drop-waits ", "file=m"]);
    assert_eq!(names(&server), ["m"]);
    let config = fs::read_to_string(server.path("postrider.toml")).unwrap();
    fs::write(server.path("postrider.toml"), config.replace("1000000GiB", "1MiB")).unwrap();
    server.signal("HUP");
    server.logged(&[" reloaded "]);
    // A touch is a wish to try again.
    fs::File::options().append(true).open(drop_folder(&server).join("m")).unwrap();
    server.wait_for("ann@example.org", 1);
    eventually("drop/ is empty", || files(&drop_folder(&server)).is_empty());
}

#[test]
fn a_thousand_files_at_once_are_a_thousand_messages() {
    let server = Server::start("");
    fs::create_dir(server.path("many")).unwrap();
    for number in 0..1000 {
        fs::write(server.path("many").join(format!("m{number}")), LETTER.replace("hello", &format!("n{number}.")))
            .unwrap();
    }
    // Not by mv(1): it looks at each file once more, and complains of those that are taken already.
    for path in files(&server.path("many")) {
        fs::rename(&path, drop_folder(&server).join(path.file_name().unwrap())).unwrap();
    }
    let found = server.wait_for("ann@example.org", 1000);
    let mut subjects: Vec<String> = found
        .iter()
        .map(|message| text(message).lines().find(|line| line.starts_with("Subject: n")).unwrap().to_owned())
        .collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), 1000);
}
