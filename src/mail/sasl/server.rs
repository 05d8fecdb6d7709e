//! The server's side of a login. It is asked for one thing at a time by a [`Step`], and knows neither users nor time:
//! who uses it checks passwords and looks keys up.
//!
//! | mechanism | the client says | what follows |
//! | --- | --- | --- |
//! | PLAIN | all at once | [`Step::Check`] |
//! | LOGIN | name, then password | [`Step::Check`] |
//! | SCRAM | its name and nonce | [`Step::Lookup`]; [`Lookup::answer`] gives the challenge |
//! | | its proof | [`Step::Proved`] or a refusal; [`Proof::signed`] gives the last challenge |
//! | | nothing | [`Step::Done`] |
//!
//! A first response that is missing is asked for with an empty challenge (RFC 4954 §4, RFC 5034 §4). What does not go on
//! ends with a [`Refusal`].

use subtle::ConstantTimeEq;

use super::message::{ClientFinal, ClientFirst, Flag, ServerFirst, auth_message, binding_input};
use super::{Bindings, Credentials, Keys, Mechanism, Secret, decoded, encoded, is_name};
use crate::limits;

/// What a login needs to know of its connection.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What binds to the connection; SCRAM-SHA-256-PLUS is offered if, and only if, there is some.
    pub bindings: Bindings,
    /// Random and printable, without a comma, and never used before.
    pub nonce: String,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send this as a challenge, and give the client's next line to [`Exchange::respond`].
    Challenge(String, Exchange),
    /// Check name and password; that is all.
    Check(Credentials),
    /// Look keys up, and go on with [`Lookup::answer`].
    Lookup(Lookup),
    /// The client knows the password. If it may come in, go on with [`Proof::signed`].
    Proved(Proof),
    /// It has seen our signature, and is in.
    Done,
    /// It is not.
    Refused(Refusal),
}

/// Why a login does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client said `*` (501 in SMTP).
    Cancelled,
    /// The line is longer than [`limits::AUTH_LINE`] (500 5.5.6).
    TooLong,
    /// The line is no base64, or not what the mechanism has there (501 5.5.2); the words are for the log.
    Malformed(&'static str),
    /// The client is not who it says, or someone is between (535 5.7.8); the words are for the log.
    Wrong(&'static str),
}

/// A login that waits for the client's next line.
#[derive(Debug)]
pub struct Exchange(State);

#[derive(Debug)]
enum State {
    First(Mechanism, Setting),
    Password { name: String },
    Final(Box<Scram>),
    Signed,
}

/// SCRAM, from the first challenge on.
#[derive(Debug)]
struct Scram {
    keys: Keys,
    client_first: String,
    server_first: String,
    nonce: String,
    binding: Vec<u8>,
}

/// Whose keys are wanted. [`Keys::of_nobody`] must stand in for those that there are none of.
#[derive(Debug)]
pub struct Lookup {
    first: ClientFirst,
    setting: Setting,
    binding: Vec<u8>,
}

/// A client's right proof, not yet answered.
#[derive(Debug)]
pub struct Proof(String);

impl Exchange {
    /// Begins with the response that came with the AUTH command, if one did; `=` is an empty one.
    pub fn begin(mechanism: Mechanism, initial: Option<&str>, setting: Setting) -> Step {
        let first = Exchange(State::First(mechanism, setting));
        match initial {
            // The client of LOGIN is asked in words that some clients look at.
            None if mechanism == Mechanism::Login => Step::Challenge(encoded("Username:"), first),
            None => Step::Challenge(String::new(), first),
            Some("=") => first.respond(""),
            Some(response) => first.respond(response),
        }
    }

    /// Takes the client's line, without its line end.
    pub fn respond(self, line: &str) -> Step {
        if line == "*" {
            return Step::Refused(Refusal::Cancelled);
        }
        if line.len() > limits::AUTH_LINE {
            return Step::Refused(Refusal::TooLong);
        }
        let Some(response) = decoded(line) else { return malformed("this is no base64") };
        match self.0 {
            State::First(Mechanism::Plain, _) => plain(response),
            State::First(Mechanism::Login, _) => match String::from_utf8(response).ok().filter(|name| is_name(name)) {
                Some(name) => Step::Challenge(encoded("Password:"), Exchange(State::Password { name })),
                None => malformed("the name is none"),
            },
            State::First(mechanism, setting) => scram_first(mechanism, setting, response),
            State::Password { name } => check(String::new(), name, response),
            State::Final(scram) => scram.prove(response),
            State::Signed if response.is_empty() => Step::Done,
            State::Signed => malformed("nothing is left to say"),
        }
    }
}

impl Lookup {
    /// Who logs in.
    pub fn name(&self) -> &str {
        &self.first.name
    }

    /// As whom; empty means as himself. Whoever looks up must refuse all but the same.
    pub fn authzid(&self) -> &str {
        &self.first.authzid
    }

    /// Goes on with the keys of that name.
    pub fn answer(self, keys: Keys) -> Step {
        let nonce = format!("{}{}", self.first.nonce, self.setting.nonce);
        let challenge = ServerFirst { nonce, salt: keys.salt().to_vec(), iterations: keys.iterations() };
        let server_first = challenge.write();
        let binding = binding_input(&self.first.header, &self.binding);
        let (client_first, nonce) = (self.first.bare, challenge.nonce);
        let challenge = encoded(&server_first);
        let scram = Scram { keys, client_first, server_first, nonce, binding };
        Step::Challenge(challenge, Exchange(State::Final(Box::new(scram))))
    }
}

impl Proof {
    /// Shows the client that this server knows its keys.
    pub fn signed(self) -> Step {
        Step::Challenge(self.0, Exchange(State::Signed))
    }
}

impl Scram {
    fn prove(self, response: Vec<u8>) -> Step {
        let Ok(text) = String::from_utf8(response) else { return malformed("this is no text") };
        let last = match ClientFinal::read(&text) {
            Ok(last) => last,
            Err(why) => return malformed(why),
        };
        let message = auth_message(&self.client_first, &self.server_first, &last.without_proof);
        // All are looked at before any is told.
        let is_proved = self.keys.accept(&message, &last.proof);
        if last.nonce != self.nonce {
            return wrong("the nonce is another one");
        }
        if !bool::from(last.binding.ct_eq(&self.binding)) {
            return wrong("the login is bound to another connection: someone may be between");
        }
        if !is_proved {
            return wrong("wrong password");
        }
        Step::Proved(Proof(encoded(format!("v={}", encoded(self.keys.signature(&message))))))
    }
}

fn malformed(why: &'static str) -> Step {
    Step::Refused(Refusal::Malformed(why))
}

fn wrong(why: &'static str) -> Step {
    Step::Refused(Refusal::Wrong(why))
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL password`, and no further NUL.
fn plain(response: Vec<u8>) -> Step {
    let mut parts = response.split(|octet| *octet == 0);
    let (Some(authzid), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return malformed("this is not two names and a password");
    };
    let text = |octets: &[u8]| str::from_utf8(octets).ok().map(str::to_owned);
    match (text(authzid).filter(|authzid| authzid.is_empty() || is_name(authzid)), text(name)) {
        (None, _) => malformed("the authorization identity is none"),
        (_, Some(name)) if !is_name(&name) => malformed("the name is none"),
        (_, None) => malformed("the name is none"),
        (Some(authzid), Some(name)) => check(authzid, name, password.to_vec()),
    }
}

fn check(authzid: String, name: String, password: Vec<u8>) -> Step {
    if password.len() > limits::CREDENTIAL || password.contains(&0) {
        return malformed("the password is too long, or holds a NUL");
    }
    Step::Check(Credentials { name, authzid, password: Secret(password) })
}

fn scram_first(mechanism: Mechanism, setting: Setting, response: Vec<u8>) -> Step {
    let Ok(text) = String::from_utf8(response) else { return malformed("this is no text") };
    let first = match ClientFirst::read(&text) {
        Ok(first) => first,
        Err(why) => return malformed(why),
    };
    let is_plus = mechanism == Mechanism::ScramSha256Plus;
    let binding = match &first.flag {
        Flag::Bound(kind) if is_plus => match setting.bindings.get(kind) {
            Some(binding) => binding.to_vec(),
            None => return wrong("its type of channel binding is not at hand"),
        },
        Flag::Bound(_) => return malformed("this mechanism binds to no connection"),
        Flag::Unable | Flag::Unasked if is_plus => return malformed("this mechanism binds to the connection"),
        // RFC 5802 §6: the client did not hear our offer, so someone took it away.
        Flag::Unasked if !setting.bindings.is_empty() => {
            return wrong("it did not hear that channel binding is offered: someone may be between");
        }
        Flag::Unable | Flag::Unasked => Vec::new(),
    };
    Step::Lookup(Lookup { first, setting, binding })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn setting() -> Setting {
        Setting { bindings: Bindings::default(), nonce: "server".into() }
    }

    fn begin(mechanism: Mechanism, response: impl AsRef<[u8]>) -> Step {
        Exchange::begin(mechanism, Some(&encoded(response)), setting())
    }

    fn refusal(step: Step) -> Refusal {
        match step {
            Step::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn credentials(step: Step) -> (String, String, Vec<u8>) {
        match step {
            Step::Check(Credentials { name, authzid, password }) => (authzid, name, password.0),
            other => panic!("{other:?}"),
        }
    }

    fn challenge(step: Step) -> (String, Exchange) {
        match step {
            Step::Challenge(text, exchange) => (text, exchange),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_is_two_names_and_a_password() {
        // RFC 4616 §4, RFC 4954 §4.1.
        assert_eq!(credentials(begin(Mechanism::Plain, "\0tim\0tanstaaftanstaaf")).1, "tim");
        let whole = credentials(begin(Mechanism::Plain, "Ursel\0Kurt\0xipj3plmq"));
        assert_eq!(whole, ("Ursel".into(), "Kurt".into(), b"xipj3plmq".to_vec()));
        let (empty, exchange) = challenge(Exchange::begin(Mechanism::Plain, None, setting()));
        assert_eq!(empty, "");
        assert_eq!(credentials(exchange.respond("AHRlc3QAMTIzNA==")), (String::new(), "test".into(), b"1234".to_vec()));
        assert_eq!(credentials(begin(Mechanism::Plain, b"\0ann\0\xff")).2, b"\xff");
    }

    #[test]
    fn what_is_no_plain_response_is_refused() {
        let long = format!("\0ann\0{}", "x".repeat(limits::CREDENTIAL + 1));
        for response in ["", "ann", "\0ann", "\0ann\0a\0b", "\0\0x", "a\nb\0ann\0x", "\0a\nnn\0x", &long] {
            assert!(matches!(refusal(begin(Mechanism::Plain, response)), Refusal::Malformed(_)), "{response:?}");
        }
        assert!(matches!(refusal(begin(Mechanism::Plain, b"\0\xff\0x")), Refusal::Malformed("the name is none")));
        let empty = Exchange::begin(Mechanism::Plain, Some("="), setting());
        assert!(matches!(refusal(empty), Refusal::Malformed(_)));
    }

    #[test]
    fn login_asks_twice_or_once() {
        let (text, exchange) = challenge(Exchange::begin(Mechanism::Login, None, setting()));
        assert_eq!(text, "VXNlcm5hbWU6");
        let (text, exchange) = challenge(exchange.respond("YW5u"));
        assert_eq!(text, "UGFzc3dvcmQ6");
        assert_eq!(credentials(exchange.respond("c2VjcmV0")), (String::new(), "ann".into(), b"secret".to_vec()));
        let (text, _) = challenge(begin(Mechanism::Login, "ann"));
        assert_eq!(text, "UGFzc3dvcmQ6");
        assert!(matches!(refusal(begin(Mechanism::Login, "a\0b")), Refusal::Malformed(_)));
        let (_, exchange) = challenge(begin(Mechanism::Login, "ann"));
        assert!(matches!(refusal(exchange.respond("AA==")), Refusal::Malformed(_)));
    }

    #[test]
    fn a_line_is_base64_and_bounded_or_the_end() {
        for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256] {
            for line in ["AA", "AA=", "AAA", "AB==", "A A=", "AAAA\r", "é", "===="] {
                let step = challenge(Exchange::begin(mechanism, None, setting())).1.respond(line);
                assert!(matches!(refusal(step), Refusal::Malformed("this is no base64")), "{line}");
            }
            let step = challenge(Exchange::begin(mechanism, None, setting())).1.respond("*");
            assert_eq!(refusal(step), Refusal::Cancelled);
            let long = "A".repeat(limits::AUTH_LINE + 1);
            assert_eq!(refusal(Exchange::begin(mechanism, Some(&long), setting())), Refusal::TooLong);
        }
    }

    #[test]
    fn flags_and_mechanisms_must_agree() {
        let bound = Bindings { exporter: Some(vec![1; 32]), server_end_point: None };
        let first = |mechanism, bindings: &Bindings, text: &str| {
            let setting = Setting { bindings: bindings.clone(), nonce: "server".into() };
            Exchange::begin(mechanism, Some(&encoded(format!("{text},n=ann,r=x"))), setting)
        };
        let (none, plus, bare) = (Bindings::default(), Mechanism::ScramSha256Plus, Mechanism::ScramSha256);
        for (mechanism, bindings, text) in
            [(bare, &none, "n,"), (bare, &none, "y,"), (bare, &bound, "n,"), (plus, &bound, "p=tls-exporter,")]
        {
            assert!(matches!(first(mechanism, bindings, text), Step::Lookup(_)), "{mechanism} {text}");
        }
        for (mechanism, bindings, text, is_wrong) in [
            (bare, &bound, "y,", true),
            (plus, &bound, "p=tls-server-end-point,", true),
            (plus, &bound, "p=tls-unique,", true),
            (plus, &none, "p=tls-exporter,", true),
            (plus, &bound, "n,", false),
            (plus, &bound, "y,", false),
            (bare, &bound, "p=tls-exporter,", false),
        ] {
            let refused = refusal(first(mechanism, bindings, text));
            assert_eq!(matches!(refused, Refusal::Wrong(_)), is_wrong, "{mechanism} {text} {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(
            mechanism in prop::sample::select(vec![Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256]),
            lines in prop::collection::vec("\\PC{0,20}|[A-Za-z0-9+/]{0,40}={0,3}", 1..4),
            octets in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut step = begin(mechanism, octets);
            for line in &lines {
                step = match step {
                    Step::Challenge(_, exchange) => exchange.respond(line),
                    Step::Lookup(lookup) => lookup.answer(Keys::of_nobody(b"x", "ann", 4096)),
                    end => end,
                };
            }
        }
    }
}
