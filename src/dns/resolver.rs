//! The resolver that delivery asks: whom to ask in which order, when to give up, and what the answers come to.
//!
//! Servers are asked in their order, all of them a few times, until one gives an answer; an answer is records, or that
//! there are none. Everything else is a [`NoAnswer::Fault`] and temporary: silence, a server's failure, aliases that
//! lead in a circle, octets that make no sense. A question waits [`limits::DNS_QUESTION`] at most. Any number of threads
//! may ask at once; no lock is held while one waits.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::base::iana::Rtype;

use super::answer::{Answer, Mx, Question, Record, Tlsa, Told};
use super::cache::{Cache, Found, Known};
use super::settings::{self, Settings, Version};
use super::transport;
use crate::limits;
use crate::mail::address::Domain;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Asks the DNS. One is shared by all threads.
#[derive(Debug)]
pub struct Resolver {
    file: PathBuf,
    source: Mutex<Source>,
}

/// Why there are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There is no such name (NXDOMAIN), nor any below it (RFC 8020).
    NoSuchName,
    /// The name is there, and has no records of this type.
    NoRecords,
    /// Nobody knows yet: what was asked, whom, and what happened, in words. Another time it may be otherwise.
    Fault(String),
}

#[derive(Debug)]
struct Source {
    /// The configuration names the server; else the file does.
    fixed: bool,
    version: Version,
    looked_at: Instant,
    upstream: Arc<Upstream>,
}

/// The servers, and what they said: other servers begin with an empty cache, also where an answer of the old is late.
#[derive(Debug)]
struct Upstream {
    settings: Settings,
    cache: Cache,
}

impl Resolver {
    /// Asks `fixed`, or else the servers of /etc/resolv.conf, which is read again when it changed.
    pub fn new(fixed: Option<SocketAddr>) -> Resolver {
        Resolver::with_file(fixed, Path::new(RESOLV_CONF))
    }

    fn with_file(fixed: Option<SocketAddr>, file: &Path) -> Resolver {
        Resolver { file: file.to_owned(), source: Mutex::new(Source::new(fixed, file)) }
    }

    /// Asks these servers from now on, as [`Resolver::new`] says, and forgets what the ones before said.
    pub fn set_fixed(&self, fixed: Option<SocketAddr>) {
        let source = Source::new(fixed, &self.file);
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// The hosts that take the domain's mail, in the order in which they came (RFC 5321 §5.1). A name that is no
    /// [`Domain`] is left out, so that there may be none; that the domain has no MX is [`NoAnswer::NoRecords`].
    pub fn mx(&self, domain: &Domain) -> Result<Vec<Mx>, NoAnswer> {
        let mx = |record: &Record| if let Record::Mx(mx) = record { Some(mx.clone()) } else { None };
        Ok(self.ask(domain, Rtype::MX)?.records.iter().filter_map(mx).collect())
    }

    /// The addresses of a host, IPv6 before IPv4. A fault of one family does not hide the other's addresses. Asks two
    /// questions.
    pub fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
        either_family(self.addresses_of(host, Rtype::AAAA), self.addresses_of(host, Rtype::A))
    }

    /// The names of an address (PTR), which are claims of its owner. Those that are no [`Domain`] are left out.
    pub fn names_of(&self, address: IpAddr) -> Result<Vec<Domain>, NoAnswer> {
        let name = |record: &Record| if let Record::Name(name) = record { Some(name.clone()) } else { None };
        let reverse: Domain = reverse_name(address).parse().map_err(|_| NoAnswer::NoSuchName)?;
        Ok(self.ask(&reverse, Rtype::PTR)?.records.iter().filter_map(name).collect())
    }

    /// The texts of a name (TXT), the strings of each record joined (RFC 7208 §3.3).
    pub fn texts(&self, name: &Domain) -> Result<Vec<Vec<u8>>, NoAnswer> {
        let text = |record: &Record| if let Record::Text(text) = record { Some(text.clone()) } else { None };
        Ok(self.ask(name, Rtype::TXT)?.records.iter().filter_map(text).collect())
    }

    /// What certificates a server has (RFC 6698), and whether signatures vouch for it, checked by a server that is
    /// trusted: on this host, or named so in /etc/resolv.conf (`options trust-ad`).
    pub fn tlsa(&self, name: &Domain) -> Result<(Vec<Tlsa>, bool), NoAnswer> {
        let tlsa = |record: &Record| if let Record::Tlsa(tlsa) = record { Some(tlsa.clone()) } else { None };
        let found = self.ask(name, Rtype::TLSA)?;
        Ok((found.records.iter().filter_map(tlsa).collect(), found.authenticated))
    }

    fn addresses_of(&self, host: &Domain, family: Rtype) -> Result<Vec<IpAddr>, NoAnswer> {
        let address = |record: &Record| if let Record::Address(address) = record { Some(*address) } else { None };
        Ok(self.ask(host, family)?.records.iter().filter_map(address).collect())
    }

    fn ask(&self, name: &Domain, kind: Rtype) -> Known {
        let question = Question::new(name, kind).ok_or(NoAnswer::NoSuchName)?;
        let upstream = self.upstream();
        if let Some(known) = upstream.cache.find(&question, Instant::now()) {
            return known;
        }
        match upstream.follow(&question, Instant::now() + limits::DNS_QUESTION) {
            Ok((known, ttl)) => {
                upstream.cache.keep(question, &known, ttl, Instant::now());
                known
            }
            Err(words) => Err(NoAnswer::Fault(format!("{kind} of {name}: {words}"))),
        }
    }

    fn upstream(&self) -> Arc<Upstream> {
        let known = {
            let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            if source.fixed || source.looked_at.elapsed() < limits::DNS_SETTINGS_LOOK {
                return source.upstream.clone();
            }
            // The others go on with what they have while this thread looks.
            source.looked_at = Instant::now();
            source.version
        };
        let changed = settings::version(&self.file) != known;
        let fresh = changed.then(|| Source::new(None, &self.file));
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = fresh.filter(|_| !source.fixed) {
            *source = fresh;
        }
        source.upstream.clone()
    }
}

impl Source {
    fn new(fixed: Option<SocketAddr>, file: &Path) -> Source {
        // Before the file is read: a change in between is seen at the next look.
        let version = settings::version(file);
        let settings = fixed.map_or_else(|| Settings::read(file), Settings::fixed);
        let upstream = Arc::new(Upstream { settings, cache: Cache::new(limits::DNS_CACHE) });
        Source { fixed: fixed.is_some(), version, looked_at: Instant::now(), upstream }
    }
}

impl Upstream {
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

/// A name that one family denies may still have addresses of the other: some servers answer so for what they don't know.
fn either_family(
    six: Result<Vec<IpAddr>, NoAnswer>,
    four: Result<Vec<IpAddr>, NoAnswer>,
) -> Result<Vec<IpAddr>, NoAnswer> {
    match (six, four) {
        (Ok(six), Ok(four)) => Ok([six, four].concat()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(fault @ NoAnswer::Fault(_)), _) | (_, Err(fault @ NoAnswer::Fault(_))) => Err(fault),
        (Err(NoAnswer::NoSuchName), Err(NoAnswer::NoSuchName)) => Err(NoAnswer::NoSuchName),
        (Err(_), Err(_)) => Err(NoAnswer::NoRecords),
    }
}

/// Where the names of an address are (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse_name(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAnswer::NoSuchName => out.write_str("there is no such name in the DNS"),
            NoAnswer::NoRecords => out.write_str("the DNS has no such records for the name"),
            NoAnswer::Fault(words) => write!(out, "the DNS gave no answer: {words}"),
        }
    }
}

impl Error for NoAnswer {}
