//! A dead host in the midst of others: what it costs them, in seconds. The one test that asserts them, for they are
//! what was promised.
#![allow(clippy::print_stdout)]

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use support::hop::Exchanger;
use support::net::{Host, Net};
use support::world::{AT_HOME, Settings, server_on};
use support::zone::Zone;
use support::{Client, eventually};

const MESSAGE: &str = "Subject: hello\r\n\r\nhello\r\n";

/// Sends so many messages in one session of a client on `host`.
fn send(host: &Host, to: &str, count: usize) {
    let mut client: Client = host.inside(|| Client::connect(AT_HOME));
    client.expect("220");
    client.ask("EHLO client.example", "250");
    for _ in 0..count {
        client.submit("<bob@example.org>", &[to], MESSAGE);
    }
}

/// From `accepted` to `delivered` for each message to `address`, by the log, the shortest first.
fn waits(log: &str, address: &str) -> Vec<Duration> {
    let mut accepted = HashMap::new();
    let mut waits = Vec::new();
    for line in log.lines().filter(|line| line.contains(&format!(" to={address} "))) {
        let [time, _, id, event, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        match event {
            "accepted" => _ = accepted.insert(id, time_of_day(time)),
            // A day later where midnight came between.
            "delivered" => waits.push((time_of_day(time) + DAY - accepted[id]) % DAY),
            _ => {}
        }
    }
    waits.sort_unstable();
    waits.into_iter().map(Duration::from_millis).collect()
}

const DAY: u64 = 24 * 3600 * 1000;

/// Milliseconds since midnight in `2026-11-23T15:36:51.123+00:00`.
fn time_of_day(time: &str) -> u64 {
    let parts: Vec<u64> = time[11..23].split([':', '.']).map(|part| part.parse().unwrap()).collect();
    ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 1000 + parts[3]
}

fn percentile(waits: &[Duration], percent: usize) -> Duration {
    waits[(waits.len() * percent).div_ceil(100) - 1]
}

#[test]
fn a_dead_host_holds_up_nobody() {
    let test = "a_dead_host_holds_up_nobody";
    let Some(net) = Net::new(test, &["near", "good", "names"]) else { return };
    let (near, good, dead) = (net.host("near"), net.host("good"), net.nobody());
    let records = format!(
        "dead.example. MX 10 mx.dead.example.\nmx.dead.example. A {dead}\n\
                           good.example. MX 10 mx.good.example.\nmx.good.example. A {}",
        good.v4
    );
    let Some(zone) = Zone::start_on(net.host("names"), &records) else { return };
    let exchanger =
        Exchanger::start(good.inside(|| TcpListener::bind("0.0.0.0:25")).unwrap(), &["PIPELINING"], |_| None);
    let server = server_on(near, &zone, &Settings::default());
    send(near, "<bob@dead.example>", 250);
    thread::scope(|scope| {
        for (to, count) in [("<bob@dead.example>", 250), ("<bob@good.example>", 200), ("<ann@example.org>", 200)] {
            scope.spawn(move || send(near, to, count));
        }
    });
    eventually("all that can arrive has arrived", || {
        let log = server.log();
        waits(&log, "bob@good.example").len() == 200 && waits(&log, "ann@example.org").len() == 200
    });
    assert_eq!(exchanger.messages().len(), 200);
    let log = server.log();
    let is_deferred = |line: &&str| line.contains(" deferred ");
    assert!(
        log.lines().filter(is_deferred).all(|line| line.contains("did not answer")),
        "it is dead, and drops packets"
    );
    assert_eq!(log.matches(" accepted from=<bob@example.org> to=bob@dead.example ").count(), 500);
    for (address, most) in [("bob@good.example", 5), ("ann@example.org", 1)] {
        let waits = waits(&log, address);
        let [half, most_of, all] = [50, 95, 100].map(|percent| percentile(&waits, percent));
        println!("{address}: 50 % within {half:?}, 95 % within {most_of:?}, all within {all:?}");
        assert!(most_of < Duration::from_secs(most), "{address}: {most_of:?}");
    }
    println!("{} connections to the good host", exchanger.connections());
}
