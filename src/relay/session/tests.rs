//! Sessions with a hop that speaks TLS: what is said in clear and what is not, and what becomes of a login.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConnection;

use super::super::{Content, Credentials, Patience, Transaction};
use super::*;
use crate::config;
use crate::io::tls::Layer;
use crate::mail::address::ReversePath;
use crate::mail::envelope::Recipient;
use crate::mail::parameter::{MailParameters, RcptParameters};
use crate::mail::sasl::Secret;
use crate::mail::sasl::client::Login;
use crate::tls::{Certificates, DirectFiles, Level};

/// One connection, as the hop sees it.
struct Talk {
    stream: TcpStream,
    layer: Option<Layer>,
    certificates: Arc<Certificates>,
    said: Vec<String>,
}

impl Talk {
    fn say(&mut self, text: &str) {
        let octets = format!("{text}\r\n");
        let _ = match &mut self.layer {
            Some(layer) => layer.write(&mut self.stream, octets.as_bytes()).map(|_| ()),
            None => self.stream.write_all(octets.as_bytes()),
        };
    }

    /// The next line; empty at the end.
    fn hear(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut octet = [0];
            let read = match &mut self.layer {
                Some(layer) => layer.read(&mut self.stream, &mut octet),
                None => self.stream.read(&mut octet),
            };
            if read.unwrap_or(0) == 0 {
                break;
            }
            line.push(octet[0]);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let protected = if self.layer.is_some() { "tls: " } else { "" };
        self.said.push(format!("{protected}{line}"));
        line
    }

    fn answer(&mut self, expected: &str, reply: &str) {
        let heard = self.hear();
        assert!(heard.starts_with(expected), "{heard:?} is not {expected:?}");
        self.say(reply);
    }

    fn shake_hands(&mut self) -> bool {
        let mut layer = Layer::new(ServerConnection::new(self.certificates.server_config()).unwrap());
        let done = layer.handshake(&mut self.stream).is_ok();
        self.layer = Some(layer);
        done
    }

    fn greet(&mut self, offers: &str) {
        self.say("220 hop.example");
        self.answer("EHLO", &format!("250-hop.example\r\n{offers}250 HELP"));
    }

    /// All up to the reply to EHLO under TLS, which has these offers.
    fn up_to_tls(&mut self, offers: &str) {
        self.greet("250-STARTTLS\r\n");
        self.answer("STARTTLS", "220 go ahead");
        assert!(self.shake_hands());
        self.answer("EHLO", &format!("250-hop.example\r\n{offers}250 HELP"));
    }
}

type Script = Box<dyn FnOnce(&mut Talk) + Send>;

struct Hop {
    address: SocketAddr,
    thread: JoinHandle<Vec<String>>,
}

impl Hop {
    /// Takes connections, each in its own way, and tells in the end what it heard in them.
    fn start(scripts: Vec<Script>) -> Hop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let folder = tempfile::tempdir().unwrap();
            let files = Box::new(DirectFiles);
            let made = Certificates::load(&config::Tls::default(), "hop.example", folder.path(), files);
            let certificates = Arc::new(made.unwrap());
            let mut said = Vec::new();
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut talk = Talk { stream, layer: None, certificates: certificates.clone(), said };
                script(&mut talk);
                said = talk.said;
            }
            said
        });
        Hop { address, thread }
    }

    /// Takes one connection.
    fn once(script: impl FnOnce(&mut Talk) + Send + 'static) -> Hop {
        Hop::start(vec![Box::new(script)])
    }

    fn open(&self, security: &Security) -> Result<Session, Refusal> {
        let patience = Patience { connect: Duration::from_secs(10), reply: Duration::from_secs(10) };
        let peer = Peer {
            address: self.address,
            name: "hop.example",
            is_authentic: true,
            hello: "mail.example.org",
            patience,
        };
        Session::open(&peer, security)
    }
}

/// A message without an octet.
struct Nothing;

impl Content for Nothing {
    fn size(&self) -> u64 {
        0
    }

    fn reader(&mut self) -> std::io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::io::empty()))
    }
}

fn security(level: Level) -> Security {
    Security::new("hop.example:587", level).unwrap()
}

fn password() -> Option<Credentials> {
    let login = Login::Password { name: "ann".into(), password: Secret(b"secret".to_vec()) };
    Some(Credentials { login, key: "password_file, /secret".into() })
}

fn token() -> Option<Credentials> {
    let login = Login::Token { name: "ann".into(), token: Secret(b"token".to_vec()) };
    Some(Credentials { login, key: "token_command".into() })
}

fn text(refusal: &Refusal) -> String {
    let Outcome::Deferred(cause) = &refusal.outcome else { panic!("{refusal:?}") };
    cause.to_string()
}

#[test]
fn what_was_offered_in_clear_is_forgotten() {
    let hop = Hop::once(|talk| {
        talk.greet("250-STARTTLS\r\n250-PIPELINING\r\n250-SIZE 7\r\n");
        talk.answer("STARTTLS", "220 go ahead");
        talk.shake_hands();
        talk.answer("EHLO", "250-hop.example\r\n250 DSN");
        talk.answer("QUIT", "221 bye");
        assert_eq!(talk.hear(), "");
    });
    let session = hop.open(&security(Level::Required)).unwrap();
    assert_eq!(*session.offers(), Offers { dsn: true, ..Offers::default() });
    assert!(session.protection().to_string().starts_with("TLSv1.3 "));
    session.quit();
    let said = hop.thread.join().unwrap();
    assert_eq!(
        said,
        ["EHLO mail.example.org", "STARTTLS", "tls: EHLO mail.example.org", "tls: QUIT", "tls: "],
        "nothing else in clear"
    );
}

#[test]
fn a_message_that_requires_tls_is_not_told_to_who_has_proved_nothing() {
    let hop = Hop::once(|talk| {
        talk.greet("250-STARTTLS\r\n");
        talk.answer("STARTTLS", "220 go ahead");
        talk.shake_hands();
        talk.answer("EHLO", "250-hop.example\r\n250 REQUIRETLS");
        assert_eq!(talk.hear(), "");
    });
    let mut session = hop.open(&security(Level::Required).for_message(true)).unwrap();
    assert!(!session.offers().require_tls && session.lacks_require_tls().is_some());
    let parameters = MailParameters { require_tls: true, ..MailParameters::default() };
    let recipients = [Recipient { address: "a@b.example".parse().unwrap(), parameters: RcptParameters::default() }];
    let transaction =
        Transaction { reverse_path: &ReversePath::Null, recipients: &recipients, parameters: &parameters };
    let sent = session.send(&transaction, &mut Nothing);
    let [Some(Outcome::Failed(cause))] = &sent.outcomes[..] else { panic!("{sent:?}") };
    let text = cause.to_string();
    assert!(text.starts_with("550 5.7.30 hop.example [127.0.0.1] does not offer REQUIRETLS under TLS ("), "{text}");
    drop(session);
    assert_eq!(hop.thread.join().unwrap().last().unwrap(), "tls: ", "nothing of it was said");
}

#[test]
fn tls_from_the_first_octet_needs_no_command() {
    let hop = Hop::once(|talk| {
        assert!(talk.shake_hands());
        talk.greet("250-STARTTLS\r\n");
    });
    hop.open(&security(Level::Opportunistic).implicit(true)).unwrap();
    assert_eq!(hop.thread.join().unwrap(), ["tls: EHLO mail.example.org"]);
    let clear = Hop::once(|talk| talk.say("220 I greet in clear"));
    let refusal = clear.open(&security(Level::Opportunistic).implicit(true)).unwrap_err();
    assert_eq!(text(&refusal), "451 4.7.5 what hop.example sends is no TLS");
    clear.thread.join().unwrap();
}

#[test]
fn a_hop_that_breaks_off_behind_the_handshake_has_no_tls() {
    let hop = Hop::start(vec![
        Box::new(|talk| {
            talk.greet("250-STARTTLS\r\n");
            talk.answer("STARTTLS", "220 go ahead");
            assert!(talk.shake_hands());
        }),
        Box::new(|talk| talk.greet("250-STARTTLS\r\n")),
    ]);
    let session = hop.open(&security(Level::Opportunistic)).unwrap();
    let Protection::Clear(Some(why)) = session.protection() else { panic!("{session:?}") };
    assert!(why.contains("closed the connection while we waited for its reply to EHLO or HELO"), "{why}");
    assert_eq!(hop.thread.join().unwrap().last().unwrap(), "EHLO mail.example.org");
}

#[test]
fn a_421_in_the_place_of_a_greeting_is_no_fault_of_tls() {
    let hop = Hop::once(|talk| talk.say("421 4.3.2 busy"));
    let refusal = hop.open(&security(Level::Opportunistic)).unwrap_err();
    assert_eq!((refusal.stage, text(&refusal)), (Stage::Greeting, "421 4.3.2 busy".into()));
    hop.thread.join().unwrap();
}

#[test]
fn a_login_goes_out_under_tls() {
    let hop = Hop::once(|talk| {
        talk.up_to_tls("250-AUTH PLAIN LOGIN\r\n");
        talk.answer("AUTH PLAIN AGFubgBzZWNyZXQ=", "235 2.7.0 welcome");
    });
    hop.open(&security(Level::Required).with(password())).unwrap();
    hop.thread.join().unwrap();
    let hop = Hop::once(|talk| {
        talk.up_to_tls("250-AUTH LOGIN\r\n");
        talk.answer("AUTH LOGIN", "334 VXNlcm5hbWU6");
        talk.answer("YW5u", "334 UGFzc3dvcmQ6");
        talk.answer("c2VjcmV0", "235 2.7.0 welcome");
    });
    hop.open(&security(Level::Opportunistic).with(password())).unwrap();
    hop.thread.join().unwrap();
}

#[test]
fn a_login_that_is_refused_names_what_to_look_at() {
    for (reply, refused, words) in [
        (
            "535 5.7.8 no",
            true,
            "451 4.7.8 hop.example [127.0.0.1] refuses the login of ann by PLAIN: 535 5.7.8 no; look at \
             relay.hops.\"hop.example:587\": user, and password_file, /secret",
        ),
        ("454 4.7.0 later", false, "454 4.7.0 later"),
        ("421 4.7.0 enough", false, "421 4.7.0 enough"),
        ("354 what", false, "broke the protocol"),
    ] {
        let hop = Hop::once(move |talk| {
            talk.up_to_tls("250-AUTH PLAIN\r\n");
            talk.answer("AUTH PLAIN ", reply);
        });
        let refusal = hop.open(&security(Level::Required).with(password())).unwrap_err();
        assert_eq!((refusal.stage, refusal.is_about_login()), (Stage::Auth, refused), "{reply}");
        assert!(text(&refusal).contains(words), "{}", text(&refusal));
        hop.thread.join().unwrap();
    }
}

#[test]
fn what_the_hop_says_of_a_token_is_told() {
    let hop = Hop::once(|talk| {
        talk.up_to_tls("250-AUTH XOAUTH2 PLAIN\r\n");
        talk.answer("AUTH XOAUTH2 ", "334 eyJzdGF0dXMiOiI0MDEifQ==");
        talk.answer("", "535 5.7.8 no");
    });
    let refusal = hop.open(&security(Level::Required).with(token())).unwrap_err();
    let text = text(&refusal);
    assert!(refusal.is_about_login() && text.contains("535 5.7.8 no ({\"status\":\"401\"}); look at"), "{text}");
    hop.thread.join().unwrap();
}

#[test]
fn a_login_without_a_mechanism_waits() {
    for (offers, words) in [
        (
            "",
            "451 4.7.4 no login at hop.example [127.0.0.1] as relay.hops.\"hop.example:587\" wants it: the server offers no",
        ),
        ("250-AUTH GSSAPI\r\n", "needs one of SCRAM-SHA-256-PLUS"),
    ] {
        let hop = Hop::once(move |talk| talk.up_to_tls(offers));
        let refusal = hop.open(&security(Level::Required).with(password())).unwrap_err();
        assert!(!refusal.is_about_login() && text(&refusal).contains(words), "{}", text(&refusal));
        hop.thread.join().unwrap();
    }
}

#[test]
fn a_hop_that_does_not_know_the_password_is_not_believed() {
    let hop = Hop::once(|talk| {
        talk.up_to_tls("250-AUTH SCRAM-SHA-256\r\n");
        talk.answer("AUTH SCRAM-SHA-256 ", "235 2.7.0 you are whoever you say");
    });
    let refusal = hop.open(&security(Level::Required).with(password())).unwrap_err();
    assert!(text(&refusal).contains("was broken off: the server says yes and has not shown"), "{}", text(&refusal));
    hop.thread.join().unwrap();
    let hop = Hop::once(|talk| {
        talk.up_to_tls("250-AUTH SCRAM-SHA-256\r\n");
        talk.answer("AUTH SCRAM-SHA-256 ", "334 eD0x");
        talk.answer("*", "501 5.7.0 as you like");
    });
    let refusal = hop.open(&security(Level::Required).with(password())).unwrap_err();
    assert!(text(&refusal).contains("451 4.7.5 the login of ann at hop.example"), "{}", text(&refusal));
    hop.thread.join().unwrap();
}

#[test]
fn a_login_in_clear_is_for_this_host_itself() {
    let hop = Hop::once(|talk| {
        talk.greet("250-AUTH PLAIN\r\n");
        talk.answer("AUTH PLAIN AGFubgBzZWNyZXQ=", "235 2.7.0 welcome");
    });
    let session = hop.open(&security(Level::Opportunistic).with(password())).unwrap();
    assert_eq!(*session.protection(), Protection::Clear(None));
    hop.thread.join().unwrap();
    // Not where more was asked for.
    let hop = Hop::once(|talk| talk.greet("250-AUTH PLAIN\r\n"));
    let refusal = hop.open(&security(Level::Required).with(password())).unwrap_err();
    assert_eq!(refusal.stage, Stage::Tls);
    assert_eq!(hop.thread.join().unwrap(), ["EHLO mail.example.org"]);
}
