//! What a next hop sees of a session, and what its replies mean: with a hop that does as it is told.

mod support;

use std::time::{Duration, Instant};

use postrider::mail::address::ReversePath;
use postrider::mail::envelope::Recipient;
use postrider::mail::parameter::{MailParameters, RcptParameters};
use postrider::relay::{Offers, Stage, Transaction};
use support::hop::{Act, Heard, Hop, say, usual};
use support::parcel::{LONG, Letter, SHORT, open, outcomes, recipients, send, send_with, short};

const TAKEN: &str = "delivered 250 2.0.0 taken";

/// Sends `letter` to `count` recipients of `hop` in a session of its own.
fn deliver(hop: Hop, count: usize, letter: &mut Letter) -> (Vec<String>, Heard) {
    let mut session = open(hop.address, LONG).unwrap();
    let sent = send(&mut session, count, letter);
    session.quit();
    (outcomes(&sent), hop.heard())
}

#[test]
fn the_message_arrives_as_it_is_whatever_its_size() {
    let mut letters: Vec<Letter> =
        [0, 2, 100, 32_767, 32_768, 32_769, 65_536, 100_000].into_iter().map(Letter::of_size).collect();
    letters.push(Letter::new(".\r\n..\r\n\r\n.a\r\nb.\r\n.\r\n"));
    letters.push(Letter::new([&vec![b'x'; 32_766][..], b"\r\n.\r\n"].concat()));
    for letter in &mut letters {
        let (outcomes, heard) = deliver(Hop::polite(&["PIPELINING"], |_| None), 1, letter);
        assert_eq!(outcomes, [TAKEN]);
        let lines = letter.octets.split_inclusive(|&octet| octet == b'\n');
        let mut stuffed: Vec<u8> =
            lines.flat_map(|line| if line[0] == b'.' { [b".", line].concat() } else { line.to_vec() }).collect();
        stuffed.extend_from_slice(b".\r\n");
        assert!(heard.messages == [stuffed], "{} octets by DATA", letter.size);
        let (outcomes, heard) = deliver(Hop::polite(&["CHUNKING"], |_| None), 1, letter);
        assert_eq!(outcomes, [TAKEN]);
        assert!(heard.messages == std::slice::from_ref(&letter.octets), "{} octets by BDAT", letter.size);
        assert_eq!(heard.count("DATA"), 0);
    }
}

#[test]
fn the_envelope_goes_at_once_where_pipelining_is_offered() {
    // A hop that says nothing before DATA is there could not be told its commands one by one.
    let late = |line: &str| (line.starts_with("MAIL") || line.starts_with("RCPT")).then(|| Act::Later("250 ok".into()));
    let (outcomes, heard) = deliver(Hop::polite(&["PIPELINING"], late), 100, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes, vec![TAKEN; 100]);
    assert_eq!(heard.count("RCPT"), 100);
    let (outcomes, heard) = deliver(Hop::polite(&["SIZE"], |_| None), 10, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes, vec![TAKEN; 10]);
    assert_eq!(heard.ahead, 0);
}

#[test]
fn a_thousand_recipients_take_ten_transactions() {
    let late = |line: &str| line.starts_with("RCPT").then(|| Act::Later(["250-ok\r\n"; 60].concat() + "250 ok"));
    let (outcomes, heard) = deliver(Hop::polite(&["PIPELINING"], late), 1000, &mut Letter::of_size(5000));
    assert_eq!(outcomes, vec![TAKEN; 1000]);
    assert_eq!((heard.count("MAIL"), heard.count("RCPT"), heard.messages.len()), (10, 1000, 10));
}

#[test]
fn replies_larger_than_every_buffer_do_not_stop_both_sides() {
    let line = format!("250-{}\r\n", "x".repeat(500));
    let long = line.repeat(99) + "250 ok";
    let wordy = move |line: &str| line.starts_with("RCPT").then(|| say(long.clone()));
    let (outcomes, _) = deliver(Hop::polite(&["PIPELINING"], wordy), 300, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes, vec![TAKEN; 300]);
}

/// A hop that takes `most` recipients a transaction.
fn narrow(offers: &[&str], most: usize, surplus: &'static str) -> Hop {
    let mut count = 0;
    Hop::polite(offers, move |line| {
        count = if line.starts_with("RCPT") { count + 1 } else { 0 };
        (count > most).then(|| say(surplus))
    })
}

#[test]
fn recipients_that_are_too_many_go_in_the_next_transaction() {
    for offers in [&["PIPELINING"][..], &["CHUNKING"], &[]] {
        for surplus in ["452 4.5.3 too many", "452 too many", "552 too many"] {
            let (outcomes, heard) = deliver(narrow(offers, 3, surplus), 10, &mut Letter::new("x\r\n"));
            assert_eq!(outcomes, vec![TAKEN; 10]);
            assert_eq!((heard.messages.len(), heard.count("RCPT")), (4, 10 + 7 + 4 + 1));
            assert_eq!(heard.count("RSET"), 0);
        }
    }
}

#[test]
fn each_transaction_ends_before_the_next_begins() {
    let mut letter = Letter::new("x\r\n");
    let hop = narrow(&["PIPELINING"], 1, "452 4.5.3 too many");
    let mut session = open(hop.address, LONG).unwrap();
    let recipients = recipients(3);
    let reverse_path: ReversePath = "<ann@example.org>".parse().unwrap();
    let transaction =
        Transaction { reverse_path: &reverse_path, recipients: &recipients, parameters: &MailParameters::default() };
    let sent = session.send(&transaction, &mut letter);
    assert_eq!(outcomes(&sent), [TAKEN, "-", "-"], "who has it is to be written down first");
    assert!(sent.broke.is_none() && session.is_reusable());
    session.quit();
    assert_eq!(hop.heard().count("MAIL"), 1);
}

#[test]
fn a_message_is_told_that_it_was_taken_where_all_have_it_and_nowhere_else() {
    for offers in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &[]] {
        for (command, reply, taken) in [
            ("nothing", "", 1),
            ("RCPT TO:<r1@", "550 5.1.1 no", 0),
            ("RCPT TO:<r1@", "452 4.5.3 too many", 0),
            (".", "450 4.3.0 not now", 0),
            (".", "550 5.7.1 no", 0),
            (".", "354 go on", 0),
            (".", "421 4.3.2 stopping", 0),
        ] {
            let mut letter = Letter::of_size(300);
            let odd = move |line: &str| line.replace("BDAT", ".").starts_with(command).then(|| say(reply));
            deliver(Hop::polite(offers, odd), 2, &mut letter);
            assert_eq!(letter.taken, taken, "{command} {reply} {offers:?}");
        }
    }
}

#[test]
fn a_full_mailbox_is_no_full_transaction_and_552_is_never_for_good() {
    let full = |line: &str| {
        let code = if line.contains("r1@") { "452 4.2.2 full" } else { "552 5.2.2 full" };
        (line.contains("r1@") || line.contains("r2@")).then(|| say(code))
    };
    let (outcomes, heard) = deliver(Hop::polite(&["PIPELINING"], full), 3, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes, [TAKEN, "deferred 452 4.2.2 full", "deferred 552 5.2.2 full"]);
    assert_eq!(heard.count("MAIL"), 1);
    let none = |line: &str| line.starts_with("RCPT").then(|| say("452 4.5.3 too many"));
    let (outcomes, heard) = deliver(Hop::polite(&["PIPELINING"], none), 2, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes, vec!["deferred 452 4.5.3 too many"; 2]);
    assert_eq!((heard.count("MAIL"), heard.count("."), heard.messages), (1, 1, vec![b".\r\n".to_vec()]));
}

#[test]
fn each_recipient_has_its_own_outcome() {
    for offers in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &[]] {
        let mixed = |line: &str| match line {
            "RCPT TO:<r0@hop.example>" => Some(say("550-5.1.1 no such\r\n550 5.1.1 user")),
            "RCPT TO:<r1@hop.example>" => Some(say("451 later")),
            _ => None,
        };
        let (outcomes, heard) = deliver(Hop::polite(offers, mixed), 3, &mut Letter::new("x\r\n"));
        assert_eq!(outcomes, ["failed 550 5.1.1 no such user", "deferred 451 later", TAKEN], "{offers:?}");
        assert_eq!(heard.messages.len(), 1);
    }
}

#[test]
fn where_nobody_was_accepted_nothing_is_sent_and_the_session_goes_on() {
    for offers in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &[]] {
        for refused in ["MAIL", "RCPT"] {
            for data in ["354 go on", "554 no valid recipients"] {
                let mut first = true;
                let hop = Hop::polite(offers, move |line| {
                    first &= !line.starts_with("RSET");
                    match line.split(' ').next() {
                        Some("DATA") if first => Some(say(data)),
                        Some("RCPT") if first => Some(say("550 5.7.1 no")),
                        Some(verb) if first && verb == refused => Some(say("550 5.7.1 no")),
                        _ => None,
                    }
                });
                let mut session = open(hop.address, LONG).unwrap();
                let sent = send(&mut session, 2, &mut Letter::new("first\r\n"));
                assert_eq!(outcomes(&sent), vec!["failed 550 5.7.1 no"; 2]);
                assert!(sent.broke.is_none() && session.is_reusable());
                assert_eq!(outcomes(&send(&mut session, 1, &mut Letter::new("second\r\n"))), [TAKEN]);
                assert_eq!(session.messages(), 2);
                session.quit();
                let mut heard = hop.heard();
                assert_eq!(
                    heard.messages.pop().unwrap().strip_suffix(b".\r\n").unwrap_or(b"second\r\n"),
                    b"second\r\n"
                );
                assert!(heard.messages.iter().all(|message| message == b".\r\n"), "{:?}", heard.messages);
                assert_eq!((heard.count("RSET"), heard.count("QUIT")), (1, 1));
            }
        }
    }
}

#[test]
fn a_hop_that_contradicts_itself_is_left() {
    let hop = Hop::polite(&["PIPELINING"], |line| line.starts_with("MAIL").then(|| say("550 5.7.1 no")));
    let mut session = open(hop.address, LONG).unwrap();
    let sent = send(&mut session, 1, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes(&sent), ["failed 550 5.7.1 no"]);
    let words = short(&sent.broke.unwrap().outcome);
    assert!(words.ends_with("it accepted a recipient after it had refused the sender"), "{words}");
    drop(session);
    assert!(hop.heard().messages.is_empty(), "an empty message would have gone to a recipient");

    let hop = Hop::polite(&[], |line| {
        let no = line.starts_with("RCPT") || line == "RSET";
        no.then(|| say("550 5.1.1 no"))
    });
    let mut session = open(hop.address, LONG).unwrap();
    send(&mut session, 1, &mut Letter::new("x\r\n"));
    let sent = send(&mut session, 1, &mut Letter::new("x\r\n"));
    assert_eq!((outcomes(&sent), sent.broke.unwrap().stage), (vec!["-".to_owned()], Stage::Reset));
    let sent = send(&mut session, 1, &mut Letter::new("x\r\n"));
    assert_eq!(outcomes(&sent), ["-"]);
    assert!(short(&sent.broke.unwrap().outcome).ends_with("the session with hop.example [127.0.0.1] was over already"));
}

#[test]
fn what_is_not_offered_is_not_used() {
    let recipient = Recipient {
        address: "b@hop.example".parse().unwrap(),
        parameters: RcptParameters::parse("NOTIFY=NEVER ORCPT=rfc822;c@d").unwrap(),
    };
    let old = |line: &str| line.starts_with("EHLO").then(|| say("502 5.5.1 what?"));
    for (hop, mail, rcpt) in [
        (Hop::polite(&[], old), "MAIL FROM:<ann@example.org>", "RCPT TO:<b@hop.example>"),
        (
            Hop::polite(&["SIZE 1000", "8BITMIME", "DSN"], |_| None),
            "MAIL FROM:<ann@example.org> SIZE=3 BODY=8BITMIME RET=FULL ENVID=x",
            "RCPT TO:<b@hop.example> NOTIFY=NEVER ORCPT=rfc822;c@d",
        ),
    ] {
        let mut session = open(hop.address, LONG).unwrap();
        let parameters = "BODY=8BITMIME RET=FULL ENVID=x";
        let sent = send_with(&mut session, std::slice::from_ref(&recipient), parameters, &mut Letter::new("x\r\n"));
        assert_eq!(outcomes(&sent), [TAKEN]);
        assert_eq!(*session.offers() == Offers::default(), !mail.contains("SIZE"));
        drop(session);
        let heard = hop.heard();
        assert!(
            heard.lines.iter().any(|line| line == mail) && heard.lines.iter().any(|line| line == rcpt),
            "{heard:?}"
        );
    }
}

#[test]
fn what_a_hop_can_not_take_is_not_sent() {
    let hop = Hop::polite(&["SIZE 100", "SMTPUTF8"], |_| None);
    let mut session = open(hop.address, LONG).unwrap();
    let sent = send(&mut session, 2, &mut Letter::of_size(101));
    let words = "failed 550 5.3.4 the message has 101 octets, and hop.example [127.0.0.1] takes 100 at most";
    assert_eq!(outcomes(&sent), vec![words; 2]);
    let recipients = ["jörg@hop.example", "b@hop.example"]
        .map(|address| Recipient { address: address.parse().unwrap(), parameters: RcptParameters::default() });
    let sent = send_with(&mut session, &recipients, "", &mut Letter::of_size(100));
    assert!(outcomes(&sent)[0].starts_with("failed 550 5.6.7 the address needs SMTPUTF8"));
    assert_eq!(outcomes(&sent)[1], TAKEN);
    let sent = send_with(&mut session, &recipients, "SMTPUTF8", &mut Letter::of_size(100));
    assert_eq!(outcomes(&sent), [TAKEN, TAKEN]);
    session.quit();
    assert_eq!(hop.heard().count("MAIL"), 2);

    let hop = Hop::polite(&[], |_| None);
    let mut session = open(hop.address, LONG).unwrap();
    let sent = send_with(&mut session, &recipients, "SMTPUTF8", &mut Letter::of_size(100));
    assert!(outcomes(&sent).iter().all(|outcome| outcome.starts_with("failed 550 5.6.7 ")), "{sent:?}");
    assert!(session.is_reusable());
    session.quit();
    assert_eq!(hop.heard().count("MAIL"), 0);
}

#[test]
fn a_message_that_can_not_be_read_is_never_ended() {
    let whole = Letter::of_size(40_000);
    let faulty = |change: fn(&mut Letter)| {
        let mut letter = Letter::new(whole.octets.clone());
        change(&mut letter);
        letter
    };
    let letters: [fn(&mut Letter); 5] = [
        |letter| letter.breaks = true,
        |letter| letter.size -= 1,
        |letter| letter.size += 1,
        // As long as was said at the edge of a block, and not over.
        |letter| letter.size = 32_768,
        |letter| letter.octets.clear(),
    ];
    for offers in [&["PIPELINING"][..], &["CHUNKING"]] {
        for letter in letters {
            let hop = Hop::polite(offers, |_| None);
            let mut session = open(hop.address, LONG).unwrap();
            let sent = send(&mut session, 150, &mut faulty(letter));
            let deferred = |outcome: &String| outcome.starts_with("deferred 451 4.3.0 the message could not be read");
            assert!(outcomes(&sent).iter().all(deferred), "{sent:?}");
            assert!(sent.broke.is_none() && !session.is_reusable());
            session.quit();
            let heard = hop.heard();
            assert!(heard.messages.is_empty() && heard.count("QUIT") == 0);
        }
    }
}

#[test]
fn a_hop_that_refuses_halfway_is_quoted() {
    for (words, expected) in [
        ("552 5.3.4 too big", "failed 552 5.3.4 too big"),
        ("421 4.3.2 stopping", "deferred 421 4.3.2 stopping"),
        ("", "deferred 451 4.4.2 hop.example [127.0.0.1] closed the connection while we sent the message"),
    ] {
        for octets in [0, 200_000] {
            let hop = Hop::polite(&["PIPELINING"], move |line| {
                (line == "DATA").then(|| Act::Halfway(octets, Box::new(Act::Gone(words.into()))))
            });
            let mut session = open(hop.address, LONG).unwrap();
            let sent = send(&mut session, 1, &mut Letter::of_size(20_000_000));
            assert_eq!(sent.outcomes, [None]);
            let broke = sent.broke.unwrap();
            assert_eq!((short(&broke.outcome).as_str(), broke.stage), (expected, Stage::Message));
            assert!(!session.is_reusable());
        }
    }
}

#[test]
fn an_idle_session_is_alive_until_the_hop_says_more_or_closes() {
    for act in [|| Act::Last("250 taken\r\n421 4.4.2 idle".into()), || Act::Last("250 taken".into())] {
        let hop = Hop::polite(&["PIPELINING"], move |line| (line == ".").then(act));
        let mut session = open(hop.address, LONG).unwrap();
        assert!(session.is_alive());
        assert_eq!(outcomes(&send(&mut session, 1, &mut Letter::new("x\r\n"))), ["delivered 250 taken"]);
        let before = Instant::now();
        while session.is_alive() {
            assert!(before.elapsed() < LONG);
        }
        session.quit();
        assert_eq!(hop.heard().messages.len(), 1);
    }
}

#[test]
fn leaving_does_not_wait_for_a_hop_that_is_silent() {
    let hop = Hop::polite(&[], |line| (line == "QUIT").then_some(Act::Silence));
    let before = Instant::now();
    open(hop.address, SHORT).unwrap().quit();
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(hop.heard().count("QUIT"), 1);
}

#[test]
fn nothing_listens() {
    let hop = Hop::start(|line| say(usual(line, "250 hop.example")));
    let address = hop.address;
    drop(open(address, LONG).unwrap());
    hop.heard();
    let refusal = open(address, LONG).unwrap_err();
    assert_eq!(refusal.stage, Stage::Connect);
    assert!(
        short(&refusal.outcome).starts_with("deferred 451 4.4.1 hop.example [127.0.0.1] refused the connection"),
        "{refusal:?}"
    );
}
