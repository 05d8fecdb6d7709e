//! How much goes through: messages a second until the last was accepted, and until the last was in the mailbox or at the
//! next hop; and what each message cost.
//!
//! Each run fills a mailbox of its own, and lasts about as long for every server: a short one that is not counted tells
//! how many messages that takes. Between runs nothing is deleted, and the disk is at rest.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::figures::Unit;
use crate::onward::{DEFERRING, TAKING};
use crate::rivals::Rival;
use crate::senders::{self, Load};

/// What one run came to.
struct Passed {
    accepted: f64,
    /// Until the end of the way.
    arrived: f64,
    flushes: f64,
    octets: f64,
    processor: f64,
}

/// The longest wait for mail that was accepted: who is slower has lost it, as far as anyone here can tell.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs.
const SLOW: f64 = 8.0;

impl Bench {
    /// Into mailboxes, with these loads, in turns. Costs are told where `with_costs`.
    pub fn local(&mut self, load: Load, with_costs: bool) {
        let what = load.words();
        for (server, passed) in self.turns(load, None) {
            self.figures.add(&format!("accepted: {what}"), Unit::PerSecond, server, passed.accepted);
            if server == "smtp-sink" {
                // What is accepted there has no further way.
                self.figures.add(&format!("in the mailbox: {what}"), Unit::PerSecond, server, passed.accepted);
                continue;
            }
            self.figures.add(&format!("in the mailbox: {what}"), Unit::PerSecond, server, passed.arrived);
            if with_costs {
                self.figures.add(&format!("flushes a message: {what}"), Unit::Each, server, passed.flushes);
                self.figures.add(&format!("written a message: {what}"), Unit::Octets, server, passed.octets);
                self.figures.add(
                    &format!("processor time a message: {what}"),
                    Unit::Microseconds,
                    server,
                    passed.processor,
                );
            }
        }
    }

    /// Into mailboxes, while another program writes to the same disk.
    pub fn disturbed(&mut self, load: Load) {
        let what = format!("in the mailbox while another program writes 30 MiB/s: {}", load.words());
        let noise = Noise::begin();
        for (server, passed) in self.turns(load, None) {
            self.figures.add(&what, Unit::PerSecond, server, passed.arrived);
        }
        drop(noise);
    }

    /// To other hosts.
    pub fn relay(&mut self, load: Load) {
        for (domain, words) in [(TAKING, "relayed to smtp-sink"), (DEFERRING, "relayed to a host that defers a third")]
        {
            for (server, passed) in self.turns(load, Some(domain)) {
                let what = load.words();
                self.figures.add(&format!("{words}: {what}"), Unit::PerSecond, server, passed.arrived);
                if domain == TAKING {
                    self.figures.add(&format!("flushes a relayed message: {what}"), Unit::Each, server, passed.flushes);
                    let processor = format!("processor time a relayed message: {what}");
                    self.figures.add(&processor, Unit::Microseconds, server, passed.processor);
                }
            }
        }
    }

    /// Each server once a round, after two short runs that tell how many messages make a run. One that takes as long as
    /// [`SLOW`] runs for the first of them is measured by that alone.
    fn turns(&mut self, load: Load, domain: Option<&'static str>) -> Vec<(&'static str, Passed)> {
        let few = (load.sessions * 2).max(if load.size > 1 << 20 { 4 } else { 20 });
        let (mut counts, mut found) = (Vec::new(), Vec::new());
        for at in 0..self.rivals.len() {
            let took = |passed: &Passed, count: usize| count as f64 / passed.arrived;
            let first = self.pass(at, load, domain, few);
            if first.as_ref().is_some_and(|first| took(first, few) > SLOW * self.scale.run.as_secs_f64()) {
                first.into_iter().for_each(|passed| found.push((self.rivals[at].name, passed)));
                counts.push(None);
                continue;
            }
            let first = first.map(|passed| took(&passed, few));
            let second = first.and_then(|_| self.pass(at, load, domain, 3 * few)).map(|passed| took(&passed, 3 * few));
            counts.push(first.zip(second).map(|(first, second)| {
                // What only begins and ends a run is in both.
                let each = (second - first).max(second / 10.0) / (2 * few) as f64;
                ((self.scale.run.as_secs_f64() / each) as usize).clamp(few, 60_000)
            }));
        }
        for _ in 0..self.scale.rounds {
            for (at, count) in counts.iter().enumerate() {
                let passed = count.and_then(|count| self.pass(at, load, domain, count));
                passed.into_iter().for_each(|passed| found.push((self.rivals[at].name, passed)));
            }
        }
        found
    }

    /// One run. `None` where a server has no such way.
    fn pass(&mut self, at: usize, load: Load, domain: Option<&'static str>, count: usize) -> Option<Passed> {
        let mailbox = self.next_mailbox();
        self.disk.settle();
        let rival = &self.rivals[at];
        if domain.is_some() && rival.mail.is_none() {
            return None;
        }
        let recipient = domain.map_or(mailbox.clone(), |domain| format!("numbered@{domain}"));
        let before = domain.map_or(0, |domain| self.onward.tried(domain));
        let arrived = || match domain {
            Some(domain) => self.onward.tried(domain) - before,
            None => in_mailbox(rival, &mailbox),
        };
        let (work, processor) = (self.disk.work(), rival.group.processor());
        let begun = Instant::now();
        let accepted = senders::send(rival.address, &load, count, &recipient);
        if rival.mail.is_some() {
            wait(count, arrived);
        }
        let took = begun.elapsed();
        let work = self.disk.work().since(work);
        let a_message = |total: f64| total / count as f64;
        Some(Passed {
            accepted: count as f64 / accepted.as_secs_f64(),
            arrived: count as f64 / took.as_secs_f64(),
            flushes: a_message(work.flushes as f64),
            octets: a_message(work.octets as f64),
            processor: a_message((rival.group.processor() - processor).as_micros() as f64),
        })
    }

    /// System calls a message, in runs of their own: counting slows a server.
    pub fn calls(&mut self, load: Load) {
        for at in 0..self.rivals.len() {
            let mailbox = self.next_mailbox();
            let rival = &self.rivals[at];
            let count = 20 * load.sessions.max(10);
            let Some(counter) = rival.group.count_calls() else { return };
            senders::send(rival.address, &load, count, &mailbox);
            if rival.mail.is_some() {
                wait(count, || in_mailbox(rival, &mailbox));
            }
            if let Some(calls) = counter.end() {
                let what = format!("system calls a message: {}", load.words());
                self.figures.add(&what, Unit::Each, self.rivals[at].name, calls / count as f64);
            }
        }
    }

    /// What a sender waits for: from the end of a message to its 250.
    pub fn waits(&mut self, sessions: usize) {
        for _ in 0..self.scale.rounds {
            for at in 0..self.rivals.len() {
                let mailbox = self.next_mailbox();
                self.disk.settle();
                let rival = &self.rivals[at];
                // Of fewer the 99th percentile says little.
                let count = if sessions == 1 { 500 } else { 100 * sessions };
                let waits = senders::waits(rival.address, sessions, count, &mailbox);
                if rival.mail.is_some() {
                    wait(count, || in_mailbox(rival, &mailbox));
                }
                let name = rival.name;
                for (words, place) in [("median", waits.len() / 2), ("99th percentile", waits.len() * 99 / 100)] {
                    let what = format!("wait for the final 250, {words}: 4 KiB, {sessions} sessions, kept");
                    self.figures.add(&what, Unit::Milliseconds, name, waits[place].as_secs_f64() * 1e3);
                }
            }
        }
    }
}

/// A program that writes all the time, and never syncs.
struct Noise(Arc<AtomicBool>);

impl Noise {
    fn begin() -> Noise {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        thread::spawn(move || {
            let mut file = fs::File::create(std::env::temp_dir().join("noise")).unwrap();
            for block in 0u64.. {
                if asked.load(Ordering::Relaxed) {
                    return;
                }
                if block.is_multiple_of(512) {
                    file.seek(SeekFrom::Start(0)).unwrap();
                }
                file.write_all(&[block as u8; 1 << 20]).unwrap();
                thread::sleep(Duration::from_millis(33));
            }
        });
        Noise(stop)
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Messages in a mailbox.
pub fn in_mailbox(rival: &Rival, mailbox: &str) -> usize {
    let (local_part, domain) = mailbox.split_once('@').unwrap();
    rival.mail.as_ref().map_or(0, |mail| count(&mail.join(domain).join(local_part).join("new")))
}

/// Names in a folder; none if it is not there.
pub fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Waits until as many have come, looking seldom enough not to be in the way.
pub fn wait(count: usize, arrived: impl Fn() -> usize) {
    let begun = Instant::now();
    loop {
        let look = Instant::now();
        let found = arrived();
        if found >= count {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{found} of {count} messages have arrived");
        thread::sleep(Duration::from_millis(2).max(look.elapsed() * 10));
    }
}
