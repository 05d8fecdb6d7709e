//! Dialogues as data: each file in `tests/dialogues` is spoken, line by line, with the real binary.
//!
//! ```text
//! # a comment; the file's first comment says what it shows
//! server: connections = 3          a line for [limits], before the first C: or S:
//! aliases: info: ann               a line for the aliases file
//! connect smtp                     or pop3; a new connection
//! C: EHLO a.example                sent with CR LF; \r \n \0 \xNN \\ are read as in C
//! C+ raw octets                    sent as they stand, without CR LF; the following line is sent at once
//! C* 300 x                         sends "x" 300 times, without CR LF
//! S: 250 2.1.0 sender ok           a whole line; * at its end stands for any rest
//! S! closed                        the server has closed
//! F: ann@example.org 1             that mailbox comes to hold so many messages
//! ```

mod support;

use std::fs;
use std::net::Shutdown;
use std::path::Path;
use support::{Client, Server};

#[test]
fn every_dialogue_is_spoken_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut files = support::files(&folder);
    files.sort();
    assert!(!files.is_empty());
    let failures: Vec<String> = files.iter().filter_map(|path| speak(path).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn a_dialogue_that_is_not_spoken_as_written_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong");
    for (text, line) in [("connect smtp\nS: 220 nonsense", 2), ("connect pop3\nS: +OK*\nC: QUIT\nS: -ERR*", 4)] {
        fs::write(&path, text).unwrap();
        assert!(speak(&path).unwrap_err().contains(&format!("wrong:{line}: ")));
    }
}

fn speak(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let of = |prefix: &str| -> String {
        text.lines().filter_map(|line| line.strip_prefix(prefix)).map(|line| format!("{}\n", line.trim())).collect()
    };
    let server = Server::start_with(&format!("[limits]\n{}", of("server:")), &of("aliases:"));
    let mut client = None;
    for (at, line) in text.lines().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        step(&server, &mut client, line).map_err(|what| format!("{name}:{}: {line}\n    {what}", at + 1))?;
    }
    Ok(())
}

fn step(server: &Server, client: &mut Option<Client>, line: &str) -> Result<(), String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("", _) | ("server:" | "aliases:", _) => return Ok(()),
        ("connect", "smtp") => *client = Some(server.smtp()),
        ("connect", "pop3") => *client = Some(server.pop3()),
        ("F:", what) => {
            let (address, count) = what.split_once(' ').ok_or("write F: address count")?;
            server.wait_for(address, count.parse().map_err(|_| "no count")?);
        }
        (word, _) if word.starts_with('#') => return Ok(()),
        (word, rest) => return exchange(client.as_mut().ok_or("connect first")?, word, rest),
    }
    Ok(())
}

fn exchange(client: &mut Client, word: &str, rest: &str) -> Result<(), String> {
    match word {
        "C:" => client.send(&[unescape(rest), b"\r\n".to_vec()].concat()),
        "C+" => client.send(&unescape(rest)),
        "C*" => {
            let (count, what) = rest.split_once(' ').ok_or("write C* count text")?;
            client.send(&unescape(what).repeat(count.parse().map_err(|_| "no count")?));
        }
        "C!" => client.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?,
        "S:" => {
            let found = client.line();
            let fits = match rest.strip_suffix('*') {
                Some(start) => found.starts_with(start),
                None => found == rest,
            };
            if !fits {
                return Err(format!("the server said {found:?}"));
            }
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

fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('r') => octets.push(b'\r'),
                Some('n') => octets.push(b'\n'),
                Some('0') => octets.push(0),
                Some('x') => {
                    let digits: String = letters.by_ref().take(2).collect();
                    octets.push(u8::from_str_radix(&digits, 16).expect("two digits"));
                }
                other => octets.extend(other.unwrap_or('\\').to_string().bytes()),
            },
            letter => octets.extend(letter.to_string().bytes()),
        }
    }
    octets
}
