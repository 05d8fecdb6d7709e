//! The second part of a report: fields for programs (RFC 3464 §2), one block for the message and one for each
//! recipient.
//!
//! Two decisions where the RFC leaves a choice. Diagnostic-Code has the type `smtp` only for what another host said
//! (RFC 3464 §2.3.6); our own findings are `x-postrider`. Status and Action agree as [`Said::status`] says.

use super::safe::{self, ascii, field, host, printable, utf8_address};
use super::said::Said;
use super::{Action, Report, Reported};
use crate::limits;
use crate::mail::address::Address;

/// All blocks, with an empty line between each two. In ASCII unless `utf8` lets letters be themselves (RFC 6533 §4).
pub fn fields(report: &Report<'_>, utf8: bool) -> String {
    let mut text = String::new();
    if let Some(envid) = report.envid {
        // It came as xtext and stands here decoded (RFC 3464 §2.2.1).
        text.push_str(&field("Original-Envelope-Id", &ascii(envid, limits::ENVID)));
    }
    text.push_str(&field("Reporting-MTA", &format!("dns; {}", report.hostname)));
    text.push_str(&field("Arrival-Date", &ascii(report.arrival, limits::REPORT_QUOTE)));
    for recipient in &report.recipients {
        text.push_str("\r\n");
        text.push_str(&block(recipient, utf8));
    }
    text
}

fn block(recipient: &Reported<'_>, utf8: bool) -> String {
    let words = if utf8 { printable } else { ascii };
    let said = Said::of(recipient);
    let mut text = String::new();
    if let Some(original) = recipient.original {
        let kind =
            printable(&original.kind, limits::ORCPT).replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let address = words(&original.address, limits::ORCPT);
        text.push_str(&field("Original-Recipient", &format!("{kind}; {address}")));
    }
    text.push_str(&field("Final-Recipient", &typed(recipient.recipient, utf8)));
    text.push_str(&field("Action", recipient.action.name()));
    text.push_str(&field("Status", &said.status(recipient.action).to_string()));
    if let Some(name) = recipient.host.map(host) {
        // Its address in brackets is no part of the name.
        text.push_str(&field("Remote-MTA", &format!("dns; {}", name.split(' ').next().unwrap_or_default())));
    }
    if !said.text.is_empty() {
        let kind = if recipient.host.is_some() { "smtp" } else { "x-postrider" };
        let reply = words(said.text, limits::FOREIGN_TEXT);
        let reply: Vec<&str> = reply.split_whitespace().collect();
        text.push_str(&field("Diagnostic-Code", &format!("{kind}; {}", reply.join(" "))));
    }
    if let Some(time) = recipient.last_attempt {
        text.push_str(&field("Last-Attempt-Date", &ascii(time, limits::REPORT_QUOTE)));
    }
    // RFC 3464 §2.3.9: for a delay only.
    if let Some(time) = recipient.retry_until.filter(|_| recipient.action == Action::Delayed) {
        text.push_str(&field("Will-Retry-Until", &ascii(time, limits::REPORT_QUOTE)));
    }
    text
}

/// With its type: `rfc822`, or `utf-8` in the form that the part may hold (RFC 6533 §3).
fn typed(address: &Address, utf8: bool) -> String {
    match (address.is_ascii(), utf8) {
        (true, _) => format!("rfc822; {address}"),
        (false, true) => format!("utf-8; {}", safe::address(address)),
        (false, false) => format!("utf-8; {}", utf8_address(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, original, sample};
    use super::*;

    #[test]
    fn a_failure_has_every_field() {
        let mut report = sample();
        report.envid = Some("QQ 314159");
        report.recipients[0].original = Some(original("rfc822", "B b@example.net"));
        assert_eq!(
            fields(&report, false),
            "Original-Envelope-Id: QQ 314159\r\n\
             Reporting-MTA: dns; mail.example.org\r\n\
             Arrival-Date: Mon, 23 Nov 2026 15:36:51 +0000\r\n\
             \r\n\
             Original-Recipient: rfc822; B b@example.net\r\n\
             Final-Recipient: rfc822; bob@example.net\r\n\
             Action: failed\r\n\
             Status: 5.1.1\r\n\
             Remote-MTA: dns; mx.example.net\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 no such user here\r\n\
             Last-Attempt-Date: Mon, 23 Nov 2026 15:40:00 +0000\r\n"
        );
    }

    #[test]
    fn our_own_words_are_no_smtp_servers() {
        let mut report = sample();
        report.recipients[0].host = None;
        let text = fields(&report, false);
        assert!(text.contains("Diagnostic-Code: x-postrider; 550 5.1.1 no such user here\r\n"), "{text}");
        assert!(!text.contains("Remote-MTA"));
        report.recipients[0].reply = None;
        assert!(!fields(&report, false).contains("Diagnostic-Code"));
    }

    #[test]
    fn what_was_given_up_has_the_last_reply_and_a_status_of_its_own() {
        let mut report = sample();
        report.recipients[0].reply = Some("450 greylisted");
        for (gave_up, status) in [(true, "4.4.7"), (false, "4.0.0")] {
            report.recipients[0].gave_up = gave_up;
            let text = fields(&report, false);
            assert!(text.contains(&format!("Status: {status}\r\n")), "{text}");
            assert!(text.contains("Diagnostic-Code: smtp; 450 greylisted\r\n"), "{text}");
        }
    }

    #[test]
    fn only_a_delay_says_until_when() {
        for action in Action::ALL {
            let mut report = sample();
            report.recipients[0].action = action;
            report.recipients[0].retry_until = Some("Sat, 28 Nov 2026 15:36:51 +0000");
            let text = fields(&report, false);
            let expected = action == Action::Delayed;
            assert_eq!(text.contains("Will-Retry-Until: Sat, 28 Nov 2026 15:36:51 +0000\r\n"), expected, "{text}");
            assert!(text.contains(&format!("Action: {}\r\n", action.name())));
        }
    }

    #[test]
    fn other_letters_stand_as_the_part_may_hold_them() {
        let mut report = sample();
        report.recipients[0].recipient = address("jörg@example.net");
        report.recipients[0].original = Some(original("utf-8", "j\\x{F6}rgß@example.net"));
        report.recipients[0].reply = Some("550 5.1.1 kein jörg");
        let (ascii, utf8) = (fields(&report, false), fields(&report, true));
        assert!(ascii.is_ascii());
        for line in [
            "Original-Recipient: utf-8; j\\x{F6}rg\\x{DF}@example.net\r\n",
            "Final-Recipient: utf-8; j\\x{F6}rg@example.net\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 kein j\\x{F6}rg\r\n",
        ] {
            assert!(ascii.contains(line), "{ascii}");
        }
        assert!(utf8.contains("Original-Recipient: utf-8; j\\x{F6}rgß@example.net\r\n"), "{utf8}");
        assert!(utf8.contains("Final-Recipient: utf-8; jörg@example.net\r\n"), "{utf8}");
    }
}
