//! Where a message ends, at the real server: what only looks like the end is none, at every place around the edges of its
//! buffers, in one segment and cut there; what is sound comes out octet for octet.
//!
//! `tests/hostile.rs` cuts one talk at every octet, `tests/relay.rs` and `tests/shapes.rs` show the way out, and
//! `tests/fuzz/checks/framing.rs` holds the automata against a plain reading of the RFCs.

mod support;

use std::thread;
use std::time::Duration;

use support::{Client, Server};

/// The blocks that a message is read in: of a line, of a message, and of two.
const EDGES: [usize; 3] = [2048, 32_768, 65_536];

/// What servers were once fooled by (RELIABILITY, smuggling): each is content of a message that is refused at its end.
const NO_ENDS: [&[u8]; 12] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\r\n.\n",
    b"\r\n.\r.\r\n",
    b"\r\n.\r\r.\r\n",
    b"\r\n..\n",
    b"\r\r\n..\r\n",
    b"\n\r\n..\r\n",
];

/// Lines that begin with dots as they are sent, and what is meant.
const DOTS: [(&[u8], &[u8]); 5] = [
    (b"\r\n..\r\n", b"\r\n.\r\n"),
    (b"\r\n...\r\n", b"\r\n..\r\n"),
    (b"\r\n.a\r\n", b"\r\na\r\n"),
    (b"\r\n..\r\n..\r\n", b"\r\n.\r\n.\r\n"),
    (b".\r\n\r\n..a", b".\r\n\r\n.a"),
];

/// What would be a second message if the one before had ended.
const SMUGGLED: &[u8] = b"MAIL FROM:<x@far.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nsmuggled";

/// A client in the middle of a transaction for ann.
fn begun(client: &mut Client) {
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
}

fn greeted(server: &Server) -> Client {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client
}

/// Places for `octets` so that each of them comes to stand at an edge, and one before and behind.
fn places(octets: &[u8]) -> impl Iterator<Item = usize> {
    let length = octets.len();
    EDGES.into_iter().flat_map(move |edge| edge - length - 1..=edge + 1)
}

/// Lines up to `place`, where something else goes on; the first is a header.
fn filler(place: usize) -> Vec<u8> {
    let mut text = b"Subject: x\r\n\r\n".to_vec();
    while text.len() < place {
        let room = place - text.len();
        // So that what follows stands in the middle of a line.
        let line = if room > 200 { 100 } else { room };
        text.extend(vec![b'x'; line]);
        if room > 200 {
            text.extend_from_slice(b"\r\n");
        }
    }
    text
}

#[test]
fn what_only_looks_like_the_end_is_none_wherever_it_stands() {
    let server = Server::start("[limits]\nerrors = 100000\n");
    for no_end in NO_ENDS {
        // So many commands without a message are taken, and no more.
        let mut client = greeted(&server);
        for place in places(no_end) {
            for cut in [None, Some(place + 1), Some(place + no_end.len() - 1)] {
                let message = [&filler(place), no_end, SMUGGLED, b"\r\n.\r\n"].concat();
                begun(&mut client);
                client.ask("DATA", "354");
                let (first, second) = message.split_at(cut.unwrap_or(0));
                client.send(first);
                if cut.is_some() && place < 3000 {
                    // Long enough for two segments; where the block is read already, there are two in any case.
                    thread::sleep(Duration::from_millis(1));
                }
                client.send(second);
                let reply = client.reply();
                assert!(reply.starts_with("554 5.6.0"), "{} at {place}: {reply}", no_end.escape_ascii());
                // One reply, and in step.
                client.ask("NOOP", "250 2.0.0");
            }
        }
    }
    server.send(&["ann@example.org"], "Subject: the only one\r\n\r\n");
    server.wait_for("ann@example.org", 1);
    assert!(server.mailbox("bob@example.org").is_empty(), "a message was smuggled in");
}

#[test]
fn dots_come_out_as_they_were_meant_wherever_they_stand() {
    let server = Server::start("");
    let mut client = greeted(&server);
    let mut expected = Vec::new();
    for (sent, meant) in DOTS {
        for place in places(sent) {
            begun(&mut client);
            client.ask("DATA", "354");
            client.send(&[&filler(place), sent, b"end\r\n.\r\n"].concat());
            client.expect("250");
            expected.push([&filler(place), meant, b"end\r\n"].concat());
        }
    }
    check_mailbox(&server, expected);
}

#[test]
fn chunks_may_be_cut_anywhere_and_bare_ends_stay_bare() {
    let server = Server::start("[limits]\nerrors = 100000\n");
    let mut client = greeted(&server);
    let mut expected = Vec::new();
    for (text, is_sound) in [
        (&b"Subject: x\r\n\r\n.\r\na\r\n.\r\n"[..], true),
        (b"Subject: x\r\n\r\na\n.\r\n", false),
        (b"Subject: x\r\n\r\na\r.\r\n", false),
        (b"Subject: x\r\n\r\na\r", false),
        (b"Subject: x\r\n\r\n\n", false),
        (b"Subject: x\r\n\r\r\n", false),
    ] {
        for cut in 0..=text.len() {
            begun(&mut client);
            let (first, last) = text.split_at(cut);
            client.send(&[format!("BDAT {cut}\r\n").as_bytes(), first].concat());
            client.expect("250");
            client.send(&[format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat());
            let reply = client.reply();
            let right = if is_sound { "250 2.0.0" } else { "554 5.6.0" };
            assert!(reply.starts_with(right), "{} cut at {cut}: {reply}", text.escape_ascii());
            client.ask("NOOP", "250 2.0.0");
            if is_sound {
                expected.push(text.to_vec());
            }
        }
    }
    check_mailbox(&server, expected);
}

/// Ann's mailbox holds these and nothing else, below the fields that the server adds.
fn check_mailbox(server: &Server, mut expected: Vec<Vec<u8>>) {
    let stored = server.wait_for("ann@example.org", expected.len());
    let start = |message: &[u8]| message.windows(11).position(|window| window == b"\nSubject: x").unwrap() + 1;
    let mut found: Vec<Vec<u8>> = stored.iter().map(|message| message[start(message)..].to_vec()).collect();
    found.sort();
    expected.sort();
    assert!(found == expected, "what is stored is not what was sent");
}
