//! Reports as another program reads them: Python's `email` finds no defect, three parts, and every field.

mod support;

use std::time::Duration;

use postrider::mail::address::Address;
use postrider::mail::dsn::{Action, Original, Reader, Report, Reported};
use postrider::mail::parameter::{OriginalRecipient, Ret};
use postrider::mail::queue_id::QueueId;
use support::report::read_report;

/// The report with its original, as Python's `email` reads it. `None` where there is no Python.
fn read(report: &Report<'_>, original: &str, test: &str) -> Option<String> {
    let returned = match report.returned() {
        Ret::Full => original,
        Ret::Headers => original.split_inclusive("\r\n\r\n").next().unwrap(),
    };
    read_report(&[report.head(), returned.into(), report.tail()].concat(), test)
}

fn address(text: &str) -> &'static Address {
    Box::leak(Box::new(text.parse().unwrap()))
}

const MESSAGE: &str = "From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: Lunch\r\n\
                       Message-ID: <1@a.example>\r\n\r\nAt noon?\r\n--\r\nAnn\r\n";

fn report(recipients: Vec<Reported<'static>>) -> Report<'static> {
    Report {
        hostname: address("x@mail.example.org").domain().unwrap(),
        id: QueueId::after(None, Duration::from_secs(1_795_000_100), 2),
        chance: 1,
        about: QueueId::after(None, Duration::from_secs(1_795_000_000), 1),
        from: address("postmaster@example.org"),
        to: address("ann@example.org"),
        reader: Reader::Sender,
        date: "Mon, 23 Nov 2026 15:41:00 +0000",
        arrival: "Mon, 23 Nov 2026 15:36:51 +0000",
        envid: Some("QQ314159"),
        recipients,
        ret: None,
        original: Original { header: MESSAGE.as_bytes(), size: MESSAGE.len() as u64, is_8bit: false },
    }
}

fn reported(recipient: &str, action: Action, reply: &'static str) -> Reported<'static> {
    let original = OriginalRecipient { kind: "rfc822".to_owned(), address: recipient.to_owned() };
    Reported {
        recipient: address(recipient),
        original: Some(Box::leak(Box::new(original)))
            .filter(|original| original.address.is_ascii())
            .map(|original| &*original),
        asked_for: address(recipient),
        action,
        reply: Some(reply),
        gave_up: false,
        host: Some("mx.example.net [192.0.2.1]"),
        last_attempt: Some("Mon, 23 Nov 2026 15:40:00 +0000"),
        retry_until: Some("Sat, 28 Nov 2026 15:36:51 +0000"),
    }
}

fn assert_lines(found: &str, expected: &[&str]) {
    for line in expected {
        assert!(found.lines().any(|is| is == *line), "{line} is not in\n{found}");
    }
}

#[test]
fn every_kind_is_read_by_another_program() {
    for (action, reply, status) in [
        (Action::Failed, "550 5.1.1 no such user", "5.1.1"),
        (Action::Delayed, "451 4.4.1 no answer", "4.4.1"),
        (Action::Delivered, "250 2.1.5 ok", "2.1.5"),
        (Action::Relayed, "250 queued", "2.0.0"),
        (Action::Expanded, "250 2.0.0 a list", "2.0.0"),
    ] {
        let report = report(vec![reported("bob@example.net", action, reply)]);
        let Some(found) = read(&report, MESSAGE, "every_kind_is_read_by_another_program") else { return };
        let (kind, inner) = match action {
            Action::Failed => ("message/rfc822", MESSAGE),
            _ => ("text/rfc822-headers", MESSAGE.split_inclusive("\r\n\r\n").next().unwrap()),
        };
        assert_lines(
            &found,
            &[
                "type = multipart/report",
                "report-type = delivery-status",
                "from = postmaster@example.org",
                "to = ann@example.org",
                "reply-to-id = <1@a.example>",
                "status = message/delivery-status",
                "0.Original-Envelope-Id = QQ314159",
                "0.Reporting-MTA = dns; mail.example.org",
                "0.Arrival-Date = Mon, 23 Nov 2026 15:36:51 +0000",
                "1.Original-Recipient = rfc822; bob@example.net",
                "1.Final-Recipient = rfc822; bob@example.net",
                &format!("1.Action = {}", action.name()),
                &format!("1.Status = {status}"),
                "1.Remote-MTA = dns; mx.example.net",
                &format!("1.Diagnostic-Code = smtp; {reply}"),
                "1.Last-Attempt-Date = Mon, 23 Nov 2026 15:40:00 +0000",
                &format!("original = {kind}"),
                &format!("inner = {}", inner.replace("\r\n", "|")),
            ],
        );
    }
}

#[test]
fn a_thousand_failures_are_one_report() {
    let many = (0..1000).map(|at| reported(&format!("u{at}@example.net"), Action::Failed, "550 5.1.1 who?")).collect();
    let Some(found) = read(&report(many), MESSAGE, "a_thousand_failures_are_one_report") else { return };
    assert_eq!(found.lines().filter(|line| line.ends_with(".Action = failed")).count(), 1000);
    assert_lines(&found, &["1000.Final-Recipient = rfc822; u999@example.net"]);
    assert!(found.contains("and 980 more"), "{found}");
}

#[test]
fn odd_addresses_and_long_replies_are_read_as_they_are() {
    let mut odd = reported("\"b  ob, \\\"the\\\" one\"@[IPv6:2001:db8::1]", Action::Failed, "");
    odd.reply = Some(format!("550 5.7.1 {}\r\nBcc: eve@example.net", "no (really) ".repeat(60)).leak());
    let report = report(vec![odd]);
    let Some(found) = read(&report, MESSAGE, "odd_addresses_and_long_replies_are_read_as_they_are") else { return };
    let recipient = "rfc822; \"b  ob, \\\"the\\\" one\"@[IPv6:2001:db8::1]";
    let reply = format!("1.Diagnostic-Code = smtp; 550 5.7.1 {}??Bcc: eve@example.net", "no (really) ".repeat(60));
    assert_lines(
        &found,
        &[&format!("1.Final-Recipient = {recipient}"), &format!("1.Original-Recipient = {recipient}"), &reply],
    );
}

#[test]
fn other_letters_are_read_in_both_forms() {
    let failed = || vec![reported("jörg@example.net", Action::Failed, "550 5.1.1 kein jörg")];
    let test = "other_letters_are_read_in_both_forms";
    let Some(found) = read(&report(failed()), MESSAGE, test) else { return };
    let expected = ["status = message/delivery-status", "1.Final-Recipient = utf-8; j\\x{F6}rg@example.net"];
    assert_lines(&found, &expected);
    assert!(found.contains("text/plain This is") && found.contains(" jörg@example.net "), "{found}");

    let original = "Subject: Grüße\r\n\r\nhallo\r\n";
    let mut utf8 = report(failed());
    utf8.to = address("änn@example.org");
    utf8.original.header = original.as_bytes();
    assert!(utf8.needs_smtputf8());
    let Some(found) = read(&utf8, original, test) else { return };
    assert_lines(
        &found,
        &[
            "report-type = global-delivery-status",
            "to = änn@example.org",
            "status = message/global-delivery-status",
            "1.Final-Recipient = utf-8; jörg@example.net",
            "1.Status = 5.1.1",
            "1.Diagnostic-Code = smtp; 550 5.1.1 kein jörg",
            "original = message/global",
        ],
    );
}
