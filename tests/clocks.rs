//! Wall clocks that are set while the server runs, and that are wrong when it starts: nothing is returned early, nothing is
//! tried again and again, and every retry comes when it would have come (DESIGN P9).

mod support;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use support::clock::{Clock, to_1969};
use support::hop::{Exchanger, say};
use support::{Server, eventually, have, tls};

const DAY: i64 = 24 * 3600;

/// A next hop that has no room yet for anything.
fn full_hop() -> Exchanger {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Exchanger::start(listener, &[], |line| line.starts_with("RCPT").then(|| say("452 4.2.2 come again")))
}

/// A server that tries every `retry` seconds, and gives up after a day.
fn prepared(hop: &Exchanger, retry: u64) -> Server {
    let hops = format!("[relay]\nsmarthost = \"{}\"\n", hop.address);
    let waits = format!("retry_min = \"{retry}s\"\nretry_max = \"{retry}s\"\nwarn_after = \"12h\"\ngive_up = \"1d\"\n");
    Server::prepared(&format!("{hops}[delivery]\n{waits}"), "")
}

fn attempts(hop: &Exchanger) -> usize {
    hop.lines().iter().filter(|line| line.starts_with("RCPT")).count()
}

/// A server that tries again each `retry` seconds, under a clock that can be set, with a message that was refused once.
fn with_one_queued(test: &str, retry: u64) -> Option<(Exchanger, Clock, Server, String)> {
    if !have("cc", test) {
        return None;
    }
    let (hop, clock) = (full_hop(), Clock::new());
    let mut server = prepared(&hop, retry);
    clock.run(&mut server);
    let id = server.send(&["x@far.example"], "Subject: late\r\n\r\n");
    Some((hop, clock, server, id))
}

/// Waits for the next attempt, and returns after how many seconds it came.
fn next_attempt(hop: &Exchanger) -> f64 {
    let (before, begun) = (attempts(hop), Instant::now());
    eventually("it is tried", || attempts(hop) > before);
    begun.elapsed().as_secs_f64()
}

/// Nothing was returned, and nobody was told anything.
fn is_still_queued(server: &Server, id: &str) {
    assert!(server.path("spool/queue").join(format!("{id}.eml")).exists());
    for event in [" reported ", " failed ", " set-aside "] {
        assert!(!server.log().contains(event), "{event}");
    }
}

#[test]
fn a_clock_that_leaps_changes_no_retry() {
    const RETRY: u64 = 2;
    let Some((hop, mut clock, mut server, id)) = with_one_queued("a_clock_that_leaps_changes_no_retry", RETRY) else {
        return;
    };
    let mut last = id.clone();
    next_attempt(&hop);
    for (number, leap) in [3 * DAY, -3 * DAY, to_1969(), 0, 3650 * DAY, -20 * DAY].into_iter().enumerate() {
        clock.set(leap);
        let (before, begun) = (attempts(&hop), Instant::now());
        for _ in 0..2 {
            let wait = next_attempt(&hop);
            assert!(wait < RETRY as f64 + 60.0, "{leap}: {wait}");
        }
        // Nine tenths of it, with jitter; and one was due when it leapt.
        let (made, most) = (attempts(&hop) - before, begun.elapsed().as_secs_f64() / (0.9 * RETRY as f64) + 1.0);
        assert!(made as f64 <= most, "{leap}: {made} attempts, not {most}");
        let new = server.send(&["ann@example.org"], "Subject: new\r\n\r\n");
        assert!(new > last, "{leap}: {new} after {last}");
        last = new;
        server.wait_for("ann@example.org", number + 1);
        tls::starttls(server.smtp_address()).ask("NOOP", "250");
        is_still_queued(&server, &id);
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_start_with_a_wrong_clock_is_at_most_one_retry_late() {
    const RETRY: u64 = 5;
    let Some((hop, mut clock, mut server, id)) =
        with_one_queued("a_start_with_a_wrong_clock_is_at_most_one_retry_late", RETRY)
    else {
        return;
    };
    let state = server.path("spool/queue").join(format!("{id}.state"));
    eventually("its state is written", || state.exists());
    for leap in [3 * DAY, -3 * DAY, to_1969(), 3650 * DAY, 0] {
        assert_eq!(server.stop(), Some(0));
        clock.stamp(&state);
        clock.set(leap);
        clock.run(&mut server);
        let wait = next_attempt(&hop);
        tls::starttls(server.smtp_address()).ask("NOOP", "250");
        assert!(wait < 2.0 * RETRY as f64, "{leap}: {wait}");
        let before = attempts(&hop);
        thread::sleep(Duration::from_secs_f64(0.5 * RETRY as f64));
        assert_eq!(attempts(&hop), before, "{leap}: tried again and again");
        is_still_queued(&server, &id);
    }
    assert_eq!(server.stop(), Some(0));
}
