//! Who guesses passwords: what is remembered of wrong ones, and how long the next answer takes because of it.
//!
//! Counted are an address (of IPv6 its /64, which belongs to one host) and a name, each in a table that forgets the oldest
//! beyond a bound. One wrong password is forgotten after [`limits::LOGIN_FORGOTTEN`].
//!
//! - An address waits longer and longer for all its answers, right ones too, or a quick yes would tell them apart; then it
//!   is shut out for a while. The right password takes back what was wrong for the same name: it is a person who mistyped.
//!   Guesses at another's name stand, or whoever has a name here could make them for ever. The same wrong password for the
//!   same name again is one guess: it is a phone that nobody told of the new.
//! - A name waits a little, whoever asks, and is never shut out: that would let anyone keep its owner out. Names that are
//!   not here count alike, so that this tells nobody which are.
//! - The loopback addresses are never shut out: webmail comes from there, and with it everyone.
//!
//! Time is the caller's, from any clock that only goes on. Nothing here fails.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
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
    clients: LruCache<IpAddr, Client>,
    names: LruCache<Address, Name>,
    /// Names are kept short: there are many clients.
    short: RandomState,
}

/// What an address did wrong.
#[derive(Debug, Default)]
struct Client {
    /// What counts still, the oldest first; no more than [`limits::LOGIN_FAILURES`].
    wrong: VecDeque<Wrong>,
    /// Up to when what has to be forgotten was forgotten.
    since: Duration,
    shut_until: Option<Duration>,
}

/// One wrong password.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    name: u32,
    print: Option<NonZeroU32>,
}

/// How often a name was guessed at.
#[derive(Debug, Default)]
struct Name {
    failures: u32,
    /// As that of a [`Client`].
    since: Duration,
}

/// The address is shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutOut;

impl Guesses {
    /// Nothing yet.
    pub fn new() -> Guesses {
        let size = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        let (clients, names) = (size(limits::LOGIN_CLIENTS), size(limits::LOGIN_NAMES));
        let (clients, names) = (LruCache::new(clients), LruCache::new(names));
        Guesses(Mutex::new(Tables { clients, names, short: RandomState::new() }))
    }

    /// How long the answer to a login has to wait, whatever it is.
    pub fn wait(&self, client: IpAddr, name: Option<&Address>, now: Duration) -> Result<Duration, ShutOut> {
        let mut tables = self.lock();
        let of_client = match tables.clients.get_mut(&network(client)) {
            Some(client) if client.is_shut(now) => return Err(ShutOut),
            Some(client) => client.delay(now),
            None => Duration::ZERO,
        };
        let of_name = name.and_then(|name| tables.names.get_mut(name)).map(|name| name.delay(now));
        Ok(of_client.max(of_name.unwrap_or_default()))
    }

    /// Whether the address is shut out.
    pub fn is_shut_out(&self, client: IpAddr, now: Duration) -> bool {
        self.lock().clients.peek(&network(client)).is_some_and(|client| client.is_shut(now))
    }

    /// A wrong password; `print` stands for name and password, where they are known. Tells how many there were, if the
    /// address is shut out from now on.
    pub fn failed(&self, client: IpAddr, name: Option<&Address>, print: Option<u64>, now: Duration) -> Option<u32> {
        let mut tables = self.lock();
        let wrong = Wrong { name: tables.short(name), print: print.and_then(|print| NonZeroU32::new(print as u32)) };
        let record = tables.clients.get_or_insert_mut(network(client), Client::default);
        if !record.count(wrong, now) {
            return None;
        }
        let is_last = record.wrong.len() >= limits::LOGIN_FAILURES as usize && !client.to_canonical().is_loopback();
        let shut = is_last.then(|| record.shut(now));
        if let Some(name) = name {
            tables.names.get_or_insert_mut(name.clone(), Name::default).count(now);
        }
        shut
    }

    /// The right password for a name.
    pub fn succeeded(&self, client: IpAddr, name: &Address) {
        let mut tables = self.lock();
        let name = tables.short(Some(name));
        if let Some(client) = tables.clients.get_mut(&network(client)) {
            client.wrong.retain(|wrong| wrong.name != name);
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

impl Tables {
    fn short(&self, name: Option<&Address>) -> u32 {
        self.short.hash_one(name) as u32
    }
}

impl Client {
    fn forget(&mut self, now: Duration) {
        let spans = spans(self.since, now);
        self.wrong.drain(..self.wrong.len().min(spans as usize));
        self.since = if self.wrong.is_empty() { now } else { self.since + limits::LOGIN_FORGOTTEN * spans };
    }

    /// Counts one, unless it is one of those that count already.
    fn count(&mut self, wrong: Wrong, now: Duration) -> bool {
        self.forget(now);
        let is_again = |known: &Wrong| known.print.is_some() && (known.name, known.print) == (wrong.name, wrong.print);
        if self.wrong.iter().any(is_again) {
            return false;
        }
        if self.wrong.len() >= limits::LOGIN_FAILURES as usize {
            self.wrong.pop_front();
        }
        self.wrong.push_back(wrong);
        true
    }

    /// Tells how many there were.
    fn shut(&mut self, now: Duration) -> u32 {
        let failures = self.wrong.len();
        // Afterwards it is not as good as new: a third is left.
        self.wrong.drain(..failures.saturating_sub(limits::LOGIN_FREE as usize));
        self.since = now;
        self.shut_until = Some(now + limits::LOGIN_SHUT_OUT);
        failures as u32
    }

    fn is_shut(&self, now: Duration) -> bool {
        self.shut_until.is_some_and(|until| now < until)
    }

    fn delay(&mut self, now: Duration) -> Duration {
        self.forget(now);
        match self.wrong.len().checked_sub(limits::LOGIN_FREE as usize) {
            Some(over) => Duration::from_secs(1_u64 << over.min(16)).min(limits::LOGIN_SLOWEST),
            None => Duration::ZERO,
        }
    }
}

impl Name {
    fn forget(&mut self, now: Duration) {
        let spans = spans(self.since, now);
        self.failures = self.failures.saturating_sub(spans);
        self.since = if self.failures == 0 { now } else { self.since + limits::LOGIN_FORGOTTEN * spans };
    }

    fn count(&mut self, now: Duration) {
        self.forget(now);
        self.failures = self.failures.saturating_add(1);
    }

    fn delay(&mut self, now: Duration) -> Duration {
        self.forget(now);
        if self.failures >= limits::LOGIN_NAME_FREE { limits::LOGIN_NAME_DELAY } else { Duration::ZERO }
    }
}

/// How many wrong ones are to be forgotten. One counts from when it came, not from the last multiple of the span.
fn spans(since: Duration, now: Duration) -> u32 {
    let spans = now.saturating_sub(since).as_nanos() / limits::LOGIN_FORGOTTEN.as_nanos();
    u32::try_from(spans).unwrap_or(u32::MAX)
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
    fn it_takes_back_none_for_another_name() {
        let (ann, bob) = ("ann@example.org".parse().unwrap(), "bob@example.org".parse().unwrap());
        for (wrong, others) in [
            ([Some(&bob); 2], 2),
            ([Some(&bob), Some(&ann)], 1),
            ([Some(&ann), Some(&bob)], 1),
            ([None, Some(&ann)], 1),
        ] {
            let guesses = Guesses::new();
            for name in wrong {
                guesses.failed(ip(CLIENT), name, None, seconds(0));
            }
            guesses.succeeded(ip(CLIENT), &ann);
            assert_eq!(fail(&guesses, CLIENT, limits::LOGIN_FAILURES - others - 1, seconds(0)), None, "{wrong:?}");
            assert!(fail(&guesses, CLIENT, 1, seconds(0)).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn phones_of_one_household_that_nobody_told_shut_it_out_never() {
        let guesses = Guesses::new();
        let names = ["ann@example.org", "bob@example.org", "carol@example.org"].map(|name| name.parse().unwrap());
        for minute in 0..10_000 {
            for (print, name) in (1..).zip(&names) {
                assert_eq!(guesses.failed(ip(CLIENT), Some(name), Some(print), seconds(60 * minute)), None);
            }
            assert_eq!(guesses.wait(ip(CLIENT), None, seconds(60 * minute)), Ok(Duration::ZERO));
        }
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
