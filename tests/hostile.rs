//! What hostile and broken peers send, at the real server: it answers each in order, stays in step, and stays small.

mod support;

use std::io::Write;
use std::thread;
use std::time::Duration;

use support::{Client, Server, eventually, files};

/// A client past EHLO.
fn greeted(server: &Server) -> Client {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client
}

#[test]
fn however_the_octets_are_cut_the_answers_are_the_same() {
    let server = Server::start("");
    let talk = b"EHLO c.example\r\nMAIL FROM:<s@far.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n\
                 Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<s@far.example>\r\nRCPT TO:<nobody@example.org>\r\n\
                 RCPT TO:<bob@example.org>\r\nBDAT 5\r\n.\r\n\r\nBDAT 3 LAST\r\n.\r\nMAIL FROM:<s@far.example>\r\n\
                 RCPT TO:<bob@example.org>\r\nDATA\r\nsmuggled\n.\nMAIL FROM:<x@y.example>\r\n.\r\nQUIT\r\n";
    let replies = |cut: usize| {
        let mut client = server.smtp();
        client.stream.write_all(&talk[..cut]).unwrap();
        thread::sleep(Duration::from_millis(1));
        client.stream.write_all(&talk[cut..]).unwrap();
        let codes: Vec<String> = client.rest().lines().map(|line| line[..line.len().min(9)].to_owned()).collect();
        codes
    };
    let whole = replies(0);
    assert!(whole.contains(&"554 5.6.0".to_owned()) && whole.last().unwrap().starts_with("221"), "{whole:?}");
    for cut in 1..talk.len() {
        assert_eq!(replies(cut), whole, "cut at {cut}: {:?}", String::from_utf8_lossy(&talk[..cut]));
    }
    let messages = server.wait_for("ann@example.org", talk.len());
    assert!(messages.iter().all(|message| message.ends_with(b"\r\n\r\n.dot\r\n")));
    assert_eq!(server.wait_for("bob@example.org", talk.len()).len(), talk.len(), "the smuggled one is nowhere");
}

#[test]
fn octets_that_are_no_text_are_refused_wherever_they_stand() {
    let server = Server::start("[limits]\nerrors = 100000\n");
    let mut client = greeted(&server);
    for line in
        ["NOOP x", "MAIL FROM:<a@b.example>", "RCPT TO:<ann@example.org>", "VRFY ann", "HELO a.example", "BDAT 1"]
    {
        for hostile in [&b"\0"[..], b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x92", b"\r"] {
            for at in 0..=line.len() {
                let mut octets = line.as_bytes().to_vec();
                octets.splice(at..at, hostile.iter().copied());
                octets.extend_from_slice(b"\r\n");
                client.send(&octets);
                let reply = client.reply();
                // What follows NOOP means nothing; a CR before the CR LF of a line means as little there.
                let fits = reply.starts_with('5') || (line.starts_with("NOOP") && reply.starts_with("250"));
                assert!(fits, "{:?}: {reply:?}", String::from_utf8_lossy(&octets));
                if reply.starts_with("501") && line.starts_with("BDAT") {
                    // What follows an unreadable size can't be read either.
                    assert_eq!(client.rest(), "");
                    client = greeted(&server);
                }
                client.ask("RSET", "250");
            }
        }
    }
    assert!(server.mailbox("ann@example.org").is_empty());
}

#[test]
fn what_has_no_end_costs_no_memory() {
    let server = Server::start("[limits]\nmessage_size = \"20MiB\"\n");
    server.send(&["ann@example.org"], "Subject: first\r\n\r\n");
    let before = server.memory();
    let is_small = |what: &str| {
        let grown = server.memory().saturating_sub(before);
        assert!(grown < 8 * 1024, "{what}: {grown} KiB more");
    };

    let mut client = greeted(&server);
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    client.ask("DATA", "354");
    client.send("X-Line: x\r\n".repeat(100_000).as_bytes());
    is_small("a hundred thousand header lines");
    client.ask(".", "250");

    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    client.ask("DATA", "354");
    (0..19).for_each(|_| client.send(&vec![b'x'; 1 << 20]));
    is_small("a line of 19 MiB");
    client.ask("\r\n.", "250");

    client.ask("MAIL FROM:<s@far.example>", "250");
    for number in 0..10_000 {
        let reply = client.ask(&format!("RCPT TO:<ann+{number}@example.org>"), "");
        assert!(
            reply.starts_with(if number < 1000 { "250" } else { "452 4.5.3" }) || reply.starts_with("421"),
            "{reply}"
        );
        if reply.starts_with("421") {
            break;
        }
    }
    is_small("ten thousand recipients");

    let mut client = greeted(&server);
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    let mut chunks = 0;
    while chunks < 1_000_000 && client.stream.write_all(b"BDAT 1\r\nx").is_ok() && client.reply().starts_with("250") {
        chunks += 1;
    }
    assert!((1000..10_000).contains(&chunks), "so many chunks of one octet were taken: {chunks}");

    let mut client = server.smtp();
    client.expect("220");
    let mut sent = 0;
    while sent < 64 && client.stream.write_all(&vec![b'y'; 1 << 20]).is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "a command line without an end is cut off");
    is_small("a command line without an end");
    server.logged(&[" cut-off "]);
    server.wait_for("ann@example.org", 3);
}

#[test]
fn no_name_leads_out_of_the_mailboxes() {
    let server = Server::start_with("", "@example.net: ann\n");
    let mut client = greeted(&server);
    client.ask("MAIL FROM:<s@far.example>", "250");
    let long = "x".repeat(300);
    for name in ["../x", "/etc/passwd", "..", ".", "\"..\"", "\"../../ann\"", "\"a/b\"", "a/../b", "\"\\..\"", &long] {
        let reply = client.ask(&format!("RCPT TO:<{name}@example.org>"), "5");
        assert!(reply.starts_with("550") || reply.starts_with("553") || reply.starts_with("501"), "{name}: {reply}");
    }
    // Where anything is taken, it is one mailbox that takes it.
    client.ask("RCPT TO:<\"../../x\"@example.net>", "250");
    client.ask("DATA", "354");
    client.ask("\r\n.", "250");
    server.wait_for("ann@example.org", 1);
    let mut pop3 = server.pop3();
    pop3.expect("+OK");
    for name in ["../../../etc", "..", "/etc/passwd", "ann@example.org/..", "ann@.."] {
        pop3.ask(&format!("USER {name}"), "+OK");
        let answer = pop3.ask("PASS correct horse", "-ERR");
        if answer.contains("closing") {
            pop3 = server.pop3();
            pop3.expect("+OK");
        }
    }
    let domains: Vec<String> =
        files(&server.path("spool/mail")).iter().map(|path| path.display().to_string()).collect();
    assert_eq!(domains, [server.path("spool/mail/example.org").display().to_string()]);
    assert_eq!(files(&server.path("spool/mail/example.org")).len(), 1);
}

#[test]
fn who_is_slow_on_purpose_is_cut_off_and_others_are_served() {
    let server = Server::start("[limits]\ncommand_timeout = \"2s\"\n");
    let mut slow: Vec<Client> = (0..50).map(|_| server.smtp()).collect();
    slow.iter_mut().for_each(|client| _ = client.expect("220"));
    // An octet every now and then: each read is quick, and the command never ends.
    let mut open = slow.len();
    eventually("all slow ones are cut off", || {
        for client in &mut slow {
            let _ = client.stream.write_all(b"N");
        }
        thread::sleep(Duration::from_millis(200));
        open = server.log().matches(" cut-off ").count();
        open >= 50
    });
    server.send(&["ann@example.org"], "Subject: x\r\n\r\n");
    for client in &mut slow {
        let last = client.rest();
        assert!(last.is_empty() || last.starts_with("421 4.4.2"), "{last}");
    }
    server.wait_for("ann@example.org", 1);
}

#[test]
fn garbage_is_answered_and_never_believed() {
    let server = Server::start("");
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..200 {
        let mut garbage = Vec::new();
        while garbage.len() < 2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let words: [&[u8]; 8] = [
                b"MAIL FROM:<",
                b"RCPT TO:<ann@example.org>",
                b"\r\n",
                b"DATA\r\n",
                b"BDAT 7",
                b"\n",
                b"EHLO x\r\n",
                b".\r\n",
            ];
            match seed >> 60 {
                pick @ 0..8 => garbage.extend_from_slice(words[usize::try_from(pick).unwrap()]),
                _ => garbage.push(u8::try_from(seed >> 33 & 0xff).unwrap()),
            }
        }
        let mut client = if round % 2 == 0 { server.smtp() } else { server.pop3() };
        // The server may have closed already.
        let _ = client.stream.write_all(&garbage);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        client.rest();
    }
    server.send(&["bob@example.org"], "Subject: x\r\n\r\n");
    server.wait_for("bob@example.org", 1);
}
