//! Many at once: clients that send while the server is killed again and again, and clients that only hold on.
#![allow(clippy::print_stdout)]

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{Client, Server, eventually};

/// What the sending clients share.
struct Load {
    address: Mutex<SocketAddr>,
    stop: AtomicBool,
    acknowledged: Mutex<Vec<Sent>>,
}

/// The name of a message, and whose mailboxes it goes to.
type Sent = (String, &'static [&'static str]);

const ANN: &[&str] = &["ann@example.org"];
const BOTH: &[&str] = &["ann@example.org", "bob@example.org"];
const LIST: &[&str] = &["team@example.org"];

/// Sends messages, one after another, until told to stop; connects anew whenever the server is gone.
fn send_on(load: &Load, client: usize) {
    let mut number = 0;
    while !load.stop.load(Ordering::Relaxed) {
        let address = *load.address.lock().unwrap();
        if session(load, address, client, &mut number).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn session(load: &Load, address: SocketAddr, client: usize, number: &mut usize) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut ask = |octets: &[u8], code: &str| {
        stream.write_all(octets)?;
        let mut line = String::new();
        while line.is_empty() || line.as_bytes().get(3) == Some(&b'-') {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                break;
            }
        }
        if line.starts_with(code) { Ok(()) } else { Err(io::Error::other(line)) }
    };
    ask(b"", "220")?;
    ask(b"EHLO client.example\r\n", "250")?;
    while !load.stop.load(Ordering::Relaxed) {
        let name = format!("m-{client}-{number}");
        *number += 1;
        // Most end in one mailbox by a rename; some are copied, as several recipients or a list.
        let (recipients, mailboxes) = match (client + *number) % 8 {
            0 => (BOTH, BOTH),
            1 => (LIST, BOTH),
            _ => (ANN, ANN),
        };
        ask(b"MAIL FROM:<sender@far.example>\r\n", "250")?;
        for recipient in recipients {
            ask(format!("RCPT TO:<{recipient}>\r\n").as_bytes(), "250")?;
        }
        let text = message(&name);
        if (*number).is_multiple_of(2) {
            ask(b"DATA\r\n", "354")?;
            ask(format!("{text}.\r\n").as_bytes(), "250")?;
        } else {
            let (first, last) = text.split_at(text.len() / 3);
            ask(format!("BDAT {}\r\n{first}", first.len()).as_bytes(), "250")?;
            ask(format!("BDAT {} LAST\r\n{last}", last.len()).as_bytes(), "250")?;
        }
        load.acknowledged.lock().unwrap().push((name, mailboxes));
    }
    Ok(())
}

fn message(name: &str) -> String {
    let line = "y".repeat(70) + "\r\n";
    format!("Subject: {name}\r\n\r\n{}END-{name}\r\n", line.repeat(40))
}

/// Drops messages, whether a server runs or not: what is in the folder is as good as acknowledged.
fn drop_on(load: &Load, folder: &Path) {
    let outside = folder.join("outside");
    for number in 0.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("d-{number}");
        let (receivers, mailboxes) = if number % 8 == 0 { (LIST, BOTH) } else { (ANN, ANN) };
        let envelope = format!("X-Sender: <sender@far.example>\nX-Receiver: <{}>\n", receivers[0]);
        fs::write(&outside, envelope + &message(&name)).unwrap();
        fs::rename(&outside, folder.join("spool/drop").join(&name)).unwrap();
        load.acknowledged.lock().unwrap().push((name, mailboxes));
        thread::sleep(Duration::from_millis(10));
    }
}

/// How often each message is in the mailbox. None may be torn.
fn found(server: &Server, address: &str) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    for message in server.mailbox(address) {
        let text = String::from_utf8(message).unwrap();
        let name = text.split("Subject: ").nth(1).and_then(|rest| rest.lines().next()).expect("a subject").to_owned();
        assert!(text.ends_with(&format!("END-{name}\r\n")), "torn: {text}");
        *found.entry(name).or_default() += 1;
    }
    found
}

#[test]
fn two_hundred_clients_lose_nothing_when_the_server_is_killed_ten_times() {
    let mut server = Server::start_with("", "team: ann, bob\n");
    let load = Arc::new(Load {
        address: Mutex::new(server.smtp_address()),
        stop: AtomicBool::new(false),
        acknowledged: Mutex::default(),
    });
    let thread = || thread::Builder::new().stack_size(256 * 1024);
    let clients = (0..200).map(|client| {
        let load = load.clone();
        thread().spawn(move || send_on(&load, client)).unwrap()
    });
    let mut senders: Vec<_> = clients.collect();
    let (folder, dropping) = (server.folder.path().to_owned(), load.clone());
    senders.push(thread().spawn(move || drop_on(&dropping, &folder)).unwrap());
    for round in 0..10u64 {
        // A little longer each time, so that the kill meets every moment of the start and of the load.
        thread::sleep(Duration::from_millis(100 + 77 * round));
        server.kill();
        server.run();
        *load.address.lock().unwrap() = server.smtp_address();
    }
    load.stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    let dropped = acknowledged.iter().filter(|(name, _)| name.starts_with("d-")).count();
    let copied = acknowledged.iter().filter(|(_, mailboxes)| *mailboxes == BOTH).count();
    assert!(acknowledged.len() - dropped > 200 && dropped > 50 && copied > 20, "too few: {}", acknowledged.len());
    for folder in ["drop", "queue"] {
        eventually("all is delivered", || support::files(&server.path("spool").join(folder)).is_empty());
    }
    for address in BOTH {
        let found = found(&server, address);
        let expected = acknowledged.iter().filter(|(_, mailboxes)| mailboxes.contains(address));
        let lost: Vec<_> = expected.filter(|(name, _)| !found.contains_key(name)).collect();
        let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        assert!(lost.is_empty() && doubled.is_empty(), "{address}: lost {lost:?}, doubled {doubled:?}");
    }
    let once: HashSet<_> = acknowledged.iter().collect();
    assert_eq!(once.len(), acknowledged.len());
    assert!(support::files(&server.path("spool/failed")).is_empty());
    println!("acknowledged {}, dropped {dropped}, copied {copied}, lost 0, doubled 0", acknowledged.len());
}

#[test]
fn a_thousand_idle_connections_are_held_and_what_is_beyond_is_turned_away() {
    // Two descriptors a client here, and one there.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    let server = Server::start("[limits]\nconnections = 1010\nconnections_per_client = 1005\n");
    let before = pss(&server);
    let mut held: Vec<Client> = (0..1000).map(|_| server.smtp()).collect();
    held.iter_mut().for_each(|client| _ = client.expect("220"));
    held.iter_mut().for_each(|client| _ = client.ask("EHLO client.example", "250"));
    for _ in 0..5 {
        held.push(server.smtp());
    }
    let mut beyond = server.smtp();
    beyond.expect("421 4.7.0 too many connections from your address");
    server.logged(&[" turned-away ", "client=127.0.0.1", "protocol=smtp", "open=1005"]);
    for client in held.iter_mut().take(1000) {
        client.ask("NOOP", "250");
    }
    held.truncate(1000);
    eventually("there is room again", || {
        let mut client = server.smtp();
        client.reply().starts_with("220")
    });
    let with = pss(&server);
    println!(
        "memory (PSS): {before} KiB at start, {with} KiB with 1000 idle connections after EHLO, {:.1} KiB each",
        f64::from(with - before) / 1000.0
    );
}

/// KiB of memory in use: the server's own, and its part of what is shared.
fn pss(server: &Server) -> u32 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
