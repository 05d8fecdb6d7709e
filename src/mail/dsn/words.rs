//! The first part of a report: what happened, for a person who knows nothing of mail.
//!
//! What others said stands in lines that begin with `>`, so that no reply can speak in this host's voice. Recipients
//! with the same reply are told of once; a few of many are named, for a message with a thousand failures is one report
//! that can still be read. All of them stand in the second part.

use std::collections::HashMap;

use super::advice::{advice, is_size};
use super::safe::{self, printable, wrapped};
use super::said::Said;
use super::{Action, Reader, Report, Reported};
use crate::limits;
use crate::mail::encoded_word;
use crate::mail::parameter::Ret;

/// The text, in lines with CR LF.
pub fn words(report: &Report<'_>) -> String {
    let what = match report.reader {
        Reader::Sender => "what became of a message of yours:",
        Reader::Owner => "what became of a message that your list sent on:",
        Reader::Postmaster => {
            "what became of a message without a sender who could be told, most likely a report or an automatic answer:"
        }
    };
    let mut text =
        paragraph(&format!("This is the mail server {}. It writes by itself, to tell you {what}", report.hostname));
    text.push_str(&about(report));
    for action in Action::ALL {
        text.push_str(&section(report, action));
    }
    let third = match report.returned() {
        Ret::Full => "the message itself",
        Ret::Headers => "the top of the message",
    };
    let from = safe::address(report.from);
    text.push_str(&paragraph(&format!(
        "Below follow the same for mail programs, and {third}. If you need help, forward all of this to {from}."
    )));
    text.truncate(text.trim_end().len());
    text.push_str("\r\n");
    text
}

/// Which message it is about.
fn about(report: &Report<'_>) -> String {
    let header = report.header();
    let mut text = String::new();
    for name in ["Subject", "From", "To", "Date"] {
        let value = header.all(name).next().map(|field| encoded_word::decoded(field.value)).unwrap_or_default();
        if !value.is_empty() {
            let line = format!("{name}: {}", printable(&value, limits::REPORT_QUOTE));
            text.push_str(&wrapped(&line, "> ", ">   "));
        }
    }
    let arrival = printable(report.arrival, limits::REPORT_QUOTE);
    text.push_str("\r\n");
    text.push_str(&paragraph(&format!(
        "It came here on {arrival}, and is {} in the log of this server.",
        report.about
    )));
    text
}

/// All that happened in this way.
fn section(report: &Report<'_>, action: Action) -> String {
    let groups = groups(report, action);
    let count: usize = groups.iter().map(Vec::len).sum();
    let Some(headline) = headline(action, count) else { return String::new() };
    let mut text = paragraph(&headline);
    for group in groups.iter().take(limits::REPORT_GROUPS) {
        text.push_str(&names(group));
        text.push_str(&outcome(report, group[0], group.len()));
    }
    let unnamed: usize = groups.iter().skip(limits::REPORT_GROUPS).map(Vec::len).sum();
    if unnamed > 0 {
        text.push_str(&paragraph(&format!(
            "And {unnamed} more, for other reasons: all of them stand in the second part, below."
        )));
    }
    text
}

fn headline(action: Action, count: usize) -> Option<String> {
    let whom = match count {
        0 => return None,
        1 => "this recipient".to_owned(),
        _ => format!("these {count} recipients"),
    };
    Some(match action {
        Action::Failed => format!("It could not be delivered to {whom}, and will not be tried again:"),
        Action::Delayed => format!("It could not yet be delivered to {whom}, and is tried again by itself:"),
        Action::Delivered => format!("It was delivered to {whom}:"),
        Action::Relayed => format!("It was handed on for {whom}, to a host that sends no such reports:"),
        Action::Expanded => format!("It was sent on to everyone behind {whom}:"),
    })
}

/// Those for whom the same was said, in the order of the report.
fn groups<'a, 'b>(report: &'a Report<'b>, action: Action) -> Vec<Vec<&'a Reported<'b>>> {
    let mut groups: Vec<Vec<&Reported<'_>>> = Vec::new();
    let mut known = HashMap::new();
    for recipient in report.recipients.iter().filter(|recipient| recipient.action == action) {
        // Many hosts repeat the address in what they say, and mean the same.
        let reply = recipient.reply.unwrap_or_default().to_lowercase();
        let reply = reply.replace(&recipient.recipient.to_string().to_lowercase(), "");
        let at =
            *known.entry((recipient.host, reply, recipient.gave_up, recipient.retry_until)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(recipient),
            None => groups.push(vec![recipient]),
        }
    }
    groups
}

fn names(group: &[&Reported<'_>]) -> String {
    let mut text = String::new();
    for recipient in group.iter().take(limits::REPORT_NAMES) {
        // On one line even where it is long, so that it can be copied.
        text.push_str(&format!("    {}\r\n", safe::address(recipient.recipient)));
        if recipient.asked_for != recipient.recipient {
            text.push_str(&format!("      (you wrote to {})\r\n", safe::address(recipient.asked_for)));
        }
    }
    if let Some(unnamed) = group.len().checked_sub(limits::REPORT_NAMES).filter(|unnamed| *unnamed > 0) {
        text.push_str(&format!("    and {unnamed} more, who all stand in the second part, below\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// What was said for a group, and what can be done.
fn outcome(report: &Report<'_>, recipient: &Reported<'_>, count: usize) -> String {
    let said = Said::of(recipient);
    match recipient.action {
        Action::Failed => {
            let status = said.status(Action::Failed);
            let mut hint = advice(status, said.code).to_owned();
            if is_size(status) {
                hint.push_str(&format!(" It has {}.", size(report.original.size)));
            }
            let tries = if recipient.gave_up { "After many tries it was given up. At the last one, " } else { "" };
            quoted(tries, recipient, &said) + &paragraph(&hint)
        }
        Action::Delayed => {
            let until = recipient.retry_until.map(|time| printable(time, limits::REPORT_QUOTE));
            let until = until.map_or("for some days".to_owned(), |time| format!("until {time}"));
            let hint = format!("You need do nothing. It is tried {until}; if that is in vain, you will be told.");
            quoted("So far, ", recipient, &said) + &paragraph(&hint)
        }
        Action::Delivered => {
            let place = if count == 1 { "It is in the mailbox" } else { "It is in their mailboxes" };
            paragraph(&format!("{place}. That does not say that it was read."))
        }
        Action::Relayed => {
            let host = recipient.host.map(|host| format!(" ({})", safe::host(host))).unwrap_or_default();
            let end = "If it can't be delivered there, you will most likely still be told.";
            paragraph(&format!("The next host{host} has taken it. {end}"))
        }
        Action::Expanded => paragraph("What becomes of it there is not reported to you."),
    }
}

/// The last reply, or what this server found, marked as not of this letter.
fn quoted(start: &str, recipient: &Reported<'_>, said: &Said<'_>) -> String {
    if said.text.is_empty() {
        return String::new();
    }
    // The codes of our own findings are for programs: nobody said them to anybody.
    let (who, what) = match recipient.host {
        Some(host) => (format!("the host {} said", safe::host(host)), said.text),
        None => ("this server found".to_owned(), said.words()),
    };
    let mut intro = format!("{start}{who}:");
    intro[..1].make_ascii_uppercase();
    let reply = printable(what, limits::FOREIGN_TEXT);
    paragraph(&intro) + &wrapped(&reply, "> ", "> ") + "\r\n"
}

/// Lines with an empty one after them.
fn paragraph(text: &str) -> String {
    wrapped(text, "", "") + "\r\n"
}

/// In the unit a person would use.
fn size(octets: u64) -> String {
    const MEGABYTE: u64 = 1_000_000;
    match octets {
        0..MEGABYTE => format!("{} kB", octets.div_ceil(1000)),
        _ => format!("{}.{} MB", octets / MEGABYTE, octets % MEGABYTE / (MEGABYTE / 10)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, sample};
    use super::*;

    #[test]
    fn a_failure_reads_like_a_letter() {
        let mut report = sample();
        report.recipients[0].asked_for = address("all@example.org");
        assert_eq!(
            words(&report).replace("\r\n", "\n"),
            "\
This is the mail server mail.example.org. It writes by itself, to tell you
what became of a message of yours:

> Subject: Grüße
> From: Ann <ann@example.org>

It came here on Mon, 23 Nov 2026 15:36:51 +0000, and is 0TQXGV0000001 in
the log of this server.

It could not be delivered to this recipient, and will not be tried again:

    bob@example.net
      (you wrote to all@example.org)

The host mx.example.net [192.0.2.1] said:

> 550 5.1.1 no such user here

There is no mailbox of this name. Check the spelling of what stands before
the @; if it is right, ask the recipient in another way for the address
they use now.

Below follow the same for mail programs, and the message itself. If you
need help, forward all of this to postmaster@example.org.
"
        );
    }

    #[test]
    fn each_kind_says_what_it_means() {
        let mut report = sample();
        report.recipients[0].retry_until = Some("Sat, 28 Nov 2026 15:36:51 +0000");
        for (action, said) in [
            (Action::Failed, "could not be delivered to this recipient"),
            (Action::Delayed, "tried until Sat, 28 Nov 2026 15:36:51 +0000"),
            (Action::Delivered, "It is in the mailbox. That does not say that it was read."),
            (Action::Relayed, "The next host (mx.example.net [192.0.2.1]) has taken it."),
            (Action::Expanded, "What becomes of it there is not reported to you."),
        ] {
            report.recipients[0].action = action;
            let text = words(&report).replace("\r\n", " ");
            assert!(text.contains(said), "{text}");
            assert_eq!(text.contains("the top of the message"), action != Action::Failed);
        }
    }

    #[test]
    fn a_failure_says_who_spoke_and_when_it_was_given_up() {
        let mut report = sample();
        report.original.size = 35_400_000;
        for (reply, host, said) in [
            ("552 5.3.4 too big", None, "This server found: > too big The message is too large."),
            ("552 5.3.4 too big", None, "can fetch them. It has 35.4 MB."),
            // What another host says of itself in our words stays what it said.
            (
                "550 5.4.7 given up; the last reply was: 451 4.4.1 no answer",
                Some("mx"),
                "The host mx said: > 550 5.4.7 given up; the last reply was: 451 4.4.1 no answer ",
            ),
            (
                "451 4.4.1 no answer",
                Some("mx"),
                "After many tries it was given up. At the last one, the host mx said: > 451 4.4.1 no answer The",
            ),
            (
                "451 4.4.1 mx [192.0.2.1] refused the connection",
                None,
                "At the last one, this server found: > mx [192.0.2.1] refused the connection The recipient's mail host could",
            ),
        ] {
            report.recipients[0].reply = Some(reply);
            report.recipients[0].host = host;
            report.recipients[0].gave_up = reply.starts_with('4');
            let text = words(&report).replace("\r\n\r\n", " ").replace("\r\n", " ");
            assert!(text.contains(said), "{text}");
        }
        // The same words mean another thing where they were not the last of many.
        report.recipients.push(Reported { gave_up: false, ..report.recipients[0] });
        let text = words(&report);
        assert!(text.matches("At the last one").count() == 1 && text.matches("found:").count() == 2, "{text}");
        report.recipients.pop();
        (report.recipients[0].reply, report.recipients[0].gave_up) = (None, false);
        let text = words(&report);
        assert!(!text.contains("said:") && !text.contains("found:"), "{text}");
    }

    #[test]
    fn what_the_original_says_of_itself_stays_short_and_quoted() {
        let mut report = sample();
        let subject = format!("Subject: =?utf-8?Q?one=0D=0A=0D=0Atwo=1B?= {}\r\n\r\n", "x ".repeat(500));
        report.original.header = subject.leak().as_bytes();
        let text = words(&report);
        let quoted: Vec<&str> = text.lines().skip(3).take_while(|line| line.starts_with('>')).collect();
        assert!(quoted[0].starts_with("> Subject: one????two? x x"), "{text}");
        assert!(quoted.last().unwrap().ends_with("..."), "{text}");
        assert_eq!(quoted.len(), 3, "{text}");
    }

    #[test]
    fn a_thousand_failures_stay_readable() {
        let mut report = sample();
        let one = report.recipients[0];
        report.recipients = (0..1000).map(|at| of(one, at, "user unknown")).collect();
        let text = words(&report);
        assert!(text.contains("to these 1000 recipients"), "{text}");
        assert!(text.contains("and 980 more, who all stand in the second part"), "{text}");
        assert!(text.lines().count() < 60);
        // As many reasons as recipients.
        report.recipients = (0..1000).map(|at| of(one, at, &"x".repeat(at))).collect();
        let text = words(&report);
        assert!(text.contains("And 980 more, for other reasons"), "{text}");
        assert!(text.lines().count() < 500);
    }

    fn of(one: Reported<'static>, at: usize, said: &str) -> Reported<'static> {
        let recipient = address(&format!("User{at}@example.net"));
        let reply = format!("550 5.1.1 <user{at}@example.net>: {said}").leak();
        Reported { recipient, asked_for: recipient, reply: Some(reply), ..one }
    }

    #[test]
    fn sizes_are_in_a_persons_units() {
        let sizes: Vec<String> = [0, 1, 999_999, 1_000_000, 52_428_800].into_iter().map(size).collect();
        assert_eq!(sizes, ["0 kB", "1 kB", "1000 kB", "1.0 MB", "52.4 MB"]);
    }
}
