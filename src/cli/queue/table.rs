//! `queue list`: a table that fits the terminal.
//!
//! One line a message, then when it is tried next, then each target that does not have it, with the last reply. The last
//! line is the sum.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Queue, next_in};
use crate::cli::words::{count, fit, plain, size, span, time, width};
use crate::cli::{Failure, exit, write_out};
use crate::io::clock::Now;
use crate::limits;
use crate::spool::by_hand;
use crate::spool::listed::{Listed, Next, Place};
use crate::spool::state::{Status, Target};

/// Prints the table; `whole` if nothing was left out of the queue.
pub fn run(queue: &Queue, whole: bool) -> Result<u8, Failure> {
    let (now, width) = (Now::read().wall, width());
    let mut sum = Sum::default();
    for listed in queue.messages()? {
        let mut text = String::new();
        if sum.count() == 0 {
            line(&mut text, width, &format!("{:<13}  {:>7}  {:>8}  SENDER", "ID", "AGE", "SIZE"));
        }
        sum.add(&listed);
        message(&mut text, &listed, now, width);
        if !write_out(&text)? {
            return Ok(exit::OK);
        }
    }
    let running = by_hand::is_running(&queue.config.spool);
    write_out(&sum.told(whole, running))?;
    Ok(exit::OK)
}

fn line(text: &mut String, width: usize, line: &str) {
    // A String takes everything.
    let _ = writeln!(text, "{}", fit(line, width));
}

fn message(text: &mut String, listed: &Listed, now: Duration, width: usize) {
    let sender = match &listed.envelope {
        Some(envelope) => plain(&envelope.reverse_path.to_string()),
        None => "?".to_owned(),
    };
    let age = span(now.saturating_sub(listed.arrived));
    line(text, width, &format!("{}  {age:>7}  {:>8}  {sender}", listed.id, size(listed.size)));
    line(text, width, &format!("    {}", standing(listed, now)));
    if let Some(problem) = &listed.problem {
        line(text, width, &format!("    {}", plain(problem)));
    }
    let open: Vec<String> =
        match listed.state.as_ref().map(|state| &state.targets).filter(|targets| !targets.is_empty()) {
            Some(targets) => {
                let open = targets.iter().filter(|target| target.status != Status::Delivered);
                open.map(|target| of_target(target, width)).collect()
            }
            None => {
                let recipients = listed.envelope.iter().flat_map(|envelope| &envelope.recipients);
                recipients.map(|recipient| format!("to {}", plain(&recipient.address.to_string()))).collect()
            }
        };
    for target in open.iter().take(limits::LISTED_TARGETS) {
        line(text, width, &format!("    {target}"));
    }
    if let Some(more @ 1..) = open.len().checked_sub(limits::LISTED_TARGETS) {
        line(text, width, &format!("    and {more} more: postrider queue show {}", listed.id));
    }
}

/// Where a message stands: when it is tried next, or why it is not.
pub fn standing(listed: &Listed, now: Duration) -> String {
    let attempts = listed.state.as_ref().map(|state| state.attempts).unwrap_or_default();
    let tried = match attempts {
        0 => "not tried yet".to_owned(),
        attempts => format!("tried {}", times(attempts)),
    };
    match (listed.place, listed.next) {
        (Place::Hold, _) => format!("held; {tried}"),
        (Place::Failed, _) => format!("failed; {tried}"),
        (Place::Queue, Next::At(next)) => {
            let wait = span(next_in(listed).unwrap_or_default());
            format!("next try in {wait}, at {}; {tried}", time(next, now))
        }
        (Place::Queue, _) => format!("due now; {tried}"),
    }
}

fn times(attempts: u32) -> String {
    match attempts {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        attempts => format!("{attempts} times"),
    }
}

/// The address may take half of the line, so that some of the reply is seen.
fn of_target(target: &Target, width: usize) -> String {
    let address = fit(&plain(&target.address.to_string()), width / 2);
    let verdict = if target.status == Status::Failed { " failed" } else { "" };
    match &target.reply {
        Some(reply) => format!("{address}{verdict}: {}", of_reply(target.host.as_deref(), reply)),
        None => format!("{address}{verdict}"),
    }
}

/// Who said what.
pub fn of_reply(host: Option<&str>, reply: &str) -> String {
    match host {
        Some(host) => format!("{} said {}", plain(host), plain(reply)),
        None => plain(reply),
    }
}

/// What was listed, summed up.
#[derive(Default)]
struct Sum {
    due: usize,
    waiting: usize,
    held: usize,
    failed: usize,
    octets: u64,
}

impl Sum {
    fn add(&mut self, listed: &Listed) {
        *match (listed.place, listed.next) {
            (Place::Hold, _) => &mut self.held,
            (Place::Failed, _) => &mut self.failed,
            (Place::Queue, Next::At(_)) => &mut self.waiting,
            (Place::Queue, _) => &mut self.due,
        } += 1;
        self.octets = self.octets.saturating_add(listed.size);
    }

    fn count(&self) -> usize {
        self.due + self.waiting + self.held + self.failed
    }

    fn told(&self, whole: bool, running: bool) -> String {
        let mut text = match (self.count(), whole) {
            (0, true) => "The queue is empty.".to_owned(),
            (0, false) => "No message matches.".to_owned(),
            (number, _) => {
                let parts =
                    [(self.due, "due now"), (self.waiting, "waiting"), (self.held, "held"), (self.failed, "failed")];
                let named = parts.iter().filter(|(number, _)| *number > 0);
                let named: Vec<String> = named.map(|(number, word)| format!("{number} {word}")).collect();
                format!("{}, {}: {}.", count(number, "message"), size(self.octets), named.join(", "))
            }
        };
        if !running && self.due + self.waiting > 0 {
            text.push_str("\nNo server runs: nothing is tried until one is started.");
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_names_what_there_is() {
        for (sum, whole, running, expected) in [
            (Sum::default(), true, true, "The queue is empty.\n"),
            (Sum::default(), true, false, "The queue is empty.\n"),
            (Sum::default(), false, true, "No message matches.\n"),
            (
                Sum { due: 1, waiting: 2, octets: 12288, ..Sum::default() },
                true,
                true,
                "3 messages, 12 KiB: 1 due now, 2 waiting.\n",
            ),
            (Sum { held: 1, ..Sum::default() }, true, false, "1 message, 0 B: 1 held.\n"),
            (
                Sum { due: 1, failed: 2, ..Sum::default() },
                false,
                false,
                "3 messages, 0 B: 1 due now, 2 failed.\nNo server runs: nothing is tried until one is started.\n",
            ),
        ] {
            assert_eq!(sum.told(whole, running), expected);
        }
    }
}
