//! Replies of next hops: the same however they are cut, bounded, and of one line once they are told to people.
//!
//! Input: an octet that chooses the cut, then what the hop says.

use postrider::limits;
use postrider::mail::letters::is_misleading;
use postrider::relay::reply::{Answer, Collector, Rubbish};

use super::pieces::{Cut, Pieces};

pub fn check(octets: &[u8]) {
    let Some((&by, stream)) = octets.split_first() else { return };
    let whole = collect(stream, Cut::Whole);
    let cut = collect(stream, Cut::chosen(by));
    assert_eq!(cut.0, whole.0, "replies, cut or whole");
    assert_eq!(cut.1.is_some(), whole.1.is_some(), "rubbish, cut or whole");
    whole.0.iter().for_each(check_answer);
}

/// All replies up to the first that is none.
fn collect(stream: &[u8], cut: Cut) -> (Vec<Answer>, Option<Rubbish>) {
    let (mut collector, mut answers) = (Collector::default(), Vec::new());
    for mut piece in Pieces::of(stream, cut) {
        while !piece.is_empty() {
            match collector.feed(piece) {
                Ok((used, answer)) => {
                    assert!(used == piece.len() || answer.is_some(), "all is used before the end of a reply");
                    answers.extend(answer);
                    piece = &piece[used..];
                }
                Err(rubbish) => return (answers, Some(rubbish)),
            }
        }
    }
    (answers, None)
}

fn check_answer(answer: &Answer) {
    assert!((100..600).contains(&answer.code()) && (1..=5).contains(&answer.class()));
    assert!((1..=limits::REPLY_LINES).contains(&answer.lines().count()));
    assert!(answer.lines().all(|line| line.len() <= limits::REPLY_LINE_KEPT));
    let reply = answer.reply();
    let text = reply.to_string();
    assert!(!text.chars().any(is_misleading), "{text:?}");
    assert!(text.len() <= limits::REPLY_TEXT + "550 5.999.999 ".len(), "{} octets", text.len());
    assert!(reply.enhanced().is_none_or(|enhanced| u16::from(enhanced.0) == answer.class()));
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    if wire.len() <= limits::REPLY_LINE_KEPT {
        let (again, rubbish) = collect(&wire, Cut::Whole);
        assert_eq!((again.len(), rubbish), (1, None), "{text:?}");
        assert_eq!(again[0].reply().to_string().trim_end(), text.trim_end(), "told twice");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let long = format!("250-{}\r\n250 {}\r\n", "x".repeat(600), "y".repeat(500));
    let many = "250-line\r\n".repeat(limits::REPLY_LINES + 1);
    let endless = "250 ".to_owned() + &"z".repeat(limits::REPLY_LINE);
    let texts: [&str; 14] = [
        "220 mx.example ESMTP\r\n",
        "250-mx.example\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n354 go on\r\n",
        "550 5.1.1 <x@y.example>: no such user\r\n",
        "550-5.1.1 one\r\n550-5.1.1 two\r\n550 5.1.1\r\n",
        "421 4.3.2 closing\n",
        "250\r\n",
        "250-a\r\n251 b\r\n",
        "99 x\r\n",
        "550 4.1.1 another class\r\n",
        "550 \u{1b}[31m\u{202e}red\t\u{85}\r\n",
        "554 5.7.1 \r\r\n",
        &long,
        &many,
        &endless,
    ];
    texts.iter().flat_map(|text| [1, 77].map(|by| [&[by], text.as_bytes()].concat())).collect()
}
