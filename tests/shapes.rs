//! A thousand messages of many shapes, by SMTP and by drop/: what POP3 gives and what lies in the Maildir is what came in,
//! octet for octet, but for the documented top fields and the rule of line ends (DESIGN §3).

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use support::{Server, eventually, files};

const MESSAGES: usize = 1000;

/// Those of 10 MiB: by drop/, by BDAT in many chunks, by DATA, by BDAT in one chunk.
const LARGE: [usize; 4] = [490, 500, 501, 502];

/// A small generator of its own: the shapes are the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap()
    }
}

/// The body of message `number`, with LF for line ends; some end without one.
fn body(number: usize, dice: &mut Dice) -> Vec<u8> {
    match number % 20 {
        0 => Vec::new(),
        1 => b"\n".to_vec(),
        2 => b".\n".to_vec(),
        3 => b"..\n...\n.\n\n.\n".to_vec(),
        4 => b"no line end".to_vec(),
        5 => b".".to_vec(),
        6 => b"a\n.".to_vec(),
        7 => b"\n\n\n\n".to_vec(),
        8 => (1..=255u8).filter(|octet| !b"\r\n".contains(octet)).chain([b'\n']).collect(),
        9 => "Grüße, žluťoučký kůň, 日本語, 🦀\n".repeat(20).into_bytes(),
        10 => [b"x".repeat(dice.below(100_000)), b"\n".to_vec()].concat(),
        11 => attachment(dice),
        12 => b"X-Sender: <a@b.example>\nX-Receiver: <c@d.example>\nReceived: x\n\nFrom here\n>From there\n".to_vec(),
        13 => {
            // A dot at the start of lines that begin around the edges of every buffer in use.
            let edge = [512, 1024, 4096, 8192, 16384, 32768, 65536][dice.below(7)];
            let before = edge - dice.below(6) - 1;
            [b"y".repeat(before), b"\n.\n..\nz\n".to_vec()].concat()
        }
        _ => lines(dice),
    }
}

fn lines(dice: &mut Dice) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..dice.below(60) {
        let start = ["", ".", "..", "From ", " ", "\t", ". "][dice.below(7)];
        text.extend_from_slice(start.as_bytes());
        for _ in 0..dice.below(200) {
            let octet = u8::try_from(dice.below(256)).unwrap();
            text.push(if matches!(octet, 0 | b'\r' | b'\n') { b'.' } else { octet });
        }
        text.push(b'\n');
    }
    if dice.below(3) == 0 {
        text.pop();
    }
    text
}

fn attachment(dice: &mut Dice) -> Vec<u8> {
    let mut text = b"--b\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n".to_vec();
    for _ in 0..dice.below(2000) {
        text.extend(
            (0..76).map(|_| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[dice.below(64)]),
        );
        text.push(b'\n');
    }
    text.extend_from_slice(b"--b--\n");
    text
}

/// The whole message, with LF for line ends: its header has all that would else be added.
fn message(number: usize, dice: &mut Dice) -> Vec<u8> {
    let mut header = format!("Date: Mon, 23 Nov 2026 00:00:00 +0000\nMessage-ID: <n{number}@far.example>\n");
    header += "From: sender@far.example\nTo: ann@example.org\nContent-Type: multipart/mixed; boundary=b\n";
    if number.is_multiple_of(7) {
        writeln!(header, "Subject: =?utf-8?q?folded?=\n\tover {}\n lines", "x".repeat(number)).unwrap();
    }
    let body = if LARGE.contains(&number) { large() } else { body(number, dice) };
    // A message may be nothing but its header.
    let separator: &[u8] = if body.is_empty() && number.is_multiple_of(40) { b"" } else { b"\n" };
    [header.as_bytes(), separator, &body].concat()
}

/// 10 MiB.
fn large() -> Vec<u8> {
    let line = format!(".{}\n", "0123456789abcdef".repeat(4));
    line.repeat((10 << 20) / line.len() + 1).into_bytes()
}

/// What is stored: CR LF at the end of each line, and of the last.
fn canonical(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 30);
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// As SMTP and POP3 carry it, without the final dot.
fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

/// Sends by DATA, by BDAT in one chunk, or by BDAT in many, on one connection.
fn send_all(server: &Server, messages: &[(usize, Vec<u8>)]) {
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    for (number, text) in messages {
        let ends = text.ends_with(b"\n");
        let text = canonical(text);
        // DATA can't but end a line; a chunk can.
        let in_chunks = if ends { &text[..] } else { &text[..text.len() - 2] };
        client.ask(&format!("MAIL FROM:<sender@far.example> SIZE={} BODY=8BITMIME", text.len()), "250");
        client.ask("RCPT TO:<ann@example.org>", "250");
        match number % 3 {
            0 => {
                client.ask("DATA", "354");
                client.send(&stuffed(&text));
                client.ask(".", "250");
            }
            1 => {
                client.send(format!("BDAT {} LAST\r\n", in_chunks.len()).as_bytes());
                client.send(in_chunks);
                client.expect("250");
            }
            _ => {
                for chunk in in_chunks.chunks(in_chunks.len() / 7 + 1) {
                    client.send(format!("BDAT {}\r\n", chunk.len()).as_bytes());
                    client.send(chunk);
                    client.expect("250");
                }
                client.ask("BDAT 0 LAST", "250");
            }
        }
    }
    client.ask("QUIT", "221");
}

fn drop_all(server: &Server, messages: &[(usize, Vec<u8>)]) {
    for (number, text) in messages {
        let envelope: &[u8] =
            if number % 2 == 0 { b"X-Sender: <sender@far.example>\nX-Receiver: <ann@example.org>\n" } else { b"" };
        // Half with CR LF, as other systems write files.
        let text = if number % 4 < 2 { text.clone() } else { canonical(text) };
        let envelope = if number % 4 < 2 { envelope.to_vec() } else { canonical(envelope) };
        let (outside, inside) = (server.path("outside"), server.path("spool/drop").join(format!("m{number}")));
        fs::write(&outside, [envelope, text].concat()).unwrap();
        if number % 10 == 7 {
            assert!(Command::new("cp").args([&outside, &inside]).status().unwrap().success());
        } else {
            fs::rename(&outside, inside).unwrap();
        }
    }
}

/// The message below its documented top fields, and its number.
fn without_top(found: &[u8]) -> (usize, Vec<u8>) {
    let at = |needle: &[u8]| found.windows(needle.len()).position(|window| window == needle);
    // Each message begins with its own Date; the fields above it are the server's.
    let start = at(b"Date: Mon, 23 Nov 2026 00:00:00 +0000\r\n").expect("the message begins with its date");
    let top = String::from_utf8(found[..start].to_vec()).unwrap();
    let mut names: Vec<&str> =
        top.lines().filter(|line| !line.starts_with(['\t', ' '])).map(|line| line.split(':').next().unwrap()).collect();
    names.retain(|name| !["X-Sender", "X-Receiver"].contains(name));
    assert_eq!(names, ["Return-Path", "Delivered-To", "Received"], "{top}");
    let id = b"Message-ID: <n";
    let from = at(id).unwrap() + id.len();
    let digits = found[from..].iter().take_while(|octet| octet.is_ascii_digit()).count();
    (String::from_utf8_lossy(&found[from..from + digits]).parse().unwrap(), found[start..].to_vec())
}

/// Every message of the mailbox by POP3; each as long as LIST says.
fn fetch_all(server: &Server) -> Vec<Vec<u8>> {
    let mut client = server.pop3();
    client.log_in("ann@example.org");
    client.ask("LIST", "+OK");
    let list = String::from_utf8(client.octets_to_dot()).unwrap();
    let fetched = list.lines().map(|line| {
        let (number, size) = line.split_once(' ').unwrap();
        client.ask(&format!("RETR {number}"), &format!("+OK {size} "));
        let message = client.octets_to_dot();
        assert_eq!(message.len().to_string(), size, "message {number}");
        message
    });
    let fetched = fetched.collect();
    client.ask("QUIT", "+OK");
    fetched
}

fn check(place: &str, found: Vec<Vec<u8>>, sent: &BTreeMap<usize, Vec<u8>>) {
    assert_eq!(found.len(), sent.len(), "{place}");
    let found: BTreeMap<usize, Vec<u8>> = found.iter().map(|message| without_top(message)).collect();
    assert_eq!(found.len(), sent.len(), "{place}: each once");
    for (number, text) in sent {
        let expected = canonical(text);
        let first = found[number].iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!((first, found[number].len()), (None, expected.len()), "{place}: message {number} differs");
    }
}

#[test]
fn a_thousand_shapes_come_out_as_they_came_in() {
    let server = Server::start("");
    let mut dice = Dice(0x2545_F491_4F6C_DD1D);
    let sent: BTreeMap<usize, Vec<u8>> = (0..MESSAGES).map(|number| (number, message(number, &mut dice))).collect();
    let (dropped, by_smtp): (Vec<_>, Vec<_>) = sent.clone().into_iter().partition(|(number, _)| number / 20 % 3 == 0);
    std::thread::scope(|scope| {
        let (server, half) = (&server, by_smtp.len() / 2);
        scope.spawn(move || drop_all(server, &dropped));
        by_smtp.chunks(half + 1).for_each(|part| _ = scope.spawn(move || send_all(server, part)));
    });
    let folder = server.path("spool/mail/example.org/ann/new");
    eventually("all are there", || files(&folder).len() >= MESSAGES);
    let paths = files(&folder);
    let stored: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, message) in paths.iter().zip(&stored) {
        let name = path.to_string_lossy();
        assert!(name.contains(&format!(",S={},W={}", message.len(), message.len())), "{name}: {}", message.len());
    }
    check("Maildir", stored, &sent);
    check("POP3", fetch_all(&server), &sent);
    eventually("drop/ is empty", || files(&server.path("spool/drop")).is_empty());
    assert!(files(&server.path("spool/failed")).is_empty());
}

#[test]
fn a_message_of_no_octets_is_one_too() {
    let server = Server::start("");
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    for lines in [&["DATA", "."][..], &["BDAT 0 LAST"], &["BDAT 0", "BDAT 0 LAST"]] {
        client.ask("MAIL FROM:<sender@far.example> SIZE=0", "250");
        client.ask("RCPT TO:<ann@example.org>", "250");
        lines.iter().for_each(|line| _ = client.ask(line, if *line == "DATA" { "354" } else { "250" }));
    }
    let stored = server.wait_for("ann@example.org", 3);
    for message in &stored {
        let text = String::from_utf8(message.clone()).unwrap();
        let fields: Vec<&str> = text.split_inclusive("\r\n").filter(|line| !line.starts_with(['\t', ' '])).collect();
        let names: Vec<&str> = fields.iter().map(|field| field.split(':').next().unwrap()).collect();
        assert_eq!(names, ["Return-Path", "Delivered-To", "X-Sender", "X-Receiver", "Received"], "{text}");
        assert!(text.ends_with("\r\n"), "{text}");
    }
    assert_eq!(fetch_all(&server), stored);
}
