//! From an address to the server that takes its mail, through a real DNS: every way in which one exchanger can be of no use,
//! and the other is.

mod support;

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::hop::{Act, Exchanger, say};
use support::world::{Settings, World};
use support::{Server, eventually};

const MESSAGE: &str = "Subject: far away\r\n\r\nhello\r\n";

const ANN: &str = "<ann@example.org>";

/// A domain with two exchangers.
const TWO: &str = "far.example. MX 10 a.far.example.\nfar.example. MX 20 b.far.example.\n\
                   a.far.example. A 127.0.0.2\nb.far.example. A 127.0.0.3";

fn never(_: &str) -> Option<Act> {
    None
}

/// Waits until the exchanger has as many messages, and no more.
fn wait_for(exchanger: &Exchanger, count: usize) -> Vec<String> {
    eventually("the exchanger has the message", || exchanger.messages().len() >= count);
    assert_eq!(exchanger.messages().len(), count);
    exchanger.messages()
}

/// The one report that ann gets.
fn report(server: &Server) -> String {
    let [report] = server.wait_for("ann@example.org", 1).try_into().unwrap();
    server.queue_is_empty();
    String::from_utf8(report).unwrap()
}

#[test]
fn where_the_first_exchanger_is_of_no_use_the_second_takes_it_at_once() {
    // The first one is no host at all, or says this when it is connected to.
    let greetings: [Option<fn() -> Act>; 6] = [
        None,
        Some(|| say("421 4.3.2 stopping")),
        Some(|| say("450 4.7.1 not now")),
        Some(|| say("554 5.7.1 not you")),
        Some(|| Act::Gone(String::new())),
        Some(|| say("hello, I am no mail server")),
    ];
    for (at, greeting) in greetings.into_iter().enumerate() {
        let Some(world) = World::new(TWO) else { return };
        let first = greeting.map(|greeting| world.exchanger(2, &[], move |line| (line == "CONNECT").then(greeting)));
        let second = world.exchanger(3, &[], never);
        let server = world.server(&Settings::default());
        server.submit(ANN, &["<bob@far.example>"], MESSAGE);
        wait_for(&second, 1);
        let line = server.logged(&[" delivered ", "to=bob@far.example"]);
        assert!(line.contains("b.far.example [127.0.0.3]"), "{line}");
        assert!(!server.log().contains(" deferred "), "{at}: in the same attempt");
        assert_eq!(first.map_or(1, |first| first.connections()), 1, "{at}: the preferred one is asked first");
    }
}

#[test]
fn a_stop_between_two_exchangers_decides_nothing_for_the_second() {
    let Some(world) = World::new(TWO) else { return };
    let is_told = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&is_told);
    // It refuses for good, and takes its time over it.
    let first = world.exchanger(2, &[], move |line| {
        (line == "CONNECT").then(|| {
            eventually("the first exchanger may speak", || waits.load(Ordering::SeqCst));
            say("554 5.7.1 not you")
        })
    });
    let second = world.exchanger(3, &[], never);
    let mut server = world.server(&Settings::default());
    server.submit(ANN, &["<bob@far.example>"], MESSAGE);
    eventually("the first exchanger is asked", || first.connections() == 1);
    server.signal("TERM");
    server.logged(&[" stopping"]);
    // The deliveries are told right after the log.
    thread::sleep(Duration::from_millis(500));
    is_told.store(true, Ordering::SeqCst);
    eventually("the server stops", || server.exited().is_some());
    assert!(!server.log().contains(" failed ") && second.connections() == 0, "{}", server.log());
    server.run();
    wait_for(&second, 1);
    server.queue_is_empty();
    assert!(server.mailbox("ann@example.org").is_empty() && !server.log().contains(" failed "));
}

#[test]
fn equal_exchangers_share_the_work_and_a_worse_one_has_none() {
    let records = "far.example. MX 10 a.far.example.\nfar.example. MX 10 b.far.example.\nfar.example. MX 20 c.far.example.\n\
                   a.far.example. A 127.0.0.2\nb.far.example. A 127.0.0.3\nc.far.example. A 127.0.0.4";
    let Some(world) = World::new(records) else { return };
    // They close after each message, so that each message finds its server anew.
    let once = |line: &str| (line == ".").then(|| Act::Gone("250 ok".to_owned()));
    let hosts = [2, 3, 4].map(|last| world.exchanger(last, &[], once));
    let server = world.server(&Settings::default());
    for _ in 0..40 {
        server.submit(ANN, &["<bob@far.example>"], MESSAGE);
    }
    server.queue_is_empty();
    let counts = [0, 1, 2].map(|at: usize| hosts[at].messages().len());
    // All forty at one of two happens once in 2^39 runs.
    assert!(counts[0] > 0 && counts[1] > 0 && counts == [counts[0], 40 - counts[0], 0], "{counts:?}");
}

#[test]
fn what_dns_rules_out_fails_at_once_with_its_code() {
    let records = "null.example. MX 0 .\ngone.example. MX 10 no.such.example.\n\
                   ours.example. MX 10 mail.example.org.\nours.example. MX 20 b.far.example.\nb.far.example. A 127.0.0.3";
    let Some(world) = World::new(records) else { return };
    let worse = world.exchanger(3, &[], never);
    for (domain, code, words) in [
        ("null.example", "556 5.1.10", "takes no mail"),
        ("nowhere.example", "550 5.1.2", "no domain nowhere.example"),
        ("gone.example", "550 5.4.4", "none of the hosts"),
        ("ours.example", "550 5.4.6", "to this host"),
    ] {
        let server = world.server(&Settings::default());
        server.submit(ANN, &[&format!("<bob@{domain}>")], MESSAGE);
        let report = report(&server);
        let status = code.split_once(' ').unwrap().1;
        for part in [&format!("Status: {status}"), &format!("x-postrider; {code}"), words, "Action: failed"] {
            assert!(report.contains(part), "{domain}: {part}\n{report}");
        }
        assert!(!server.log().contains(" deferred "), "{domain}");
    }
    assert_eq!(worse.connections(), 0, "nobody gets mail that we would get back");
}

#[test]
fn mail_never_goes_to_ourselves_but_to_who_is_nearer() {
    let records = "ours.example. MX 10 us.example.\nbackup.example. MX 5 a.far.example.\nbackup.example. MX 10 us.example.\n\
                   us.example. A 127.0.0.2\na.far.example. A 127.0.0.3\n\
                   loop.example. CNAME us.example.";
    let Some(world) = World::new(records) else { return };
    let mut server = world.prepared_at(2, &Settings::default());
    server.run();
    for address in ["bob@ours.example", "bob@us.example", "bob@loop.example"] {
        server.submit(ANN, &[&format!("<{address}>")], MESSAGE);
        let line = server.logged(&[" failed ", &format!("to={address}")]);
        assert!(line.contains("5.4.6"), "{line}");
    }
    let far = world.exchanger(3, &[], never);
    server.submit(ANN, &["<bob@backup.example>"], MESSAGE);
    wait_for(&far, 1);
    server.queue_is_empty();
    assert_eq!(server.mailbox("ann@example.org").len(), 3);
    assert_eq!(server.log().matches(" accepted ").count(), 4 + 3, "four messages, three reports, and none came back");
}

#[test]
fn each_kind_of_address_finds_its_host() {
    let records = "alias.example. CNAME far.example.\nfar.example. MX 10 b.far.example.\nb.far.example. CNAME c.far.example.\n\
                   c.far.example. A 127.0.0.2\nplain.example. A 127.0.0.2\n*.wild.example. MX 10 c.far.example.";
    let Some(world) = World::new(records) else { return };
    let far = world.exchanger(2, &["PIPELINING"], never);
    let server = world.server(&Settings::default());
    let addresses =
        ["bob@far.example", "bob@alias.example", "bob@plain.example", "bob@[127.0.0.2]", "bob@any.wild.example"];
    for address in addresses {
        server.submit(ANN, &[&format!("<{address}>")], MESSAGE);
    }
    wait_for(&far, addresses.len());
    server.queue_is_empty();
    let lines = far.lines();
    for address in addresses {
        assert!(lines.contains(&format!("RCPT TO:<{address}>")), "as the sender wrote it: {address}\n{lines:#?}");
    }
}

#[test]
fn the_configuration_chooses_before_dns_does() {
    let records = "far.example. MX 10 a.far.example.\na.far.example. A 127.0.0.2\n\
                   hub.example. A 127.0.0.3\nhub.example. MX 10 mx.hub.example.\nmx.hub.example. A 127.0.0.4";
    let Some(world) = World::new(records) else { return };
    let hosts = [2, 3, 4, 5].map(|last| world.exchanger(last, &[], never));
    let fixed = world.address(5);
    let domains = format!("domains = {{ \"fixed.example\" = \"{fixed}\", \".below.example\" = \"{fixed}\" }}\n");
    let send = |tables: &str, to: &str| {
        let server = world.server(&Settings { tables, ..Settings::default() });
        server.submit(ANN, &[&format!("<bob@{to}>")], MESSAGE);
        server.logged(&[" delivered ", &format!("to=bob@{to}")]);
    };
    let counts = || [0, 1, 2, 3].map(|at: usize| hosts[at].messages().len());
    for (smarthost, to, expected) in [
        ("", "far.example", [1, 0, 0, 0]),
        ("smarthost = \"hub.example\"\n", "far.example", [1, 1, 0, 0]),
        ("smarthost = \"mx:hub.example\"\n", "far.example", [1, 1, 1, 0]),
        ("smarthost = \"hub.example\"\n", "fixed.example", [1, 1, 1, 1]),
        ("", "a.below.example", [1, 1, 1, 2]),
    ] {
        // These hosts have no TLS, which a smarthost needs otherwise.
        let hops = "hops = { \"hub.example\" = { tls = \"opportunistic\" }, \"mx:hub.example\" = { tls = \"opportunistic\" } }";
        send(&format!("[relay]\n{smarthost}{domains}{hops}\n"), to);
        assert_eq!(counts(), expected, "{smarthost} {to}");
    }
}

/// A resolver before `server` that has no answer about b.far.example for as long as it is `dark`.
fn forgetful(server: SocketAddr, dark: &Arc<AtomicBool>) -> SocketAddr {
    let (ours, dark) = (UdpSocket::bind("127.0.0.1:0").unwrap(), Arc::clone(dark));
    let address = ours.local_addr().unwrap();
    thread::spawn(move || {
        let mut octets = [0; 4096];
        while let Ok((count, client)) = ours.recv_from(&mut octets) {
            let asks = octets[..count].windows(6).any(|octets| octets.eq_ignore_ascii_case(b"\x01b\x03far"));
            if asks && dark.load(Ordering::SeqCst) {
                // It is a response, and says SERVFAIL.
                (octets[2], octets[3]) = (octets[2] | 0x80, 2);
                ours.send_to(&octets[..count], client).unwrap();
                continue;
            }
            let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
            theirs.send_to(&octets[..count], server).unwrap();
            let (count, _) = theirs.recv_from(&mut octets).unwrap();
            ours.send_to(&octets[..count], client).unwrap();
        }
    });
    address
}

#[test]
fn what_the_first_exchanger_refuses_waits_for_the_second_that_dns_has_not_shown() {
    let Some(world) = World::new(TWO) else { return };
    let _first = world.exchanger(2, &["SIZE 10"], never);
    let second = world.exchanger(3, &[], never);
    let dark = Arc::new(AtomicBool::new(true));
    let mut server = world.prepared(&Settings::default());
    let zone = world.zone.address();
    server.configure(&zone.to_string(), &forgetful(zone, &dark).to_string());
    server.run();
    server.submit(ANN, &["<bob@far.example>"], MESSAGE);
    let line = server.logged(&[" deferred ", "to=bob@far.example"]);
    assert!(line.contains("451 4.4.3 not every host that takes mail for far.example can be found: b.far"), "{line}");
    // The first one is a host like any other, for mail that it takes.
    assert!(!server.log().contains(" hop-down "), "{}", server.log());
    dark.store(false, Ordering::SeqCst);
    wait_for(&second, 1);
    server.queue_is_empty();
    assert!(server.mailbox("ann@example.org").is_empty() && !server.log().contains(" failed "));
}

#[test]
fn an_outage_of_dns_bounces_nothing_and_then_everything_arrives() {
    let domains: Vec<String> = (0..10).map(|at| format!("d{at}.example")).collect();
    let records: String = domains.iter().map(|name| format!("{name}. MX 10 a.far.example.\n")).collect();
    let Some(mut world) = World::new(&(records + "a.far.example. A 127.0.0.2")) else { return };
    let far = world.exchanger(2, &[], never);
    world.zone.stop();
    let server = world.server(&Settings::default());
    for at in 0..30 {
        server.submit(ANN, &[&format!("<b{at}@{}>", domains[at % domains.len()])], MESSAGE);
    }
    eventually("each was tried in vain", || {
        let log = server.log();
        let tried: HashSet<&str> = log
            .lines()
            .filter(|line| line.contains(" deferred ") && line.contains("4.4.3"))
            .filter_map(|line| line.split(" to=").nth(1)?.split(' ').next())
            .collect();
        tried.len() == 30
    });
    assert!(far.messages().is_empty());
    let begun = Instant::now();
    world.zone.start_again();
    server.queue_is_empty();
    assert!(begun.elapsed() < Duration::from_secs(30), "the retries are a second apart");
    assert_eq!(far.messages().len(), 30);
    assert!(server.mailbox("ann@example.org").is_empty() && !server.log().contains(" failed "));
}
