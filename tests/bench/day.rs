//! The wear of a day on a small host: 500 messages, each alone, compressed into as short a time as it takes.
//!
//! A message that is alone has no batch to share a flush with. And what a server leaves for the kernel to write when it likes
//! (removals, renames into mailboxes) is written by it within half a minute, on a quiet host with a flush for it alone: so
//! after each message the filesystem is synced here, as that timer would. Four of five messages are for a mailbox here,
//! one is relayed; of a hundred, one has 1 MiB, ten have 100 KiB, the others 4 KiB.

use std::time::Duration;

use crate::Bench;
use crate::figures::Unit;
use crate::flow::{in_mailbox, wait};
use crate::onward::TAKING;
use crate::senders::{Session, message};

/// Messages a day.
const MESSAGES: usize = 500;

impl Bench {
    /// A whole day of each server.
    pub fn day(&mut self) {
        let sizes = [4096, 100 << 10, 1 << 20].map(message);
        for at in 0..self.rivals.len() {
            let mailbox = self.next_mailbox();
            let (rival, onward) = (&self.rivals[at], &self.onward);
            if rival.mail.is_none() {
                continue;
            }
            let (mut here, away) = (0, onward.tried(TAKING));
            self.disk.settle();
            let before = self.disk.work();
            for number in 0..MESSAGES {
                let message = match number % 100 {
                    99 => &sizes[2],
                    number if number % 10 == 5 => &sizes[1],
                    _ => &sizes[0],
                };
                let is_relayed = number % 5 == 4;
                let recipient = if is_relayed { format!("someone@{TAKING}") } else { mailbox.clone() };
                let mut session = Session::open(rival.address, Duration::from_secs(60)).expect("a session");
                session.send(&recipient, message);
                session.ask(b"QUIT\r\n");
                here += usize::from(!is_relayed);
                wait(number + 1, || in_mailbox(rival, &mailbox).min(here) + onward.tried(TAKING) - away);
                self.disk.settle();
            }
            let work = self.disk.work().since(before);
            let name = rival.name;
            self.figures.add("a day of 500 messages, one by one: flushes", Unit::Each, name, work.flushes as f64);
            self.figures.add("a day of 500 messages, one by one: written", Unit::Octets, name, work.octets as f64);
        }
    }
}
