//! Both sides against one another, and against the examples of the RFCs.

use proptest::prelude::*;

use super::client::{self, Login};
use super::server::{self, Exchange, Refusal, Step};
use super::*;

/// What a server knows of its users, in either form.
struct Known<'a> {
    name: &'a str,
    password: &'a [u8],
    keys: Keys,
}

/// How a login ended, on both sides.
#[derive(Debug, PartialEq, Eq)]
enum End {
    In,
    Refused(Refusal),
    Unconvinced(client::Fault),
}

/// Speaks a whole login, each side with the settings of its own end.
fn speak(known: &Known<'_>, start: client::Start, setting: server::Setting) -> End {
    let mechanism: Mechanism = start.mechanism.parse().unwrap();
    let mut asking = start.exchange;
    let mut step = Exchange::begin(mechanism, start.initial.as_deref(), setting);
    loop {
        step = match step {
            Step::Challenge(challenge, exchange) => match asking.respond(&challenge) {
                Ok((line, next)) => {
                    asking = next;
                    exchange.respond(&line)
                }
                Err(fault) => return End::Unconvinced(fault),
            },
            Step::Check(credentials) => {
                let fits = credentials.name == known.name && credentials.password.0 == known.password;
                if fits { Step::Done } else { Step::Refused(Refusal::Wrong("wrong password")) }
            }
            Step::Lookup(lookup) => {
                let keys = if lookup.name() == known.name { known.keys.clone() } else { nobody(lookup.name()) };
                lookup.answer(keys)
            }
            Step::Proved(proof) => proof.signed(),
            Step::Done => return asking.accepted(None).map_or_else(End::Unconvinced, |()| End::In),
            Step::Refused(refusal) => return End::Refused(refusal),
        }
    }
}

fn nobody(name: &str) -> Keys {
    Keys::of_nobody(b"secret", name, 4096)
}

fn login(name: &str, password: &[u8]) -> Login {
    Login::Password { name: name.to_owned(), password: Secret(password.to_owned()) }
}

fn asking(bindings: &Bindings) -> client::Setting {
    let server = ("mail.example.org".to_owned(), 587);
    client::Setting { protected: true, bindings: bindings.clone(), nonce: "rOprNGfwEbeRWgbNEkqO".into(), server }
}

fn asked(bindings: &Bindings) -> server::Setting {
    server::Setting { bindings: bindings.clone(), nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into() }
}

#[test]
fn the_example_of_rfc_7677_comes_out_octet_for_octet() {
    let salt = decoded("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let none = Bindings::default();
    let start = client::begin("SCRAM-SHA-256", login("user", b"pencil"), asking(&none)).unwrap();
    assert_eq!(start.initial.as_deref().and_then(decoded).unwrap(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let step = Exchange::begin(Mechanism::ScramSha256, start.initial.as_deref(), asked(&none));
    let Step::Lookup(lookup) = step else { panic!("{step:?}") };
    let Step::Challenge(challenge, exchange) = lookup.answer(Keys::derive(b"pencil", &salt, 4096)) else { panic!() };
    assert_eq!(
        decoded(&challenge).unwrap(),
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let (line, asking) = start.exchange.respond(&challenge).unwrap();
    assert_eq!(
        String::from_utf8(decoded(&line).unwrap()).unwrap(),
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let Step::Proved(proof) = exchange.respond(&line) else { panic!() };
    let Step::Challenge(last, exchange) = proof.signed() else { panic!() };
    assert_eq!(decoded(&last).unwrap(), b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    let (line, asking) = asking.respond(&last).unwrap();
    assert_eq!(line, "");
    assert!(matches!(exchange.respond(&line), Step::Done));
    assert_eq!(asking.accepted(None), Ok(()));
}

#[test]
fn who_is_between_is_noticed() {
    let known = Known { name: "ann", password: b"x", keys: Keys::derive(b"x", b"salt", 4096) };
    let one = Bindings { exporter: Some(vec![1; 32]), server_end_point: Some(vec![3; 32]) };
    let two = Bindings { exporter: Some(vec![2; 32]), server_end_point: Some(vec![3; 32]) };
    let both = "SCRAM-SHA-256 SCRAM-SHA-256-PLUS";
    let begin = |offered, bindings| client::begin(offered, login("ann", b"x"), asking(bindings)).unwrap();
    assert_eq!(speak(&known, begin(both, &one), asked(&one)), End::In);
    let end_point = Bindings { exporter: None, ..one.clone() };
    assert_eq!(speak(&known, begin(both, &end_point), asked(&one)), End::In);
    // The login is passed on from another connection.
    let End::Refused(Refusal::Wrong(why)) = speak(&known, begin(both, &one), asked(&two)) else { panic!() };
    assert!(why.contains("bound to another connection"));
    // The offer is taken away.
    let End::Refused(Refusal::Wrong(why)) = speak(&known, begin("SCRAM-SHA-256", &one), asked(&one)) else { panic!() };
    assert!(why.contains("did not hear"));
    // The server itself has no bindings: the flag y is right then.
    assert_eq!(speak(&known, begin("SCRAM-SHA-256", &one), asked(&Bindings::default())), End::In);
}

#[test]
fn a_proof_is_for_this_exchange_alone() {
    let keys = Keys::derive(b"x", b"salt", 4096);
    let begin = |nonce: &str| {
        let setting = server::Setting { bindings: Bindings::default(), nonce: nonce.into() };
        let Step::Lookup(lookup) = Exchange::begin(Mechanism::ScramSha256, Some(&encoded("n,,n=ann,r=c")), setting)
        else {
            panic!()
        };
        let Step::Challenge(challenge, exchange) = lookup.answer(keys.clone()) else { panic!() };
        (String::from_utf8(decoded(&challenge).unwrap()).unwrap(), exchange)
    };
    // What the client signs as its nonce, beside the one it was told.
    let prove = |said: &str, challenge: &str| {
        let without_proof = format!("c=biws,r={said}");
        let message = message::auth_message("n=ann,r=c", challenge, &without_proof);
        let proof = keys::Salted::new(b"x", b"salt", 4096).proof(&keys, &message);
        encoded(format!("{without_proof},p={}", encoded(proof)))
    };
    let (challenge, exchange) = begin("one");
    assert!(matches!(exchange.respond(&prove("cone", &challenge)), Step::Proved(_)));
    let (challenge, exchange) = begin("one");
    let step = exchange.respond(&prove("ctwo", &challenge));
    assert!(matches!(step, Step::Refused(Refusal::Wrong("the nonce is another one"))), "{step:?}");
    let (_, exchange) = begin("two");
    let step = exchange.respond(&prove("ctwo", &challenge));
    assert!(matches!(step, Step::Refused(Refusal::Wrong("wrong password"))), "a challenge of before: {step:?}");
}

#[test]
fn a_server_with_other_keys_is_found_out_only_by_scram() {
    // It takes any proof and says yes.
    let start = client::begin("SCRAM-SHA-256", login("ann", b"x"), asking(&Bindings::default())).unwrap();
    let step = Exchange::begin(Mechanism::ScramSha256, start.initial.as_deref(), asked(&Bindings::default()));
    let Step::Lookup(lookup) = step else { panic!() };
    let Step::Challenge(challenge, _) = lookup.answer(nobody("ann")) else { panic!() };
    let (_, asking) = start.exchange.respond(&challenge).unwrap();
    assert!(asking.accepted(None).is_err());
}

#[test]
fn what_is_offered_depends_on_connection_and_store() {
    let bound = Bindings { exporter: Some(vec![1; 32]), server_end_point: None };
    let names = |protected, scram, bindings: &Bindings| {
        let offered = Mechanism::offered(protected, scram, bindings);
        offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(true, true, &bound), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(names(true, true, &Bindings::default()), "SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(names(true, false, &bound), "PLAIN LOGIN");
    assert_eq!(names(false, true, &bound), "");
    for mechanism in Mechanism::offered(true, true, &bound) {
        assert_eq!(mechanism.name().to_lowercase().parse(), Ok(mechanism));
    }
    assert_eq!("CRAM-MD5".parse::<Mechanism>(), Err(UnknownMechanism));
}

#[test]
fn no_state_shows_a_secret() {
    assert_eq!(format!("{:?}", Secret(b"x".to_vec())), "Secret");
    let shown =
        format!("{:?}", Exchange::begin(Mechanism::Plain, Some("AGFubgBzZWNyZXQ="), asked(&Bindings::default())));
    assert!(shown.contains("ann") && !shown.contains("secret") && !shown.contains("115"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_right_password_comes_in_and_no_other(
        name in "[^\\x00-\\x1f\\x7f-\\x9f]{1,20}",
        password in "[ -~äöß🔑]{1,20}",
        other in "[ -~äöß🔑]{1,20}",
        salt in prop::collection::vec(any::<u8>(), 1..32),
        mechanism in prop::sample::select(vec!["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN", "LOGIN"]),
        bound: bool,
    ) {
        let exporter = bound.then(|| vec![7; 32]);
        let bindings = Bindings { exporter, server_end_point: None };
        prop_assume!(bound == (mechanism == "SCRAM-SHA-256-PLUS"));
        let known = Known { name: &name, password: password.as_bytes(), keys: Keys::derive(password.as_bytes(), &salt, 4096) };
        let begin = |name: &str, password: &str| client::begin(mechanism, login(name, password.as_bytes()), asking(&bindings)).unwrap();
        prop_assert_eq!(speak(&known, begin(&name, &password), asked(&bindings)), End::In);
        let denied = End::Refused(Refusal::Wrong("wrong password"));
        prop_assert_eq!(&speak(&known, begin(&format!("{name}x"), &password), asked(&bindings)), &denied);
        prop_assume!(other != password);
        prop_assert_eq!(&speak(&known, begin(&name, &other), asked(&bindings)), &denied);
    }
}
