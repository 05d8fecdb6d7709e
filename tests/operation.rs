//! What an owner does to a running server: stop it, reload it, rotate its log.

mod support;

use std::process::Command;
use std::{fs, thread};

use support::{Server, eventually, have};

fn change(server: &Server, from: &str, to: &str) {
    let config = fs::read_to_string(server.path("postrider.toml")).unwrap();
    assert!(config.contains(from));
    fs::write(server.path("postrider.toml"), config.replace(from, to)).unwrap();
}

#[test]
fn stopping_it_lets_a_message_under_way_finish_and_tells_the_others() {
    let mut server = Server::start("");
    let mut idle = server.smtp();
    idle.expect("220");
    let mut owner = server.pop3();
    owner.expect("+OK");
    let mut busy = server.smtp();
    busy.expect("220");
    busy.ask("EHLO client.example", "250");
    busy.ask("MAIL FROM:<s@far.example>", "250");
    busy.ask("RCPT TO:<ann@example.org>", "250");
    busy.ask("DATA", "354");
    busy.send(b"Subject: late\r\n\r\n");
    server.signal("TERM");
    server.logged(&[" stopping"]);
    idle.expect("421 4.3.2");
    assert!(owner.line().starts_with("-ERR [SYS/TEMP]"));
    busy.ask("late\r\n.", "250 2.0.0");
    busy.expect("421 4.3.2");
    eventually("it has stopped", || server.exited().is_some());
    assert_eq!(server.exited().unwrap().code(), Some(0));
    let log = server.log();
    assert!(log.lines().last().unwrap().contains(" stopped unfinished=0 panics=0"), "{log}");
    server.run();
    server.wait_for("ann@example.org", 1);
}

#[test]
fn a_reload_takes_up_what_it_can_says_what_it_cannot_and_keeps_the_old_when_it_is_wrong() {
    let server = Server::start("[limits]\nrecipients = 100\nmessage_size = \"1MiB\"\n");
    let size = |server: &Server| {
        let mut client = server.smtp();
        client.expect("220");
        client.send(b"EHLO client.example\r\n");
        (0..8).map(|_| client.line()).find(|line| line.contains("SIZE")).unwrap()
    };
    assert!(size(&server).ends_with("SIZE 1048576"));
    let mut old = server.smtp();
    old.expect("220");
    change(&server, "1MiB", "2MiB");
    change(&server, "spool = \"spool\"", "spool = \"elsewhere\"");
    server.signal("HUP");
    server.logged(&[" reload-ignored key=spool"]);
    server.logged(&[" reloaded "]);
    assert!(size(&server).ends_with("SIZE 2097152"));
    assert!(!server.path("elsewhere").exists());
    old.ask("NOOP", "250");
    change(&server, "2MiB", "two");
    server.signal("HUP");
    let line = server.logged(&[" ERROR ", " reload-failed ", "postrider.toml"]);
    assert!(line.contains("message_size"), "{line}");
    assert!(size(&server).ends_with("SIZE 2097152"));
}

#[test]
fn the_log_survives_rotation_by_rename_and_by_truncation() {
    let server = Server::start("");
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    server.wait_for("ann@example.org", 1);
    server.logged(&[" delivered "]);
    fs::rename(server.path("mail.log"), server.path("mail.log.1")).unwrap();
    eventually("there is a log again", || server.path("mail.log").exists());
    let second = server_send(&server);
    server.logged(&[&second, " delivered "]);
    let old = fs::read_to_string(server.path("mail.log.1")).unwrap();
    assert_eq!(old.matches(" accepted ").count(), 1);
    assert!(old.ends_with('\n') && !old.contains(&second));
    fs::File::options().write(true).truncate(true).open(server.path("mail.log")).unwrap();
    let third = server_send(&server);
    server.logged(&[&third, " delivered "]);
    let log = fs::read(server.path("mail.log")).unwrap();
    assert!(!log.contains(&0), "a truncated file has no hole");
    assert_eq!(String::from_utf8(log).unwrap().matches(" accepted ").count(), 1);
}

#[test]
fn logrotate_with_the_shipped_file_loses_no_line() {
    if !have("logrotate", "logrotate_with_the_shipped_file_loses_no_line") {
        return;
    }
    let server = Server::start("");
    let log = server.path("mail.log");
    let shipped = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/etc/logrotate.conf")).unwrap();
    assert!(shipped.contains("/var/log/postrider/mail.log {") && shipped.contains("su postrider postrider\n"));
    let here = shipped.replace("/var/log/postrider/mail.log", &log.display().to_string());
    fs::write(server.path("rotation"), here.replace("su postrider postrider\n", "")).unwrap();
    let (mut client, mut ids) = (server.smtp(), Vec::new());
    client.expect("220");
    client.ask("EHLO client.example", "250");
    for _ in 0..3 {
        ids.extend((0..5).map(|_| client.submit("<s@far.example>", &["<ann@example.org>"], "Subject: x\r\n\r\n")));
        let mut rotate = Command::new("logrotate");
        rotate.arg("--force").arg("--state").arg(server.path("rotated")).arg(server.path("rotation"));
        let ended = rotate.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        eventually("there is a log again", || log.exists());
    }
    let of_turn = |ending: &str| fs::read(server.path(&format!("mail.log{ending}"))).unwrap();
    let mut gzip = Command::new("gzip");
    let unpacked = gzip.args(["-dc", "mail.log.2.gz", "mail.log.3.gz"]).current_dir(server.folder.path());
    let all = [unpacked.output().unwrap().stdout, of_turn(".1"), of_turn("")].concat();
    let all = String::from_utf8(all).unwrap();
    ids.iter().for_each(|id| assert_eq!(all.matches(&format!("{id} accepted ")).count(), 1, "{id}"));
}

/// Sends to the address of the first log, which is gone.
fn server_send(server: &Server) -> String {
    fs::write(
        server.path("outside"),
        "X-Sender: <s@far.example>\nX-Receiver: <ann@example.org>\nDate: x\nMessage-ID: <1@x>\n\nx\n",
    )
    .unwrap();
    let before = server.mailbox("ann@example.org").len();
    fs::rename(server.path("outside"), server.path("spool/drop/m")).unwrap();
    server.wait_for("ann@example.org", before + 1);
    let mut id = String::new();
    eventually("the log names it", || {
        let log = server.log();
        let line = log.lines().rev().find(|line| line.contains(" accepted "));
        id = line.and_then(|line| line.split(' ').nth(2)).unwrap_or_default().to_owned();
        !id.is_empty()
    });
    id
}

#[test]
fn each_acknowledged_message_is_in_the_log_at_its_reply() {
    let server = Server::start("");
    // Several at once: a writer that always has more to do must not put the log off.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let id = server.send(&["ann@example.org"], "Subject: x\r\n\r\n");
                    // Now, not soon: the server may be killed next.
                    assert!(server.log().contains(&format!("{id} accepted ")), "{id}");
                }
            });
        }
    });
}

#[test]
fn users_and_aliases_may_begin_with_a_byte_order_mark() {
    let mut server = Server::prepared("", "\u{feff}info: ann\n");
    let users = fs::read_to_string(server.path("users")).unwrap();
    fs::write(server.path("users"), format!("\u{feff}{users}")).unwrap();
    server.run();
    server.send(&["info@example.org"], "Subject: x\r\n\r\n");
    server.wait_for("ann@example.org", 1);
    server.pop3().log_in("ann");
}
