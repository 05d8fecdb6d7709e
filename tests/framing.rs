//! Where a message ends, at the real server: what only looks like the end is none, at every place around the edges of its
//! buffers, in one segment and cut there; what is sound comes out octet for octet.
//!
//! Every way in (DATA, BDAT, drop/, by hand into queue/) leads to every way out (a mailbox, POP3, a next hop by DATA and by
//! BDAT). `tests/hostile.rs` cuts one talk at every octet, `tests/relay.rs` and `tests/shapes.rs` show more of the way out,
//! and `tests/fuzz/checks/framing.rs` holds the automata against a plain reading of the RFCs.

mod support;

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use support::hop::Exchanger;
use support::{Client, Server, eventually};

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

/// What lines may look like, in one text of each kind: few octets, for a place at every edge.
const LINES: [&[u8]; 8] = [
    b".\r\n",
    b"..\r\n.\r\n...\r\n",
    b"\r\n.\r\n\r\n..\r\n",
    b".a\r\n\r\n\r\n.\r\n",
    b"From a\r\n.From b\r\n",
    b"MAIL FROM:<x@far.example>\r\nQUIT\r\n.\r\n",
    b"\xff\xfe.\r\n.\xc3\r\n",
    b"--=_1\r\n.\r\n--=_1--\r\n",
];

/// Whole messages: each kind of lines at every edge, behind a line that ends right before it.
fn corpus() -> Vec<Vec<u8>> {
    let at_edges = LINES
        .iter()
        .flat_map(|lines| places(lines).map(|place| [&filler(place - 2)[..], b"\r\n", lines, b"end\r\n"].concat()));
    at_edges.collect()
}

/// As a message is written for DATA, by the plainest of ways.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let lines = message.split_inclusive(|octet| *octet == b'\n');
    lines.flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line].concat()).collect()
}

/// The messages that came, from the Subject on and in order.
fn from_subject(messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let start = |message: &[u8]| message.windows(11).position(|window| window == b"\nSubject: x").unwrap() + 1;
    let mut found: Vec<Vec<u8>> = messages.iter().map(|message| message[start(message)..].to_vec()).collect();
    found.sort();
    found
}

fn has_no_bare_end(message: &[u8]) -> bool {
    message.iter().enumerate().all(|(at, octet)| match octet {
        b'\n' => at > 0 && message[at - 1] == b'\r',
        b'\r' => message.get(at + 1) == Some(&b'\n'),
        _ => true,
    })
}

/// Sends each message into the server in another way; those by hand and dropped with LF alone every other time.
fn send_each_way(server: &Server, corpus: &[Vec<u8>], to: &[&str]) {
    let mut client = greeted(server);
    for (number, message) in corpus.iter().enumerate() {
        let bare = || message.iter().copied().filter(|octet| *octet != b'\r').collect::<Vec<u8>>();
        let text = if number % 8 < 4 { message.clone() } else { bare() };
        let receivers: String = to.iter().map(|to| format!("X-Receiver: <{to}>\r\n")).collect();
        // Else drop/ would add them.
        let fields = "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@far.example>\r\n";
        let by_hand = [format!("X-Sender: <s@far.example>\r\n{receivers}{fields}").as_bytes(), &text].concat();
        if number % 4 < 2 {
            client.ask("MAIL FROM:<s@far.example>", "250");
            to.iter().for_each(|to| _ = client.ask(&format!("RCPT TO:<{to}>"), "250"));
        }
        match number % 4 {
            0 => {
                client.ask("DATA", "354");
                client.send(&stuffed(message));
                client.ask(".", "250");
            }
            1 => {
                let (first, last) = message.split_at(message.len() - 7);
                client.send(&[format!("BDAT {}\r\n", first.len()).as_bytes(), first].concat());
                client.expect("250");
                client.send(&[format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat());
                client.expect("250");
            }
            place => {
                let name = if place == 2 { "drop/m".to_owned() } else { format!("queue/0TQXGV0{number:06}.eml") };
                let name = if place == 2 { format!("{name}{number}") } else { name };
                fs::write(server.path("outside"), by_hand).unwrap();
                fs::rename(server.path("outside"), server.path("spool").join(name)).unwrap();
            }
        }
    }
}

#[test]
fn every_way_in_leads_to_every_way_out_with_whole_line_ends_and_stuffed_dots() {
    let exchanger = |offers: &[&str]| Exchanger::start(TcpListener::bind("127.0.0.1:0").unwrap(), offers, |_| None);
    let (by_dot, in_chunks) = (exchanger(&["8BITMIME"]), exchanger(&["8BITMIME", "CHUNKING", "PIPELINING"]));
    let server = Server::start(&format!(
        "[relay]\ndomains = {{ \"dot.example\" = \"{}\", \"chunks.example\" = \"{}\" }}\n",
        by_dot.address, in_chunks.address
    ));
    let mut corpus = corpus();
    send_each_way(&server, &corpus, &["ann@example.org", "x@dot.example", "x@chunks.example"]);
    let stored = server.wait_for("ann@example.org", corpus.len());
    server.queue_is_empty();
    assert!(stored.iter().all(|message| has_no_bare_end(message)));
    corpus.sort();
    assert!(from_subject(stored) == corpus, "the mailbox has something else");

    let mut pop3 = server.pop3();
    pop3.log_in("ann");
    let fetch = |number: usize| {
        pop3.ask(&format!("RETR {number}"), "+OK");
        pop3.octets_to_dot()
    };
    assert!(from_subject((1..=corpus.len()).map(fetch).collect()) == corpus, "POP3 gives something else");

    eventually("both hops have all", || [&by_dot, &in_chunks].iter().all(|hop| hop.octets().len() >= corpus.len()));
    let chunks = in_chunks.octets();
    assert!(chunks.iter().all(|message| has_no_bare_end(message)));
    assert!(from_subject(chunks) == corpus, "by BDAT something else came");
    let dots = by_dot.octets();
    assert!(dots.iter().all(|message| has_no_bare_end(message)));
    let mut expected: Vec<Vec<u8>> = corpus.iter().map(|message| [&stuffed(message)[..], b".\r\n"].concat()).collect();
    expected.sort();
    assert!(from_subject(dots) == expected, "by DATA something else came");
}
