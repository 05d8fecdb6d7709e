//! The start, and a queue of messages for hosts that are down: how long until the first greeting, what an entry costs of
//! memory, and whether new mail suffers.
//!
//! The entries are written here as the server would have left them, each with its state, due tomorrow; they are in the page
//! cache when it starts. New mail is sent to one server with them and to one without in turns.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use postrider::mail::queue_id::QueueId;
use postrider::spool::state::{State, Status, Target, Via};

use crate::Bench;
use crate::figures::{Unit, median};
use crate::flow;
use crate::gauges::Group;
use crate::rivals::{self, POSTRIDER};
use crate::senders::{self, Load, Session};
use crate::support::Server;

/// A server that was started by hand, so that the time is known; ended with the value.
struct Started {
    child: Child,
    took: Duration,
    group: Group,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(server: &Server, address: SocketAddr, name: &str) -> Started {
    let begun = Instant::now();
    let (group, child) = Group::of(name, || server.command().spawn().unwrap());
    while Session::open(address, Duration::from_secs(600)).is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Started { child, took: begun.elapsed(), group }
}

impl Bench {
    /// With an empty spool, and with so many queued.
    pub fn backlog(&mut self, queued: usize) {
        let (empty, at_empty) = rivals::prepared(&self.onward);
        let (full, at_full) = rivals::prepared(&self.onward);
        // The first start of all makes a certificate.
        for (server, address) in [(&empty, at_empty), (&full, at_full)] {
            drop(start(server, address, "first-start"));
        }
        fill(&full.path("spool/queue"), queued);
        self.disk.settle();
        for round in 0..3 {
            for (server, address, words) in [
                (&empty, at_empty, "an empty spool".to_owned()),
                (&full, at_full, format!("{} queued", thousands(queued))),
            ] {
                let started = start(server, address, &format!("start-{round}"));
                let what = format!("from start to greeting, {words}");
                self.figures.add(&what, Unit::Milliseconds, POSTRIDER, started.took.as_secs_f64() * 1e3);
            }
        }
        let (with, without) = (start(&full, at_full, "with"), start(&empty, at_empty, "without"));
        let octets = (with.group.memory() - without.group.memory()) * 1024.0 / queued as f64;
        self.figures.add(
            &format!("memory a queued message, of {}", thousands(queued)),
            Unit::Octets,
            POSTRIDER,
            octets,
        );
        let load = Load { sessions: 20, kept: true, size: 4096 };
        let mut ratios = Vec::new();
        for round in 0..=self.scale.rounds {
            let mailbox = self.next_mailbox();
            let rates = [(&full, at_full), (&empty, at_empty)].map(|(server, address)| {
                self.disk.settle();
                let (count, begun) = (3000, Instant::now());
                senders::send(address, &load, count, &mailbox);
                let new = server.path("spool/mail/example.org").join(mailbox.split('@').next().unwrap()).join("new");
                flow::wait(count, || flow::count(&new));
                count as f64 / begun.elapsed().as_secs_f64()
            });
            // The first is to warm up.
            if round > 0 {
                ratios.push(rates[0] / rates[1]);
                let what = format!("new mail with {} queued: {}", thousands(queued), load.words());
                self.figures.add(&what, Unit::PerSecond, POSTRIDER, rates[0]);
            }
        }
        ratios.sort_by(f64::total_cmp);
        let what = format!("new mail with {} queued ÷ with none", thousands(queued));
        self.figures.add(&what, Unit::Each, POSTRIDER, median(&ratios));
        // With the servers gone; what they leave is removed at the very end.
        drop((with, without));
        self.kept.extend([empty, full]);
    }
}

fn thousands(count: usize) -> String {
    if count >= 1_000_000 { format!("{},000,000", count / 1_000_000) } else { format!("{},000", count / 1000) }
}

/// Writes entries that wait for a host that is down.
fn fill(queue: &Path, count: usize) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut last = None;
    let state = waiting(now).to_string();
    let content = "Received: from a (a [192.0.2.7]) by mail.example.org; Mon, 23 Nov 2026 15:36:51 +0000\r\n\
                   Subject: waits\r\n\r\nhello\r\n";
    let message =
        format!("X-Sender: <ann@example.org> SIZE={:010}\r\nX-Receiver: <bob@far.example>\r\n{content}", content.len());
    for _ in 0..count {
        let id = QueueId::after(last, now, 0);
        last = Some(id);
        fs::write(queue.join(format!("{id}.eml")), &message).unwrap();
        fs::write(queue.join(format!("{id}.state")), &state).unwrap();
    }
}

fn waiting(now: Duration) -> State {
    let (to, from) = ("bob@far.example".parse().unwrap(), "<ann@example.org>".parse().unwrap());
    let recipient = "bob@far.example".parse().unwrap();
    let target = Target::new(to, Via::NextHop, recipient, from);
    let reply = Some("451 4.4.1 cannot connect: the host is down".to_owned());
    let target =
        Target { status: Status::Pending, reply, host: Some("far.example".to_owned()), when: Some(now), ..target };
    let day = Duration::from_secs(86_400);
    State {
        attempts: 3,
        waited: Duration::from_secs(3600),
        next_attempt: Some(now + day),
        retry_in: day,
        targets: vec![target],
    }
}
