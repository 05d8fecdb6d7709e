//! The names of clients, from the system's resolver, which can't be bounded in time and so has threads of its own.
//!
//! A name counts only if it leads back to the address it came from. Whoever asks waits for a bounded time and goes on
//! without one: a name only ever stands in trace fields, for people.

use std::net::IpAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits;
use crate::mail::address::Domain;

type Question = (IpAddr, Sender<Option<Domain>>);

/// Asks for names.
#[derive(Clone, Debug)]
pub struct ReverseNames {
    questions: Sender<Question>,
}

/// Answers; each clone is the body of one thread.
#[derive(Clone, Debug)]
pub struct ReverseNameThread {
    questions: Receiver<Question>,
}

/// Both ends.
pub fn reverse_names() -> (ReverseNames, ReverseNameThread) {
    let (sender, receiver) = bounded(limits::REVERSE_NAME_QUEUE);
    (ReverseNames { questions: sender }, ReverseNameThread { questions: receiver })
}

impl ReverseNames {
    /// The name of `client`, if it is known within [`limits::REVERSE_NAME_TIMEOUT`].
    pub fn of(&self, client: IpAddr) -> Option<Domain> {
        self.within(client.to_canonical(), limits::REVERSE_NAME_TIMEOUT)
    }

    fn within(&self, client: IpAddr, wait: Duration) -> Option<Domain> {
        if client.is_loopback() {
            return "localhost".parse().ok();
        }
        let (answer, answered) = bounded(1);
        self.questions.try_send((client, answer)).ok()?;
        answered.recv_timeout(wait).ok()?
    }
}

impl ReverseNameThread {
    /// Answers until nobody can ask any more.
    pub fn run(&self) {
        for (client, answer) in &self.questions {
            // Whoever asked may have gone on.
            let _ = answer.send(confirmed_name(client));
        }
    }
}

fn confirmed_name(client: IpAddr) -> Option<Domain> {
    let name = dns_lookup::lookup_addr(&client).ok()?;
    let domain: Domain = name.trim_end_matches('.').parse().ok()?;
    let mut addresses = dns_lookup::lookup_host(domain.as_str()).ok()?;
    addresses.any(|address| address.to_canonical() == client).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_resolver_that_does_not_answer() {
        let (names, _never_run) = reverse_names();
        let client = "192.0.2.7".parse().unwrap();
        assert_eq!(names.within(client, Duration::from_millis(5)), None);
        for _ in 0..2 * limits::REVERSE_NAME_QUEUE {
            assert_eq!(names.within(client, Duration::ZERO), None);
        }
    }
}
