//! Who guesses passwords: what is remembered of wrong ones, and how long the next answer takes because of it.
//!
//! Counted are an address (of IPv6 its /64, which belongs to one host) and a name, each in a table that forgets the oldest
//! beyond a bound. One wrong password is forgotten after [`limits::LOGIN_FORGOTTEN`].
//!
//! - An address waits longer and longer for all its answers, right ones too, or a quick yes would tell them apart; then it
//!   is shut out for a while. The right password takes back all that it did wrong, if all was for the same name: it is a
//!   person who mistyped. Guesses at another's name stand, or whoever has a name here could make them for ever. The same
//!   wrong password for the same name again is one guess: it is a phone that nobody told of the new.
//! - A name waits a little, whoever asks, and is never shut out: that would let anyone keep its owner out. Names that are
//!   not here count alike, so that this tells nobody which are.
//! - The loopback addresses are never shut out: webmail comes from there, and with it everyone.
//!
//! Time is the caller's, from any clock that only goes on. Nothing here fails.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::io::stream::network;
use crate::limits;
use crate::mail::address::Address;

/// What is remembered.
#[derive(Debug)]
pub struct Guesses(Mutex<Tables>);

#[derive(Debug)]
struct Tables {
    clients: LruCache<IpAddr, Record>,
    names: LruCache<Address, Record>,
}

#[derive(Clone, Debug, Default)]
struct Record {
    failures: u32,
    /// The name that all of them were for, if it was one.
    name: Option<Address>,
    /// Up to when what has to be forgotten was forgotten.
    since: Duration,
    /// What the last wrong one was.
    last: Option<u64>,
    shut_until: Option<Duration>,
}

/// The address is shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutOut;

impl Guesses {
    /// Nothing yet.
    pub fn new() -> Guesses {
        let size = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        let clients = LruCache::new(size(limits::LOGIN_CLIENTS));
        Guesses(Mutex::new(Tables { clients, names: LruCache::new(size(limits::LOGIN_NAMES)) }))
    }

    /// How long the answer to a login has to wait, whatever it is.
    pub fn wait(&self, client: IpAddr, name: Option<&Address>, now: Duration) -> Result<Duration, ShutOut> {
        let mut tables = self.lock();
        let of_client = match tables.clients.get_mut(&network(client)) {
            Some(record) if record.is_shut(now) => return Err(ShutOut),
            Some(record) => record.client_delay(now),
            None => Duration::ZERO,
        };
        let of_name = name.and_then(|name| tables.names.get_mut(name)).map(|record| record.name_delay(now));
        Ok(of_client.max(of_name.unwrap_or_default()))
    }

    /// Whether the address is shut out.
    pub fn is_shut_out(&self, client: IpAddr, now: Duration) -> bool {
        self.lock().clients.peek(&network(client)).is_some_and(|record| record.is_shut(now))
    }

    /// A wrong password; `print` stands for name and password, where they are known. Tells how many there were, if the
    /// address is shut out from now on.
    pub fn failed(&self, client: IpAddr, name: Option<&Address>, print: Option<u64>, now: Duration) -> Option<u32> {
        let mut tables = self.lock();
        let record = tables.clients.get_or_insert_mut(network(client), Record::default);
        if !record.count(name, print, now) {
            return None;
        }
        let is_last = record.failures >= limits::LOGIN_FAILURES && !client.to_canonical().is_loopback();
        let shut = is_last.then(|| record.shut(now));
        if let Some(name) = name {
            tables.names.get_or_insert_mut(name.clone(), Record::default).count(None, None, now);
        }
        shut
    }

    /// The right password for a name.
    pub fn succeeded(&self, client: IpAddr, name: &Address) {
        let (mut tables, client) = (self.lock(), network(client));
        if tables.clients.peek(&client).is_some_and(|record| record.name.as_ref() == Some(name)) {
            tables.clients.pop(&client);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Guesses {
    fn default() -> Guesses {
        Guesses::new()
    }
}

impl Record {
    fn forget(&mut self, now: Duration) {
        let spans = now.saturating_sub(self.since).as_nanos() / limits::LOGIN_FORGOTTEN.as_nanos();
        let spans = u32::try_from(spans).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(spans);
        // A wrong password counts from when it came, not from the last multiple of the span.
        self.since = if self.failures == 0 { now } else { self.since + limits::LOGIN_FORGOTTEN * spans };
    }

    /// Counts one, unless it is the last one again.
    fn count(&mut self, name: Option<&Address>, print: Option<u64>, now: Duration) -> bool {
        self.forget(now);
        if print.is_some() && self.last == print {
            return false;
        }
        self.name = name.filter(|_| self.failures == 0 || self.name.as_ref() == name).cloned();
        self.last = print;
        self.failures = self.failures.saturating_add(1);
        true
    }

    fn shut(&mut self, now: Duration) -> u32 {
        let failures = self.failures;
        // Afterwards it is not as good as new: a third is left.
        self.failures = limits::LOGIN_FREE;
        self.since = now;
        self.shut_until = Some(now + limits::LOGIN_SHUT_OUT);
        failures
    }

    fn is_shut(&self, now: Duration) -> bool {
        self.shut_until.is_some_and(|until| now < until)
    }

    fn client_delay(&mut self, now: Duration) -> Duration {
        self.forget(now);
        match self.failures.checked_sub(limits::LOGIN_FREE) {
            Some(over) => Duration::from_secs(1_u64 << over.min(16)).min(limits::LOGIN_SLOWEST),
            None => Duration::ZERO,
        }
    }

    fn name_delay(&mut self, now: Duration) -> Duration {
        self.forget(now);
        if self.failures >= limits::LOGIN_NAME_FREE { limits::LOGIN_NAME_DELAY } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.7";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// So many different wrong passwords at `now`, and whether the last shut the address out.
    fn fail(guesses: &Guesses, client: &str, count: u32, now: Duration) -> Option<u32> {
        (0..count).map(|_| guesses.failed(ip(client), None, None, now)).last().flatten()
    }

    #[test]
    fn answers_take_longer_and_longer_then_the_address_is_shut_out_for_a_while() {
        let guesses = Guesses::new();
        let mut waits = Vec::new();
        for number in 1..=limits::LOGIN_FAILURES {
            waits.push(guesses.wait(ip(CLIENT), None, seconds(9)).unwrap().as_secs());
            let shut = guesses.failed(ip(CLIENT), None, None, seconds(9));
            assert_eq!(shut, (number == limits::LOGIN_FAILURES).then_some(limits::LOGIN_FAILURES));
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8]);
        assert_eq!(guesses.wait(ip(CLIENT), None, seconds(9)), Err(ShutOut));
        assert!(guesses.is_shut_out(ip(CLIENT), seconds(9)) && !guesses.is_shut_out(ip("192.0.2.8"), seconds(9)));
        assert_eq!(guesses.wait(ip("192.0.2.8"), None, seconds(9)), Ok(Duration::ZERO));
        let over = seconds(9) + limits::LOGIN_SHUT_OUT;
        assert!(guesses.is_shut_out(ip(CLIENT), over - seconds(1)) && !guesses.is_shut_out(ip(CLIENT), over));
        assert!(guesses.wait(ip(CLIENT), None, over).is_ok());
        assert!(fail(&guesses, CLIENT, limits::LOGIN_FAILURES - 4, over).is_some(), "sooner than the first time");
    }

    #[test]
    fn the_right_password_takes_back_what_was_wrong() {
        let guesses = Guesses::new();
        let ann = "ann@example.org".parse().unwrap();
        let fail =
            || (1..limits::LOGIN_FAILURES).find_map(|_| guesses.failed(ip(CLIENT), Some(&ann), None, seconds(0)));
        fail();
        guesses.succeeded(ip(CLIENT), &ann);
        assert_eq!(guesses.wait(ip(CLIENT), None, seconds(0)), Ok(Duration::ZERO));
        assert_eq!(fail(), None);
    }

    #[test]
    fn it_takes_back_none_if_one_was_for_another_name() {
        let (ann, bob) = ("ann@example.org".parse().unwrap(), "bob@example.org".parse().unwrap());
        for others in [[Some(&bob); 2], [Some(&bob), Some(&ann)], [Some(&ann), Some(&bob)], [None, Some(&ann)]] {
            let guesses = Guesses::new();
            for name in others {
                guesses.failed(ip(CLIENT), name, None, seconds(0));
            }
            guesses.succeeded(ip(CLIENT), &ann);
            assert!(fail(&guesses, CLIENT, limits::LOGIN_FAILURES - 2, seconds(0)).is_some(), "{others:?}");
        }
        let guesses = Guesses::new();
        guesses.failed(ip(CLIENT), Some(&bob), None, seconds(0));
        let later = limits::LOGIN_FORGOTTEN;
        guesses.failed(ip(CLIENT), Some(&ann), None, later);
        guesses.succeeded(ip(CLIENT), &ann);
        assert_eq!(
            fail(&guesses, CLIENT, limits::LOGIN_FAILURES - 1, later),
            None,
            "what was forgotten does not count"
        );
    }

    #[test]
    fn wrong_ones_are_forgotten_one_by_one() {
        let guesses = Guesses::new();
        let wait = |now: u64| guesses.wait(ip(CLIENT), None, seconds(now)).unwrap().as_secs();
        fail(&guesses, CLIENT, limits::LOGIN_FREE + 2, seconds(100_000));
        let span = limits::LOGIN_FORGOTTEN.as_secs();
        assert_eq!(wait(100_000 + span - 1), 4);
        assert_eq!(wait(100_000 + span), 2);
        assert_eq!(wait(100_000 + 2 * span - 1), 2, "asking does not put it off");
        assert_eq!(wait(100_000 + 2 * span), 1);
        assert_eq!(wait(100_000 + 3 * span), 0);
        assert_eq!(wait(u64::MAX / 2), 0);
    }

    #[test]
    fn the_same_guess_again_is_one() {
        let guesses = Guesses::new();
        for _ in 0..100 {
            assert_eq!(guesses.failed(ip(CLIENT), None, Some(1), seconds(0)), None);
        }
        assert_eq!(guesses.wait(ip(CLIENT), None, seconds(0)), Ok(Duration::ZERO));
        let shut = (0..100).any(|print| guesses.failed(ip(CLIENT), None, Some(print), seconds(0)).is_some());
        assert!(shut);
    }

    #[test]
    fn an_ipv6_host_is_its_64_and_a_mapped_address_is_ipv4() {
        let guesses = Guesses::new();
        fail(&guesses, "2001:db8:0:1::1", limits::LOGIN_FAILURES, seconds(0));
        fail(&guesses, "::ffff:192.0.2.7", limits::LOGIN_FAILURES, seconds(0));
        for (client, is) in [
            ("2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:2::1", false),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("::ffff:192.0.2.8", false),
        ] {
            assert_eq!(guesses.is_shut_out(ip(client), seconds(0)), is, "{client}");
        }
    }

    #[test]
    fn this_host_itself_waits_and_is_never_shut_out() {
        let guesses = Guesses::new();
        for client in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(fail(&guesses, client, 1000, seconds(0)), None);
            assert_eq!(guesses.wait(ip(client), None, seconds(0)), Ok(limits::LOGIN_SLOWEST));
        }
    }

    #[test]
    fn a_name_that_all_the_world_guesses_at_is_slow_and_open() {
        let guesses = Guesses::new();
        let (ann, bob) = ("ann@example.org".parse().unwrap(), "bob@example.org".parse().unwrap());
        for number in 0..1000_u32 {
            let client = IpAddr::V4((0x0a00_0000 + number).into());
            guesses.failed(client, Some(&ann), None, seconds(0));
        }
        assert_eq!(guesses.wait(ip(CLIENT), Some(&ann), seconds(0)), Ok(limits::LOGIN_NAME_DELAY));
        assert_eq!(guesses.wait(ip(CLIENT), Some(&bob), seconds(0)), Ok(Duration::ZERO));
    }

    #[test]
    fn memory_is_bounded() {
        let guesses = Guesses::new();
        for number in 0..u32::try_from(2 * limits::LOGIN_CLIENTS).unwrap() {
            let name = format!("u{number}@example.org").parse().unwrap();
            guesses.failed(IpAddr::V4(number.into()), Some(&name), None, seconds(0));
        }
        let tables = guesses.lock();
        assert_eq!((tables.clients.len(), tables.names.len()), (limits::LOGIN_CLIENTS, limits::LOGIN_NAMES));
    }
}
