//! POP3: lines that are commands, whole sessions, and what RETR and TOP send.
//!
//! A command is read as the same when it is written plainly; a session answers the same however its octets are cut, and
//! does nothing to a mailbox before there is one; a message is as long on the wire as LIST says. Input: an octet that
//! chooses the cut, one for what is allowed, the octets.

use std::cell::RefCell;
use std::fs;
use std::sync::Arc;

use postrider::aliases::Aliases;
use postrider::auth::Gate;
use postrider::config::{self, Config};
use postrider::io::dot::Stuff;
use postrider::io::line::{Line, LineReader};
use postrider::io::stream::Pace;
use postrider::limits;
use postrider::mail::address::Address;
use postrider::pop3::command::{Command, Refusal};
use postrider::pop3::connection::Server;
use postrider::pop3::message::{self, Top};
use postrider::pop3::session::{Next, Session, Terms};
use postrider::route::{CurrentSite, Site};
use postrider::tls::{Certificates, DirectFiles};
use postrider::users::Users;

use super::is_one_line;
use super::pieces::{Cut, Pieces};

pub fn check(octets: &[u8]) {
    let [by, allowed, stream @ ..] = octets else { return };
    let cut = Cut::chosen(*by);
    stream.split(|octet| *octet == b'\n').take(20).for_each(check_command);
    let whole = talk(stream, Cut::Whole, *allowed);
    assert_eq!(talk(stream, cut, *allowed), whole, "cut or whole");
    check_message(stream, cut);
}

fn check_command(line: &[u8]) {
    let Ok(command) = Command::parse(line) else { return };
    let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
    assert_eq!(Command::parse(&[&verb.to_ascii_lowercase(), &line[verb.len()..]].concat()).as_ref(), Ok(&command));
    if let Some(plain) = written(&command) {
        assert!(is_one_line(&plain));
        assert_eq!(Command::parse(plain.as_bytes()), Ok(command), "{plain:?}");
    }
}

fn written(command: &Command) -> Option<String> {
    Some(match command {
        Command::User(name) => {
            assert!(!name.is_empty() && name.len() <= limits::CREDENTIAL);
            format!("USER {name}")
        }
        Command::Auth(mechanism, initial) => {
            let initial = initial.as_ref().map(|initial| format!(" {}", initial.0)).unwrap_or_default();
            format!("AUTH {}{initial}", mechanism.as_deref().unwrap_or_default())
        }
        Command::List(Some(number)) => format!("LIST {number}"),
        Command::Uidl(Some(number)) => format!("UIDL {number}"),
        Command::Retr(number) => format!("RETR {number}"),
        Command::Top(number, lines) => format!("TOP {number} {lines}"),
        Command::Dele(number) => format!("DELE {number}"),
        _ => return None,
    })
}

/// The answers of a session whose every password is right, and what it does, in words.
fn talk(stream: &[u8], cut: Cut, allowed: u8) -> Vec<String> {
    HOST.with_borrow_mut(|host| {
        let host = host.get_or_insert_with(Host::new);
        let mechanisms = if allowed & 4 == 0 { vec!["PLAIN"] } else { vec![] };
        let terms = Terms { cleartext: allowed & 1 == 0, under_tls: allowed & 2 != 0, mechanisms, errors: 10 };
        let may_log_in = terms.cleartext || terms.under_tls;
        let mut session = Session::new(terms);
        let mut reader = LineReader::new(Pieces::of(stream, cut));
        let mut said = Vec::new();
        loop {
            let line = match reader.line(limits::POP3_LINE) {
                Ok(Line::Text(text)) => Command::parse(text),
                Ok(Line::TooLong) => Err(Refusal::TooLong),
                _ => break,
            };
            let next = match session.step(line) {
                Next::Login { .. } | Next::Auth { .. } => {
                    assert!(may_log_in && session.login().is_none());
                    let login = host.server.open(host.ann.clone()).unwrap();
                    session.enter(login)
                }
                next => next,
            };
            if !host.go_on(&mut session, next, &mut said) {
                break;
            }
        }
        said
    })
}

thread_local!(static HOST: RefCell<Option<Host>> = const { RefCell::new(None) });

/// A host with one mailbox, of three messages.
struct Host {
    server: Server,
    ann: Address,
    _folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let text = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\"]\nspool = \".\"";
        let config = Config::parse(text, folder.path()).unwrap();
        let new = folder.path().join("mail/example.org/ann/new");
        fs::create_dir_all(&new).unwrap();
        for name in ["1.a,W=10", "2.b,W=20", "3.c"] {
            fs::write(new.join(name), "a: b\n\nc\n").unwrap();
        }
        let site = Site { config, users: Users::default(), aliases: Aliases::default() };
        let site = Arc::new(CurrentSite::new(site));
        let gate = Arc::new(Gate::new(site.clone(), u64::MAX));
        let settings = config::Tls::default();
        let certificates = Certificates::load(&settings, "mail.example.org", folder.path(), Box::new(DirectFiles));
        let server = Server::new(site, gate, Arc::new(certificates.unwrap()), Pace::CLIENT);
        Host { server, ann: "ann@example.org".parse().unwrap(), _folder: folder }
    }

    /// Whether the session goes on.
    fn go_on(&self, session: &mut Session, next: Next, said: &mut Vec<String>) -> bool {
        let (answer, goes_on) = match next {
            Next::Answer(answer) => (answer, true),
            Next::Close(answer) | Next::StartTls(answer) => (answer, false),
            Next::List(answer, rows) => {
                let listed = session.login().map(|login| login.mailbox.listing.left());
                said.push(format!("{rows:?} of {listed:?}"));
                assert!(session.capabilities().iter().all(|line| is_one_line(line) && line.len() < 510));
                (answer, true)
            }
            Next::Message { index, lines } => {
                let listing = &session.login().expect("a message has a mailbox").mailbox.listing;
                assert!(listing.left_indexes().any(|left| left == index), "a deleted message is sent");
                said.push(format!("message {index}, {lines:?}"));
                return true;
            }
            Next::Remove => {
                let login = session.leave().expect("there is something to remove from");
                said.push(format!("{} of {} are left", login.mailbox.listing.left(), login.mailbox.listing.octets()));
                return false;
            }
            Next::Login { .. } | Next::Auth { .. } => unreachable!("the session has just been entered"),
        };
        let mut octets = Vec::new();
        answer.write_to(&mut octets);
        let text = String::from_utf8(octets).unwrap();
        let line = text.strip_suffix("\r\n").unwrap();
        assert!(is_one_line(line) && text.len() <= 512, "RFC 1939 §3: {line:?}");
        assert_eq!(line.starts_with("-ERR"), answer.is_error());
        assert!(line.starts_with("+OK") || line.starts_with("-ERR "), "{line:?}");
        said.push(text);
        goes_on
    }
}

/// What goes out of a file, whatever is in it.
fn check_message(content: &[u8], cut: Cut) {
    let (mut stuff, mut wire) = (Stuff::default(), Vec::new());
    stuff.feed(content, &mut wire);
    stuff.finish(&mut wire);
    // Each line of the wire but the last; dots that were added go.
    let lines = wire[..wire.len() - 3].split_inclusive(|octet| *octet == b'\n');
    let sent: usize = lines.map(|line| line.len() - usize::from(line.starts_with(b"."))).sum();
    assert_eq!(message::measure(Pieces::of(content, cut)).unwrap(), sent as u64, "the size in LIST");
    let top = |lines: u64, cut: Cut| {
        let (mut top, mut octets) = (Top::new(lines), 0);
        for piece in Pieces::of(content, cut) {
            octets += top.feed(piece);
            if top.is_over() {
                break;
            }
        }
        octets
    };
    let tops = [0, 1, 2, 1000].map(|lines| top(lines, Cut::Whole));
    assert!(tops.is_sorted(), "more lines are no less");
    assert_eq!([0, 1, 2, 1000].map(|lines| top(lines, cut)), tops, "TOP, cut or whole");
    assert!(content[..tops[0]].ends_with(b"\n") || tops[0] == content.len());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let said = super::dialogues::all().into_iter().filter(|said| said.is_pop3);
    let sessions = said.map(|said| [&[150, 0], &said.octets[..said.octets.len().min(6000)]].concat());
    let talk =
        b"CAPA\r\nUSER ann\r\nPASS x\r\nSTAT\r\nLIST\r\nLIST 2\r\nUIDL\r\nUIDL 1\r\nRETR 1\r\nTOP 2 1\r\nDELE 1\r\n\
                 LIST\r\nRSET\r\nDELE 3\r\nNOOP\r\nSTLS\r\nQUIT\r\n";
    sessions.chain((0..8).map(|allowed| [&[allowed, allowed], &talk[..]].concat())).collect()
}
