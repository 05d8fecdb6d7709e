//! `queue show`: everything that is known of a message, in plain words.

use std::fmt::Write as _;

use super::{Queue, json, table};
use crate::cli::words::{plain, size, span};
use crate::cli::{Failure, exit, write_out};
use crate::io::clock::{self, Now};
use crate::limits;
use crate::spool::listed::{Listed, Place};
use crate::spool::state::{Status, Target, Told, Via};

/// Prints what was asked for; as JSON an object where one id was said, else an array.
pub fn run(queue: &Queue, as_json: bool) -> Result<u8, Failure> {
    let mut messages = queue.messages()?.peekable();
    if messages.peek().is_none() {
        return Err(Failure::new(exit::NO_INPUT, "there is no such message in the queue, held or failed"));
    }
    let is_array = as_json && queue.selection.single_id().is_none();
    let mut between = if is_array { "[\n" } else { "" };
    for listed in messages {
        let text = if as_json { json::with_header(&listed) } else { message(&listed) };
        if !write_out(&format!("{between}{text}"))? {
            return Ok(exit::OK);
        }
        between = if as_json { ",\n" } else { "\n" };
    }
    let end = match (as_json, is_array) {
        (true, true) => "\n]\n",
        (true, false) => "\n",
        (false, _) => "",
    };
    write_out(end)?;
    Ok(exit::OK)
}

/// A page of lines, each a name and what it is.
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        // A String takes everything.
        let _ = writeln!(self.0, "{name:<10} {value}");
    }
}

fn message(listed: &Listed) -> String {
    let now = Now::read().wall;
    let mut page = Page(String::new());
    page.line("message", &format!("{}, {}", listed.id, table::standing(listed, now)));
    page.line("file", &format!("{}, {}", plain(&listed.path.display().to_string()), size(listed.size)));
    if let Some(problem) = &listed.problem {
        page.line("problem", &plain(problem));
    }
    if listed.place == Place::Failed {
        page.line("report", &format!("{}.report", plain(&listed.path.display().to_string())));
    }
    let age = span(now.saturating_sub(listed.arrived));
    page.line("came", &format!("{}, {age} ago", clock::rfc3339(listed.arrived)));
    if let Some(envelope) = &listed.envelope {
        let sender = format!("{}{}", envelope.reverse_path, envelope.parameters);
        page.line("sender", &plain(&sender));
        for recipient in &envelope.recipients {
            page.line("recipient", &plain(&format!("<{}>{}", recipient.address, recipient.parameters)));
        }
    }
    if let Some(state) = &listed.state {
        page.line("waited", &format!("{} until its last attempt", span(listed.waited)));
        state.targets.iter().for_each(|each| target(&mut page, each));
    }
    header(&mut page, listed);
    page.0
}

fn target(page: &mut Page, target: &Target) {
    let via = match target.via {
        Via::Mailbox => "a mailbox here",
        Via::NextHop => "at another host",
        Via::Alias => "an alias to be resolved",
    };
    let mut text = format!("{}, {via}", target.address);
    if target.recipient != target.address {
        let _ = write!(text, ", for {}", target.recipient);
    }
    page.line("target", &plain(&text));
    let status = match target.status {
        Status::Pending => "does not have it yet",
        Status::Delivered => "has it",
        Status::Failed if target.gave_up => "was given up",
        Status::Failed => "will not have it",
    };
    let when = target.when.map(|when| format!("; last tried {}", clock::rfc3339(when))).unwrap_or_default();
    page.line("", &format!("{status}{when}"));
    if let Some(reply) = &target.reply {
        page.line("", &table::of_reply(target.host.as_deref(), reply));
    }
    let told = match target.told {
        Told::Nothing if target.status == Status::Delivered => return,
        Told::Nothing => "the sender was told nothing".to_owned(),
        Told::Late => "the sender was told that it is late".to_owned(),
        Told::End => "the sender was told, or is not to be told".to_owned(),
        Told::By(id) => format!("the sender is told by the report {id}"),
    };
    page.line("", &told);
}

/// The header, each line as it stands, escaped.
fn header(page: &mut Page, listed: &Listed) {
    if listed.envelope.is_none() {
        return;
    }
    match listed.header() {
        Ok(octets) => {
            let text = String::from_utf8_lossy(&octets);
            for (at, line) in text.lines().enumerate() {
                page.line(if at == 0 { "header" } else { "" }, &plain(line));
            }
            if octets.len() >= limits::SHOWN_HEADER {
                page.line("", "and more, which is not shown");
            }
        }
        Err(error) => page.line("header", &plain(&error.to_string())),
    }
}
