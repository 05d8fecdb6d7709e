//! Dialogues as data: each file in `tests/dialogues` is spoken, line by line, with the real binary.
//!
//! ```text
//! # a comment; the file's first comment says what it shows
//! server: connections = 3          a line for [limits]
//! listen: submission                another port of [listen] is open
//! config: [relay]                  a line for the end of the configuration, or for its top before the first [table]
//! aliases: info: ann               a line for the aliases file
//! connect smtp NAME                or pop3, or a port of listen:; a new connection, which may have a name
//! turn NAME                        on with the connection of that name
//! tls                              it goes on under TLS, which it has agreed to; lines end with CR LF there
//! C: EHLO a.example                sent with CR LF; \r \n \0 \xNN \\ are read as in C
//! C+ raw octets                    sent as they stand, without CR LF; the following line is sent at once
//! C* 300 x                         sends "x" 300 times, without CR LF
//! C! close                         no more will be sent; the server can still speak
//! S: 250 2.1.0 sender ok           a whole line; * at its end stands for any rest
//! S+ 250 HELP                      skips lines up to one like this
//! S* 20 250 2.0.0 ok               so many lines like this
//! S! closed                        the server has closed
//! F: ann@example.org 1             that mailbox comes to hold so many messages
//! F= ann@example.org a\r\n         a message in it has this body
//! F~ ann@example.org Subject: *    a message in it has such a line
//! F! ann@example.org               nothing is in it, nor in the queue
//! L: event=x                       the log gets a line that contains this
//! file: spool/x text               writes a file into the server's folder, as C+ has it
//! file! spool/x                    removes a file or a folder there
//! signal TERM                      sent to the server
//! ```

mod support;

#[path = "fuzz/checks/octets.rs"]
mod octets;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use octets::unescape;
use support::{Client, Server, eventually, tls};

fn dialogues() -> Vec<PathBuf> {
    support::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues"))
}

#[test]
fn every_dialogue_is_spoken_as_written() {
    let mut files = dialogues();
    // The slow ones, which wait for the delay of wrong passwords, come first.
    files.sort_by(|a, b| b.cmp(a));
    let files = Mutex::new(files);
    let failures = Mutex::new(Vec::new());
    let next = || files.lock().unwrap().pop();
    // Most of the time is spent waiting: for a server to start, for a password's delay.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(path) = next() {
                    let spoken = catch_unwind(AssertUnwindSafe(|| speak(&path)));
                    let result = spoken.unwrap_or_else(|_| Err(format!("{}: see the panic above", path.display())));
                    failures.lock().unwrap().extend(result.err());
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_dialogue_says_what_it_shows() {
    let files = dialogues();
    assert!(files.len() > 1);
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{name} does not begin with a comment");
        assert!(name.starts_with("smtp-") || name.starts_with("pop3-"), "{name}");
        assert!(text.lines().count() <= 500, "{name} is too long");
    }
}

#[test]
fn a_dialogue_that_is_not_spoken_as_written_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong");
    for (text, line) in [
        ("connect smtp\nS: 220 nonsense", 2),
        ("connect pop3\nS: +OK*\nC: QUIT\nS: -ERR*", 4),
        ("connect pop3\nC: QUIT\nS+ -ERR*", 3),
        ("connect smtp\nC: NOOP\nS* 2 2*\nS! closed", 4),
        ("turn nobody", 1),
        ("F! ann@example.org\nfile: spool/mail/example.org/ann/new/1 a\\r\\n\\r\\nb\nF= ann@example.org c", 3),
    ] {
        // A connection that hears nothing more is closed for its silence here.
        let text = format!("server: command_timeout = \"1s\"\n{text}");
        fs::write(&path, text).unwrap();
        assert!(speak(&path).unwrap_err().contains(&format!("wrong:{}: ", line + 1)));
    }
}

/// What no dialogue shows, and why.
const NOT_SHOWN: [(&str, &str); 12] = [
    ("internal_error", "session and connection would have to disagree about the chunks of a message"),
    ("address_expired", "the address would have to hold a day of three weeks ago; src/smtpd/policy.rs tests it"),
    ("for_reports_only", "the address would have to hold the stamp of today; src/smtpd/policy.rs tests it"),
    ("BUSY", "four passwords would have to be in the check for 10 s"),
    ("logins_busy", "as BUSY"),
    ("login_too_dear", "the machine would have to be small; tests/memory_limit.rs shows it"),
    ("TOO_DEAR", "as login_too_dear"),
    ("LOGIN_TOO_LATE", "it takes two minutes; src/pop3/connection.rs tests it"),
    ("TLS_ALREADY", "tests/tls_servers.rs shows it"),
    ("shut_out", "as SHUT_OUT"),
    ("SHUT_OUT", "this host itself, from where dialogues are spoken, never is; tests/guessing.rs shows it"),
    ("the local-part holds a control character", "no command can hold one; only tables are told this"),
];

/// Replies whose text is made for the occasion: the function, and the beginning of what it says.
const FORMED: [(&str, &str); 19] = [
    ("src/mail/reply.rs greeting", "220 mail.example.org ESMTP Postrider"),
    ("src/mail/reply.rs helo", "250 mail.example.org"),
    ("src/mail/reply.rs ehlo", "250-mail.example.org"),
    ("src/mail/reply.rs bad_hello", "501 give the name of your host, or its address in brackets"),
    ("src/mail/reply.rs start_data", "354 send the message; end it with a dot on a line of its own"),
    ("src/mail/reply.rs challenge", "334 VXNlcm5hbWU6"),
    ("src/pop3/reply.rs challenge", "+ VXNlcm5hbWU6"),
    ("src/mail/reply.rs accepted", "250 2.0.0 accepted as *"),
    ("src/mail/reply.rs bad_address", "501 5.1.7 the domain is missing"),
    ("src/mail/reply.rs bad_parameter", "555 5.5.4 parameter AUTH is not known here"),
    ("src/mail/reply.rs addresses", "250-2.1.5 <ann@example.org>"),
    ("src/mail/reply.rs brought_forward", "253 2.0.0 messages for that domain that are tried now: 1"),
    ("src/pop3/reply.rs greeting", "+OK mail.example.org POP3 Postrider"),
    ("src/pop3/reply.rs welcome", "+OK 3 messages, 63 octets"),
    ("src/pop3/reply.rs pair", "+OK 3 63"),
    ("src/pop3/reply.rs sizes", "+OK 3 messages (63 octets)"),
    ("src/pop3/reply.rs message", "+OK 23 octets"),
    ("src/pop3/connection.rs TOO_MANY", "-ERR [SYS/TEMP] too many connections; try again later"),
    ("src/pop3/connection.rs TOO_MANY_FROM_CLIENT", "-ERR [SYS/TEMP] too many connections from your address"),
];

#[test]
fn every_reply_is_shown_by_a_dialogue() {
    let said = said();
    let mut silent = Vec::new();
    for (name, text) in fixed_replies().into_iter().chain(reasons()) {
        let is_shown = said.contains(&text);
        let is_excused = NOT_SHOWN.iter().any(|(excused, _)| *excused == name);
        if is_shown == is_excused {
            silent.push(format!("{name}: {text}"));
        }
    }
    for (name, text) in FORMED {
        if !said.contains(text) {
            silent.push(format!("{name}: {text}"));
        }
    }
    for path in ["src/mail/reply.rs", "src/pop3/reply.rs"] {
        let formed = functions(path).into_iter().map(|name| format!("{path} {name}"));
        silent.extend(formed.filter(|function| !FORMED.iter().any(|(name, _)| name == function)));
    }
    assert!(silent.is_empty(), "shown by no dialogue, or shown and excused:\n{}", silent.join("\n"));
}

/// Every line that a server says in some dialogue.
fn said() -> HashSet<String> {
    let texts = dialogues().into_iter().map(|path| fs::read_to_string(path).unwrap());
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter_map(|line| line.strip_prefix("S: ").or(line.strip_prefix("S+ ")).map(str::to_owned)).collect()
}

/// The part of a source before its tests.
fn source(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// The tables of both protocols' replies: name and whole line.
fn fixed_replies() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in ["src/mail/reply.rs", "src/pop3/reply.rs"] {
        for line in source(path).lines() {
            let entry = line.trim().strip_suffix("\";").and_then(|line| line.split_once(" = "));
            let Some((name, (codes, text))) = entry.and_then(|(name, rest)| Some((name, rest.split_once('"')?))) else {
                continue;
            };
            let codes = codes.replace(" . ", ".");
            found.push((name.to_owned(), format!("{codes}{text}")));
        }
    }
    assert!(found.len() > 60, "the tables are no longer read");
    found
}

/// The reasons that an address, a parameter or a route gives a reply: the text, and a whole line with it.
fn reasons() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let literals = |path: &str, start: &str| -> Vec<String> {
        let text = source(path);
        let parts = text.split(start).skip(1).filter_map(|part| part.split_once('"'));
        parts.map(|(text, _)| text.to_owned()).collect()
    };
    for text in literals("src/mail/address.rs", "AddressError(\"") {
        // The path of RCPT is read by the same code.
        let whose = if text == "this is no international domain name" { 3 } else { 7 };
        found.push((text.clone(), format!("501 5.1.{whose} {text}")));
    }
    for (code, start) in [("5.1.1", "Enhanced(5, 1, 1), \""), ("5.4.6", "Enhanced(5, 4, 6), \"")] {
        let texts = literals("src/route.rs", start).into_iter();
        found.extend(texts.map(|text| (text.clone(), format!("550 {code} {text}"))));
    }
    for name in ["SIZE", "BODY", "SMTPUTF8", "AUTH", "REQUIRETLS", "RET", "ENVID", "NOTIFY", "ORCPT"] {
        let text = format!("501 5.5.4 the value of {name} can't be read, or it stands there twice");
        found.push((name.to_owned(), text));
    }
    found
}

/// The functions of a file that make a reply.
fn functions(path: &str) -> Vec<String> {
    let text = source(path);
    let made = text.lines().filter(|line| {
        line.contains("-> Reply {") || line.contains("-> Answer {") || line.contains("-> Option<Reply> {")
    });
    made.filter_map(|line| Some(line.strip_prefix("pub fn ")?.split('(').next()?.to_owned())).collect()
}

/// The server and the connections of one dialogue.
struct Stage {
    server: Server,
    clients: HashMap<String, Client>,
    turn: String,
}

fn speak(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let mut stage = Stage { server: prepared(&text), clients: HashMap::new(), turn: String::new() };
    stage.server.run();
    for (at, line) in text.lines().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        stage.step(line).map_err(|what| format!("{name}:{}: {line}\n    {what}", at + 1))?;
    }
    Ok(())
}

fn prepared(text: &str) -> Server {
    let of = |prefix: &str| text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::trim).collect();
    let lines = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let (limits, aliases, config): (Vec<_>, Vec<_>, Vec<_>) = (of("server:"), of("aliases:"), of("config:"));
    let listen: String = of("listen:").iter().map(|name| format!("{name} = [\"127.0.0.1:0\"]\n")).collect();
    let first_table = config.iter().position(|line| line.starts_with('[')).unwrap_or(config.len());
    let (top, tables) = config.split_at(first_table);
    let server = Server::prepared(&format!("{listen}[limits]\n{}{}", lines(&limits), lines(tables)), &lines(&aliases));
    let path = server.path("postrider.toml");
    let rest = fs::read_to_string(&path).unwrap();
    fs::write(path, lines(top) + &rest).unwrap();
    server
}

impl Stage {
    fn step(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "server:" | "aliases:" | "listen:" | "config:" => {}
            comment if comment.starts_with('#') => {}
            "connect" => self.connect(rest)?,
            "tls" => {
                let client = self.clients.remove(&self.turn).ok_or("no such connection")?;
                self.clients.insert(self.turn.clone(), tls::over(client.stream));
            }
            "turn" if self.clients.contains_key(rest) => self.turn = rest.to_owned(),
            "F:" | "F=" | "F~" | "F!" => mailbox(&self.server, word, rest)?,
            "L:" => _ = self.server.logged(&[rest]),
            "file:" | "file!" => file(&self.server, word, rest)?,
            "signal" => self.server.signal(rest),
            _ => {
                let client = self.clients.get_mut(&self.turn).ok_or("no such connection")?;
                exchange(client, word, rest)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, what: &str) -> Result<(), String> {
        let (protocol, name) = what.split_once(' ').unwrap_or((what, ""));
        let client = match protocol {
            "smtp" | "pop3" | "submission" => Client::connect(self.server.address(protocol)),
            other => return Err(format!("there is no {other}")),
        };
        self.turn = name.to_owned();
        self.clients.insert(self.turn.clone(), client);
        Ok(())
    }
}

fn mailbox(server: &Server, word: &str, rest: &str) -> Result<(), String> {
    let (address, what) = rest.split_once(' ').unwrap_or((rest, ""));
    if word == "F:" {
        server.wait_for(address, what.parse().map_err(|_| "no count")?);
        return Ok(());
    }
    eventually("the queue is empty", || support::files(&server.path("spool/queue")).is_empty());
    let found = server.mailbox(address);
    let texts = || found.iter().map(|message| String::from_utf8_lossy(message));
    let holds = match word {
        "F!" => found.is_empty(),
        "F~" => texts().any(|text| text.split("\r\n").any(|line| fits(line, what))),
        _ => found.iter().any(|message| body(message) == unescape(what)),
    };
    if holds { Ok(()) } else { Err(format!("the mailbox holds {:?}", texts().collect::<Vec<_>>())) }
}

fn body(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|octets| octets == b"\r\n\r\n");
    end.map_or(b"", |at| &message[at + 4..])
}

fn file(server: &Server, word: &str, rest: &str) -> Result<(), String> {
    let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let path = server.path(path);
    let done = if word == "file:" {
        let parent = path.parent().ok_or("no folder")?;
        fs::create_dir_all(parent).and_then(|()| fs::write(&path, unescape(text)))
    } else if path.is_dir() {
        fs::remove_dir_all(&path)
    } else {
        fs::remove_file(&path)
    };
    done.map_err(|error| format!("{}: {error}", path.display()))
}

fn exchange(client: &mut Client, word: &str, rest: &str) -> Result<(), String> {
    let counted = || {
        let (count, what) = rest.split_once(' ').ok_or("write a count and a text")?;
        Ok::<(usize, &str), String>((count.parse().map_err(|_| "no count")?, what))
    };
    match word {
        "C:" => client.send(&[unescape(rest), b"\r\n".to_vec()].concat()),
        "C+" => client.send(&unescape(rest)),
        "C*" => counted().map(|(count, what)| client.send(&unescape(what).repeat(count)))?,
        "C!" => client.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?,
        "S:" => expect(client, rest)?,
        "S+" => while !fits(&next_line(client)?, rest) {},
        "S*" => {
            let (count, what) = counted()?;
            (0..count).try_for_each(|_| expect(client, what))?;
        }
        "S!" => {
            let rest = client.rest();
            if !rest.is_empty() {
                return Err(format!("the server went on: {rest:?}"));
            }
        }
        other => return Err(format!("{other:?} is no word of a dialogue")),
    }
    Ok(())
}

fn next_line(client: &mut Client) -> Result<String, String> {
    if client.is_over() { Err("the server closed or said nothing more".to_owned()) } else { Ok(client.line()) }
}

fn expect(client: &mut Client, pattern: &str) -> Result<(), String> {
    let found = next_line(client)?;
    if fits(&found, pattern) { Ok(()) } else { Err(format!("the server said {found:?}")) }
}

fn fits(found: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(found == pattern, |start| found.starts_with(start))
}
