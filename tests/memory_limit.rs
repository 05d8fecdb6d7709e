//! A server in a control group of 64 MiB, as on the smallest hosts that are sold, and two thousand clients who want all
//! of it: it is never killed, who is too many is told so at once, and mail goes on (DESIGN P8).
//!
//! Needs root and a memory controller, of either version of control groups; where there is none the tests are named in
//! the list of those skipped.
#![allow(clippy::print_stdout)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use postrider::{limits, users};
use support::memory_group::MemoryGroup;
use support::{Client, PASSWORD, Server, eventually, tls};

const MEMORY: u64 = 64 << 20;

/// Clients that come at once, of whom the server has room for a twentieth.
const CROWD: usize = 2000;

/// How long the crowd presses.
const PRESS: Duration = Duration::from_secs(20);

/// How long a client may wait to hear that it is one too many: 2 s are promised (RELIABILITY, floods), and this machine may
/// be busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A password that takes 64 MiB to check: more than there is.
const TOO_DEAR: &str =
    "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$Qg0yzeDcQruM14lRJnPJpw$IZF2OG6wm8mwLrea3fbb8YJ+6PTJZCAI8/XjJgu5jRQ";

/// Tells the clients that it is over, come what may.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What became of the clients.
#[derive(Default)]
struct Count {
    served: AtomicUsize,
    turned_away: AtomicUsize,
    messages: AtomicUsize,
    recipients: AtomicUsize,
    large: AtomicUsize,
    logins: AtomicUsize,
    handshakes: AtomicUsize,
}

/// The clients' host: many addresses of this one.
fn address(client: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(client).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 2, high, low)
}

fn from(client: usize, server: SocketAddr) -> Client {
    Client::connect_from(address(client), server)
}

/// The greeting of one that is served; `None` for one too many, who must know at once.
fn greeted(mut client: Client, count: &Count) -> Option<Client> {
    let begun = Instant::now();
    let greeting = client.reply();
    if greeting.starts_with("220 ") || greeting.starts_with("+OK") {
        count.served.fetch_add(1, Ordering::Relaxed);
        return Some(client);
    }
    assert!(greeting.starts_with("421 4.") || greeting.starts_with("-ERR [SYS/TEMP] "), "{greeting:?}");
    assert!(begun.elapsed() < AT_ONCE, "told after {:?}", begun.elapsed());
    assert!(client.is_over());
    count.turned_away.fetch_add(1, Ordering::Relaxed);
    None
}

/// Up to the octets of a message.
fn in_a_message(client: &mut Client) {
    client.ask("MAIL FROM:<s@far.example>", "250");
    client.ask("RCPT TO:<bob@example.org>", "250");
    client.ask("DATA", "354");
    client.send(b"Subject: large\r\n\r\n");
}

/// A line of `octets`, again and again.
fn lines(octets: usize) -> Vec<u8> {
    let line = [&[b'x'; 78][..], b"\r\n"].concat();
    line.into_iter().cycle().take(octets / 80 * 80).collect()
}

/// Clients who come all at once, and keep what they get: a part of a message, or a thousand recipients.
fn crowd(server: SocketAddr, count: &Count, over: &AtomicBool) {
    let part = lines(1 << 20);
    // As long as they may be, each with an ORCPT as long as it may be.
    let (tag, original) = ("t".repeat(limits::LOCAL_PART - 12), "o".repeat(limits::ORCPT));
    let recipients: String = (0..1000)
        .map(|number| format!("RCPT TO:<carol+{tag}{number}@example.org> ORCPT=rfc822;{original}\r\n"))
        .collect();
    let (part, recipients) = (&part, &recipients);
    let one_of = |number: usize| {
        let Some(mut client) = greeted(from(number / 10, server), count) else { return };
        client.ask("EHLO client.example", "250");
        if number.is_multiple_of(2) {
            in_a_message(&mut client);
            client.send(part);
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
        }
        while !over.load(Ordering::Relaxed) {
            client.ask("MAIL FROM:<s@far.example>", "250");
            client.send(recipients.as_bytes());
            let taken = (0..1000).filter(|_| is_taken(&client.reply())).count();
            assert!(taken >= 30, "{taken} recipients");
            count.recipients.fetch_add(taken, Ordering::Relaxed);
            client.ask("DATA", "354");
            client.ask("Subject: to many\r\n\r\n.", "250");
        }
    };
    thread::scope(|scope| {
        for number in 0..CROWD {
            thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, move || one_of(number)).unwrap();
        }
    });
}

fn is_taken(reply: &str) -> bool {
    assert!(reply.starts_with("250 2.1.5") || reply.starts_with("452 4.5.3"), "{reply}");
    reply.starts_with("250")
}

/// Sends messages of 50 MiB over one connection, which goes on whatever comes.
fn send_large(mut client: Client, count: &Count, over: &AtomicBool) {
    let block = lines(1 << 20);
    client.ask("EHLO client.example", "250");
    while !over.load(Ordering::Relaxed) {
        in_a_message(&mut client);
        (0..50).for_each(|_| client.send(&block));
        client.ask(".", "250");
        count.large.fetch_add(1, Ordering::Relaxed);
    }
}

/// Logs in with wrong passwords, each from another address, so that each is checked: at ann's, who is here, at eve's,
/// whose password nobody could check, and at somebody's.
fn guess(server: &Server, first: usize, count: &Count, over: &AtomicBool) {
    let names = ["ann@example.org", "eve@example.org", "nobody@example.org"];
    let (pop3, submissions) = (server.pop3_address(), server.address("submissions"));
    for number in first.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let name = names[number % 3];
        if number.is_multiple_of(2) {
            let Some(mut client) = greeted(from(10_000 + number, pop3), count) else { continue };
            client.ask(&format!("USER {name}"), "+OK");
            client.ask("PASS wrong", "-ERR");
        } else {
            let stream = from(10_000 + number, submissions).stream;
            // One too many hears nothing there, and is closed.
            let Some(client) = tls::try_over(stream) else { continue };
            count.handshakes.fetch_add(1, Ordering::Relaxed);
            let Some(mut client) = greeted(client, count) else { continue };
            client.ask("EHLO client.example", "250");
            let answer = client.ask(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{name}\0wrong"))), "");
            assert!(answer.starts_with("535 ") || answer.starts_with("454 "), "{answer}");
        }
        count.logins.fetch_add(1, Ordering::Relaxed);
    }
}

/// The server in its group. It goes before the group does.
fn start(group: &MemoryGroup) -> Server {
    let listen = "submissions = [\"127.0.0.1:0\"]\n[pop3]\ncleartext = [\"127.0.0.0/8\"]\n";
    let mut server = Server::prepared(listen, "");
    let (ann, other) = (users::hash(PASSWORD.as_bytes()), users::hash(b"another"));
    let users = format!(
        "ann@example.org:{ann}\nbob@example.org:{other}\ncarol@example.org:{other}\neve@example.org:{TOO_DEAR}\n"
    );
    fs::write(server.path("users"), users).unwrap();
    let command = group.around(&server.command());
    server.run_as(command);
    server
}

#[test]
fn two_thousand_clients_do_not_have_a_small_server_killed() {
    let test = "two_thousand_clients_do_not_have_a_small_server_killed";
    let Some(group) = MemoryGroup::new(test, MEMORY) else { return };
    // One descriptor and one thread a client.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
    let mut server = start(&group);
    server.logged(&[" started ", "threads=4"]);
    let smtp = server.smtp_address();
    // Those who are here before the crowd, and stay.
    let (mut early, large) = (server.smtp(), server.smtp());
    let mut pop3 = server.pop3();
    let (count, over) = (Count::default(), AtomicBool::new(false));
    let large = greeted(large, &count).unwrap();
    early.expect("220");
    early.ask("EHLO client.example", "250");
    pop3.log_in("ann");
    let mut most = 0;
    let pressed = panic::catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| {
            let (count, over, server) = (&count, &over, &server);
            scope.spawn(move || send_large(large, count, over));
            scope.spawn(move || crowd(smtp, count, over));
            (0..24).for_each(|number| _ = scope.spawn(move || guess(server, number * 1000, count, over)));
            let _over = Over(over);
            let begun = Instant::now();
            while begun.elapsed() < PRESS && group.kills() == 0 {
                early.submit("<s@far.example>", &["<ann@example.org>"], "Subject: goes on\r\n\r\n");
                pop3.ask("NOOP", "+OK");
                count.messages.fetch_add(1, Ordering::Relaxed);
                most = most.max(server.memory());
                thread::sleep(Duration::from_millis(200));
            }
        })
    }));
    // Clients of a server that was killed have complained, too.
    assert_eq!(group.kills(), 0, "the kernel killed a process of it");
    pressed.unwrap();
    let counted = |number: &AtomicUsize| number.load(Ordering::Relaxed);
    println!(
        "{test}: served {}, turned away {}, messages {}, recipients {}, of 50 MiB {}, logins {}, handshakes {}; \
         memory at most {most} KiB",
        counted(&count.served),
        counted(&count.turned_away),
        counted(&count.messages),
        counted(&count.recipients),
        counted(&count.large),
        counted(&count.logins),
        counted(&count.handshakes)
    );
    assert!(server.exited().is_none());
    assert!(counted(&count.turned_away) > CROWD / 2 && counted(&count.served) > 30);
    assert!(counted(&count.large) > 0 && counted(&count.logins) > 10 && counted(&count.handshakes) > 5);
    // All of what was promised is there, and the owner gets in once it is quieter.
    eventually("there is room again", || server.smtp().reply().starts_with("220 "));
    server.wait_for("ann@example.org", counted(&count.messages));
    server.wait_for("bob@example.org", counted(&count.large));
    server.send(&["ann@example.org"], "Subject: after\r\n\r\n");
    pop3.ask("QUIT", "+OK");
    server.pop3().log_in("ann");
}
