//! From a next hop to the servers to try, in their order (RFC 5321 §5, RFC 7505).
//!
//! Promises: a fault of DNS is never final, only a name that does not exist and a null MX are; while a fault hides a
//! server, what the others say is not final either; the servers are cut where this host stands among them, so that mail
//! never goes to oneself and never to a server that would send it back; both families of addresses are among those that
//! are tried. However many exchangers a domain has, few are asked for, and not for long. What can't be had is the
//! [`Outcome`] it means for the mail.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::dns::{Mx, NoAnswer, Resolver};
use crate::io::listener;
use crate::limits;
use crate::mail::address::{Domain, Host};
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;

/// One server at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name, or its address where it has none.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether a certificate for its name proves that mail may go there: the configuration, the address itself or
    /// signatures in DNS name it, and not whoever sits between DNS and us (RFC 8689 §4.2.1).
    pub is_authentic: bool,
}

impl fmt::Display for Server {
    /// As it stands in the log and in reports: `mx.example.net [192.0.2.1]`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} [{}]", self.name, self.address.ip())
    }
}

/// The servers of a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Those that can be had, in their order.
    pub servers: Vec<Server>,
    /// What it means for the mail, where a fault of DNS hides others: nothing that these say is final then.
    pub hidden: Option<Outcome>,
}

impl Found {
    /// Servers, and there are no others.
    fn all(servers: Vec<Server>) -> Found {
        Found { servers, hidden: None }
    }
}

/// What is asked of DNS.
pub trait Names {
    /// The mail exchangers of a domain, and whether signatures vouch for them.
    fn mx(&self, domain: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer>;
    /// The addresses of a host.
    fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer>;
    /// The addresses of a host that the configuration names, which may be one that only this system knows.
    fn configured(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer>;
}

impl Names for Resolver {
    fn mx(&self, domain: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer> {
        Resolver::mx(self, domain)
    }

    fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
        Resolver::addresses(self, host)
    }

    fn configured(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
        Resolver::addresses(self, host).or_else(|answer| {
            let known = self.known_here(host);
            if known.is_empty() { Err(answer) } else { Ok(known) }
        })
    }
}

/// This host, as it may stand among the servers.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its name.
    pub hostname: &'a Domain,
    /// Where it takes mail.
    pub listen: &'a [SocketAddr],
    /// The port of other hosts' servers.
    pub port: u16,
}

impl Own<'_> {
    /// This host as it is configured.
    pub fn of(config: &Config) -> Own<'_> {
        Own { hostname: &config.hostname, listen: &config.listen.smtp, port: config.delivery.remote_port }
    }

    fn is_at(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listen.iter().filter(|listen| listen.port() == address.port()).any(|listen| {
            let own = listen.ip().to_canonical();
            own == ip || (own.is_unspecified() && listener::is_of_this_host(ip))
        })
    }
}

/// The servers of `hop`, at least one and at most [`limits::SERVERS`].
pub fn servers(hop: &NextHop, names: &dyn Names, own: &Own<'_>) -> Result<Found, Outcome> {
    let port = hop.port.unwrap_or(own.port);
    match &hop.host {
        Host::Literal(address) => {
            let address = SocketAddr::new(*address, port);
            not_own(vec![Server { name: address.ip().to_string(), address, is_authentic: true }], own)
        }
        Host::Domain(domain) if hop.by_mx => by_mx(domain, port, names, own),
        Host::Domain(domain) => match names.configured(domain) {
            Ok(addresses) => not_own(at_each((domain, true), &addresses, port), own),
            // A name mistyped in the configuration is mended there; no mail is lost over it.
            Err(answer) => Err(deferred(Enhanced(4, 4, 4), format!("{domain} can't be found: {answer}"))),
        },
    }
}

fn not_own(mut servers: Vec<Server>, own: &Own<'_>) -> Result<Found, Outcome> {
    servers.retain(|server| is_of_one_host(server.address.ip()));
    servers.truncate(limits::SERVERS);
    if servers.is_empty() {
        return Err(deferred(Enhanced(4, 4, 4), "the configuration leads to an address that no host has".to_owned()));
    }
    if servers.iter().any(|server| own.is_at(server.address)) {
        return Err(deferred(Enhanced(4, 4, 6), "the configuration leads back to this host itself".to_owned()));
    }
    Ok(Found::all(servers))
}

/// What is found for a domain, exchanger by exchanger.
#[derive(Default)]
struct Search {
    /// See [`Server::is_authentic`].
    is_authentic: bool,
    found: Vec<(u16, Server)>,
    /// Why something may be missing there.
    fault: Option<String>,
    /// Whether this host is one of the exchangers: it, and those that are no nearer, are cut off (RFC 5321 §5.1).
    leads_here: bool,
}

impl Search {
    /// Asks for the addresses of `exchangers` in their order, for `patience` at most.
    fn run(
        &mut self,
        exchangers: &[(u16, Domain)],
        (port, patience): (u16, Duration),
        names: &dyn Names,
        own: &Own<'_>,
    ) {
        let start = Instant::now();
        for (at, (preference, host)) in exchangers.iter().enumerate() {
            if self.found.len() >= limits::SERVERS {
                return;
            }
            if at >= limits::EXCHANGERS || start.elapsed() >= patience {
                let others = exchangers.len() - at;
                self.fault.get_or_insert(format!("{others} of its exchangers were not asked for any more"));
                return;
            }
            match names.addresses(host) {
                Ok(addresses) => {
                    let servers = at_each((host, self.is_authentic), &addresses, port);
                    if servers.iter().any(|server| own.is_at(server.address)) {
                        self.leads_here = true;
                        return self.found.retain(|(before, _)| before < preference);
                    }
                    self.found.extend(servers.into_iter().map(|server| (*preference, server)));
                }
                Err(NoAnswer::NoSuchName) => {}
                Err(answer) => _ = self.fault.get_or_insert(format!("{host}: {answer}")),
            }
        }
    }

    fn end(self, domain: &Domain) -> Result<Found, Outcome> {
        match (self.found.is_empty(), self.fault, self.leads_here) {
            (false, fault, _) => {
                let mut servers: Vec<Server> = self.found.into_iter().map(|(_, server)| server).collect();
                servers.truncate(limits::SERVERS);
                let some = |fault| format!("not every host that takes mail for {domain} can be found: {fault}");
                let hidden = fault.map(|fault| deferred(Enhanced(4, 4, 3), some(fault)));
                Ok(Found { servers, hidden })
            }
            (true, Some(fault), _) => {
                Err(deferred(Enhanced(4, 4, 3), format!("no address of {domain} can be had: {fault}")))
            }
            (true, None, true) => {
                let text = format!("DNS leads mail for {domain} to this host, where it is not one of local_domains");
                Err(failed(Enhanced(5, 4, 6), text))
            }
            (true, None, false) => {
                let text =
                    format!("none of the hosts that take mail for {domain} has an address in DNS that mail can go to");
                Err(failed(Enhanced(5, 4, 4), text))
            }
        }
    }
}

fn by_mx(domain: &Domain, port: u16, names: &dyn Names, own: &Own<'_>) -> Result<Found, Outcome> {
    let (mut exchangers, is_authentic) = exchangers(domain, names)?;
    let mut search = Search { is_authentic, ..Search::default() };
    if let Some(ours) = exchangers.iter().find(|(_, host)| host == own.hostname).map(|(preference, _)| *preference) {
        search.leads_here = true;
        exchangers.retain(|(before, _)| *before < ours);
    }
    search.run(&exchangers, (port, limits::EXCHANGERS_TIME), names, own);
    search.end(domain)
}

/// The exchangers of a domain, the preferred ones first, equal ones in any order; and whether their names are authentic.
fn exchangers(domain: &Domain, names: &dyn Names) -> Result<(Vec<(u16, Domain)>, bool), Outcome> {
    let (mut found, is_authentic) = match names.mx(domain) {
        Ok(found) => found,
        // RFC 5321 §5.1: without MX the domain is its own exchanger, by a name that nobody had to look up.
        Err(NoAnswer::NoRecords) => (vec![Mx { preference: 0, host: Some(domain.clone()) }], true),
        Err(NoAnswer::NoSuchName) => {
            return Err(failed(Enhanced(5, 1, 2), format!("there is no domain {domain} in DNS")));
        }
        Err(fault) => {
            return Err(deferred(Enhanced(4, 4, 3), format!("DNS does not say who takes mail for {domain}: {fault}")));
        }
    };
    if !found.is_empty() && found.iter().all(|mx| mx.host.is_none()) {
        let text = format!("{domain} takes no mail; its DNS says so with a null MX");
        let reply = crate::mail::reply::Reply::new(556, Some(Enhanced(5, 1, 10)), text);
        return Err(Outcome::Failed(Cause { reply, host: None }));
    }
    shuffle(&mut found);
    found.sort_by_key(|mx| mx.preference);
    Ok((found.into_iter().filter_map(|mx| Some((mx.preference, mx.host?))).collect(), is_authentic))
}

fn shuffle<T>(items: &mut [T]) {
    for at in (1..items.len()).rev() {
        // Without randomness the order is merely the server's.
        items.swap(at, getrandom::u32().unwrap_or(0) as usize % (at + 1));
    }
}

/// Whether one host can be meant: a connection to 0.0.0.0 or :: comes back to this host, as a trusted client.
fn is_of_one_host(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !(address.is_unspecified() || address.is_multicast() || address.is_broadcast()),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast()),
    }
}

/// A host at each of its addresses, the families in turn: where one does not work here the other is next. Loopback
/// addresses are kept: what listens there besides this server, somebody of this host has put there.
fn at_each((host, is_authentic): (&Domain, bool), addresses: &[IpAddr], port: u16) -> Vec<Server> {
    let at =
        |address: &IpAddr| Server { name: host.to_string(), address: SocketAddr::new(*address, port), is_authentic };
    let of_family =
        |v6: bool| addresses.iter().filter(move |address| address.is_ipv6() == v6 && is_of_one_host(**address));
    let (mut sixes, mut fours) = (of_family(true), of_family(false));
    let mut found = Vec::new();
    loop {
        let pair = [sixes.next(), fours.next()];
        if pair == [None, None] {
            return found;
        }
        found.extend(pair.into_iter().flatten().map(at));
    }
}

fn deferred(code: Enhanced, text: String) -> Outcome {
    Outcome::Deferred(Cause::local(code, text))
}

fn failed(code: Enhanced, text: String) -> Outcome {
    Outcome::Failed(Cause::local(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashMap;

    type Table<T> = HashMap<&'static str, Result<Vec<T>, NoAnswer>>;

    /// DNS as a table: `mx` lines and hosts.
    #[derive(Default)]
    struct Zone {
        mx: Table<(u16, &'static str)>,
        is_signed: bool,
        hosts: Table<&'static str>,
    }

    impl Names for Zone {
        fn mx(&self, domain: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer> {
            let found = self.mx.get(domain.as_str()).cloned().unwrap_or(Err(NoAnswer::NoSuchName))?;
            let mx = |(preference, host): &(u16, &str)| Mx { preference: *preference, host: host.parse().ok() };
            Ok((found.iter().map(mx).collect(), self.is_signed))
        }

        fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            let found = self.hosts.get(host.as_str()).cloned().unwrap_or(Err(NoAnswer::NoSuchName))?;
            Ok(found.iter().map(|address| address.parse().unwrap()).collect())
        }

        fn configured(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            self.addresses(host)
        }
    }

    fn zone() -> Zone {
        let fault = || NoAnswer::Fault("SERVFAIL".into());
        Zone {
            is_signed: false,
            mx: HashMap::from([
                ("far.example", Ok(vec![(20, "b.far.example"), (10, "a.far.example")])),
                ("null.example", Ok(vec![(0, ".")])),
                ("plain.example", Err(NoAnswer::NoRecords)),
                ("empty.example", Err(NoAnswer::NoRecords)),
                ("fault.example", Err(fault())),
                ("dark.example", Ok(vec![(10, "dark.example")])),
                ("gone.example", Ok(vec![(10, "gone.gone.example")])),
                ("ours.example", Ok(vec![(10, "mail.example.org"), (20, "b.far.example")])),
                ("late.example", Ok(vec![(10, "dark.example"), (20, "mail.example.org")])),
                ("part.example", Ok(vec![(10, "b.far.example"), (20, "dark.example"), (30, "gone.gone.example")])),
                ("near.example", Ok(vec![(10, "b.far.example"), (20, "us.example"), (30, "dark.example")])),
                ("zero.example", Ok(vec![(10, "zero.zero.example")])),
                ("half.example", Ok(vec![(10, "zero.zero.example"), (20, "b.far.example")])),
                ("backup.example", Ok(vec![(5, "a.far.example"), (10, "us.example"), (10, "b.far.example")])),
            ]),
            hosts: HashMap::from([
                ("a.far.example", Ok(vec!["192.0.2.1", "2001:db8::1", "192.0.2.2"])),
                ("b.far.example", Ok(vec!["192.0.2.3"])),
                ("plain.example", Ok(vec!["192.0.2.4"])),
                ("empty.example", Err(NoAnswer::NoRecords)),
                ("dark.example", Err(fault())),
                ("us.example", Ok(vec!["192.0.2.99"])),
                (
                    "zero.zero.example",
                    Ok(vec!["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1"]),
                ),
                ("smart.example", Ok(vec!["192.0.2.5"])),
            ]),
        }
    }

    fn found(hop: &str) -> Result<Vec<String>, String> {
        let listen = ["192.0.2.99:25".parse().unwrap(), "0.0.0.0:2525".parse().unwrap()];
        let own = Own { hostname: &"mail.example.org".parse().unwrap(), listen: &listen, port: 25 };
        let show = |cause: &Cause| cause.reply.enhanced().unwrap().to_string();
        match servers(&hop.parse().unwrap(), &zone(), &own) {
            Ok(found) => {
                let servers = found.servers.iter().map(|server| server.address.to_string());
                Ok(servers.chain(found.hidden.map(|_| "and others".to_owned())).collect())
            }
            Err(Outcome::Failed(cause) | Outcome::Deferred(cause)) => Err(show(&cause)),
            Err(Outcome::Delivered(_)) => panic!(),
        }
    }

    #[test]
    fn each_next_hop_has_its_servers_or_what_that_means() {
        let ok = |servers: &[&str]| Ok(servers.iter().map(|server| (*server).to_owned()).collect::<Vec<_>>());
        for (hop, expected) in [
            ("mx:far.example", ok(&["[2001:db8::1]:25", "192.0.2.1:25", "192.0.2.2:25", "192.0.2.3:25"])),
            ("mx:plain.example", ok(&["192.0.2.4:25"])),
            ("mx:far.example:26", ok(&["[2001:db8::1]:26", "192.0.2.1:26", "192.0.2.2:26", "192.0.2.3:26"])),
            ("mx:null.example", Err("5.1.10".into())),
            ("mx:nowhere.example", Err("5.1.2".into())),
            ("mx:empty.example", Err("4.4.3".into())),
            ("mx:fault.example", Err("4.4.3".into())),
            ("mx:dark.example", Err("4.4.3".into())),
            ("mx:gone.example", Err("5.4.4".into())),
            ("mx:ours.example", Err("5.4.6".into())),
            ("mx:late.example", Err("4.4.3".into())),
            ("mx:part.example", ok(&["192.0.2.3:25", "and others"])),
            ("mx:near.example", ok(&["192.0.2.3:25"])),
            ("mx:zero.example", Err("5.4.4".into())),
            ("mx:half.example", ok(&["192.0.2.3:25"])),
            ("zero.zero.example", Err("4.4.4".into())),
            ("0.0.0.0:26", Err("4.4.4".into())),
            ("mx:backup.example", ok(&["[2001:db8::1]:25", "192.0.2.1:25", "192.0.2.2:25"])),
            ("smart.example:587", ok(&["192.0.2.5:587"])),
            ("far.example", Err("4.4.4".into())),
            ("us.example", Err("4.4.6".into())),
            ("127.0.0.1:2525", Err("4.4.6".into())),
            ("192.0.2.7", ok(&["192.0.2.7:25"])),
            ("192.0.2.7:2525", ok(&["192.0.2.7:2525"])),
        ] {
            assert_eq!(found(hop), expected, "{hop}");
        }
    }

    #[test]
    fn a_name_is_authentic_where_nobody_between_dns_and_us_can_have_made_it_up() {
        for is_signed in [false, true] {
            let zone = Zone { is_signed, ..zone() };
            let own = Own { hostname: &"mail.example.org".parse().unwrap(), listen: &[], port: 25 };
            for (hop, expected) in [
                ("mx:far.example", is_signed),
                ("mx:plain.example", true),
                ("smart.example", true),
                ("192.0.2.7", true),
            ] {
                let servers = servers(&hop.parse().unwrap(), &zone, &own).unwrap().servers;
                assert!(servers.iter().all(|server| server.is_authentic == expected), "{hop} {is_signed}");
            }
        }
    }

    #[test]
    fn equal_exchangers_take_turns() {
        let mut zone = zone();
        zone.mx.insert("even.example", Ok(vec![(10, "b.far.example"), (10, "plain.example")]));
        let own = Own { hostname: &"mail.example.org".parse().unwrap(), listen: &[], port: 25 };
        let first = || servers(&"mx:even.example".parse().unwrap(), &zone, &own).unwrap().servers[0].name.clone();
        let names: std::collections::HashSet<String> = (0..200).map(|_| first()).collect();
        assert_eq!(names.len(), 2);
    }

    /// So many exchangers, of which none can be found, and how often their addresses were asked for.
    struct Endless(usize, Cell<usize>);

    impl Names for Endless {
        fn mx(&self, _: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer> {
            let exchanger = |at| Mx { preference: 10, host: format!("m{at}.far.example").parse().ok() };
            let ours = Mx { preference: 10, host: "mail.example.org".parse().ok() };
            Ok(((0..self.0).map(exchanger).chain([ours]).collect(), false))
        }

        fn addresses(&self, _: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            self.1.set(self.1.get() + 1);
            Err(NoAnswer::NoSuchName)
        }

        fn configured(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
            self.addresses(host)
        }
    }

    fn code(outcome: Result<Found, Outcome>) -> String {
        match outcome {
            Err(Outcome::Failed(cause) | Outcome::Deferred(cause)) => cause.reply.enhanced().unwrap().to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn however_many_exchangers_there_are_few_are_asked_for_and_none_is_forgotten() {
        let other = "other.example".parse().unwrap();
        let ours = "mail.example.org".parse().unwrap();
        let asked = |count: usize, hostname: &Domain| {
            let zone = Endless(count, Cell::new(0));
            let own = Own { hostname, listen: &[], port: 25 };
            let found = code(servers(&"mx:far.example".parse().unwrap(), &zone, &own));
            (zone.1.get(), found)
        };
        assert_eq!(asked(1500, &other), (limits::EXCHANGERS, "4.4.3".into()));
        assert_eq!(asked(limits::EXCHANGERS - 1, &other), (limits::EXCHANGERS, "5.4.4".into()));
        // Wherever this host stands among its equals.
        assert_eq!(asked(1500, &ours), (0, "5.4.6".into()));
    }

    #[test]
    fn a_search_that_takes_too_long_is_no_answer() {
        let zone = Endless(3, Cell::new(0));
        let domain: Domain = "far.example".parse().unwrap();
        let own = Own { hostname: &"other.example".parse().unwrap(), listen: &[], port: 25 };
        let mut search = Search::default();
        search.run(&exchangers(&domain, &zone).unwrap().0, (25, Duration::ZERO), &zone, &own);
        assert_eq!((zone.1.get(), code(search.end(&domain))), (0, "4.4.3".into()));
    }
}
