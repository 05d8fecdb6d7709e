//! The header of the report itself (RFC 5322, RFC 6522 §3, RFC 3834).
//!
//! The only words of others in it are addresses, and a Message-ID whose every letter was checked. Never fails.

use std::collections::HashSet;

use super::safe::{self, field};
use super::{Action, Report};
use crate::limits;
use crate::mail::address::Address;
use crate::mail::parameter::Body;

/// The header, without the empty line. `kind` is the subtype of the second part, `body` says what octets there are in
/// any part.
pub fn header(report: &Report<'_>, kind: &str, body: Body) -> String {
    let mut text = field("From", &format!("Mail Delivery System <{}>", safe::address(report.from)));
    text.push_str(&field("To", &format!("<{}>", safe::address(report.to))));
    text.push_str(&field("Subject", &subject(report)));
    text.push_str(&field("Date", &safe::ascii(report.date, limits::REPORT_QUOTE)));
    text.push_str(&field("Message-ID", &format!("<{}@{}>", report.id, report.hostname)));
    if let Some(id) = report.header().all("Message-ID").next().and_then(|field| message_id(field.value)) {
        text.push_str(&field("In-Reply-To", id));
        text.push_str(&field("References", id));
    }
    // RFC 3834 §5: so that no program answers.
    text.push_str(&field("Auto-Submitted", "auto-replied"));
    text.push_str(&field("MIME-Version", "1.0"));
    text.push_str(&format!(
        "Content-Type: multipart/report; report-type={kind};\r\n boundary=\"{}\"\r\n{}",
        report.boundary(),
        super::transfer_encoding(body)
    ));
    text
}

/// What happened, to whom. Nothing that the original says: a report is no way to make this host send others' words in
/// its own subject.
fn subject(report: &Report<'_>) -> String {
    let Some(action) = report.recipients.iter().map(|recipient| recipient.action).min() else {
        return "Delivery report".to_owned();
    };
    let what = match action {
        Action::Failed => "Not delivered to",
        Action::Delayed => "Not yet delivered to",
        Action::Delivered => "Delivered to",
        Action::Relayed => "Handed on for",
        Action::Expanded => "Sent on to all behind",
    };
    let of_action = report.recipients.iter().filter(|recipient| recipient.action == action);
    let asked_for: Vec<&Address> = of_action.map(|recipient| recipient.asked_for).collect();
    let others = asked_for.iter().collect::<HashSet<_>>().len() - 1;
    let first = asked_for[0].to_string();
    // RFC 2047 would be needed for other letters, and must not be seen in a local-part.
    let is_plain = first.len() <= limits::REPORT_SUBJECT
        && first.bytes().all(|octet| octet.is_ascii_graphic())
        && !first.contains("=?");
    match (is_plain, others) {
        (true, 0) => format!("{what} {first}"),
        (true, 1) => format!("{what} {first} and 1 other"),
        (true, _) => format!("{what} {first} and {others} others"),
        (false, 0) => format!("{what} 1 recipient"),
        (false, _) => format!("{what} {} recipients", others + 1),
    }
}

/// The value of a Message-ID field, if it is one as RFC 5322 §3.6.4 has it.
fn message_id(value: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(value).ok()?.trim_ascii();
    let (left, right) = id.strip_prefix('<')?.strip_suffix('>')?.split_once('@')?;
    let is_atext = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet);
    let is_dot_atom = |text: &str| text.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext));
    let is_literal = |text: &str| {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.bytes().all(|octet| octet.is_ascii_graphic() && !b"[]\\".contains(&octet)))
    };
    (id.len() <= limits::MESSAGE_ID && is_dot_atom(left) && (is_dot_atom(right) || is_literal(right))).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::super::Reported;
    use super::super::tests::{address, head, sample};
    use super::*;

    fn fields_of(report: &Report<'_>, name: &str) -> Vec<String> {
        let head = head(report);
        let own = head.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        let start = format!("{name}: ");
        own.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
    }

    #[test]
    fn its_header_says_what_it_is() {
        let mut report = sample();
        report.original.header = b"Message-ID: <1@a.example>\r\n\r\n";
        let head = head(&report);
        let boundary = "=_0TQXGWJ000002_0123456789ABCDEF";
        let expected = format!(
            "From: Mail Delivery System <postmaster@example.org>\r\n\
             To: <ann@example.org>\r\n\
             Subject: Not delivered to bob@example.net\r\n\
             Date: Mon, 23 Nov 2026 15:41:00 +0000\r\n\
             Message-ID: <0TQXGWJ000002@mail.example.org>\r\n\
             In-Reply-To: <1@a.example>\r\n\
             References: <1@a.example>\r\n\
             Auto-Submitted: auto-replied\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n"
        );
        assert!(head.starts_with(&expected), "{head}");
        assert_eq!(head.matches(&format!("\r\n--{boundary}\r\n")).count(), 3);
        assert_eq!(report.tail(), format!("\r\n--{boundary}--\r\n").as_bytes());
    }

    #[test]
    fn the_subject_names_the_worst_and_the_first() {
        let subject = |actions: &[(Action, &str)]| {
            let mut report = sample();
            let one = report.recipients[0];
            let reported = |(action, asked_for): &(Action, &str)| Reported {
                action: *action,
                asked_for: address(asked_for),
                ..one
            };
            report.recipients = actions.iter().map(reported).collect();
            fields_of(&report, "Subject").join("|")
        };
        use Action::*;
        assert_eq!(subject(&[(Delivered, "a@x.org"), (Failed, "b@x.org")]), "Not delivered to b@x.org");
        assert_eq!(subject(&[(Delayed, "a@x.org"), (Delayed, "b@x.org")]), "Not yet delivered to a@x.org and 1 other");
        assert_eq!(subject(&[(Failed, "all@x.org"), (Failed, "all@x.org")]), "Not delivered to all@x.org");
        assert_eq!(subject(&[(Relayed, "ä@x.org")]), "Handed on for 1 recipient");
        assert_eq!(subject(&[(Failed, "=?utf-8?q?a?=@x.org"), (Failed, "b@x.org")]), "Not delivered to 2 recipients");
        assert_eq!(subject(&[]), "Delivery report");
    }

    #[test]
    fn only_a_message_id_that_is_one_is_referred_to() {
        for (value, is_one) in [
            (&b" <1.2@a.example>\r\n"[..], true),
            (b"<1$x=@[192.0.2.1]>", true),
            (b"1@a.example", false),
            (b"<1@a.example> x", false),
            (b"<1@a@b>", false),
            (b"<1..2@a>", false),
            (b"<1@a>\r\n <2@b>", false),
            (b"<a b@c>", false),
            (b"<@>", false),
            (b"<a@[[]>", false),
            (b"<\xff@a>", false),
            ("<ä@a>".as_bytes(), false),
        ] {
            assert_eq!(message_id(value).is_some(), is_one, "{}", value.escape_ascii());
        }
        assert_eq!(message_id(format!("<{}@a>", "x".repeat(limits::MESSAGE_ID)).as_bytes()), None);
        let mut report = sample();
        report.original.header = b"Message-ID: nonsense\r\n\r\n";
        assert!(fields_of(&report, "References").is_empty());
    }
}
