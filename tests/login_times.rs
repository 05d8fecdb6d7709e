//! How long the answer to a wrong login takes tells nobody whether there is such a user. The times of names that are here
//! and of names that are not come from one server in one run, and differ by less than who guesses could see.
//!
//! Each guess is at another name and from another address, for what the server remembers of guesses would delay the
//! answer by seconds, and hide what is looked for. The tests of this file run one after the other.
#![allow(clippy::print_stderr)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrider::limits;
use postrider::mail::sasl::client::{Login, Setting};
use postrider::mail::sasl::{self, Bindings, Secret};
use support::{Client, Server};

/// Names on either side.
const NAMES: usize = 250;

/// Guesses that are under way at once, each of which is held back for a second.
const AT_ONCE: usize = 80;

/// The time from one guess to the next: more than two take to be checked, so that none waits for another.
const SPACE: Duration = Duration::from_millis(20);

/// A difference that shows in no median of so few guesses over a network.
const ALIKE: Duration = Duration::from_millis(2);

/// A machine that is busy with something else may seem to tell; a server that tells does so each time, and the same.
const ROUNDS: usize = 5;

/// Of no password that anyone knows, and four times as dear as the cheapest: some nine milliseconds.
const BCRYPT: &str = "{BLF-CRYPT}$2y$06$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K";

/// With the fewest iterations that are allowed.
const SCRAM: &str = "{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=";

static ALONE: Mutex<()> = Mutex::new(());

/// How a guess is made.
struct Way {
    protocol: &'static str,
    /// All that comes before it.
    ready: fn(&mut Client),
    /// Makes it, and tells how long the server took.
    guess: fn(&mut Client, &str) -> Duration,
}

fn is_here(number: usize) -> bool {
    // Not by turns: each side is as often before the other as behind it.
    matches!(number % 4, 0 | 3)
}

fn name(number: usize) -> String {
    format!("{}{:03}@example.org", if is_here(number) { "known" } else { "alien" }, number / 2)
}

fn server(password: &str) -> Server {
    let extra = "submission = [\"127.0.0.1:0\"]\n[submission]\ncleartext = [\"127.0.0.0/8\"]\n";
    let mut server = Server::prepared(extra, "");
    let here = (0..2 * NAMES).filter(|number| is_here(*number));
    let users: String = here.map(|number| format!("{}:{password}\n", name(number))).collect();
    fs::write(server.path("users"), users).unwrap();
    server.run();
    server
}

/// The medians of what the server took beyond the second that every answer is held back: for those here, for others.
fn medians(address: SocketAddr, way: &Way, round: usize) -> [Duration; 2] {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let times = Mutex::new([Vec::new(), Vec::new()]);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= 2 * NAMES {
                        return;
                    }
                    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
                    let own = Ipv4Addr::new(127, 100 + u8::try_from(round).unwrap(), high, low);
                    let mut client = Client::connect_from(own, address);
                    (way.ready)(&mut client);
                    let turn = SPACE * u32::try_from(number).unwrap();
                    thread::sleep(turn.saturating_sub(begun.elapsed()));
                    let took = (way.guess)(&mut client, &name(number)).checked_sub(limits::LOGIN_DELAY);
                    times.lock().unwrap()[usize::from(!is_here(number))].push(took.expect("it is held back"));
                }
            });
        }
    });
    times.into_inner().unwrap().map(|mut times| {
        assert_eq!(times.len(), NAMES);
        times.sort_unstable();
        times[NAMES / 2]
    })
}

fn tells_nothing(password: &str, way: &Way) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = server(password);
    let mut seen: Vec<[Duration; 2]> = Vec::new();
    for round in 1..=ROUNDS {
        let [here, others] = medians(server.address(way.protocol), way, round);
        for why in ["wrong password", "no such user"] {
            assert_eq!(server.log().matches(&format!("why=\"{why}\"")).count(), round * NAMES, "{why}");
        }
        eprintln!("{}: the median of {NAMES} known names is {here:?}, of as many others {others:?}", way.protocol);
        let difference = here.abs_diff(others);
        let is_alike = difference < ALIKE || difference < here.min(others) / 20;
        if is_alike || seen.iter().any(|[first_here, first_others]| (first_here > first_others) != (here > others)) {
            return;
        }
        seen.push([here, others]);
    }
    panic!("the time tells who is here and who is not: {seen:?}");
}

fn ehlo(client: &mut Client) {
    client.expect("220");
    client.ask("EHLO a.example", "250");
}

fn timed(client: &mut Client, line: &str, code: &str) -> (String, Duration) {
    let begun = Instant::now();
    let reply = client.ask(line, code);
    (reply, begun.elapsed())
}

#[test]
fn of_plain() {
    let guess = |client: &mut Client, name: &str| {
        let response = STANDARD.encode(format!("\0{name}\0wrong"));
        timed(client, &format!("AUTH PLAIN {response}"), "535 5.7.8").1
    };
    tells_nothing(BCRYPT, &Way { protocol: "submission", ready: ehlo, guess });
}

#[test]
fn of_user_and_pass() {
    let ready = |client: &mut Client| _ = client.expect("+OK");
    let guess = |client: &mut Client, name: &str| {
        let (_, of_name) = timed(client, &format!("USER {name}"), "+OK");
        of_name + timed(client, "PASS wrong", "-ERR [AUTH]").1
    };
    tells_nothing(BCRYPT, &Way { protocol: "pop3", ready, guess });
}

#[test]
fn of_scram() {
    let guess = |client: &mut Client, name: &str| {
        let login = Login::Password { name: name.to_owned(), password: Secret(b"wrong".to_vec()) };
        let server = ("mail.example.org".to_owned(), 587);
        let setting = Setting { protected: true, bindings: Bindings::default(), nonce: "nonce".to_owned(), server };
        let start = sasl::client::begin("SCRAM-SHA-256", login, setting).unwrap();
        let line = format!("AUTH {} {}", start.mechanism, start.initial.unwrap());
        let (challenge, first) = timed(client, &line, "334 ");
        let (line, _) = start.exchange.respond(&challenge[4..]).unwrap();
        first + timed(client, &line, "535 5.7.8").1
    };
    tells_nothing(SCRAM, &Way { protocol: "submission", ready: ehlo, guess });
}
