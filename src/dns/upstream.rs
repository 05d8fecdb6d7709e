//! The servers in turn, and the names that aliases lead to.
//!
//! All servers are asked, a few times, until one gives an answer; silence, a failure or nonsense of one is a matter for
//! the next. Fails with words that name each server of a round and what it did.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answer, Question, Told};
use super::cache::Cache;
use super::found::{Found, Known, NoAnswer};
use super::settings::Settings;
use super::transport;
use crate::limits;

/// The servers, and what they said: other servers begin with an empty cache, also where an answer of the old is late.
#[derive(Debug)]
pub(super) struct Upstream {
    settings: Settings,
    cache: Cache,
}

impl Upstream {
    /// Nothing is known yet.
    pub fn new(settings: Settings) -> Upstream {
        Upstream { settings, cache: Cache::new(limits::DNS_CACHE) }
    }

    /// Whom it asks.
    #[cfg(test)]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is known already, or what a server says within [`limits::DNS_QUESTION`].
    pub fn ask(&self, question: Question) -> Known {
        let begun = Instant::now();
        if let Some(known) = self.cache.find(&question, begun) {
            return known;
        }
        match self.follow(&question, begun + limits::DNS_QUESTION) {
            Ok((known, ttl)) => {
                self.cache.keep(question, &known, ttl, Instant::now());
                known
            }
            Err(words) => Err(NoAnswer::Fault(format!("{} of {}: {words}", question.kind, question.name))),
        }
    }

    /// Asks, and asks again under the names that aliases lead to. Returns how long the answer holds, too.
    fn follow(&self, question: &Question, deadline: Instant) -> Result<(Known, Duration), String> {
        let mut question = question.clone();
        let mut ttl = limits::DNS_TTL;
        let mut authenticated = true;
        for _ in 0..=limits::DNS_ALIASES {
            let answer = self.ask_in_turn(&question, deadline)?;
            ttl = ttl.min(answer.ttl);
            authenticated &= answer.authenticated;
            let known = match answer.told {
                Told::Alias(name) => {
                    question.name = name;
                    continue;
                }
                Told::Records(records) => Ok(Arc::new(Found { records, authenticated })),
                Told::NoSuchName => Err(NoAnswer::NoSuchName),
                Told::NoRecords => Err(NoAnswer::NoRecords),
            };
            return Ok((known, ttl));
        }
        Err("its aliases lead to one another".to_owned())
    }

    /// The first answer of any server.
    fn ask_in_turn(&self, question: &Question, deadline: Instant) -> Result<Answer, String> {
        let mut faults = Vec::new();
        for _ in 0..self.settings.rounds {
            let mut of_round = Vec::new();
            for server in &self.settings.servers {
                let now = Instant::now();
                if now >= deadline {
                    break;
                }
                match transport::ask(*server, question, deadline.min(now + self.settings.wait)) {
                    Ok(answer) => {
                        let authenticated = answer.authenticated && self.settings.trusts(*server);
                        return Ok(Answer { authenticated, ..answer });
                    }
                    Err(error) => of_round.push(format!("{server}: {error}")),
                }
            }
            // A round that the deadline cut short tells less than the one before.
            if of_round.len() >= faults.len() {
                faults = of_round;
            }
        }
        if faults.is_empty() { Err("its aliases took too long".to_owned()) } else { Err(faults.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use domain::base::iana::{Rcode, Rtype};

    use super::*;
    use crate::dns::fake::{Fake, address, alias, answer, asked, refused, reply, start_of_authority};
    use crate::dns::record::Record;

    const SHORT: Duration = Duration::from_millis(500);

    fn upstream(servers: &[SocketAddr]) -> Upstream {
        Upstream::new(Settings { servers: servers.to_vec(), ..Settings::fixed(servers[0]) })
    }

    /// Waits for a server that never answers for a [`SHORT`] time.
    fn impatient(servers: &[SocketAddr]) -> Upstream {
        Upstream::new(Settings { wait: SHORT, ..upstream(servers).settings })
    }

    fn ask(upstream: &Upstream, name: &str) -> Known {
        upstream.ask(Question::new(&name.parse().unwrap(), Rtype::A).unwrap())
    }

    fn found(last: u8) -> Known {
        let records = vec![Record::Address([192, 0, 2, last].into())];
        Ok(Arc::new(Found { records, authenticated: false }))
    }

    fn words(known: &Known) -> &str {
        match known {
            Err(NoAnswer::Fault(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    /// Answers every question with one address that holds for `ttl` seconds.
    fn good(last: u8, ttl: u32) -> Fake {
        Fake::start(move |query, _| vec![reply(query, &[address(&asked(query), ttl, [192, 0, 2, last])])])
    }

    fn failing(code: Rcode) -> Fake {
        Fake::start(move |query, _| vec![refused(query, code)])
    }

    #[test]
    fn the_first_server_with_an_answer_is_believed() {
        let [bad, refusing] = [failing(Rcode::SERVFAIL), failing(Rcode::REFUSED)];
        let silent = Fake::start(|_, _| Vec::new());
        let nonsense = Fake::start(|query, _| vec![query.to_vec(), vec![0; 40]]);
        let [good, other] = [good(1, 60), good(2, 60)];
        for before in [bad.address(), refusing.address(), silent.address(), nonsense.address()] {
            let upstream = impatient(&[before, good.address(), other.address()]);
            assert_eq!(ask(&upstream, "a.example"), found(1));
        }
        assert_eq!(other.ids().len(), 0);
    }

    #[test]
    fn a_server_that_denies_the_name_is_believed_too() {
        let (denying, good) = (failing(Rcode::NXDOMAIN), good(1, 60));
        assert_eq!(ask(&upstream(&[denying.address(), good.address()]), "a.example"), Err(NoAnswer::NoSuchName));
        assert_eq!(good.ids().len(), 0);
    }

    #[test]
    fn all_are_asked_twice_before_it_is_a_fault_that_names_them() {
        let (bad, silent) = (failing(Rcode::SERVFAIL), Fake::start(|_, _| Vec::new()));
        let known = ask(&impatient(&[bad.address(), silent.address()]), "a.example");
        let expected =
            format!("A of a.example: {}: it says SERVFAIL; {}: it does not answer", bad.address(), silent.address());
        assert_eq!(words(&known), expected);
        assert_eq!((bad.ids().len(), silent.ids().len()), (2, 2));
    }

    #[test]
    fn no_question_goes_past_its_deadline() {
        let silent = Fake::start(|_, _| Vec::new());
        let upstream = upstream(&[silent.address(); 3]);
        let question = Question::new(&"a.example".parse().unwrap(), Rtype::A).unwrap();
        let begun = Instant::now();
        let error = upstream.follow(&question, begun + SHORT).unwrap_err();
        assert!(begun.elapsed() < limits::DNS_TRY);
        assert_eq!(error, format!("{}: it does not answer", silent.address()));
        assert_eq!(silent.ids().len(), 1);
    }

    #[test]
    fn aliases_that_leave_the_answer_are_asked_for() {
        let server = Fake::start(|query, _| {
            let name = asked(query);
            vec![match name.as_str() {
                "a.example" => reply(query, &[alias(&name, 60, "slash/ed.example")]),
                "slash/ed.example" => {
                    reply(query, &[alias(&name, 60, "gone.example"), address("gone.example", 60, [192, 0, 2, 7])])
                }
                _ => refused(query, Rcode::NXDOMAIN),
            }]
        });
        let upstream = upstream(&[server.address()]);
        assert_eq!(ask(&upstream, "a.example"), found(7));
        assert_eq!(ask(&upstream, "a.example"), found(7));
        assert_eq!(server.ids().len(), 2, "both steps are known by the first name");
        assert_eq!(ask(&upstream, "b.example"), Err(NoAnswer::NoSuchName));
    }

    #[test]
    fn aliases_in_a_circle_and_without_end_are_a_fault() {
        let circle = Fake::start(|query, _| {
            let name = asked(query);
            let other = if name == "a.example" { "b.example" } else { "a.example" };
            vec![reply(query, &[alias(&name, 60, other)])]
        });
        let endless = Fake::start(|query, _| {
            let name = asked(query);
            vec![reply(query, &[alias(&name, 60, &format!("a{name}"))])]
        });
        for server in [circle, endless] {
            let known = ask(&upstream(&[server.address()]), "a.example");
            assert_eq!(words(&known), "A of a.example: its aliases lead to one another");
            assert_eq!(server.ids().len(), limits::DNS_ALIASES + 1);
        }
    }

    #[test]
    fn what_holds_is_not_asked_for_again() {
        for (ttl, expected) in [(60, 1), (0, 2)] {
            let server = good(1, ttl);
            let upstream = upstream(&[server.address()]);
            assert_eq!(ask(&upstream, "a.example"), found(1));
            assert_eq!(ask(&upstream, "A.example"), found(1));
            assert_eq!(server.ids().len(), expected, "TTL {ttl}");
        }
    }

    #[test]
    fn that_nothing_is_there_holds_too_and_a_fault_does_not() {
        let server = Fake::start(|query, _| {
            let code = if asked(query) == "none.example" { Rcode::NXDOMAIN } else { Rcode::SERVFAIL };
            vec![answer(query, code, &[], &[start_of_authority("example", 60, 60)])]
        });
        let upstream = upstream(&[server.address()]);
        (0..2).for_each(|_| assert_eq!(ask(&upstream, "none.example"), Err(NoAnswer::NoSuchName)));
        assert_eq!(server.ids().len(), 1);
        (0..2).for_each(|_| assert!(words(&ask(&upstream, "fault.example")).contains("SERVFAIL")));
        assert_eq!(server.ids().len(), 1 + 4);
    }

    #[test]
    fn only_what_a_trusted_server_checked_at_every_step_is_authenticated() {
        let server = Fake::start(|query, _| {
            let name = asked(query);
            let mut packet = match name.as_str() {
                "half.example" => reply(query, &[alias(&name, 60, "checked.example")]),
                _ => reply(query, &[address(&name, 60, [192, 0, 2, 1])]),
            };
            packet[3] |= if name == "half.example" { 0 } else { 0x20 };
            vec![packet]
        });
        let near = upstream(&[server.address()]);
        assert!(ask(&near, "checked.example").unwrap().authenticated);
        assert!(!ask(&near, "half.example").unwrap().authenticated);
        // The same server under an address that does not say that it is on this host.
        let far = upstream(&[SocketAddr::from(([0, 0, 0, 0], server.address().port()))]);
        assert!(!ask(&far, "checked.example").unwrap().authenticated);
        let named = Upstream::new(Settings { trust_ad: true, ..far.settings });
        assert!(ask(&named, "checked.example").unwrap().authenticated);
    }
}
