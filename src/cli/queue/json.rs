//! `queue list --json` and `queue show --json`: the same facts for a program, under keys that stay.
//!
//! The keys are documented in postrider(8). Characters that a terminal obeys are written as `\u` escapes, which JSON
//! reads as the characters.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Queue, next_in};
use crate::cli::{Failure, exit, write_out};
use crate::io::clock::{self, Now};
use crate::mail::letters::is_misleading;
use crate::spool::listed::Listed;
use crate::spool::state::Target;

/// One message.
#[derive(Serialize)]
struct Message {
    id: String,
    place: &'static str,
    file: String,
    age_seconds: u64,
    size: u64,
    /// `<>` for the null reverse-path.
    sender: Option<String>,
    require_tls: bool,
    recipients: Vec<String>,
    targets: Vec<Place>,
    attempts: u32,
    waited_seconds: u64,
    next_attempt: Option<String>,
    next_in_seconds: Option<u64>,
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
}

/// One of its targets.
#[derive(Serialize)]
struct Place {
    address: String,
    via: String,
    recipient: String,
    status: String,
    reply: Option<String>,
    host: Option<String>,
    when: Option<String>,
    reported: String,
}

/// Prints an array of what was asked for.
pub fn list(queue: &Queue) -> Result<u8, Failure> {
    let mut before = "[\n";
    for listed in queue.messages()? {
        if !write_out(&format!("{before}{}", text(&message(&listed))))? {
            return Ok(exit::OK);
        }
        before = ",\n";
    }
    write_out(if before == "[\n" { "[]\n" } else { "\n]\n" })?;
    Ok(exit::OK)
}

/// One message with its header.
pub fn with_header(listed: &Listed) -> String {
    let header = listed.header().ok().map(|octets| String::from_utf8_lossy(&octets).into_owned());
    text(&Message { header, ..message(listed) })
}

fn message(listed: &Listed) -> Message {
    let now = Now::read().wall;
    let next_in = next_in(listed);
    let state = listed.state.as_ref();
    let recipients = listed.envelope.iter().flat_map(|envelope| &envelope.recipients);
    Message {
        id: listed.id.to_string(),
        place: listed.place.name(),
        file: listed.path.display().to_string(),
        age_seconds: now.saturating_sub(listed.arrived).as_secs(),
        size: listed.size,
        sender: listed
            .envelope
            .as_ref()
            .map(|envelope| envelope.reverse_path.address().map_or_else(|| "<>".to_owned(), ToString::to_string)),
        require_tls: listed.envelope.as_ref().is_some_and(|envelope| envelope.parameters.require_tls),
        recipients: recipients.map(|recipient| recipient.address.to_string()).collect(),
        targets: state.iter().flat_map(|state| &state.targets).map(place).collect(),
        attempts: state.map(|state| state.attempts).unwrap_or_default(),
        waited_seconds: listed.waited.as_secs(),
        next_attempt: next_in.map(|wait| clock::rfc3339(now.saturating_add(wait))),
        next_in_seconds: next_in.map(|wait| wait.as_secs()),
        problem: listed.problem.clone(),
        header: None,
    }
}

fn place(target: &Target) -> Place {
    Place {
        address: target.address.to_string(),
        via: target.via.name().to_owned(),
        recipient: target.recipient.to_string(),
        status: target.status.name().to_owned(),
        reply: target.reply.clone(),
        host: target.host.clone(),
        when: target.when.map(clock::rfc3339),
        reported: target.told.to_string(),
    }
}

fn text(message: &Message) -> String {
    let mut octets = Vec::new();
    // Neither these values nor a Vec can fail.
    let _ = message.serialize(&mut Serializer::with_formatter(&mut octets, Escaping));
    String::from_utf8(octets).unwrap_or_default()
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for letter in fragment.chars() {
            match is_misleading(letter) {
                true => letter.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?,
                false => write!(out, "{letter}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_read_again() {
        let foreign = "\u{9b}31m \x1b[0m \x7f \u{202e} \u{e0001} é \"\\";
        let mut octets = Vec::new();
        foreign.serialize(&mut Serializer::with_formatter(&mut octets, Escaping)).unwrap();
        let text = String::from_utf8(octets).unwrap();
        assert!(!text.chars().any(is_misleading) && text.contains('é'), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), foreign);
    }
}
