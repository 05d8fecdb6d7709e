//! The dialogues of `tests/dialogues`, mutated, at the running server: whatever comes, it answers in its own grammar, ends
//! each session, keeps its size, takes nothing that it can't read again, writes nothing that breaks a line, and serves.
//!
//! Every session is made from its number alone, so that one that went wrong can be repeated: `MUTATED_FIRST=1234
//! MUTATED_SESSIONS=1`. `MUTATED_SESSIONS` also makes it go on for longer than the few seconds of `make test`.

mod support;

#[path = "fuzz/checks/dialogues.rs"]
mod dialogues;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dialogues::Said;
use postrider::mail::letters::is_misleading;
use socket2::{Domain, Socket, Type};
use support::{PATIENCE, Server, files};

const SESSIONS: usize = 400;

/// At once: most of a session's time is the delay of a wrong password.
const CLIENTS: usize = 64;

/// What is put in at random: what ends things, what begins things, and numbers at the edges of all that counts.
const WORDS: [&[u8]; 30] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r\n.\r",
    b".",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xc4\xb0",
    b" ",
    b"<>",
    b"\"",
    b"@",
    b"18446744073709551616",
    b"4294967295",
    b"-1",
    b"BDAT 7\r\n",
    b"\r\nBDAT 18446744073709551616\r\n",
    "\u{202e}".as_bytes(),
    b"BDAT 0 LAST\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"MAIL FROM:<s@far.example>\r\nRCPT TO:<ann@example.org>\r\n",
    b"EHLO x\r\n",
    b"AUTH PLAIN AGFubgBjb3JyZWN0IGhvcnNl\r\n",
    b"RETR 1\r\n",
    b"TOP 1 99999999999\r\n",
    b"X-Sender: <a@b.example>\r\n",
];

/// A small generator of its own: a number makes the same session in every run.
struct Dice(u64);

impl Dice {
    /// The dice of one session.
    fn of(number: usize) -> Dice {
        let mut dice = Dice((number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        (0..4).for_each(|_| _ = dice.below(2));
        dice
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// What all that is sent is made of.
struct Corpus {
    said: Vec<Said>,
    /// Every command of the dialogues, of both protocols.
    lines: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Corpus {
    fn new() -> Corpus {
        // In lower case it has more octets than a name may; and a letter that turns the direction of what follows.
        let name = format!("{}\u{202e}", "\u{23a}".repeat(60));
        let mail = format!("RSET\r\nEHLO x\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<{name}+x@example.org>\r\n");
        let login = format!("USER {name}\r\nPASS x\r\n");
        let words = WORDS.iter().copied().chain([mail.as_bytes(), login.as_bytes()]).map(<[u8]>::to_vec).collect();
        // Each wrong password costs a second or more.
        let is_quick = |said: &Said| said.octets.windows(5).filter(|window| window == b"PASS ").count() < 4;
        let said = dialogues::all().into_iter().filter(is_quick).collect();
        Corpus { said, lines: [false, true].into_iter().flat_map(dialogues::lines).collect(), words }
    }
}

fn mutated(octets: &[u8], corpus: &Corpus, dice: &mut Dice) -> Vec<u8> {
    let mut octets = octets.to_vec();
    for _ in 0..dice.below(8) {
        let anywhere = dice.below(octets.len() + 1);
        // Half of them between two lines, or most of what is put in would only be a word of another command.
        let line_end = octets[anywhere..].iter().position(|octet| *octet == b'\n').filter(|_| dice.below(2) == 0);
        let at = line_end.map_or(anywhere, |end| anywhere + end + 1);
        let end = (at + 1 + dice.below(40)).min(octets.len());
        let at = at.min(end);
        match dice.below(9) {
            0 => octets.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= 1 << dice.below(8)),
            1 => drop(octets.drain(at..end)),
            2 => {
                let again = octets[at..end].repeat(1 + dice.below(50));
                octets.splice(at..at, again);
            }
            3 => {
                let other = &dice.one_of(&corpus.said).octets;
                let from = dice.below(other.len());
                octets.splice(at..end, other[from..].iter().copied());
            }
            4 => octets.truncate(at),
            5 => octets.splice(at..at, [u8::try_from(dice.below(256)).unwrap()]).for_each(drop),
            6 => octets.splice(at..at, [b"\r\n", &dice.one_of(&corpus.lines)[..], b"\r\n"].concat()).for_each(drop),
            _ => octets.splice(at..at, dice.one_of(&corpus.words).iter().copied()).for_each(drop),
        }
    }
    octets.truncate(200_000);
    // Whoever stops in the middle of a line hears no more.
    octets.extend_from_slice(b"\r\n");
    octets
}

/// One whole session: what the server said, up to where it goes on under TLS; or what is wrong.
fn session(number: usize, server: &Addresses, corpus: &Corpus) -> Result<(), String> {
    let mut dice = Dice::of(number);
    // Each once in a round.
    let origin = &corpus.said[number % corpus.said.len()];
    let octets = mutated(&origin.octets, corpus, &mut dice);
    let address = if origin.is_pop3 { server.pop3 } else { server.smtp };
    let answer = exchange(number, address, &octets, &mut dice)?;
    check_answer(&answer, origin.is_pop3)
}

fn exchange(number: usize, address: SocketAddr, octets: &[u8], dice: &mut Dice) -> Result<Vec<u8>, String> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Clients of many addresses, or the delays of a few guesses would be those of all.
    let last = u8::try_from(number % 250 + 2).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect(&address.into()).map_err(|error| format!("no connection: {error}"))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reading = stream.try_clone().unwrap();
    thread::scope(|scope| {
        let answer = scope.spawn(move || {
            let mut answer = Vec::new();
            match reading.read_to_end(&mut answer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err("it hangs".to_owned()),
                // A reset is an end too.
                _ => Ok(answer),
            }
        });
        let mut rest = octets;
        while !rest.is_empty() {
            let size = if dice.below(4) == 0 { 1 + dice.below(5) } else { 1 + dice.below(3000) };
            let (piece, after) = rest.split_at(size.min(rest.len()));
            // The server may have closed already.
            if stream.write_all(piece).is_err() {
                break;
            }
            rest = after;
            if dice.below(8) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
        answer.join().unwrap()
    })
}

fn check_answer(answer: &[u8], is_pop3: bool) -> Result<(), String> {
    let shown = || String::from_utf8_lossy(&answer[..answer.len().min(4000)]).into_owned();
    let greeting: &[u8] = if is_pop3 { b"+OK mail.example.org" } else { b"220 mail.example.org" };
    if !answer.is_empty() && !answer.starts_with(greeting) {
        return Err(format!("no greeting: {:?}", shown()));
    }
    let tls: &[u8] = if is_pop3 { b"+OK begin TLS now\r\n" } else { b"220 2.0.0 begin TLS now\r\n" };
    let clear = answer.windows(tls.len()).position(|window| window == tls).map_or(answer, |at| &answer[..at]);
    // A reset may cut the last line anywhere.
    let whole = clear.iter().rposition(|octet| *octet == b'\n').map_or(&[][..], |end| &clear[..=end]);
    for line in whole.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\r\n").filter(|text| !text.contains(&b'\r'));
        let Some(text) = text else { return Err(format!("a bare CR or LF in {:?}: {:?}", line, shown())) };
        let is_reply = text.len() >= 4
            && text[..3].iter().all(u8::is_ascii_digit)
            && matches!(text[3], b' ' | b'-')
            && !String::from_utf8_lossy(text).contains(char::is_control);
        if !is_pop3 && !is_reply {
            return Err(format!("no reply: {:?}", String::from_utf8_lossy(line)));
        }
    }
    Ok(())
}

struct Addresses {
    smtp: SocketAddr,
    pop3: SocketAddr,
}

/// Speaks the sessions of these numbers; what went wrong in which.
fn speak(numbers: std::ops::Range<usize>, server: &Server, corpus: &Corpus) -> Vec<String> {
    let addresses = Addresses { smtp: server.smtp_address(), pop3: server.pop3_address() };
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut faults = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= numbers.end {
                            return faults;
                        }
                        let spoken = session(number, &addresses, corpus);
                        faults.extend(spoken.err().map(|fault| format!("session {number}: {fault}")));
                    }
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn number_of(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |number| number.parse().expect("a number"))
}

#[test]
fn mutated_dialogues_leave_the_server_as_it_was() {
    let (first, count) = (number_of("MUTATED_FIRST", 0), number_of("MUTATED_SESSIONS", SESSIONS));
    let mut server = Server::start_with(
        "[limits]\nmessage_size = \"1MiB\"\nerrors = 30\n[submission]\nauth_on_25 = true\ncleartext = [\"127.0.0.0/8\"]\n\
         [pop3]\ncleartext = [\"127.0.0.0/8\"]\n",
        "info: ann, bob\n@example.net: ann\n",
    );
    let corpus = Corpus::new();
    assert!([false, true].iter().all(|is_pop3| corpus.said.iter().any(|said| said.is_pop3 == *is_pop3)));
    // Whatever is made once is made by then.
    let warm = first + count / 4;
    let mut faults = speak(first..warm, &server, &corpus);
    let before = server.memory();
    faults.extend(speak(warm..first + count, &server, &corpus));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    check_files(&server);
    check_log(&server);
    serves_good_mail(&server);
    assert_eq!(server.stop(), Some(0));
}

/// What was taken is whole, can be read, and was not torn on its way.
fn check_files(server: &Server) {
    let failed = files(&server.path("spool/failed"));
    assert!(failed.is_empty(), "an entry that was accepted can't be read: {failed:?}");
    for address in ["ann@example.org", "bob@example.org"] {
        for message in server.mailbox(address) {
            let text = String::from_utf8_lossy(&message);
            assert!(text.starts_with("Return-Path: <") && text.ends_with("\r\n"), "{text}");
            let rest = text.replace("\r\n", "");
            assert!(!rest.contains(['\r', '\n']), "a bare CR or LF in a mailbox: {text:?}");
        }
    }
    let mailboxes = files(&server.path("spool/mail"));
    assert!(mailboxes.iter().all(|path| path.ends_with("example.org")), "{mailboxes:?}");
    assert_eq!(fs::read_dir(server.path("spool/tmp")).unwrap().count(), 0, "a draft is left behind");
}

/// One event, one line, however foreign the octets in it.
fn check_log(server: &Server) {
    let log = fs::read(server.path("mail.log")).unwrap();
    let log = String::from_utf8(log).expect("the log is text");
    for line in log.lines() {
        assert!(!line.chars().any(is_misleading) && line.starts_with("20") && line.len() <= 4096, "{line:?}");
    }
    assert!(log.contains(" refused ") && log.contains(" delivered "), "nothing was tried");
}

fn serves_good_mail(server: &Server) {
    server.send(&["ann@example.org"], "Subject: good after all\r\n\r\nhi\r\n");
    support::eventually("good mail comes", || {
        server.mailbox("ann@example.org").iter().any(|message| String::from_utf8_lossy(message).contains("good after"))
    });
    let mut client = server.pop3();
    client.log_in("ann@example.org");
    client.ask("STAT", "+OK");
    client.ask("QUIT", "+OK");
}
