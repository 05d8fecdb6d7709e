//! The gate that every login goes through, by SMTP and by POP3, and who may send as whom after it.
//!
//! Promises: a name has one normal form, for the check, the mailbox and the log; a name that is not here and a wrong
//! password cost the same work, wait the same time and tell the same; at most `limits::LOGIN_CHECKS` passwords are checked
//! at once, and in no more memory than there is for it ([`turns`]); who guesses is slowed down, then shut out
//! ([`guesses`]), and that is written to the log.
//!
//! [`Gate::check`] takes a name and a password; [`dialogue`] speaks a whole SASL exchange. Both wait as long as the answer
//! has to wait, so each belongs into the thread of its connection. Fails with a [`Denied`].

pub mod dialogue;
pub mod guesses;
pub mod turns;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use stringprep::tables::unassigned_code_point;

use crate::io::clock::Now;
use crate::io::tls::TlsFacts;
use crate::limits;
use crate::mail::address::{Address, Domain, ReversePath, folded};
use crate::mail::sasl::server::Lookup;
use crate::mail::sasl::{Bindings, Credentials, Keys, Mechanism};
use crate::maillog;
use crate::route::{CurrentSite, Place, Site};
use guesses::{Guesses, ShutOut};
use turns::{NoTurn, Turns};

/// The gate. There is one, which all connections share.
#[derive(Debug)]
pub struct Gate {
    site: Arc<CurrentSite>,
    guesses: Guesses,
    turns: Turns,
    /// What keys of nobody are made from; with a restart they are others.
    secret: [u8; 32],
    prints: RandomState,
    time: Time,
}

/// How the gate tells the time and waits.
#[derive(Clone, Copy, Debug)]
struct Time {
    now: fn() -> Duration,
    pass: fn(Duration),
}

/// Why someone is not let in. The client is told no more than which of these it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Name or password are wrong; the words are for the log alone.
    Wrong(&'static str),
    /// There were too many wrong ones from this address. The connection should be closed.
    ShutOut,
    /// Too many are being checked.
    Busy,
    /// To check the password takes more memory than there is for it.
    TooDear,
}

impl Denied {
    /// The reason, for the log.
    pub fn why(self) -> &'static str {
        match self {
            Denied::Wrong(why) => why,
            Denied::ShutOut => "shut out after too many wrong passwords",
            Denied::Busy => "too many logins at once",
            Denied::TooDear => "to check the password takes more memory than there is",
        }
    }
}

impl From<ShutOut> for Denied {
    fn from(_: ShutOut) -> Denied {
        Denied::ShutOut
    }
}

impl From<NoTurn> for Denied {
    fn from(why: NoTurn) -> Denied {
        match why {
            NoTurn::Busy => Denied::Busy,
            NoTurn::TooDear => Denied::TooDear,
        }
    }
}

/// Who it is, or why nobody, in words for the log alone.
type Verdict = Result<Address, &'static str>;

/// Someone who logs in by SCRAM and has not proved anything yet. Dropped, it was no guess.
#[derive(Debug)]
pub struct Prospect {
    client: IpAddr,
    address: Verdict,
    /// The name that guesses are counted under.
    counted: Option<Address>,
    keys: Keys,
}

impl Prospect {
    /// What to prove it by.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}

impl Gate {
    /// A gate that nobody has come to, with so many KiB of memory to check passwords in.
    pub fn new(site: Arc<CurrentSite>, memory: u64) -> Gate {
        Gate::with(site, memory, Time { now: || Now::read().boot, pass: std::thread::sleep })
    }

    fn with(site: Arc<CurrentSite>, memory: u64, time: Time) -> Gate {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the kernel has random octets");
        Gate { site, guesses: Guesses::new(), turns: Turns::new(memory), secret, prints: RandomState::new(), time }
    }

    /// One that waits for nothing, for tests of what stands behind it.
    #[cfg(test)]
    pub fn without_waits(site: Arc<CurrentSite>) -> Gate {
        Gate::with(site, u64::MAX, Time { now: || Duration::ZERO, pass: |_| () })
    }

    /// The mechanisms to offer, best first.
    pub fn offered(&self, protected: bool, bindings: &Bindings) -> Vec<Mechanism> {
        Mechanism::offered(protected, self.site.get().users.scram_iterations().is_some(), bindings)
    }

    /// Whether the address is shut out: a greeting that says so saves both sides a login.
    pub fn is_shut_out(&self, client: IpAddr) -> bool {
        self.guesses.is_shut_out(client, (self.time.now)())
    }

    /// Checks a password, and gives whose it is. Waits as long as the answer has to.
    pub fn check(&self, client: IpAddr, credentials: &Credentials) -> Result<Address, Denied> {
        let site = self.site.get();
        let address = address(&credentials.name, site.config.first_domain());
        self.wait(client, address.as_ref())?;
        let verdict = {
            let asked = asked(&site, address.as_ref());
            let _turn = self.turns.take(site.users.check_memory(&asked))?;
            // Others of the same client had their turns meanwhile.
            if self.is_shut_out(client) {
                return Err(Denied::ShutOut);
            }
            let verdict = judge(&site, address.as_ref(), &asked, credentials);
            let print = self.prints.hash_one((&address, &credentials.password.0));
            self.remember(client, address.as_ref(), Some(print), &verdict);
            verdict
        };
        self.answer(verdict)
    }

    /// Looks up what someone has to prove; there is always something. Waits as [`Gate::check`] does.
    pub fn look_up(&self, client: IpAddr, lookup: &Lookup) -> Result<Prospect, Denied> {
        let site = self.site.get();
        let address = address(lookup.name(), site.config.first_domain());
        self.wait(client, address.as_ref())?;
        let name = address.as_ref().map_or_else(|| folded(lookup.name()), Address::to_string);
        let iterations = site.users.scram_iterations().unwrap_or(limits::SCRAM_ITERATIONS);
        let nobody = Keys::of_nobody(&self.secret, &name, iterations);
        let known = address.as_ref().and_then(|address| site.users.scram_keys(address));
        let who = match (&address, &known) {
            (None, _) => Err("not an address"),
            (Some(address), None) if !site.users.contains(address) => Err("no such user"),
            (Some(_), None) => Err("the password is not kept for SCRAM"),
            (Some(address), Some(_)) => same(lookup.authzid(), address, &site).map(|()| address.clone()),
        };
        let keys = known.filter(|_| who.is_ok()).unwrap_or(nobody);
        Ok(Prospect { client, address: who, counted: address, keys })
    }

    /// Lets someone in who `proved` it, or not.
    pub fn settle(&self, prospect: Prospect, proved: bool) -> Result<Address, Denied> {
        let Prospect { client, address, counted, .. } = prospect;
        if self.is_shut_out(client) {
            return Err(Denied::ShutOut);
        }
        let verdict = address.and_then(|address| if proved { Ok(address) } else { Err("wrong password") });
        self.remember(client, counted.as_ref(), None, &verdict);
        self.answer(verdict)
    }

    fn wait(&self, client: IpAddr, name: Option<&Address>) -> Result<(), Denied> {
        let delay = self.guesses.wait(client, name, (self.time.now)())?;
        if !delay.is_zero() {
            (self.time.pass)(delay);
        }
        Ok(())
    }

    /// Remembers how a login went, before the next of the same client has its turn.
    fn remember(&self, client: IpAddr, name: Option<&Address>, print: Option<u64>, verdict: &Verdict) {
        if let Ok(user) = verdict {
            return self.guesses.succeeded(client, user);
        }
        if let Some(failures) = self.guesses.failed(client, name, print, (self.time.now)()) {
            maillog::shut_out(client, failures, limits::LOGIN_SHUT_OUT);
        }
    }

    /// The answer to a wrong password is held back.
    fn answer(&self, verdict: Verdict) -> Result<Address, Denied> {
        if verdict.is_err() {
            (self.time.pass)(limits::LOGIN_DELAY);
        }
        verdict.map_err(Denied::Wrong)
    }
}

/// Whether someone who logged in may send as this address: his own, one that his `postrider_senders` name, or one whose
/// mail comes to his mailbox, by an alias, a tag or as the catch-all.
pub fn may_send_as(site: &Site, user: &Address, sender: &Address) -> bool {
    let ends_there = |address: &Address| {
        let route = site.route(address, &ReversePath::Null);
        route.ends.iter().any(|end| end.place == Place::Mailbox && end.address.folded() == user.folded())
    };
    site.users.may_send_as(user, sender) || ends_there(sender)
}

/// What ties a login to its connection (RFC 5056): nothing before TLS 1.3. There clients take `tls-unique` for granted
/// (RFC 5802 §6.1), which our TLS doesn't give, and would take the best offer and fail.
pub fn bindings(tls: Option<&TlsFacts>) -> Bindings {
    let facts = tls.filter(|facts| facts.exporter.is_some());
    facts.map_or_else(Bindings::default, |facts| Bindings {
        exporter: facts.exporter.map(Vec::from),
        server_end_point: facts.server_end_point.clone(),
    })
}

/// Whose password is checked, also for what is no address: the time a check takes must not tell one from the other.
fn asked(site: &Site, address: Option<&Address>) -> Address {
    let nobody = || Address::new("", site.config.first_domain().clone());
    address.map_or_else(nobody, |address| Ok(address.clone())).expect("the empty local-part can be written down")
}

fn judge(site: &Site, address: Option<&Address>, asked: &Address, credentials: &Credentials) -> Verdict {
    let matches = site.users.verify(asked, &credentials.password.0);
    match address {
        None => Err("not an address"),
        Some(address) if !site.users.contains(address) => Err("no such user"),
        Some(_) if !matches => Err("wrong password"),
        Some(address) => same(&credentials.authzid, address, site).map(|()| address.clone()),
    }
}

/// Whether the authorization identity is that of who logs in.
fn same(authzid: &str, own: &Address, site: &Site) -> Result<(), &'static str> {
    let is_same = authzid.is_empty() || address(authzid, site.config.first_domain()).as_ref() == Some(own);
    if is_same { Ok(()) } else { Err("the login is for another user's mail") }
}

/// A name without a domain is one of the first domain. What is no address is nobody, and so is what SASLprep forbids
/// (RFC 4954 §4).
fn address(name: &str, first_domain: &Domain) -> Option<Address> {
    let name = prepared(name)?;
    let whole = name.parse().or_else(|_| format!("{name}@{first_domain}").parse::<Address>());
    whole.ok().map(|address| address.folded())
}

/// The name after SASLprep (RFC 4013). Letters that are newer than its tables may be in what is asked for (§2.5).
fn prepared(name: &str) -> Option<String> {
    let known: String = name.chars().filter(|letter| !unassigned_code_point(*letter)).collect();
    let prepared = stringprep::saslprep(&known).ok()?;
    Some(if known.len() == name.len() { prepared.into_owned() } else { name.to_owned() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::users::Users;
    use crate::users::password::count;
    use std::cell::Cell;
    use std::path::Path;
    use std::time::Instant;

    /// bcrypt at its cheapest, of `correct horse`.
    pub const HASH: &str = "{BLF-CRYPT}$2y$04$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K";
    /// Of the same.
    pub const SCRAM: &str = "{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=";

    /// The users ann and bob at example.org, with this for a password.
    pub fn site(hash: &str) -> Arc<CurrentSite> {
        let config = Config::parse("local_domains = [\"example.org\", \"example.net\"]", Path::new("/")).unwrap();
        let text = format!(
            "ann@example.org:{hash}::::::postrider_senders=@shop.example\nbob@example.org:{hash}\n\
             jo\u{308}rg@example.org:{hash}\nj\u{fc}rgen@example.org:{hash}\n"
        );
        let users = Users::parse(Path::new("users"), &text).unwrap();
        let aliases = Aliases::parse(Path::new("aliases"), "info: ann\nall: ann, bob\n").unwrap();
        Arc::new(CurrentSite::new(Site { config, users, aliases }))
    }

    thread_local!(static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) });

    /// A gate whose waits take no time but this thread's own.
    fn gate(hash: &str) -> Gate {
        let pass = |span| CLOCK.set(CLOCK.get() + span);
        Gate::with(site(hash), u64::MAX, Time { now: || CLOCK.get(), pass })
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn names_are_addresses_in_any_case_or_bare() {
        let domain = "example.org".parse().unwrap();
        for name in ["ann", "ANN", "Ann@example.org", "ann@EXAMPLE.org", "\"ann\"@example.org"] {
            assert_eq!(address(name, &domain).unwrap().to_string(), "ann@example.org", "{name}");
        }
        // RFC 4954 §4: what looks the same is the same name, and what SASLprep forbids is none.
        for name in ["jörg", "jo\u{308}rg", "JO\u{308}RG@example.org", "j\u{ad}\u{f6}rg", "ｊörg"] {
            assert_eq!(address(name, &domain).unwrap().to_string(), "j\u{f6}rg@example.org", "{name}");
        }
        assert_eq!(address("\u{1f4e7}", &domain).unwrap().to_string(), "\u{1f4e7}@example.org");
        for name in ["a\u{e000}nn", "\u{ad}", "ann\u{627}", "a\u{e000}\u{1f4e7}"] {
            assert_eq!(address(name, &domain), None, "{name:?}");
        }
        for name in ["", "ann@", "@example.org", "a nn", "ann@a@b", "ann@example.org/..", "ann@..", "a\0b", "<ann>"] {
            assert_eq!(address(name, &domain), None, "{name}");
        }
    }

    #[test]
    fn existing_and_unknown_users_are_the_same_work_and_the_same_time() {
        for (hash, cost) in [(HASH, "$2y$04$"), (SCRAM, "4096,")] {
            let gate = gate(hash);
            let names = ["ann", "nobody", "ann@example.net", "no address", "", "ann@[127.0.0.1]", "bob@example.org"];
            for (number, name) in (2..).zip(names) {
                let began = CLOCK.get();
                let denied = gate.check(client(number), &Credentials::new(name, b"wrong")).unwrap_err();
                assert!(matches!(denied, Denied::Wrong(_)));
                assert_eq!(count::take(), [cost], "{name}");
                assert_eq!(CLOCK.get() - began, limits::LOGIN_DELAY, "{name}");
            }
            assert!(gate.check(client(1), &Credentials::new("ann", b"correct horse")).is_ok());
            assert_eq!(count::take(), [cost]);
        }
    }

    #[test]
    fn a_name_is_one_however_its_letters_are_written() {
        let gate = gate(HASH);
        for name in ["jörg", "jo\u{308}rg", "JO\u{308}RG@example.org", "jürgen", "ju\u{308}rgen"] {
            for authzid in ["", name] {
                let credentials = Credentials { authzid: authzid.into(), ..Credentials::new(name, b"correct horse") };
                let address = gate.check(client(1), &credentials).unwrap().to_string();
                assert!(
                    ["j\u{f6}rg@example.org", "j\u{fc}rgen@example.org"].contains(&&*address),
                    "{name:?} {address:?}"
                );
            }
        }
        count::take();
    }

    #[test]
    fn only_oneself_can_be_asked_for() {
        let gate = gate(HASH);
        for (authzid, is_right) in [
            ("", true),
            ("ANN", true),
            ("a\u{ad}nn", true),
            ("ann@example.org", true),
            ("bob", false),
            ("a b", false),
            ("\u{ad}", false),
        ] {
            let credentials = Credentials { authzid: authzid.into(), ..Credentials::new("Ann", b"correct horse") };
            let verdict = gate.check(client(1), &credentials);
            assert_eq!(verdict.is_ok(), is_right, "{authzid}: {verdict:?}");
        }
    }

    #[test]
    fn who_guesses_waits_and_is_shut_out_even_with_the_right_password() {
        let gate = gate(HASH);
        let began = CLOCK.get();
        let mut denied = Vec::new();
        for number in 0..limits::LOGIN_FAILURES + 5 {
            let credentials = Credentials::new("ann", format!("wrong {number}").as_bytes());
            denied.push(gate.check(client(1), &credentials).unwrap_err());
        }
        let of = |number: u32| denied[number as usize];
        assert_eq!(of(limits::LOGIN_FAILURES - 1), Denied::Wrong("wrong password"));
        assert_eq!(of(limits::LOGIN_FAILURES), Denied::ShutOut);
        assert_eq!((CLOCK.get() - began).as_secs(), 15 + 1 + 2 + 4 + 7 * 8);
        assert_eq!(count::take().len(), limits::LOGIN_FAILURES as usize, "who is shut out costs no work");
        let right = Credentials::new("ann", b"correct horse");
        assert_eq!(gate.check(client(1), &right), Err(Denied::ShutOut));
        assert!(
            gate.is_shut_out(client(1)) && gate.check(client(2), &right).is_ok(),
            "the owner gets in from elsewhere"
        );
        CLOCK.set(CLOCK.get() + limits::LOGIN_SHUT_OUT);
        assert!(gate.check(client(1), &right).is_ok());
    }

    #[test]
    fn ones_own_password_takes_back_no_guess_at_another_ones() {
        let gate = gate(HASH);
        let right = Credentials::new("ann", b"correct horse");
        let mut shut_out = false;
        for round in 0..limits::LOGIN_FAILURES {
            for number in 0..limits::LOGIN_FREE - 1 {
                let guess = Credentials::new("bob", format!("guess {round} {number}").as_bytes());
                shut_out |= gate.check(client(1), &guess) == Err(Denied::ShutOut);
            }
            shut_out |= gate.check(client(1), &right) == Err(Denied::ShutOut);
        }
        count::take();
        assert!(shut_out);
    }

    #[test]
    fn so_many_are_checked_at_once_and_the_next_waits_its_turn() {
        let gate = Gate::without_waits(site(HASH));
        let mut turns: Vec<_> = (0..limits::LOGIN_CHECKS).map(|_| gate.turns.take(0).unwrap()).collect();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gate.check(client(1), &Credentials::new("ann", b"correct horse")).is_ok());
            std::thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            turns.pop();
            assert!(waits.join().unwrap());
            assert!(begun.elapsed() < limits::LOGIN_WAIT / 2);
        });
    }

    #[test]
    fn guesses_at_once_are_not_more_than_guesses_in_a_row() {
        let gate = Gate::without_waits(site(HASH));
        let guess = |number: u32| gate.check(client(1), &Credentials::new("ann", format!("{number}").as_bytes()));
        let denied: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..100).map(|number| scope.spawn(move || guess(number))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let checked = denied.iter().filter(|denied| **denied != Err(Denied::ShutOut)).count();
        let most = limits::LOGIN_FAILURES as usize + limits::LOGIN_CHECKS - 1;
        assert!((limits::LOGIN_FAILURES as usize..=most).contains(&checked), "{checked}");
        let denied = gate.check(client(1), &Credentials::new("ann", b"correct horse"));
        assert_eq!(denied, Err(Denied::ShutOut));
    }

    #[test]
    fn a_login_is_bound_to_its_connection_from_tls_1_3_on() {
        let facts = |version, exporter| TlsFacts {
            agreed: crate::io::tls::Agreed { version, cipher: "any" },
            name: None,
            server_end_point: Some(vec![1; 32]),
            exporter,
        };
        assert!(bindings(None).is_empty() && bindings(Some(&facts("TLSv1.2", None))).is_empty());
        let bound = bindings(Some(&facts("TLSv1.3", Some([2; 32]))));
        assert_eq!(bound, Bindings { exporter: Some(vec![2; 32]), server_end_point: Some(vec![1; 32]) });
    }

    #[test]
    fn one_sends_as_all_whose_mail_one_gets_and_as_the_file_says() {
        let site = site(HASH).get();
        for (sender, may) in [
            ("ANN@example.org", true),
            ("ann+tag@example.org", true),
            ("info@example.org", true),
            ("all@example.org", true),
            ("x@shop.example", true),
            ("bob@example.org", false),
            ("nobody@example.org", false),
            ("ann@example.com", false),
            ("ann@example.net", false),
        ] {
            let ann = "ann@example.org".parse().unwrap();
            assert_eq!(may_send_as(&site, &ann, &sender.parse().unwrap()), may, "{sender}");
        }
    }
}
