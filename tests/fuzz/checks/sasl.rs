//! Logins by SASL: a server that is told anything, a client that is told anything, and both against one another.
//!
//! Nobody is let in without the password; every line is base64 and bounded; no secret goes over a connection that is not
//! protected. Input: an octet for who speaks and how, then lines; one that begins with `+` is put in base64 first, since
//! mutations seldom come through that.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postrider::limits;
use postrider::mail::sasl::client::{self, Login};
use postrider::mail::sasl::server::{self, Exchange, Step};
use postrider::mail::sasl::{Bindings, Keys, Mechanism, Secret};

use super::is_one_line;

const MECHANISMS: [Mechanism; 4] =
    [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

/// The least that is allowed: the work is not what is looked at here.
const ITERATIONS: u32 = limits::SCRAM_ITERATIONS_LEAST;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::derive(b"correct horse", b"a salt of ours", ITERATIONS));

pub fn check(octets: &[u8]) {
    let Some((&by, rest)) = octets.split_first() else { return };
    let Ok(text) = str::from_utf8(rest) else { return };
    let lines: Vec<String> = text.split('\n').take(6).map(line).collect();
    match by % 4 {
        0 | 1 => ask_server(by >> 2, &lines),
        2 => ask_client(by >> 2, &lines),
        _ => ask_both(by >> 2, text),
    }
    if let Ok(keys) = Keys::parse(text) {
        assert_eq!(Keys::parse(&keys.to_text()), Ok(keys));
    }
}

fn line(text: &str) -> String {
    text.strip_prefix('+').map_or_else(|| text.to_owned(), |text| STANDARD.encode(text))
}

fn bindings(by: u8) -> Bindings {
    let exporter = (by & 4 != 0).then(|| vec![1; 32]);
    Bindings { exporter, server_end_point: (by & 8 != 0).then(|| vec![2; 32]) }
}

fn asked(by: u8) -> server::Setting {
    server::Setting { bindings: bindings(by), nonce: "server".into() }
}

fn asking(by: u8) -> client::Setting {
    let server = ("mail.example.org".to_owned(), 587);
    client::Setting { protected: by & 1 == 0, bindings: bindings(by), nonce: "client".into(), server }
}

/// Whether it can go over the wire as one line.
fn check_line(line: &str) {
    assert!(STANDARD.decode(line).is_ok() && line.len() <= limits::AUTH_LINE, "{line:?}");
}

fn ask_server(by: u8, lines: &[String]) {
    let mut lines = lines.iter();
    let initial = if by & 16 == 0 { lines.next() } else { None };
    let mechanism = MECHANISMS[usize::from(by & 3)];
    let mut step = Exchange::begin(mechanism, initial.map(String::as_str), asked(by));
    loop {
        step = match step {
            Step::Challenge(challenge, exchange) => {
                check_line(&challenge);
                let Some(line) = lines.next() else { return };
                exchange.respond(line)
            }
            Step::Check(credentials) => {
                let names = [&credentials.name, &credentials.authzid];
                assert!(names.iter().all(|name| is_one_line(name) && name.len() <= limits::CREDENTIAL));
                assert!(!credentials.name.is_empty() && credentials.password.0.len() <= limits::CREDENTIAL);
                assert!(matches!(mechanism, Mechanism::Plain | Mechanism::Login));
                return;
            }
            Step::Lookup(lookup) => {
                assert!(is_one_line(lookup.name()) && lookup.name().len() <= limits::CREDENTIAL);
                assert!(is_one_line(lookup.authzid()));
                lookup.answer(KEYS.clone())
            }
            Step::Proved(_) | Step::Done => panic!("someone got in without the password"),
            Step::Refused(_) => return,
        };
    }
}

fn ask_client(by: u8, lines: &[String]) {
    let Some((offered, challenges)) = lines.split_first() else { return };
    let offered = String::from_utf8(STANDARD.decode(offered).unwrap_or_default()).unwrap_or(offered.clone());
    let login = if by & 16 == 0 {
        Login::Password { name: "ann".into(), password: Secret(b"correct horse".to_vec()) }
    } else {
        Login::Token { name: "ann".into(), token: Secret(b"token".to_vec()) }
    };
    let start = match client::begin(&offered, login, asking(by)) {
        Ok(start) => start,
        Err(why) => return assert!(is_one_line(&why.to_string()) && why.to_string().len() < 1000),
    };
    let is_scram = start.mechanism.starts_with("SCRAM");
    assert!(asking(by).protected || is_scram, "a secret goes out in clear by {}", start.mechanism);
    start.initial.iter().for_each(|line| check_line(line));
    let mut exchange = start.exchange;
    for challenge in challenges.iter().filter(|challenge| !is_dear(challenge)) {
        match exchange.respond(challenge) {
            Ok((line, next)) => {
                check_line(&line);
                exchange = next;
            }
            Err(fault) => return assert!(is_one_line(fault.0)),
        }
        assert!(exchange.complaint().is_none_or(|words| is_one_line(words) && words.len() < 1000));
    }
    assert!(exchange.accepted(None).is_err() || !is_scram, "a server that knows no password is believed");
}

/// A server may ask for a million iterations, which is bounded, and not what is looked for here.
fn is_dear(challenge: &str) -> bool {
    let text = STANDARD.decode(challenge).map(|octets| String::from_utf8_lossy(&octets).into_owned());
    let mut numbers = text.unwrap_or_default();
    numbers.retain(|letter| letter.is_ascii_digit() || letter == '=');
    numbers.split('=').any(|number| number.parse::<u64>().is_ok_and(|number| number > 4100))
}

/// A client with the password in `text`, and its server: in if, and only if, it is the right one.
fn ask_both(by: u8, text: &str) {
    let (name, password) = text.split_once('\n').unwrap_or((text, "correct horse"));
    if name.is_empty() || name.len() > limits::CREDENTIAL || name.contains(char::is_control) {
        return;
    }
    let login = Login::Password { name: name.to_owned(), password: Secret(password.into()) };
    let Ok(start) = client::begin("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", login, asking(by & !1)) else { return };
    let (mechanism, mut asking) = (start.mechanism.parse().unwrap(), start.exchange);
    let mut step = Exchange::begin(mechanism, start.initial.as_deref(), asked(by));
    let is_in = loop {
        step = match step {
            Step::Challenge(challenge, exchange) => {
                let Ok((line, next)) = asking.respond(&challenge) else { break false };
                check_line(&line);
                asking = next;
                exchange.respond(&line)
            }
            Step::Lookup(lookup) => {
                assert_eq!(lookup.name(), name);
                lookup.answer(KEYS.clone())
            }
            Step::Proved(proof) => proof.signed(),
            Step::Done => break asking.accepted(None).is_ok(),
            Step::Check(_) => panic!("SCRAM needs no password"),
            Step::Refused(_) => break false,
        };
    };
    assert!(is_in == KEYS.verify(password.as_bytes()), "{name:?} with {password:?}");
}

pub fn seeds() -> Vec<Vec<u8>> {
    let proof = STANDARD.encode([7; 32]);
    let last = format!("+n,,n=ann,r=client\n+c=biws,r=clientserver,p={proof}\n");
    let bound =
        format!("+p=tls-exporter,,n=a=2Cn=3Dn,r=client\n+c=cD10bHMtZXhwb3J0ZXIsLAEB,r=clientserver,p={proof}\n");
    let challenge = format!("+PLAIN LOGIN SCRAM-SHA-256\n+r=clientserver,s=AAAA,i=4096\n+v={proof}\n");
    let plus = format!("+SCRAM-SHA-256-PLUS SCRAM-SHA-256\n+r=clientserver,s=AAAA,i=4096\n+v={proof}\n");
    let of_client = |by: u8, text: &str| [&[by], text.as_bytes()].concat();
    let texts = [
        of_client(8, "+\0ann\0correct horse"),
        of_client(8, "+bob\0ann\0x"),
        of_client(12, "YW5u\ncGFzcw=="),
        of_client(72, "+\0ann\0correct horse"),
        of_client(4, &last),
        of_client(16, &bound),
        of_client(0, "*"),
        of_client(0, "="),
        of_client(2, &challenge),
        of_client(2, "+LOGIN\n+Username:\n+Password:"),
        of_client(6, &challenge),
        of_client(18, &plus),
        of_client(66, "+OAUTHBEARER XOAUTH2\n+{\"status\":\"401\"}\n+x"),
        of_client(66, "+XOAUTH2"),
        of_client(3, "ann\ncorrect horse"),
        of_client(3, "a,n=n\nwrong"),
        of_client(23, "ann\ncorrect horse"),
        of_client(23, "I\u{ad}X\n\u{2168}"),
    ];
    texts.into_iter().chain([of_client(0, &KEYS.to_text())]).collect()
}
