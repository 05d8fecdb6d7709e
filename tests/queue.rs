//! `postrider queue` as a person meets it: the real binary on a spool of its own, with a server and without one.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::ended::Ended;
use support::{Server, eventually, files, skip};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

const ONE: &str = "0TQXGV0000001";
const TWO: &str = "0TQXGV0000002";
const THREE: &str = "0TQXGV0000003";

fn queue(server: &Server, words: &[&str]) -> Ended {
    let mut command = Command::new(BINARY);
    command.arg("queue").args(words).arg("--config").arg(server.path("postrider.toml"));
    command.stdin(Stdio::null()).output().unwrap().into()
}

/// A message in a folder of the spool, and its state if it has one.
fn put(server: &Server, place: &str, id: &str, envelope: (&str, &str), state: &str) {
    let (from, to) = envelope;
    let folder = server.path("spool").join(place);
    let text = format!("X-Sender: <{from}>\nX-Receiver: <{to}>\nFrom: {from}\nSubject: for {to}\n\nhello\n");
    // Long enough ago that a touch is seen to come later: the clock of a file system ticks every few milliseconds.
    let write = |name: String, text: &str, seconds| {
        fs::write(folder.join(&name), text).unwrap();
        let written = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        fs::File::open(folder.join(&name)).unwrap().set_modified(written).unwrap();
    };
    write(format!("{id}.eml"), &text, 2);
    if !state.is_empty() {
        write(format!("{id}.state"), state, 1);
    }
}

/// A state that waits for an hour.
fn waiting(targets: &[(&str, &str)]) -> String {
    let mut text = "Attempts: 3\nWaited: 900\nNext-Attempt: 2100-01-01T00:00:00Z\nRetry-In: 3600\n".to_owned();
    for (address, status) in targets {
        text.push_str(&format!(
            "\nTarget: {address}\nVia: mailbox\nRecipient: list@example.org\nReverse-Path: <a@far.example>\n\
             Status: {status}\nReply: 451 4.2.0 try later\nHost: mx.far.example\nReported: no\n"
        ));
    }
    text
}

fn inside(server: &Server, place: &str) -> Vec<String> {
    let found = files(&server.path("spool").join(place));
    let mut names: Vec<String> =
        found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn both(id: &str) -> Vec<String> {
    vec![format!("{id}.eml"), format!("{id}.state")]
}

const ANN: (&str, &str) = ("a@far.example", "ann@example.org");

#[test]
fn an_empty_queue_says_so() {
    let server = Server::with_spool("");
    for words in [&[][..], &["list"]] {
        assert_eq!(queue(&server, words).is(0).out, "The queue is empty.\n");
    }
    assert_eq!(queue(&server, &["list", "--json"]).is(0).out, "[]\n");
    queue(&server, &["list", "far.example"]).is(0).says("No message matches.");
}

#[test]
fn the_list_says_what_is_stuck_for_whom_why_and_when_it_is_tried_next() {
    let server = Server::with_spool("");
    put(&server, "queue", ONE, ANN, &waiting(&[("ann@example.org", "pending"), ("bob@example.org", "delivered")]));
    put(&server, "hold", TWO, ("", "bob@example.net"), "");
    put(&server, "failed", THREE, ANN, &waiting(&[("carol@example.org", "failed")]));
    let ended = queue(&server, &[]).is(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    for (at, words) in [
        (1, &[ONE, " B  <a@far.example>"][..]),
        (2, &["next try in ", ", at ", "; tried 3 times"]),
        (3, &["ann@example.org: mx.far.example said 451 4.2.0 try later"]),
        (4, &[TWO, "<>"]),
        (5, &["held; not tried yet"]),
        (6, &["to bob@example.net"]),
        (7, &[THREE]),
        (8, &["failed; tried 3 times"]),
        (9, &["carol@example.org failed: mx.far.example said 451"]),
        (11, &["No server runs"]),
        (10, &["3 messages, ", ": 1 waiting, 1 held, 1 failed."]),
    ] {
        assert!(words.iter().all(|word| lines[at].contains(word)), "{at} {words:?}\n{}", ended.out);
    }
    assert!(!ended.out.contains("bob@example.org"), "who has it is not stuck");
    for (words, shown, hidden) in [
        (&["list", TWO][..], TWO, ONE),
        (&["list", "example.net"], TWO, ONE),
        (&["list", "from:<>"], TWO, THREE),
        (&["list", "from:@far.example"], ONE, TWO),
        (&["list", "to:carol@example.org"], THREE, ONE),
        (&["list", "BOB@example.org", "carol@example.org"], THREE, TWO),
    ] {
        queue(&server, words).is(0).says(shown).says_not(hidden);
    }
}

#[test]
fn everything_of_one_message_is_shown() {
    let server = Server::with_spool("");
    put(&server, "queue", ONE, ANN, &waiting(&[("ann@example.org", "pending")]));
    let ended = queue(&server, &["show", ONE]).is(0);
    for words in [
        "queue/0TQXGV0000001.eml",
        "<a@far.example>",
        "for list@example.org",
        "next try in ",
        "mx.far.example said 451 4.2.0 try later",
        "the sender was told nothing",
        "Subject: for ann@example.org",
    ] {
        assert!(ended.out.contains(words), "{words}\n{}", ended.out);
    }
    assert!(!ended.out.contains("hello"), "the body is the owner's");
    queue(&server, &["show", TWO]).fails(66, "no such message");
}

#[test]
fn what_is_for_programs_has_the_documented_keys() {
    let server = Server::with_spool("");
    put(&server, "queue", ONE, ANN, &waiting(&[("ann@example.org", "pending")]));
    put(&server, "hold", TWO, ("", "bob@example.net"), "");
    fs::write(server.path("spool/queue").join(format!("{THREE}.eml")), "torn").unwrap();
    let list: Value = serde_json::from_str(&queue(&server, &["--json"]).is(0).out).unwrap();
    let [one, two, three] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
    let keys: Vec<&str> = one.as_object().unwrap().keys().map(String::as_str).collect();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/etc/postrider.8")).unwrap();
    assert_eq!(keys.len(), 14);
    let of_target = one["targets"][0].as_object().unwrap().keys().map(String::as_str);
    for key in keys.into_iter().chain(of_target).chain(["header"]) {
        assert!(page.contains(&format!("\n.Ql {key}")), "{key} is not documented");
    }
    assert_eq!(
        (&one["place"], &one["sender"], &one["attempts"]),
        (&"queue".into(), &"a@far.example".into(), &3.into())
    );
    assert_eq!((&one["waited_seconds"], &one["targets"][0]["status"]), (&900.into(), &"pending".into()));
    assert_eq!(one["require_tls"], Value::Bool(false));
    assert!((3590..=3600).contains(&one["next_in_seconds"].as_u64().unwrap()), "{one}");
    assert!(one["next_attempt"].as_str().unwrap().starts_with("20") && one["problem"].is_null());
    assert_eq!((&two["place"], &two["sender"], &two["next_attempt"]), (&"hold".into(), &"<>".into(), &Value::Null));
    assert!(three["problem"].as_str().unwrap().contains("X-Sender") && three["sender"].is_null());
    let shown: Value = serde_json::from_str(&queue(&server, &["show", ONE, "--json"]).is(0).out).unwrap();
    assert_eq!((&shown["id"], shown["header"].as_str().unwrap().lines().count()), (&ONE.into(), 2));
    let all: Value = serde_json::from_str(&queue(&server, &["show", "all", "--json"]).is(0).out).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 3);
}

#[test]
fn foreign_words_do_nothing_to_the_terminal() {
    let server = Server::with_spool("");
    let reply = format!("550 \x1b]0;owned\x07\u{9b}31m \u{202e}{}", "long ".repeat(500));
    let state = waiting(&[("ann@example.org", "pending")]).replace("451 4.2.0 try later", &reply);
    put(&server, "queue", ONE, ANN, &state);
    let message =
        "X-Sender: <a@far.example>\nX-Receiver: <\"x\u{202e}y\"@far.example>\nSubject: \x1b[2J\u{85}\x07\r\r\n\nx\n";
    fs::write(server.path("spool/queue").join(format!("{ONE}.eml")), message).unwrap();
    fs::write(server.path("spool/queue").join(format!("{TWO}.eml")), "X-Sender: \x1b[2J\nX-Receiver: <a@b.org>\n")
        .unwrap();
    for words in [&[][..], &["show", "all"], &["list", "--json"], &["show", "all", "--json"], &["retry", "all"]] {
        let out = queue(&server, words).is(0).out;
        let obeyed = |letter: &char| (letter.is_control() && *letter != '\n') || *letter == '\u{202e}';
        assert!(!out.chars().any(|letter| obeyed(&letter)), "{words:?} {out:?}");
    }
    let ended = queue(&server, &[]);
    assert!(ended.out.lines().all(|line| line.chars().count() <= 80) && ended.out.contains('…'), "{}", ended.out);
}

#[test]
fn what_is_no_message_is_named_and_holds_up_nothing() {
    let server = Server::with_spool("");
    let path = |id: &str| server.path("spool/queue").join(format!("{id}.eml"));
    nix::unistd::mkfifo(&path(ONE), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", path(TWO)).unwrap();
    fs::write(path(THREE), "X-Sender: <a@b.org> SIZE=0000000100\r\nX-Receiver: <c@d.org>\r\ntorn").unwrap();
    put(&server, "queue", "0TQXGV0000004", ANN, "Attempts: many\n");
    let ended = queue(&server, &[]).is(0).says_not("root:");
    for words in ["not a regular file", "a symbolic link", "SIZE in X-Sender is 100", "state: line 1:", "4 messages"] {
        assert!(ended.out.contains(words), "{words}\n{}", ended.out);
    }
    queue(&server, &["remove", "all", "--yes"]).is(0).says("4 messages removed.");
    assert!(inside(&server, "queue").is_empty() && fs::read("/etc/passwd").is_ok());
}

#[test]
fn hold_and_release_keep_the_state_with_and_without_a_server() {
    for up in [false, true] {
        let mut server = Server::with_spool("");
        let state = waiting(&[("ann@example.org", "pending"), ("bob@example.org", "delivered")]);
        put(&server, "queue", ONE, ANN, &state);
        if up {
            server.run();
        }
        queue(&server, &["hold", ONE]).is(0).says("1 message held.");
        eventually("its state follows", || inside(&server, "hold") == both(ONE) && inside(&server, "queue").is_empty());
        queue(&server, &["hold", ONE]).is(65).says("held already");
        queue(&server, &["retry", ONE]).is(65).says("release it");
        queue(&server, &["retry", "all"]).fails(66, "no message to retry");
        queue(&server, &["release", "example.org"]).is(0).says("1 message released");
        eventually("it is back", || inside(&server, "queue") == both(ONE) && inside(&server, "hold").is_empty());
        let text = fs::read_to_string(server.path("spool/queue").join(format!("{ONE}.state"))).unwrap();
        assert_eq!(text, state);
        if up {
            server.logged(&[ONE, " released ", "next=60m"]);
        }
    }
}

#[test]
fn a_message_that_is_held_and_released_at_once_goes_to_nobody_twice() {
    let mut server = Server::with_spool("");
    put(&server, "queue", ONE, ANN, &waiting(&[("ann@example.org", "pending"), ("bob@example.org", "delivered")]));
    server.run();
    for _ in 0..20 {
        queue(&server, &["hold", ONE]).is(0);
        queue(&server, &["release", ONE]).is(0);
    }
    eventually("the server has seen it all", || {
        queue(&server, &["retry", ONE]);
        !server.mailbox("ann@example.org").is_empty()
    });
    eventually("nothing is left", || inside(&server, "queue").is_empty());
    assert_eq!((server.wait_for("ann@example.org", 1).len(), server.mailbox("bob@example.org").len()), (1, 0));
}

#[test]
fn retry_has_it_tried_now_or_at_the_next_start() {
    let mut server = Server::with_spool("");
    put(&server, "queue", ONE, ANN, &waiting(&[("ann@example.org", "pending")]));
    put(&server, "queue", TWO, ("b@far.example", "bob@example.org"), &waiting(&[("bob@example.org", "pending")]));
    queue(&server, &["retry", "from:a@far.example"]).is(0).says("the next start tries");
    server.run();
    server.wait_for("ann@example.org", 1);
    assert!(server.mailbox("bob@example.org").is_empty(), "it was not asked for");
    queue(&server, &["retry", TWO]).is(0).says("1 message brought forward: tried now.");
    server.wait_for("bob@example.org", 1);
    eventually("the queue is empty", || inside(&server, "queue").is_empty());
}

#[test]
fn what_failed_is_tried_anew_for_those_who_do_not_have_it() {
    for up in [false, true] {
        let mut server = Server::with_spool("");
        put(&server, "failed", ONE, ANN, &waiting(&[("ann@example.org", "failed"), ("bob@example.org", "delivered")]));
        let failed = server.path("spool/failed");
        fs::rename(failed.join(format!("{ONE}.eml")), failed.join(format!("{ONE}.eml.1"))).unwrap();
        fs::write(failed.join(format!("{ONE}.eml.1.report")), "why").unwrap();
        if up {
            server.run();
        }
        queue(&server, &["retry", ONE]).is(0).says("1 message brought forward");
        if !up {
            assert_eq!(inside(&server, "queue"), both(ONE));
            server.run();
        }
        server.wait_for("ann@example.org", 1);
        eventually("nothing is left", || ["queue", "hold", "failed"].iter().all(|at| inside(&server, at).is_empty()));
        assert!(server.mailbox("bob@example.org").is_empty());
    }
}

#[test]
fn removed_is_gone_and_more_than_one_needs_a_yes() {
    for up in [false, true] {
        let mut server = Server::with_spool("");
        let state = waiting(&[("ann@example.org", "pending")]);
        for (place, id) in [("queue", ONE), ("hold", TWO), ("failed", THREE)] {
            put(&server, place, id, ANN, &state);
        }
        if up {
            server.run();
        }
        queue(&server, &["remove", "ann@example.org"]).fails(64, "3 messages match").says_not("removed");
        assert_eq!(inside(&server, "queue"), both(ONE));
        queue(&server, &["remove", TWO]).is(0).says("1 message removed.");
        queue(&server, &["remove", "ann@example.org", "--yes"]).is(0).says("2 messages removed.");
        eventually("all is gone", || ["queue", "hold", "failed"].iter().all(|at| inside(&server, at).is_empty()));
        queue(&server, &["remove", "all", "--yes"]).fails(66, "no message to remove");
        if up {
            server.logged(&[ONE, " removed ", "by hand"]);
        }
        assert!(server.mailbox("ann@example.org").is_empty());
    }
}

#[test]
fn a_wrong_command_line_says_how_it_goes() {
    let server = Server::with_spool("");
    for (words, code, what) in [
        (&["fly"][..], 64, "can't fly"),
        (&["show"], 64, "say which messages to show"),
        (&["retry"], 64, "say which messages to retry"),
        (&["hold", ONE, "--json"], 64, "only list and show know --json"),
        (&["hold", ONE, "--yes"], 64, "only remove knows --yes"),
        (&["list", "a b"], 65, "a b: "),
        (&["list", "from:x y@z"], 65, "name a queue id"),
        (&["hold", ONE], 66, "no message to hold"),
    ] {
        queue(&server, words).fails(code, what);
    }
    fs::remove_dir_all(server.path("spool")).unwrap();
    queue(&server, &[]).fails(66, "the server makes the spool");
}

#[test]
fn files_stay_those_of_run_as_and_other_accounts_may_not() {
    let test = "files_stay_those_of_run_as_and_other_accounts_may_not";
    let account = |name| nix::unistd::User::from_name(name).ok().flatten();
    let (Some(nobody), Some(other)) = (account("nobody"), account("daemon")) else {
        return skip(test, "there is no nobody or no daemon");
    };
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "this is not root");
    }
    let server = Server::with_spool("");
    let config = fs::read_to_string(server.path("postrider.toml")).unwrap();
    fs::write(server.path("postrider.toml"), format!("run_as = \"nobody\"\n{config}")).unwrap();
    fs::set_permissions(server.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    put(&server, "failed", ONE, ANN, &waiting(&[("ann@example.org", "failed")]));
    put(&server, "queue", TWO, ANN, "");
    fs::set_permissions(server.path("spool/queue").join(format!("{TWO}.eml")), fs::Permissions::from_mode(0o000))
        .unwrap();
    let chown = Command::new("chown").arg("-R").arg("nobody").arg(server.path("spool")).status().unwrap();
    assert!(chown.success());
    fs::set_permissions(server.path("spool"), fs::Permissions::from_mode(0o700)).unwrap();
    queue(&server, &[]).is(0).says("it can't be read: permission denied");
    queue(&server, &["retry", ONE]).is(0);
    for name in both(ONE) {
        let owner = fs::metadata(server.path("spool/queue").join(name)).unwrap().uid();
        assert_eq!(owner, nobody.uid.as_raw());
    }
    // Another account can't reach the binary everywhere: it gets one of its own.
    let binary = server.path("postrider");
    fs::copy(BINARY, &binary).unwrap();
    for words in [&["list"][..], &["hold", "all"], &["retry", ONE], &["remove", ONE]] {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", other.uid)).args(["--clear-groups", "--"]).arg(&binary);
        command.arg("queue").args(words).arg("--config").arg(server.path("postrider.toml"));
        let ended: Ended = command.stdin(Stdio::null()).output().unwrap().into();
        ended.fails(77, "the spool belongs to nobody: try as root");
    }
}

#[test]
fn a_reader_who_goes_away_ends_the_list_and_not_a_change() {
    let server = Server::with_spool("");
    for number in 0..2000 {
        put(&server, "queue", &format!("0TQXGV000{number:04}"), ANN, "");
    }
    let shell = |words: &str| {
        let config = server.path("postrider.toml");
        let line = format!("{{ {BINARY} queue {words} --config {}; echo $? >&2; }} | head -n 1", config.display());
        Ended::from(Command::new("sh").arg("-c").arg(line).output().unwrap())
    };
    for words in ["list", "list --json", "show all"] {
        assert_eq!(shell(words).err, "0\n", "{words}");
    }
    assert_eq!(shell("hold all").err, "0\n");
    assert_eq!((inside(&server, "queue").len(), inside(&server, "hold").len()), (0, 2000));
}

#[test]
fn who_looks_keeps_no_server_from_starting() {
    let mut server = Server::with_spool("");
    let looking = File::open(server.path("spool")).unwrap();
    looking.lock_shared().unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(looking);
    });
    server.run();
    release.join().unwrap();
    assert!(server.exited().is_none());
}
