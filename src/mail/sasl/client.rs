//! The client's side: how this host logs in where it sends its mail.
//!
//! [`begin`] chooses the best mechanism that the server offers and the [`Login`] fits: SCRAM-SHA-256-PLUS, SCRAM-SHA-256,
//! PLAIN, LOGIN for a password; OAUTHBEARER (RFC 7628), XOAUTH2 for a token. Over a connection that is not protected only
//! SCRAM is taken, which shows no secret to who listens.
//!
//! SCRAM works both ways: a server that does not know the password is found out by [`Exchange::accepted`], which must be
//! asked before its yes is believed. Fails with a [`NoMechanism`] or a [`Fault`], in words for the log and the report.

use std::fmt;

use subtle::ConstantTimeEq;

use super::keys::Salted;
use super::message::{ClientFirst, Flag, ServerFirst, auth_message, binding_input};
use super::{Bindings, Secret, decoded, encoded};
use crate::limits;

/// Who logs in, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Password {
        /// The name, as the server knows it.
        name: String,
        /// The password.
        password: Secret,
    },
    /// A name and an access token (RFC 6750).
    Token {
        /// The name, as the server knows it.
        name: String,
        /// The token.
        token: Secret,
    },
}

/// What a login needs to know of its connection.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Whether nobody can listen: TLS, or this host itself.
    pub protected: bool,
    /// What binds to it.
    pub bindings: Bindings,
    /// Random and printable, without a comma, and never used before.
    pub nonce: String,
    /// The server's name and port, which OAUTHBEARER repeats.
    pub server: (String, u16),
}

/// A login that is ready to be sent.
#[derive(Debug)]
pub struct Start {
    /// For the AUTH command.
    pub mechanism: &'static str,
    /// What follows it, in base64. `None`: the server asks first.
    pub initial: Option<String>,
    /// What takes the server's challenges.
    pub exchange: Exchange,
}

/// Why there is no login that both sides know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoMechanism(String);

impl fmt::Display for NoMechanism {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for NoMechanism {}

/// Why this host breaks a login off, by `*` while the server asks, or by leaving once it has said yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Fault {}

const NO_BASE64: Fault = Fault("the server's challenge is no base64");

/// A login under way.
pub struct Exchange(State);

/// It holds secrets.
impl fmt::Debug for Exchange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Exchange")
    }
}

enum State {
    /// The first response, not sent yet because it is too long, or because the server has to ask; then what follows.
    Unsent(String, Box<State>),
    /// LOGIN, once the name was sent: the password, in base64.
    Password(String),
    /// All was said, and a challenge can only be a mistake.
    Said,
    /// All was said; a challenge says what is wrong, and wants this, in base64, for an answer.
    Token {
        answer: &'static str,
    },
    /// What is wrong was told; the server's no follows.
    Told(String),
    ScramFirst {
        first: ClientFirst,
        binding: Vec<u8>,
        password: Secret,
    },
    ScramFinal {
        signature: [u8; 32],
    },
    Verified,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ScramPlus,
    Scram,
    Plain,
    Login,
    Bearer,
    XOAuth2,
}

const FOR_PASSWORDS: &[(&str, Kind)] = &[
    ("SCRAM-SHA-256-PLUS", Kind::ScramPlus),
    ("SCRAM-SHA-256", Kind::Scram),
    ("PLAIN", Kind::Plain),
    ("LOGIN", Kind::Login),
];

const FOR_TOKENS: &[(&str, Kind)] = &[("OAUTHBEARER", Kind::Bearer), ("XOAUTH2", Kind::XOAuth2)];

/// Chooses a mechanism among those `offered`, which are the words after AUTH, and begins.
pub fn begin(offered: &str, login: Login, setting: Setting) -> Result<Start, NoMechanism> {
    let (mechanism, kind) = choose(offered, &login, &setting)?;
    let (initial, state) = match login {
        Login::Password { name, password } => begin_password(kind, offered, &name, password, &setting),
        Login::Token { name, token } => {
            let response = token_response(kind, &name, &token.0, &setting.server);
            // RFC 7628 §3.2.3; Google's own wants an empty line.
            (response, State::Token { answer: if kind == Kind::Bearer { "AQ==" } else { "" } })
        }
    };
    let initial = encoded(initial);
    let line = "AUTH ".len() + mechanism.len() + 1 + initial.len() + "\r\n".len();
    // Servers of LOGIN know its first response less often than not.
    let waits = line > limits::AUTH_COMMAND || kind == Kind::Login;
    let (initial, state) = if waits { (None, State::Unsent(initial, Box::new(state))) } else { (Some(initial), state) };
    Ok(Start { mechanism, initial, exchange: Exchange(state) })
}

fn choose(offered: &str, login: &Login, setting: &Setting) -> Result<(&'static str, Kind), NoMechanism> {
    let (known, what) = match login {
        Login::Password { .. } => (FOR_PASSWORDS, "a password"),
        Login::Token { .. } => (FOR_TOKENS, "a token"),
    };
    let is_offered = |name: &str| offered.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case(name));
    let mut fitting = known
        .iter()
        .copied()
        .filter(|(name, kind)| is_offered(name) && (*kind != Kind::ScramPlus || !setting.bindings.is_empty()));
    let is_safe = |kind: Kind| setting.protected || matches!(kind, Kind::ScramPlus | Kind::Scram);
    if let Some(found) = fitting.clone().find(|(_, kind)| is_safe(*kind)) {
        return Ok(found);
    }
    Err(NoMechanism(match fitting.next() {
        Some((name, _)) => format!("the connection is not encrypted, and AUTH {name} would show {what} to who listens"),
        None if offered.trim().is_empty() => "the server offers no AUTH".to_owned(),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let offered: String =
                offered.chars().filter(|letter| !letter.is_control()).take(limits::REPORT_QUOTE).collect();
            format!("the server offers AUTH {offered}, and a login with {what} needs one of {}", names.join(", "))
        }
    }))
}

fn begin_password(kind: Kind, offered: &str, name: &str, password: Secret, setting: &Setting) -> (Vec<u8>, State) {
    match kind {
        Kind::Login => (name.into(), State::Password(encoded(&password.0))),
        Kind::ScramPlus | Kind::Scram => {
            let is_plus_offered =
                offered.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case(FOR_PASSWORDS[0].0));
            let (flag, binding) = match setting.bindings.best() {
                Some((name, binding)) if kind == Kind::ScramPlus => (Flag::Bound(name.to_owned()), binding.to_vec()),
                Some(_) if !is_plus_offered => (Flag::Unasked, Vec::new()),
                _ => (Flag::Unable, Vec::new()),
            };
            let first = ClientFirst::new(flag, name, &setting.nonce);
            (format!("{}{}", first.header, first.bare).into(), State::ScramFirst { first, binding, password })
        }
        Kind::Plain | Kind::Bearer | Kind::XOAuth2 => {
            ([b"\0", name.as_bytes(), b"\0", &password.0].concat(), State::Said)
        }
    }
}

/// RFC 7628 §3.1; XOAUTH2 is what it came from.
fn token_response(kind: Kind, name: &str, token: &[u8], (host, port): &(String, u16)) -> Vec<u8> {
    let start = match kind {
        Kind::Bearer => {
            let name = name.replace('=', "=3D").replace(',', "=2C");
            format!("n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer ")
        }
        _ => format!("user={name}\x01auth=Bearer "),
    };
    [start.as_bytes(), token, b"\x01\x01"].concat()
}

impl Exchange {
    /// Takes a challenge, in base64 as it came, and gives the line to answer with.
    pub fn respond(self, challenge: &str) -> Result<(String, Exchange), Fault> {
        if challenge.len() > limits::AUTH_LINE {
            return Err(Fault("the server's challenge is too long"));
        }
        // RFC 4954 §4. LOGIN's are read by nobody, and some servers write `334 Username:` as it is.
        if !self.is_login() {
            decoded(challenge).ok_or(NO_BASE64)?;
        }
        let (line, next) = match self.0 {
            State::Unsent(line, next) => (line, *next),
            State::Password(line) => (line, State::Said),
            State::Token { answer } => (answer.to_owned(), State::Told(shown(challenge))),
            State::Said | State::Told(_) | State::Verified => {
                return Err(Fault("the server asks for more than there is to say"));
            }
            State::ScramFirst { first, binding, password } => prove(&first, &binding, &password, challenge)?,
            State::ScramFinal { signature } => {
                verify(&signature, challenge)?;
                (String::new(), State::Verified)
            }
        };
        Ok((line, Exchange(next)))
    }

    /// Whether name and password of LOGIN are still to be said.
    fn is_login(&self) -> bool {
        let is_next = |state: &State| matches!(state, State::Password(_));
        is_next(&self.0) || matches!(&self.0, State::Unsent(_, next) if is_next(next))
    }

    /// After the server's yes: whether to believe it. `with` is what came with it, where a protocol has a place for that.
    pub fn accepted(self, with: Option<&str>) -> Result<(), Fault> {
        match (self.0, with) {
            (State::ScramFinal { signature }, Some(last)) => verify(&signature, last),
            (State::ScramFinal { .. } | State::ScramFirst { .. }, _) => {
                Err(Fault("the server says yes and has not shown that it knows the password: it may be another"))
            }
            (State::Unsent(..) | State::Password(_), _) => {
                Err(Fault("the server says yes before it was told who asks"))
            }
            (State::Said | State::Token { .. } | State::Told(_) | State::Verified, _) => Ok(()),
        }
    }

    /// What the server said is wrong with the token, in its own words, made printable.
    pub fn complaint(&self) -> Option<&str> {
        match &self.0 {
            State::Told(words) => Some(words),
            _ => None,
        }
    }
}

fn prove(first: &ClientFirst, binding: &[u8], password: &Secret, challenge: &str) -> Result<(String, State), Fault> {
    let text = message(challenge)?;
    let challenge = ServerFirst::read(&text).map_err(|_| {
        Fault("the server's SCRAM challenge is none: a part is missing, or its iterations are too few or too many")
    })?;
    if !challenge.nonce.starts_with(&first.nonce) || challenge.nonce.len() == first.nonce.len() {
        return Err(Fault("the server's nonce does not go on from ours: it may be another's challenge"));
    }
    let binding = encoded(binding_input(&first.header, binding));
    let without_proof = format!("c={binding},r={}", challenge.nonce);
    let message = auth_message(&first.bare, &text, &without_proof);
    let salted = Salted::new(&password.0, &challenge.salt, challenge.iterations);
    let keys = salted.keys(&challenge.salt, challenge.iterations);
    let proof = encoded(salted.proof(&keys, &message));
    let line = encoded(format!("{without_proof},p={proof}"));
    Ok((line, State::ScramFinal { signature: keys.signature(&message) }))
}

fn verify(signature: &[u8; 32], challenge: &str) -> Result<(), Fault> {
    let text = message(challenge)?;
    if text.starts_with("e=") {
        return Err(Fault("the server refuses the SCRAM proof"));
    }
    let value = text.strip_prefix("v=").map(|value| value.split(',').next().unwrap_or_default());
    let shown = value.and_then(decoded).ok_or(Fault("the server's SCRAM signature is none"))?;
    if bool::from(shown.ct_eq(signature)) { Ok(()) } else { Err(Fault("the server does not know the password")) }
}

fn message(challenge: &str) -> Result<String, Fault> {
    decoded(challenge).and_then(|octets| String::from_utf8(octets).ok()).ok_or(NO_BASE64)
}

fn shown(challenge: &str) -> String {
    let words = message(challenge).unwrap_or_else(|_| challenge.to_owned());
    words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(limits::REPORT_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn password() -> Login {
        Login::Password { name: "ann".into(), password: Secret(b"secret".to_vec()) }
    }

    fn token(token: &str) -> Login {
        Login::Token { name: "user@example.com".into(), token: Secret(token.into()) }
    }

    fn setting() -> Setting {
        let server = ("server.example.com".to_owned(), 143);
        Setting { protected: true, bindings: Bindings::default(), nonce: "client".into(), server }
    }

    fn bound() -> Setting {
        Setting { bindings: Bindings { exporter: Some(vec![1; 32]), server_end_point: Some(vec![2; 32]) }, ..setting() }
    }

    fn initial(start: &Start) -> String {
        String::from_utf8(decoded(start.initial.as_ref().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn the_best_that_fits_is_chosen() {
        let all = "LOGIN PLAIN SCRAM-SHA-1 scram-sha-256 SCRAM-SHA-256-PLUS XOAUTH2 OAUTHBEARER";
        for (offered, login, setting, expected) in [
            (all, password(), bound(), "SCRAM-SHA-256-PLUS"),
            (all, password(), setting(), "SCRAM-SHA-256"),
            ("LOGIN plain", password(), bound(), "PLAIN"),
            ("NTLM LOGIN", password(), setting(), "LOGIN"),
            (all, token("x"), setting(), "OAUTHBEARER"),
            ("XOAUTH2 PLAIN", token("x"), setting(), "XOAUTH2"),
            (all, password(), Setting { protected: false, ..setting() }, "SCRAM-SHA-256"),
        ] {
            assert_eq!(begin(offered, login, setting).unwrap().mechanism, expected, "{offered}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_in_words() {
        let clear = Setting { protected: false, ..setting() };
        for (offered, login, setting, words) in [
            ("", password(), setting(), "the server offers no AUTH"),
            (
                "GSSAPI SCRAM-SHA-256-PLUS",
                password(),
                setting(),
                "the server offers AUTH GSSAPI SCRAM-SHA-256-PLUS, and a login with a password needs one of",
            ),
            ("PLAIN", token("x"), setting(), "needs one of OAUTHBEARER, XOAUTH2"),
            ("LOGIN PLAIN", password(), clear.clone(), "not encrypted, and AUTH PLAIN would show a password"),
            ("XOAUTH2", token("x"), clear, "would show a token"),
        ] {
            let error = begin(offered, login, setting).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_password_goes_out_as_the_server_expects_it() {
        let plain = begin("PLAIN", password(), setting()).unwrap();
        assert_eq!(initial(&plain), "\0ann\0secret");
        assert!(plain.exchange.accepted(None).is_ok());
        let login = begin("LOGIN", password(), setting()).unwrap();
        assert_eq!(login.initial, None);
        let (line, exchange) = login.exchange.respond("VXNlcm5hbWU6").unwrap();
        assert_eq!(line, "YW5u");
        let (line, exchange) = exchange.respond("not even base64").unwrap();
        assert_eq!(line, "c2VjcmV0");
        assert!(exchange.respond("").is_err(), "nothing is said twice");
        let early = begin("LOGIN", password(), setting()).unwrap().exchange;
        assert!(early.accepted(None).is_err());
    }

    #[test]
    fn a_challenge_that_is_no_base64_ends_all_but_login() {
        let long = || begin("XOAUTH2", token(&"x".repeat(600)), setting());
        for start in [
            begin("SCRAM-SHA-256", password(), setting()),
            begin("OAUTHBEARER", token("x"), setting()),
            begin("XOAUTH2", token("x"), setting()),
            long(),
        ] {
            assert_eq!(start.unwrap().exchange.respond("not even base64").unwrap_err(), NO_BASE64);
        }
        assert!(long().unwrap().exchange.respond("").is_ok());
    }

    #[test]
    fn a_token_goes_out_and_the_servers_complaint_is_kept() {
        // RFC 7628 §4.1 but for its last field.
        let bearer = begin("OAUTHBEARER", token("vF9dft4qmT"), setting()).unwrap();
        assert_eq!(
            initial(&bearer),
            "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmT\x01\x01"
        );
        let complaint = encoded("{\"status\":\"401\"}\n");
        let (line, exchange) = bearer.exchange.respond(&complaint).unwrap();
        assert_eq!((&*line, exchange.complaint()), ("AQ==", Some("{\"status\":\"401\"} ")));
        assert!(exchange.respond(&complaint).is_err());
        let older = begin("XOAUTH2", token("ya29.x"), setting()).unwrap();
        assert_eq!(initial(&older), "user=user@example.com\x01auth=Bearer ya29.x\x01\x01");
        assert_eq!(older.exchange.respond(&complaint).unwrap().0, "");
    }

    #[test]
    fn a_response_too_long_for_the_command_waits_for_the_server() {
        let long = begin("XOAUTH2", token(&"x".repeat(600)), setting()).unwrap();
        assert_eq!(long.initial, None);
        let (line, exchange) = long.exchange.respond("").unwrap();
        assert!(decoded(&line).unwrap().ends_with(b"xxx\x01\x01"));
        assert!(exchange.complaint().is_none() && exchange.accepted(None).is_ok());
        let fits = begin("XOAUTH2", token(&"x".repeat(300)), setting()).unwrap();
        assert!(fits.initial.unwrap().len() + "AUTH XOAUTH2 \r\n".len() <= limits::AUTH_COMMAND);
    }

    #[test]
    fn the_flag_says_what_was_offered() {
        let flag = |offered: &str, setting| initial(&begin(offered, password(), setting).unwrap());
        assert!(flag("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", bound()).starts_with("p=tls-exporter,,n=ann,r=client"));
        assert!(flag("SCRAM-SHA-256", bound()).starts_with("y,,"));
        assert!(flag("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", setting()).starts_with("n,,"));
        assert!(flag("SCRAM-SHA-256", setting()).starts_with("n,,"));
        let older = Setting { bindings: Bindings { exporter: None, ..bound().bindings }, ..setting() };
        assert!(flag("SCRAM-SHA-256-PLUS", older).starts_with("p=tls-server-end-point,,"));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_noticed() {
        let scram = || begin("SCRAM-SHA-256", password(), setting()).unwrap().exchange;
        assert!(scram().accepted(None).unwrap_err().0.contains("has not shown"));
        let challenge = encoded("r=clientserver,s=QSXCR+Q6sek8bf92,i=4096");
        let (_, exchange) = scram().respond(&challenge).unwrap();
        assert!(exchange.accepted(None).unwrap_err().0.contains("has not shown"));
        let last = |last: &str| scram().respond(&challenge).unwrap().1.respond(&encoded(last)).unwrap_err();
        let forged = format!("v={}", encoded([0; 32]));
        assert_eq!(last(&forged), Fault("the server does not know the password"));
        assert_eq!(scram().respond(&challenge).unwrap().1.accepted(Some(&encoded(forged))), Err(last("v=AAAA")));
        assert!(last("e=invalid-proof").0.contains("refuses"));
        assert!(last("x").0.contains("none"));
    }

    #[test]
    fn a_challenge_that_is_not_for_us_or_too_dear_is_refused() {
        for challenge in [
            "r=other,s=QSXCR+Q6sek8bf92,i=4096",
            "r=client,s=QSXCR+Q6sek8bf92,i=4096",
            "r=clientserver,s=QSXCR+Q6sek8bf92,i=1",
            "r=clientserver,s=QSXCR+Q6sek8bf92,i=100000000",
            "",
        ] {
            let exchange = begin("SCRAM-SHA-256", password(), setting()).unwrap().exchange;
            assert!(exchange.respond(&encoded(challenge)).is_err(), "{challenge}");
        }
        let exchange = begin("SCRAM-SHA-256", password(), setting()).unwrap().exchange;
        assert!(exchange.respond(&"A".repeat(limits::AUTH_LINE + 4)).is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        for offered in ["PLAIN", "LOGIN", "SCRAM-SHA-256"] {
            let shown = format!("{:?}", begin(offered, password(), setting()).unwrap().exchange);
            assert_eq!(shown, "Exchange");
        }
        assert!(!format!("{:?}", password()).contains("115"), "not as octets either");
    }

    proptest! {
        #[test]
        fn no_challenge_panics(
            offered in prop::sample::select(vec!["PLAIN", "LOGIN", "SCRAM-SHA-256"]),
            lines in prop::collection::vec("\\PC{0,20}|[A-Za-z0-9+/]{0,40}={0,3}|r=client\\PC{0,10},s=[A-Z]{0,8},i=[0-9]{0,5}", 1..4),
        ) {
            let mut exchange = begin(offered, password(), setting()).unwrap().exchange;
            for line in &lines {
                let line = if line.starts_with("r=") { encoded(line) } else { line.clone() };
                match exchange.respond(&line) {
                    Ok((_, next)) => exchange = next,
                    Err(_) => return Ok(()),
                }
            }
            let _ = exchange.accepted(lines.last().map(String::as_str));
        }
    }
}
