//! The framing of messages, against a second reading of the RFCs that is as plain as can be: where DATA ends, what comes
//! out of it, what BDAT may hold, and what goes out by DATA and RETR. However it is cut, it is the same.
//!
//! Input: an octet that chooses the cut, then the stream.

use postrider::io::dot::{LineEnds, Stuff, Unstuff};
use postrider::io::line::{Line, LineReader};

use super::has_whole_line_ends;
use super::pieces::{Cut, Pieces};

/// What came of reading up to the dot.
#[derive(Debug, PartialEq)]
struct Read {
    content: Vec<u8>,
    used: usize,
    ended: bool,
    saw_bare: bool,
}

pub fn check(octets: &[u8]) {
    let Some((&by, stream)) = octets.split_first() else { return };
    let cut = Cut::chosen(by);
    check_dots(stream, cut);
    check_line_ends(stream, cut);
    check_stuffing(stream, cut);
    check_lines(stream, cut);
}

fn check_dots(stream: &[u8], cut: Cut) {
    let whole = read_to_dot(stream, Cut::Whole);
    assert_eq!(read_to_dot(stream, cut), whole, "DATA, cut or whole");
    // RFC 5321 §4.1.1.4: CR LF dot CR LF, and the CR LF of DATA itself is the first.
    let framed = [b"\r\n", stream].concat();
    let end = framed.windows(5).position(|five| five == b"\r\n.\r\n");
    assert_eq!(whole.ended.then_some(whole.used), end.map(|at| at + 3), "the one true end");
    let data = &stream[..end.unwrap_or(stream.len())];
    if end.is_some() {
        assert_eq!(whole.content, unstuffed(data), "the content");
        assert_eq!(whole.saw_bare, !has_whole_line_ends(data), "bare CR or LF");
    }
    if whole.ended && !whole.saw_bare {
        assert!(has_whole_line_ends(&whole.content), "what is taken has no bare CR or LF");
        assert!(whole.content.is_empty() || whole.content.ends_with(b"\r\n"));
        let again = read_to_dot(&stuffed(&whole.content, cut), cut);
        assert_eq!((again.content, again.ended, again.saw_bare), (whole.content, true, false), "and back");
    }
}

fn read_to_dot(stream: &[u8], cut: Cut) -> Read {
    let (mut dots, mut content, mut used) = (Unstuff::default(), Vec::new(), 0);
    for piece in Pieces::of(stream, cut) {
        let (count, ended) = dots.feed(piece, &mut content);
        used += count;
        if ended {
            return Read { content, used, ended, saw_bare: dots.saw_bare() };
        }
        assert_eq!(count, piece.len(), "all is used before the end");
    }
    Read { content, used, ended: false, saw_bare: dots.saw_bare() }
}

/// RFC 5321 §4.5.2: of each line that begins with a dot, the dot goes. A line ends with CR LF and with nothing else.
fn unstuffed(data: &[u8]) -> Vec<u8> {
    let (mut out, mut is_start) = (Vec::new(), true);
    for (at, octet) in data.iter().enumerate() {
        if !(is_start && *octet == b'.') {
            out.push(*octet);
        }
        is_start = data[..=at].ends_with(b"\r\n");
    }
    out
}

fn check_line_ends(stream: &[u8], cut: Cut) {
    for cut in [Cut::Whole, cut] {
        let mut ends = LineEnds::default();
        Pieces::of(stream, cut).for_each(|piece| ends.feed(piece));
        assert_eq!(ends.saw_bare(), !has_whole_line_ends(stream), "BDAT, bare CR or LF");
        assert_eq!(ends.ended(), stream.is_empty() || stream.ends_with(b"\n"), "BDAT, the last line");
    }
}

/// Whatever is to be sent, and be it what should never be in a mailbox: it is one message on the wire.
fn check_stuffing(content: &[u8], cut: Cut) {
    let wire = stuffed(content, Cut::Whole);
    assert_eq!(stuffed(content, cut), wire, "sent, cut or whole");
    assert!(wire.len() <= 2 * content.len() + 5, "what is sent is bounded");
    for (at, _) in wire.iter().enumerate().filter(|(_, octet)| **octet == b'\n') {
        assert!(at > 0 && wire[at - 1] == b'\r', "a bare LF goes out");
    }
    let read = read_to_dot(&wire, cut);
    assert_eq!((read.used, read.ended), (wire.len(), true), "one end, at the end");
    if has_whole_line_ends(content) {
        assert!(!read.saw_bare);
        let ended = if content.is_empty() || content.ends_with(b"\r\n") { &b""[..] } else { b"\r\n" };
        assert_eq!(read.content, [content, ended].concat());
    }
}

fn stuffed(content: &[u8], cut: Cut) -> Vec<u8> {
    let (mut stuff, mut wire) = (Stuff::default(), Vec::new());
    Pieces::of(content, cut).for_each(|piece| stuff.feed(piece, &mut wire));
    stuff.finish(&mut wire);
    wire
}

/// Lines, blocks and what is between them: nothing is lost, doubled or told differently.
fn check_lines(stream: &[u8], cut: Cut) {
    const MOST: usize = 40;
    let read = |cut: Cut| {
        let mut reader = LineReader::new(Pieces::of(stream, cut));
        let mut found = Vec::new();
        loop {
            let line = match reader.line(MOST).unwrap() {
                Line::Text(text) => (0, text.to_vec()),
                Line::BareLf => (1, Vec::new()),
                Line::TooLong => (2, Vec::new()),
                Line::End => return found,
            };
            found.push(line);
        }
    };
    let lines = stream.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\n"));
    let expected: Vec<(u8, Vec<u8>)> = lines
        .map(|line| match line.strip_suffix(b"\r\n") {
            _ if line.len() > MOST => (2, Vec::new()),
            Some(text) => (0, text.to_vec()),
            None => (1, Vec::new()),
        })
        .collect();
    assert_eq!(read(Cut::Whole), expected, "lines");
    assert_eq!(read(cut), expected, "lines, cut");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let streams: [&[u8]; 16] = [
        b".\r\n",
        b"a\r\n.\r\nQUIT\r\n",
        b"..\r\n...\r\n.a\r\n.\r\n",
        b"a\n.\nb\r\n.\r\n",
        b"a\r\n.\n\r\n.\r\n",
        b"a\r\n.\r\r\n.\r\n",
        b"a\r.\r\nb\r\n.\r\n",
        b"a\n.\r\nb\r\n.\r\n",
        b"a\r\r\n.\r\n",
        b"a\r\n\0.\r\nb\r\n.\r\n",
        b"Subject: x\r\n\r\ntext\r\n\r\n.\r\n",
        b".",
        b"\r",
        b"\n.\r\n",
        b"no line end",
        b"\r\n.\r",
    ];
    let of_dialogues = super::dialogues::all().into_iter().filter(|said| !said.is_pop3).map(|said| said.octets);
    let plain = streams.iter().flat_map(|stream| [0, 1, 100].map(|by| [&[by], *stream].concat()));
    plain.chain(of_dialogues.map(|octets| [&[3], &octets[..octets.len().min(4000)]].concat())).collect()
}
