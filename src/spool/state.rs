//! `ID.state`: what became of a message so far, as lines a person can read and edit.
//!
//! ```text
//! Attempts: 2
//! Waited: 900
//! Next-Attempt: 2026-11-23T15:36:51+00:00
//! Retry-In: 600
//!
//! Target: bob@example.org
//! Via: mailbox
//! Recipient: all@example.org
//! Reverse-Path: <ann@example.org>
//! Status: pending
//! Reply: 451 4.2.4 the list can't be read
//! When: 2026-11-23T15:26:51+00:00
//! Reported: no
//! ```
//!
//! Spans are seconds, and none is longer than [`limits::SPAN`]. Pure: parsing what was printed gives the same state. What can't be read is a [`StateError`] that
//! names its line.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use crate::io::clock;
use crate::limits;
use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::Envelope;
use crate::mail::queue_id::QueueId;

/// All that is known of a message besides its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How many attempts there were.
    pub attempts: u32,
    /// How long this host has seen it wait.
    pub waited: Duration,
    /// When the next attempt comes, by the wall clock; nothing means now.
    pub next_attempt: Option<Duration>,
    /// How long after a start the next attempt comes at the latest, wherever the wall clock stands then.
    pub retry_in: Duration,
    /// Where it goes; once written, later attempts use them as they stand.
    pub targets: Vec<Target>,
}

/// One place the message goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address there.
    pub address: Address,
    /// A mailbox here, or another host.
    pub via: Via,
    /// The recipient of the envelope that it came from.
    pub recipient: Address,
    /// The reverse-path to use there.
    pub reverse_path: ReversePath,
    /// What became of it.
    pub status: Status,
    /// Whether it failed because it had waited for too long.
    pub gave_up: bool,
    /// The last reply, in one line.
    pub reply: Option<String>,
    /// Who gave it; `None` for this host.
    pub host: Option<String>,
    /// When, by the wall clock.
    pub when: Option<Duration>,
    /// What the sender was told of it.
    pub told: Told,
}

/// What the sender was told of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// That it is late.
    Late,
    /// What became of it; or it is not to be told.
    End,
    /// One of both, by the report of this name, which is on its way into the queue. Where it is not found there after
    /// a crash, it is made anew.
    By(QueueId),
}

/// How a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Its mailbox is on this host.
    Mailbox,
    /// Its mail goes to another host.
    NextHop,
    /// It could not be resolved when it was its turn, and is resolved at the next attempt.
    Alias,
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is still to be tried.
    Pending,
    /// It has the message.
    Delivered,
    /// It never will.
    Failed,
}

/// What is wrong with a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, and what would be right.
    pub what: &'static str,
}

impl fmt::Display for StateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

impl Via {
    const NAMES: [(&'static str, Via); 3] =
        [("mailbox", Via::Mailbox), ("next-hop", Via::NextHop), ("alias", Via::Alias)];

    /// As the file names it.
    pub fn name(self) -> &'static str {
        name_of(&Via::NAMES, self)
    }
}

impl Status {
    const NAMES: [(&'static str, Status); 3] =
        [("pending", Status::Pending), ("delivered", Status::Delivered), ("failed", Status::Failed)];

    /// As the file names it.
    pub fn name(self) -> &'static str {
        name_of(&Status::NAMES, self)
    }
}

fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(names: &[(&'static str, T)], text: &str) -> Option<T> {
    names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Nothing => out.write_str("no"),
            Told::Late => out.write_str("late"),
            Told::End => out.write_str("yes"),
            Told::By(id) => id.fmt(out),
        }
    }
}

impl FromStr for Told {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Told, &'static str> {
        match text.to_ascii_lowercase().as_str() {
            "no" => Ok(Told::Nothing),
            "late" => Ok(Told::Late),
            "yes" => Ok(Told::End),
            _ => text.parse().map(Told::By).map_err(|_| "Reported is no, late, yes or the id of a report"),
        }
    }
}

impl State {
    /// A state before the first attempt.
    pub fn of(targets: Vec<Target>) -> State {
        State { targets, ..State::default() }
    }

    /// Whether some target is still to be tried, or none is known yet.
    pub fn is_pending(&self) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|target| target.status == Status::Pending)
    }

    /// Whether some target failed, and nobody was told.
    pub fn is_untold(&self) -> bool {
        self.targets.iter().any(|target| target.status == Status::Failed && target.told != Told::End)
    }

    /// The reports that were on their way into the queue when this was written.
    pub fn reports(&self) -> impl Iterator<Item = QueueId> {
        self.targets.iter().filter_map(|target| match target.told {
            Told::By(id) => Some(id),
            _ => None,
        })
    }

    /// What the targets of the report `id` are told now that it `is_queued`, or is not and never will be.
    pub fn confirm(&mut self, id: QueueId, is_queued: bool) {
        for target in self.targets.iter_mut().filter(|target| target.told == Told::By(id)) {
            target.told = match (is_queued, target.status) {
                (false, _) => Told::Nothing,
                (true, Status::Pending) => Told::Late,
                (true, _) => Told::End,
            };
        }
    }

    /// Takes over what a person has changed in `edited` while an attempt was under way: what the attempt found stands
    /// where the person left the target pending, or left it out. That may be all that an editor has written so far; to
    /// give a target up is to say so.
    pub fn merged_into(&self, mut edited: State) -> State {
        let is_same = |one: &Target, other: &Target| one.address == other.address && one.via == other.via;
        for theirs in edited.targets.iter_mut().filter(|theirs| theirs.status == Status::Pending) {
            if let Some(ours) = self.targets.iter().find(|ours| is_same(ours, theirs)) {
                *theirs = ours.clone();
            }
        }
        if edited.targets.len() < self.targets.len() {
            let has = |list: &[Target], one: &Target| list.iter().any(|other| is_same(one, other));
            // Where another stands in its place, it is that one's.
            let is_replaced = |at: usize| edited.targets.get(at).is_some_and(|theirs| !has(&self.targets, theirs));
            let of_ours = self.targets.iter().enumerate();
            let left_out = of_ours.filter(|(at, ours)| !has(&edited.targets, ours) && !is_replaced(*at));
            let left_out: Vec<Target> = left_out.map(|(_, ours)| ours.clone()).collect();
            edited.targets.extend(left_out);
        }
        State { targets: edited.targets, ..self.clone() }
    }
}

impl Target {
    /// A target that has not been tried.
    pub fn new(address: Address, via: Via, recipient: Address, reverse_path: ReversePath) -> Target {
        Target {
            address,
            via,
            recipient,
            reverse_path,
            status: Status::Pending,
            gave_up: false,
            reply: None,
            host: None,
            when: None,
            told: Told::Nothing,
        }
    }

    /// Whether a list sends it: with its owner as the sender, it is a message of its own (RFC 3461 §5.2.7.3), and the
    /// owner hears of what fails.
    pub fn is_of_list(&self, envelope: &Envelope) -> bool {
        self.reverse_path != envelope.reverse_path
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "Attempts: {}", self.attempts)?;
        let seconds = |span: Duration| span.min(limits::SPAN).as_secs();
        writeln!(out, "Waited: {}", seconds(self.waited))?;
        if let Some(next) = self.next_attempt {
            writeln!(out, "Next-Attempt: {}", clock::rfc3339(next))?;
        }
        writeln!(out, "Retry-In: {}", seconds(self.retry_in))?;
        self.targets.iter().try_for_each(|target| write!(out, "\n{target}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "Target: {}", self.address)?;
        writeln!(out, "Via: {}", self.via.name())?;
        writeln!(out, "Recipient: {}", self.recipient)?;
        writeln!(out, "Reverse-Path: {}", self.reverse_path)?;
        writeln!(out, "Status: {}", self.status.name())?;
        if self.gave_up {
            writeln!(out, "Gave-Up: yes")?;
        }
        if let Some(reply) = &self.reply {
            writeln!(out, "Reply: {}", OneLine(reply))?;
        }
        if let Some(host) = &self.host {
            writeln!(out, "Host: {}", OneLine(host))?;
        }
        if let Some(when) = self.when {
            writeln!(out, "When: {}", clock::rfc3339(when))?;
        }
        writeln!(out, "Reported: {}", self.told)
    }
}

/// Foreign words, kept from beginning a line of their own.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.trim().chars().try_for_each(|letter| out.write_char(if letter.is_control() { '?' } else { letter }))
    }
}

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<State, StateError> {
        let mut state = State::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let error = |what| StateError { line: at + 1, what };
            let (name, value) = line.split_once(':').ok_or(error("write it like Name: value"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if name == "target" {
                let address: Address = value.parse().map_err(|_| error("a target is an address"))?;
                state.targets.push(Target::new(address.clone(), Via::Mailbox, address, ReversePath::Null));
                continue;
            }
            match state.targets.last_mut() {
                None => set_of_state(&mut state, &name, value),
                Some(target) => set_of_target(target, &name, value),
            }
            .map_err(error)?;
        }
        Ok(state)
    }
}

fn set_of_state(state: &mut State, name: &str, value: &str) -> Result<(), &'static str> {
    let seconds = || match value.parse().map(Duration::from_secs) {
        Ok(span) if span <= limits::SPAN => Ok(span),
        Ok(_) => Err("this is more than ten years, in seconds"),
        Err(_) => Err("this is a number of seconds"),
    };
    match name {
        "attempts" => state.attempts = value.parse().map_err(|_| "this is a number")?,
        "waited" => state.waited = seconds()?,
        "retry-in" => state.retry_in = seconds()?,
        "next-attempt" => {
            let time = clock::parse_rfc3339(value).ok_or("write the time like 2026-11-23T15:36:51+00:00")?;
            state.next_attempt = Some(time);
        }
        _ => return Err("only Attempts, Waited, Next-Attempt and Retry-In stand before the first Target"),
    }
    Ok(())
}

fn set_of_target(target: &mut Target, name: &str, value: &str) -> Result<(), &'static str> {
    match name {
        "via" => target.via = by_name(&Via::NAMES, value).ok_or("Via is mailbox, next-hop or alias")?,
        "recipient" => target.recipient = value.parse().map_err(|_| "a recipient is an address")?,
        "reverse-path" => target.reverse_path = value.parse().map_err(|_| "write it like <ann@example.org> or <>")?,
        "status" => {
            target.status = by_name(&Status::NAMES, value).ok_or("Status is pending, delivered or failed")?;
        }
        "gave-up" => target.gave_up = by_name(&[("yes", true), ("no", false)], value).ok_or("Gave-Up is yes or no")?,
        "reply" => target.reply = Some(value.to_owned()),
        "host" => target.host = Some(value.to_owned()),
        "when" => target.when = Some(clock::parse_rfc3339(value).ok_or("write the time like 2026-11-23T15:36:51Z")?),
        "reported" => target.told = value.parse()?,
        _ => return Err("a target has no such line; see postrider-spool(5)"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(address: &str) -> Target {
        let address: Address = address.parse().unwrap();
        Target::new(address.clone(), Via::Mailbox, address, ReversePath::Null)
    }

    #[test]
    fn each_error_names_its_line() {
        for (text, line) in [
            ("Attempts: x", 1),
            ("Attempts: 1\nno colon", 2),
            ("Attempts: 1\nWaited: 315360001", 2),
            ("Retry-In: 18446744073709551615", 1),
            ("Next-Attempt: tomorrow", 1),
            ("Status: pending", 1),
            ("\nTarget: nobody", 2),
            ("Target: a@b.org\nStatus: lost", 2),
            ("Target: a@b.org\nVia: pigeon", 2),
            ("Target: a@b.org\nReported: perhaps", 2),
            ("Target: a@b.org\nGave-Up: perhaps", 2),
            ("Target: a@b.org\nWaited: 1", 2),
        ] {
            assert_eq!(text.parse::<State>().unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn no_span_is_printed_that_can_not_be_read() {
        let state = State { waited: Duration::MAX, retry_in: limits::SPAN.mul_f64(1.1), ..State::default() };
        let read: State = state.to_string().parse().unwrap();
        assert_eq!((read.waited, read.retry_in), (limits::SPAN, limits::SPAN));
    }

    #[test]
    fn foreign_words_begin_no_line() {
        let mut state = State::of(vec![target("a@b.org")]);
        state.targets[0].reply = Some("550 no\nStatus: delivered".into());
        let read: State = state.to_string().parse().unwrap();
        assert_eq!(read.targets[0].status, Status::Pending);
    }

    #[test]
    fn a_report_that_is_queued_has_told_what_it_was_about() {
        let id = QueueId::after(None, Duration::from_secs(1_795_000_000), 1);
        for (status, is_queued, told) in [
            (Status::Pending, true, Told::Late),
            (Status::Failed, true, Told::End),
            (Status::Delivered, true, Told::End),
            (Status::Failed, false, Told::Nothing),
        ] {
            let mut state = State::of(vec![Target { status, told: Told::By(id), ..target("a@b.org") }]);
            assert_eq!(state.reports().collect::<Vec<_>>(), [id]);
            state.confirm(id, is_queued);
            assert_eq!(state.targets[0].told, told);
        }
    }

    #[test]
    fn an_edit_during_an_attempt_is_kept() {
        let mut ours = State::of(vec![target("a@b.org"), target("c@d.org")]);
        let mut edited = ours.clone();
        ours.attempts = 1;
        ours.targets[0].status = Status::Delivered;
        edited.targets[1].status = Status::Failed;
        let merged = ours.merged_into(edited);
        assert_eq!(merged.attempts, 1);
        assert_eq!(
            merged.targets.iter().map(|target| target.status).collect::<Vec<_>>(),
            [Status::Delivered, Status::Failed]
        );
    }

    #[test]
    fn an_edit_that_leaves_targets_out_gives_none_of_them_up() {
        let mut ours = State::of(vec![target("a@example.org"), target("b@example.org"), target("c@example.org")]);
        ours.targets[1].status = Status::Delivered;
        let whole = ours.to_string();
        let addresses = |merged: &State| merged.targets.iter().map(|one| one.address.to_string()).collect::<Vec<_>>();
        // As an editor writes it: a part of it may be seen.
        for end in whole.match_indices('\n').map(|(at, _)| at + 1) {
            let Ok(edited) = whole[..end].parse() else { continue };
            let merged = ours.merged_into(edited);
            assert_eq!(addresses(&merged), ["a@example.org", "b@example.org", "c@example.org"], "{}", &whole[..end]);
            assert_eq!(merged.targets[1].status, Status::Delivered);
        }
        assert!(ours.merged_into("Next-Attempt: 2026-11-23T15:36:51+00:00".parse().unwrap()).is_pending());
        let merged = ours.merged_into(whole.replace("a@example.org", "d@example.org").parse().unwrap());
        assert_eq!(addresses(&merged), ["d@example.org", "b@example.org", "c@example.org"], "another place is an edit");
        let shorter = State::of(vec![target("d@example.org"), target("b@example.org")]);
        assert_eq!(addresses(&ours.merged_into(shorter)), ["d@example.org", "b@example.org", "c@example.org"]);
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(
            attempts: u32, waited in 0..=limits::SPAN.as_secs(), next in prop::option::of(0..4_000_000_000u64),
            targets in prop::collection::vec(("[ -~]{1,20}", 0..3usize, any::<bool>(), prop::option::of("[!-~]( ?[!-~]){0,30}")), 0..4),
        ) {
            let targets = targets.into_iter().map(|(local, status, flag, reply)| Target {
                status: Status::NAMES[status].1,
                gave_up: flag,
                via: Via::NAMES[usize::from(flag)].1,
                told: [Told::Nothing, Told::Late, Told::End, Told::By(QueueId::after(None, Duration::from_secs(waited), 7))][status + usize::from(flag)],
                host: reply.clone(),
                when: next.map(Duration::from_secs),
                reverse_path: if flag { ReversePath::Null } else { ReversePath::Address("a@b.org".parse().unwrap()) },
                reply,
                ..target(&Address::new(&local, "example.org".parse::<crate::mail::address::Host>().unwrap()).unwrap().to_string())
            }).collect();
            let state = State {
                attempts, waited: Duration::from_secs(waited), next_attempt: next.map(Duration::from_secs),
                retry_in: Duration::from_secs(waited), targets,
            };
            prop_assert_eq!(state.to_string().parse(), Ok(state));
        }

        #[test]
        fn no_input_panics(text in "(Target|Status|When|Waited|x)?:?\\PC{0,20}\n?[a-z: ]{0,20}") {
            let _ = text.parse::<State>();
        }
    }
}
