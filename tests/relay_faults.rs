//! Each fault of a next hop at each stage: what every recipient gets, and that no message is ended twice.
//!
//! The table is that of `postrider::relay`. A message counts as sent once the hop has seen its last octet; then, and only
//! then, is no outcome `None`. Real faults come from smtp-sink, where it is installed.

mod support;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use postrider::relay::{Session, Stage};
use support::hop::{Act, Heard, Hop, ehlo, say, usual};
use support::parcel::{LONG, Letter, SHORT, open, outcomes, send, short};
use support::sink::Sink;

const STAGES: [&str; 6] = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."];
const FAULTS: [&str; 9] = ["4yz", "5yz", "421", "3yz", "drop", "silence", "rubbish", "endless", "early"];
const OFFERS: [&[&str]; 4] = [&["PIPELINING"], &[], &["PIPELINING", "CHUNKING"], &["CHUNKING"]];

fn act(fault: &str, line: &str, offers: &[&str]) -> Act {
    match fault {
        "4yz" => say("450-4.7.1 not\r\n450 4.7.1 now"),
        "5yz" => say("550 5.7.1 no"),
        "421" => Act::Last("421 4.3.2 stopping".into()),
        // Where 354 is due, 250 is the wrong kind of yes.
        "3yz" if line == "DATA" => say("250 ok"),
        "3yz" => say("354 go on"),
        "drop" => Act::Last(String::new()),
        "silence" => Act::Silence,
        "rubbish" => say("hello\r\n250 ok"),
        "endless" => Act::Flood("250-more\r\n"),
        "early" => say(usual(line, &ehlo(offers)) + "\r\n250 2.0.0 taken"),
        _ => unreachable!(),
    }
}

/// What two recipients get by the table, with the fault at the first of each kind of command.
fn expected(stage: &str, fault: &str) -> [&'static str; 2] {
    let now = "deferred 450 4.7.1 not now";
    let no = "failed 550 5.7.1 no";
    let odd = "deferred 451 4.5.0 hop.example [127.0.0.1] broke the protocol while ";
    match (stage, fault) {
        ("CONNECT" | "EHLO", "4yz") => ["refused", now],
        ("CONNECT" | "EHLO", "5yz") => ["refused", no],
        ("CONNECT" | "EHLO", "421") => ["refused", "deferred 421 4.3.2 stopping"],
        ("CONNECT" | "EHLO", "drop") => {
            ["refused", "deferred 451 4.4.2 hop.example [127.0.0.1] closed the connection while we waited"]
        }
        ("CONNECT" | "EHLO", "silence") => {
            ["refused", "deferred 451 4.4.2 hop.example [127.0.0.1] took longer than 1s while"]
        }
        ("EHLO", "early") => ["-", "-"],
        ("CONNECT" | "EHLO", _) => ["refused", odd],
        ("RCPT", "4yz") => [now, "delivered"],
        ("RCPT", "5yz") => [no, "delivered"],
        (_, "4yz") => [now, now],
        (_, "5yz") => [no, no],
        (".", "421") => ["deferred 421 4.3.2 stopping"; 2],
        (".", "drop") => {
            ["deferred 451 4.4.2 hop.example [127.0.0.1] closed the connection while we waited for its reply to the message";
                2]
        }
        (".", "silence") => {
            ["deferred 451 4.4.2 hop.example [127.0.0.1] took longer than 1s while we waited for its reply to the"; 2]
        }
        (".", "early") => ["delivered"; 2],
        (".", _) => [odd; 2],
        _ => ["-", "-"],
    }
}

/// What two recipients got, or `refused` and why.
fn got(address: SocketAddr, reply: Duration) -> (Vec<String>, Option<Session>) {
    match open(address, reply) {
        Err(refusal) => (vec!["refused".into(), short(&refusal.outcome)], None),
        Ok(mut session) => {
            let sent = send(&mut session, 2, &mut Letter::of_size(300));
            assert_eq!(sent.broke.is_some(), !session.is_reusable() && !outcomes(&sent)[0].starts_with("delivered"));
            assert!(sent.broke.is_some() || sent.outcomes.iter().all(Option::is_some));
            if let Some(broke) = &sent.broke {
                assert!(short(&broke.outcome).starts_with("deferred 4"), "{broke:?}");
                assert_ne!(broke.stage, Stage::Connect);
            }
            (outcomes(&sent), Some(session))
        }
    }
}

#[test]
fn every_fault_at_every_stage() {
    let mut waiting = Vec::new();
    for stage in STAGES {
        for fault in FAULTS {
            for offers in OFFERS {
                if stage == "DATA" && offers.contains(&"CHUNKING") {
                    continue;
                }
                // Those that wait do so together.
                match fault {
                    "silence" => waiting.push(thread::spawn(move || walk(stage, fault, offers))),
                    _ => walk(stage, fault, offers),
                }
            }
        }
    }
    waiting.into_iter().for_each(|walked| walked.join().unwrap());
}

/// Sends a message to a hop with one fault, and compares with the table.
fn walk(stage: &'static str, fault: &'static str, offers: &'static [&'static str]) {
    // A reply too many is seen for sure where those to all of the envelope come in one piece, as from a host that answers
    // when it has read what there is.
    let mut held = if fault == "early" && offers.contains(&"PIPELINING") { 2 } else { 0 };
    let mut done = false;
    let hop = Hop::polite(offers, move |line| {
        let verb = line.split(' ').next().unwrap().replace("BDAT", ".").replace("HELO", "EHLO");
        let here = verb == stage && (!done || stage == "EHLO");
        done |= here;
        if held > 0 && ["MAIL", "RCPT"].contains(&verb.as_str()) {
            held -= 1;
            let stray = if here { "\r\n250 2.0.0 taken" } else { "" };
            return Some(Act::Later(usual(line, "") + stray));
        }
        here.then(|| act(fault, line, offers))
    });
    let before = Instant::now();
    let (got, session) = got(hop.address, if fault == "silence" { SHORT } else { LONG });
    assert!(before.elapsed() < LONG, "{stage} {fault} {offers:?}");
    for (got, expected) in got.iter().zip(expected(stage, fault)) {
        assert!(got.starts_with(expected), "{stage} {fault} {offers:?}: {got}, not {expected}");
    }
    drop(session);
    check_copies(&hop.heard(), &got);
}

/// At most one message was ended, and whoever may have it has an outcome.
fn check_copies(heard: &Heard, got: &[String]) {
    let ended = heard.messages.iter().filter(|message| message.len() > 3).count();
    assert!(ended <= 1, "{heard:?}");
    if ended == 1 {
        assert!(!got.iter().any(|outcome| outcome == "-" || outcome == "refused"), "{got:?}");
    } else {
        assert!(!got.iter().any(|outcome| outcome.starts_with("delivered")), "{got:?}");
    }
}

#[test]
fn a_hop_that_closes_after_any_octet() {
    for offers in OFFERS {
        let ehlo = ehlo(offers);
        let mut octets = 0;
        loop {
            let reply = ehlo.clone();
            let hop = Hop::cut(octets, move |line| say(usual(line, &reply)));
            let (got, session) = got(hop.address, LONG);
            let all = session.is_some_and(|session| {
                let all = got[0].starts_with("delivered");
                assert_eq!(all, session.is_reusable());
                all
            });
            let heard = hop.heard();
            check_copies(&heard, &got);
            if heard.messages.is_empty() {
                assert!(got[0] == "refused" || got == ["-", "-"], "{octets} {got:?}");
            } else if !all {
                assert!(
                    got.iter().all(|got| got.contains("hop.example [127.0.0.1] closed the connection")),
                    "{octets} {got:?}"
                );
                assert!(got.iter().all(|got| got.ends_with("which it may have taken")), "{octets} {got:?}");
            }
            if all {
                break;
            }
            octets += 1;
        }
        assert!(octets > 100, "the whole dialogue was walked");
    }
}

#[test]
fn a_hop_that_takes_long_over_each_recipient_does_not_have_us_for_all_of_them() {
    for offers in [&["PIPELINING"][..], &[]] {
        let hop = Hop::polite(offers, |line| {
            thread::sleep(if line.starts_with("RCPT") { SHORT / 4 } else { Duration::ZERO });
            None
        });
        let begun = Instant::now();
        let mut session = open(hop.address, SHORT).unwrap();
        let sent = send(&mut session, 50, &mut Letter::of_size(300));
        assert!(begun.elapsed() < LONG);
        let said = "deferred 451 4.4.2 hop.example [127.0.0.1] took too long over one message: it stopped while we waited \
                    for its reply to RCPT";
        assert_eq!(short(&sent.broke.unwrap().outcome), said);
        drop(session);
        hop.heard();
    }
}

#[test]
fn faults_of_smtp_sink() {
    if !support::have("smtp-sink", "faults_of_smtp_sink") {
        return;
    }
    // -p without PIPELINING; -q drops after the command, -Q says 421 and drops, -r is 4yz, -f is 5yz.
    for (switches, expected) in [
        (&["-c"][..], "delivered 250"),
        (&["-p"], "delivered 250"),
        (&["-e"], "delivered 250"),
        (&["-q", "connect"], "refused"),
        (&["-q", "ehlo"], "refused"),
        (&["-Q", "connect"], "refused"),
        (&["-r", "connect"], "refused"),
        (&["-f", "connect"], "refused"),
        (&["-f", "ehlo"], "delivered 250"),
        (&["-q", "mail"], "-"),
        (&["-Q", "mail"], "-"),
        (&["-r", "mail"], "deferred 4"),
        (&["-f", "mail"], "failed 5"),
        (&["-q", "rcpt"], "-"),
        (&["-Q", "rcpt"], "-"),
        (&["-r", "rcpt"], "deferred 4"),
        (&["-f", "rcpt"], "failed 5"),
        (&["-q", "data"], "-"),
        (&["-Q", "data"], "-"),
        (&["-r", "data"], "deferred 4"),
        (&["-f", "data"], "failed 5"),
        (&["-q", "."], "deferred 451 4.4.2"),
        (&["-Q", "."], "deferred 421"),
        (&["-r", "."], "deferred 4"),
        (&["-f", "."], "failed 5"),
        (&["-p", "-r", "rcpt"], "deferred 4"),
        (&["-p", "-q", "data"], "-"),
    ] {
        let sink = Sink::start(switches);
        let (got, session) = got(sink.address, LONG);
        assert!(got[0].starts_with(expected), "{switches:?}: {got:?}");
        if let Some(session) = session {
            session.quit();
        }
    }
}
