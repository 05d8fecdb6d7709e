//! Dropped files: what is taken has an envelope that can be read from the queue, CR LF alone, no Bcc, and a sender that its
//! owner may use; what is not taken is told by its line, without a word of it.
//!
//! Input: an octet that chooses owner and cut, then the file.

use std::path::Path;
use std::sync::LazyLock;

use postrider::config::Config;
use postrider::mail::address::ReversePath;
use postrider::mail::complete::Stamp;
use postrider::mail::envelope::Envelope;
use postrider::mail::header::Header;
use postrider::spool::line_ends::Canonical;
use postrider::spool::pickup::message::{self, Context, Dropped, Owner};

use super::pieces::{Cut, Pieces};
use super::{has_whole_line_ends, is_one_line};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\n\
                [drop.senders]\nann = [\"info@example.org\", \"@shop.example\"]\n[limits]\nrecipients = 100";
    Config::parse(text, Path::new("/")).unwrap()
});

pub fn check(octets: &[u8]) {
    let Some((&by, file)) = octets.split_first() else { return };
    let owner = if by & 1 == 0 { Owner::Trusted } else { Owner::Login("ann".to_owned()) };
    let stamp = Stamp { date: "DATE".into(), unique: "ID".into(), hostname: CONFIG.hostname.clone() };
    let context = Context { default_domain: CONFIG.first_domain(), owner: &owner, config: &CONFIG, stamp: &stamp };
    match message::read(file, &context) {
        Ok(dropped) => {
            check_taken(&dropped, file);
            if owner != Owner::Trusted {
                check_sender(&dropped);
            }
            check_line_ends(&file[dropped.body_offset..], dropped.header_lines, Cut::chosen(by >> 1));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(error.line <= 1 + file.iter().filter(|octet| **octet == b'\n').count(), "{text}");
            assert!(is_one_line(&text) && text.len() < 300 && text.is_ascii(), "{text}");
        }
    }
}

fn check_taken(dropped: &Dropped, file: &[u8]) {
    let Dropped { envelope, header, .. } = dropped;
    assert!(has_whole_line_ends(header) && !header.contains(&0), "the header");
    let fields = Header::split(header, 0);
    assert!(!fields.fields.iter().any(|field| field.is("Bcc") || field.is("Resent-Bcc")), "a Bcc goes out");
    assert!(["Date", "Message-ID"].iter().all(|name| fields.all(name).next().is_some()));
    assert_eq!(fields.body_offset, header.len(), "the header is a header and no more");
    assert!(header.len() <= 2 * file.len() + 100);
    assert!((1..=CONFIG.limits.recipients).contains(&envelope.recipients.len()));
    let printed = envelope.print(7);
    let found = Envelope::read(&[printed.as_bytes(), b"Received: x\r\n"].concat());
    let found = found.unwrap_or_else(|error| panic!("{error}: {printed}")).expect("an envelope");
    assert_eq!((found.octets, &found.envelope.recipients), (printed.len(), &envelope.recipients));
    assert_eq!(found.envelope.reverse_path, envelope.reverse_path);
}

fn check_sender(dropped: &Dropped) {
    let ReversePath::Address(sender) = &dropped.envelope.reverse_path else { return };
    let domain = sender.domain().map(|domain| domain.as_str());
    let local = sender.local_part();
    let is_own = domain == Some("example.org") && (local.eq_ignore_ascii_case("ann") || local == "info");
    // Grants are found in any case.
    let is_granted = domain == Some("shop.example") || local.eq_ignore_ascii_case("info");
    assert!(is_own || is_granted, "ann sends as {sender}");
}

fn check_line_ends(body: &[u8], lines: usize, cut: Cut) {
    let canonical = |cut: Cut| {
        let (mut line_ends, mut out) = (Canonical::after_lines(lines), Vec::new());
        let mut pieces = Pieces::of(body, cut);
        let fed = pieces.try_for_each(|piece| line_ends.feed(piece, &mut out));
        fed.and_then(|()| line_ends.finish(&mut out)).map(|()| out)
    };
    let whole = canonical(Cut::Whole);
    assert_eq!(canonical(cut), whole, "the body, cut or whole");
    if let Ok(out) = whole {
        assert!(has_whole_line_ends(&out) && (out.is_empty() || out.ends_with(b"\r\n")));
        let text = |octets: &[u8]| octets.iter().filter(|octet| !b"\r\n".contains(octet)).copied().collect::<Vec<u8>>();
        assert_eq!(text(&out), text(body), "nothing but line ends changes");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "X-Sender: ann@example.org SIZE=7 RET=HDRS\nX-Receiver: <c@d.org> NOTIFY=NEVER\n\nhi",
        "Return-Path: <x@y.org>\r\nDelivered-To: x@y.org\r\nx-sender: <>\r\nx-receiver: c@d.org\r\nTo: no@one.org\r\n\r\n",
        "From x Mon Nov 23\nFrom: ann\nTo: bob, Bob <bob@example.org>\nCc: c@d.org\nBcc: e@f.org,\n g@h.org\n\nhi\n",
        "Sender: info@example.org\nFrom: a@shop.example, b@shop.example\nTo: c@d.org\n\n",
        "Resent-To: new@d.org\nResent-From: ann@example.org\nResent-To: old@d.org\nFrom: ann\nTo: c@d.org\n\n",
        "From: ann@example.org\nTo: jörg@d.org\nSubject: x\n\n.\n..\r\nno end",
        "From: ann\nTo: team: a@b.org, c@d.org;\nno field\n",
        "X-Sender: a@b.org\nX-Receiver: b@c.org\ndate: x\nMESSAGE-id: y\nBcc: z\nResent-Bcc: z",
        "From: ann\rTo: b\n\n",
        "From: ann\nTo: b@c.org\n\na\0b",
        "X-Receiver: <a@b.org>\nX-Sender: <>\n",
    ];
    texts.iter().flat_map(|text| [0, 1, 9].map(|by| [&[by], text.as_bytes()].concat())).collect()
}
