//! One AUTH command, from its first response to the end: the exchange of `mail::sasl`, with what the [`Gate`] says to it.
//!
//! ```text
//! begin ──→ Next::Send(challenge, dialogue) ──→ dialogue.respond(line) ──→ … ──→ Next::In(who) or Next::Out(why)
//! ```
//!
//! A connection sends what it is told to, reads a line, and gives it back. Whether a mechanism was offered, and whether
//! AUTH is allowed at all, is for the session to know. Each login that fails is in the log. Whoever drops a dialogue
//! half-way has made no guess.

use std::net::IpAddr;

use super::{Denied, Gate, Prospect};
use crate::mail::address::Address;
use crate::mail::sasl::server::{Exchange, Refusal, Setting, Step};
use crate::mail::sasl::{Bindings, Mechanism};
use crate::maillog;

/// Octets of a nonce of ours, before base64.
const NONCE: usize = 18;

/// A login that waits for the client's next line.
#[derive(Debug)]
pub struct Dialogue<'g> {
    talk: Talk<'g>,
    exchange: Exchange,
}

/// What lasts from line to line.
#[derive(Debug)]
struct Talk<'g> {
    gate: &'g Gate,
    client: IpAddr,
    /// As it was given, for the log.
    name: Option<String>,
    prospect: Option<Prospect>,
    proved: Option<Address>,
}

/// What the connection does next.
#[derive(Debug)]
pub enum Next<'g> {
    /// Send this as a challenge (`334 ` in SMTP, `+ ` in POP3), and give the next line to [`Dialogue::respond`].
    Send(String, Box<Dialogue<'g>>),
    /// This user is in.
    In(Address),
    /// Nobody is.
    Out(Out),
}

/// Why nobody logged in, as far as a reply must tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// The client gave up (501 5.7.0).
    Cancelled,
    /// Its line is too long (500 5.5.6).
    TooLong,
    /// Its line is not what it should be (501 5.5.2).
    Malformed,
    /// It is not let in: 535 5.7.8 where name or password are wrong, 421 4.7.0 where it is shut out, else 454 4.7.0.
    Denied(Denied),
}

/// Begins, with the response that came with the command, if one did.
pub fn begin<'g>(
    gate: &'g Gate,
    client: IpAddr,
    (mechanism, initial): (Mechanism, Option<&str>),
    bindings: Bindings,
) -> Next<'g> {
    let talk = Talk { gate, client, name: None, prospect: None, proved: None };
    let setting = Setting { bindings, nonce: nonce() };
    talk.go_on(Exchange::begin(mechanism, initial, setting))
}

impl<'g> Dialogue<'g> {
    /// Takes the client's line, without its line end.
    pub fn respond(self, line: &str) -> Next<'g> {
        self.talk.go_on(self.exchange.respond(line))
    }
}

impl<'g> Talk<'g> {
    fn go_on(mut self, mut step: Step) -> Next<'g> {
        loop {
            step = match step {
                Step::Challenge(challenge, exchange) => {
                    return Next::Send(challenge, Box::new(Dialogue { talk: self, exchange }));
                }
                Step::Check(credentials) => {
                    self.name = Some(credentials.name.clone());
                    let verdict = self.gate.check(self.client, &credentials);
                    return verdict.map_or_else(|denied| self.denied(denied), Next::In);
                }
                Step::Lookup(lookup) => {
                    self.name = Some(lookup.name().to_owned());
                    match self.gate.look_up(self.client, &lookup) {
                        Ok(prospect) => lookup.answer(self.prospect.insert(prospect).keys().clone()),
                        Err(denied) => return self.denied(denied),
                    }
                }
                Step::Proved(proof) => match self.settle(true) {
                    Some(Ok(address)) => {
                        self.proved = Some(address);
                        proof.signed()
                    }
                    Some(Err(denied)) => return self.denied(denied),
                    None => return Next::Out(Out::Malformed),
                },
                // The exchange is done only after a proof.
                Step::Done => return self.proved.map_or(Next::Out(Out::Malformed), Next::In),
                Step::Refused(refusal) => return self.refused(refusal),
            }
        }
    }

    fn settle(&mut self, proved: bool) -> Option<Result<Address, Denied>> {
        Some(self.gate.settle(self.prospect.take()?, proved))
    }

    fn refused(mut self, refusal: Refusal) -> Next<'g> {
        let (out, why) = match refusal {
            Refusal::Cancelled => return Next::Out(Out::Cancelled),
            Refusal::TooLong => (Out::TooLong, "a line is too long"),
            Refusal::Malformed(why) => (Out::Malformed, why),
            Refusal::Wrong(why) => {
                // The gate knows better why there was nothing to prove; before it was asked, this was no guess.
                let denied = match self.settle(false) {
                    Some(Err(denied)) if why == "wrong password" => denied,
                    Some(Err(Denied::ShutOut)) => Denied::ShutOut,
                    _ => Denied::Wrong(why),
                };
                return self.denied(denied);
            }
        };
        self.log(why);
        Next::Out(out)
    }

    fn denied(self, denied: Denied) -> Next<'g> {
        self.log(denied.why());
        Next::Out(Out::Denied(denied))
    }

    fn log(&self, why: &str) {
        maillog::login_failed(self.client, self.name.as_deref().unwrap_or("-"), why);
    }
}

fn nonce() -> String {
    use base64::Engine;
    let mut octets = [0; NONCE];
    getrandom::fill(&mut octets).expect("the kernel has random octets");
    base64::engine::general_purpose::STANDARD.encode(octets)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HASH, SCRAM, site};
    use super::*;
    use crate::limits;
    use crate::mail::sasl::{Secret, client};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn bindings() -> Bindings {
        Bindings { exporter: Some(vec![1; 32]), server_end_point: None }
    }

    fn asking(offered: &str, name: &str, password: &str) -> client::Start {
        let login = client::Login::Password { name: name.into(), password: Secret(password.into()) };
        let server = ("mail.example.org".to_owned(), 587);
        let setting = client::Setting { protected: true, bindings: bindings(), nonce: nonce(), server };
        client::begin(offered, login, setting).unwrap()
    }

    fn first<'g>(gate: &'g Gate, start: &client::Start) -> Next<'g> {
        begin(gate, CLIENT, (start.mechanism.parse().unwrap(), start.initial.as_deref()), bindings())
    }

    /// Goes on to the end, with a client that demands to be convinced too.
    fn finish(mut next: Next<'_>, mut asking: client::Exchange) -> Result<Address, Out> {
        loop {
            next = match next {
                Next::Send(challenge, dialogue) => {
                    let (line, exchange) = asking.respond(&challenge).unwrap();
                    asking = exchange;
                    dialogue.respond(&line)
                }
                Next::In(address) => {
                    asking.accepted(None).unwrap();
                    return Ok(address);
                }
                Next::Out(out) => return Err(out),
            }
        }
    }

    fn log_in(gate: &Gate, offered: &str, name: &str, password: &str) -> Result<Address, Out> {
        let start = asking(offered, name, password);
        finish(first(gate, &start), start.exchange)
    }

    #[test]
    fn every_mechanism_lets_the_owner_in_under_one_name_and_nobody_else() {
        for (hash, mechanism) in
            [(HASH, "PLAIN"), (HASH, "LOGIN"), (SCRAM, "PLAIN"), (SCRAM, "LOGIN"), (SCRAM, "SCRAM-SHA-256-PLUS")]
        {
            let gate = Gate::without_waits(site(hash));
            for name in ["ann", "ANN@example.org", "\"ann\"@EXAMPLE.org"] {
                let address = log_in(&gate, mechanism, name, "correct horse").unwrap();
                assert_eq!(address.to_string(), "ann@example.org", "{mechanism}");
            }
            for (name, password, why) in [
                ("ann", "wrong", "wrong password"),
                ("nobody", "correct horse", "no such user"),
                ("ann@example.net", "correct horse", "no such user"),
                ("no address", "correct horse", "not an address"),
            ] {
                let out = log_in(&gate, mechanism, name, password).unwrap_err();
                assert_eq!(out, Out::Denied(Denied::Wrong(why)), "{mechanism}");
            }
        }
    }

    #[test]
    fn what_is_offered_is_what_every_user_can_do() {
        let names = |hash| Gate::without_waits(site(hash)).offered(true, &bindings()).len();
        assert_eq!((names(SCRAM), names(HASH)), (4, 2));
        assert!(Gate::without_waits(site(SCRAM)).offered(false, &bindings()).is_empty());
        let gate = Gate::without_waits(site(HASH));
        let out = log_in(&gate, "SCRAM-SHA-256-PLUS", "ann", "correct horse").unwrap_err();
        assert_eq!(out, Out::Denied(Denied::Wrong("the password is not kept for SCRAM")));
    }

    #[test]
    fn guesses_by_scram_count_too_and_a_half_one_does_not() {
        let gate = Gate::without_waits(site(SCRAM));
        let half = || asking("SCRAM-SHA-256-PLUS", "ann", "correct horse");
        for _ in 0..2 * limits::LOGIN_FAILURES {
            let Next::Send(_, dialogue) = first(&gate, &half()) else { panic!() };
            assert!(matches!(dialogue.respond("*"), Next::Out(Out::Cancelled)));
        }
        assert!(!gate.is_shut_out(CLIENT));
        let late = half();
        let late_next = first(&gate, &late);
        for number in 1..=limits::LOGIN_FAILURES {
            let out = log_in(&gate, "SCRAM-SHA-256-PLUS", "ann", "wrong").unwrap_err();
            assert_eq!(out, Out::Denied(Denied::Wrong("wrong password")), "{number}");
        }
        let out = Err(Out::Denied(Denied::ShutOut));
        assert_eq!(log_in(&gate, "SCRAM-SHA-256-PLUS", "ann", "correct horse"), out);
        assert_eq!(log_in(&gate, "PLAIN", "ann", "correct horse"), out);
        assert_eq!(finish(late_next, late.exchange), out, "nor who has begun before");
    }

    #[test]
    fn an_unknown_name_has_keys_that_stay_the_same() {
        let gate = Gate::without_waits(site(SCRAM));
        let challenge = |name: &str| {
            use base64::Engine;
            let coder = base64::engine::general_purpose::STANDARD;
            let first = coder.encode(format!("n,,n={name},r=x"));
            let next = begin(&gate, CLIENT, (Mechanism::ScramSha256, Some(&first)), Bindings::default());
            let Next::Send(challenge, _) = next else { panic!() };
            let text = String::from_utf8(coder.decode(challenge).unwrap()).unwrap();
            text.split_once(",s=").unwrap().1.to_owned()
        };
        for (one, other) in [("ann", "Ann@example.org"), ("nobody", "NOBODY@example.org"), ("a b", "A B")] {
            assert_eq!(challenge(one), challenge(other));
            assert_eq!(challenge(one).len(), challenge("ann").len());
            assert!(challenge(one).ends_with(",i=4096"));
        }
        assert_ne!(challenge("nobody"), challenge("nobody2"));
    }

    #[test]
    fn another_user_cannot_be_asked_for() {
        let gate = Gate::without_waits(site(SCRAM));
        // bob NUL ann NUL correct horse
        let first = (Mechanism::Plain, Some("Ym9iAGFubgBjb3JyZWN0IGhvcnNl"));
        let Next::Out(out) = begin(&gate, CLIENT, first, Bindings::default()) else { panic!() };
        assert_eq!(out, Out::Denied(Denied::Wrong("the login is for another user's mail")));
    }

    #[test]
    fn what_the_wire_holds_has_its_own_answer() {
        let gate = Gate::without_waits(site(HASH));
        let long = "A".repeat(limits::AUTH_LINE + 4);
        for (line, expected) in [("*", Out::Cancelled), ("!", Out::Malformed), (&*long, Out::TooLong)] {
            let Next::Send(empty, dialogue) = begin(&gate, CLIENT, (Mechanism::Plain, None), Bindings::default())
            else {
                panic!()
            };
            assert_eq!(empty, "");
            let Next::Out(out) = dialogue.respond(line) else { panic!() };
            assert_eq!(out, expected);
        }
    }
}
