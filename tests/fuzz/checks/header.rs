//! Headers: taken apart without losing an octet, counted, completed and rewritten the same however they come; the addresses
//! in them; encoded words; and messages made 7-bit for old next hops.
//!
//! Input: an octet that chooses the cut, then the message.

use postrider::limits;
use postrider::mail::address::{Address, Domain};
use postrider::mail::complete::{Completion, Fed, Stamp};
use postrider::mail::header::{self, Header, HopCounter};
use postrider::mail::seven_bit::{Plan, Rewriter, Survey, Verdict};
use postrider::mail::{encoded_word, rewrite};

use super::pieces::{Cut, Pieces};
use super::{has_whole_line_ends, is_one_line};

pub fn check(octets: &[u8]) {
    let Some((&by, text)) = octets.split_first() else { return };
    let cut = Cut::chosen(by);
    check_split(text);
    check_hops(text, cut);
    check_completion(text, cut);
    check_rewriting(text);
    check_seven_bit(text, cut);
}

fn check_split(text: &[u8]) {
    let header = Header::split(text, 0);
    let fields: Vec<u8> = header.fields.iter().flat_map(|field| field.octets.to_vec()).collect();
    let empty = header.body_offset - fields.len();
    assert!(text.starts_with(&fields), "no octet of a field is lost");
    assert!(if header.ended { (1..=2).contains(&empty) } else { empty == 0 });
    let ends = text[..header.body_offset].iter().filter(|octet| **octet == b'\n').count();
    assert!((ends..=ends + 1).contains(&header.lines), "{} lines", header.lines);
    for field in &header.fields {
        assert!(!field.name.is_empty() && field.name.bytes().all(|octet| octet.is_ascii_graphic()));
        assert!(field.line <= header.lines && field.octets.ends_with(field.value));
        let decoded = encoded_word::decoded(field.value);
        // Each octet may be one that is no UTF-8, which is shown in three, and each of those a letter of Latin-1.
        assert!(decoded.len() <= 6 * field.value.len(), "what is decoded is bounded");
        check_addresses(field.value);
    }
}

fn check_addresses(value: &[u8]) {
    let here: Domain = "example.org".parse().unwrap();
    let found = match header::addresses(value, &here) {
        Ok(found) => found,
        Err(error) => return assert!(is_one_line(error.0)),
    };
    let printed: Vec<String> = found.iter().map(Address::to_string).collect();
    assert!(printed.iter().all(|address| is_one_line(address)));
    let again = header::addresses(printed.join(", ").as_bytes(), &"elsewhere.example".parse().unwrap());
    assert_eq!(again, Ok(found), "{printed:?}");
}

fn check_hops(text: &[u8], cut: Cut) {
    let count = |cut: Cut| {
        let mut hops = HopCounter::default();
        Pieces::of(text, cut).for_each(|piece| hops.feed(piece));
        hops.count()
    };
    assert_eq!(count(cut), count(Cut::Whole), "Received, cut or whole");
    let fields = Header::split(text, 0).fields;
    let received = fields.iter().filter(|field| field.octets.to_ascii_lowercase().starts_with(b"received:"));
    assert!(count(cut) >= received.count(), "a hop is overlooked");
}

fn check_completion(text: &[u8], cut: Cut) {
    let whole = completed(text, Cut::Whole);
    // At the end of what is empty there was nothing to complete.
    assert!(completed(text, cut) == whole || text.is_empty(), "completed, cut or whole");
    if !text.is_empty() && Header::split(text, 0).body_offset < limits::DROP_HEADER {
        assert_eq!(completed(&whole, cut), whole, "what is complete stays as it is");
        assert!(whole.ends_with(&text[Header::split(text, 0).body_offset..]), "the body stays as it is");
        assert!(!has_whole_line_ends(text) || has_whole_line_ends(&whole));
    }
}

fn completed(text: &[u8], cut: Cut) -> Vec<u8> {
    let stamp = Stamp { date: "DATE".into(), unique: "ID".into(), hostname: "mail.example.org".parse().unwrap() };
    let mut completion = Some(Completion::new(stamp, "example.org".parse().unwrap()));
    let mut out = Vec::new();
    for piece in Pieces::of(text, cut) {
        match completion.take().map(|completion| completion.feed(piece)) {
            Some(Fed::More(more)) => completion = Some(more),
            Some(Fed::Done(octets)) => out = octets,
            None => out.extend_from_slice(piece),
        }
    }
    out.extend(completion.map(Completion::finish).unwrap_or_default());
    out
}

fn check_rewriting(text: &[u8]) {
    let here: Domain = "example.org".parse().unwrap();
    let new: Address = "office@smarthost.example".parse().unwrap();
    let is_local = |address: &Address| address.domain() == Some(&here);
    let Some(out) = rewrite::rewrite_from(text, &new, is_local, &here) else { return };
    let (before, after) = (Header::split(text, 0), Header::split(&out, 0));
    assert!((before.fields.len()..=before.fields.len() + 1).contains(&after.fields.len()), "a field more or less");
    assert!(out.ends_with(&text[before.body_offset..]), "what follows the header stays as it is");
    for field in after.fields.iter().filter(|field| field.is("From") || field.is("Sender")) {
        let found = header::addresses(field.value, &here).unwrap_or_default();
        assert!(!found.iter().any(is_local), "a local address goes out");
    }
    assert!(!has_whole_line_ends(text) || has_whole_line_ends(&out));
    let octets = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).len();
    let longest = |text: &[u8]| text.split(|octet| *octet == b'\n').map(octets).max().unwrap_or(0);
    assert!(longest(&out) <= longest(text).max(limits::TEXT_LINE), "no line is longer than it may be");
}

fn check_seven_bit(text: &[u8], cut: Cut) {
    let survey = |cut: Cut| {
        let mut survey = Survey::new();
        Pieces::of(text, cut).for_each(|piece| survey.feed(piece));
        survey.finish()
    };
    let verdict = survey(Cut::Whole);
    assert_eq!(survey(cut), verdict, "surveyed, cut or whole");
    match verdict {
        Verdict::SevenBit => assert!(text.is_ascii()),
        Verdict::Impossible(why) => assert!(is_one_line(why)),
        Verdict::Convertible(plan) => {
            let out = rewritten(text, &plan, Cut::Whole);
            assert_eq!(rewritten(text, &plan, cut), out, "rewritten, cut or whole");
            assert!(out.is_ascii(), "8 bits go out");
            assert!(!has_whole_line_ends(text) || has_whole_line_ends(&out));
        }
    }
}

fn rewritten(text: &[u8], plan: &Plan, cut: Cut) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::new(plan), Vec::new());
    Pieces::of(text, cut).for_each(|piece| rewriter.feed(piece, &mut out));
    rewriter.finish(&mut out);
    out
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "Received: x\r\nreceived: y\r\nFrom: Ann (x) <ann@example.org>, bob\r\nTo: team: a@b.org, <c@d.org>;\r\n\r\nhi\r\n",
        "From: Ann <ann>\r\n\tand\r\n more\r\nSender: \"a \\\" b\"@example.org\r\nReply-To: x\r\n\r\n",
        "Subject: =?utf-8?q?folded=20?=\r\n =?iso-8859-1?B?/+8=?=\r\nDate: x\r\nMessage-ID: <y@z>\r\n\r\n",
        "From: <@a.org,@b.org:bob@example.org>\r\nTo: (c (d) \\)) \"q\\\"\" <x.y@[192.0.2.1]>\r\nno field\r\n",
        "From: a@b.org\nTo: c@d.org\n\nbody with\nlf\n",
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n",
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\n\r\nä\r\n--b\r\n\
         Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\nÿ\r\n--b\r\nContent-Type: message/rfc822\r\n\
         \r\nSubject: in\r\n\r\nö\r\n--b--\r\nafter\r\n",
        "DKIM-Signature: v=1\r\n\r\nä\r\n",
        "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: x\r\n\r\nä\r\n--b--\r\n",
    ];
    texts.iter().flat_map(|text| [0, 4, 99].map(|by| [&[by], text.as_bytes()].concat())).collect()
}
