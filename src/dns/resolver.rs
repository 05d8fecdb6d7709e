//! The resolver that delivery asks.
//!
//! An answer is records, or that there are none; everything else is a [`NoAnswer::Fault`] and temporary: silence, a
//! server's failure, aliases that lead in a circle, octets that make no sense. Each question waits
//! [`limits::DNS_QUESTION`] at most. Any number of threads may ask at once; no lock is held while one waits.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use domain::base::iana::Rtype;

use super::answer::Question;
use super::found::{Known, NoAnswer};
use super::hosts;
use super::record::{Mx, Record, Tlsa};
use super::settings::{self, ReadFile, Settings, SettingsFile, Version};
use super::upstream::Upstream;
use crate::config::Dns;
use crate::io::keeper::file;
use crate::limits;
use crate::mail::address::Domain;

/// Where the system names its servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Asks the DNS. One is shared by all threads.
#[derive(Debug)]
pub struct Resolver {
    file: SettingsFile,
    source: Mutex<Source>,
}

#[derive(Debug)]
struct Source {
    /// What the configuration says; where it names no server the file does.
    config: Dns,
    version: Version,
    looked_at: Instant,
    upstream: Arc<Upstream>,
}

impl Resolver {
    /// Asks the server of the configuration, or else those of /etc/resolv.conf, which is read again when it changed.
    pub fn new(config: &Dns) -> Resolver {
        Resolver::reading_by(config, Arc::new(file::read))
    }

    /// As [`Resolver::new`], for a process that may not read the file itself.
    pub fn reading_by(config: &Dns, read: ReadFile) -> Resolver {
        Resolver::with_file(config, SettingsFile { path: RESOLV_CONF.into(), read })
    }

    fn with_file(config: &Dns, file: SettingsFile) -> Resolver {
        let source = Mutex::new(Source::new(*config, &file));
        Resolver { file, source }
    }

    /// Asks these servers from now on, as [`Resolver::new`] says, and forgets what the ones before said.
    pub fn configure(&self, config: &Dns) {
        let source = Source::new(*config, &self.file);
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// The hosts that take the domain's mail, in the order in which they came (RFC 5321 §5.1). A name that is no
    /// [`Domain`] is left out, so that there may be none; that the domain has no MX is [`NoAnswer::NoRecords`]. And whether
    /// signatures vouch for it, as [`Resolver::tlsa`] says.
    pub fn mx(&self, domain: &Domain) -> Result<(Vec<Mx>, bool), NoAnswer> {
        self.vouched(domain, Rtype::MX, |record| if let Record::Mx(mx) = record { Some(mx) } else { None })
    }

    /// The addresses of a host, IPv6 before IPv4. A fault of one family does not hide the other's addresses. Asks two
    /// questions.
    pub fn addresses(&self, host: &Domain) -> Result<Vec<IpAddr>, NoAnswer> {
        let family = |kind| {
            self.all(host, kind, |record| if let Record::Address(address) = record { Some(address) } else { None })
        };
        either_family(family(Rtype::AAAA), family(Rtype::A))
    }

    /// The addresses of a host that only this system may know, outside of DNS.
    pub fn known_here(&self, host: &Domain) -> Vec<IpAddr> {
        hosts::addresses(host, &self.file.read)
    }

    /// The names of an address (PTR), which are claims of its owner. Those that are no [`Domain`] are left out.
    pub fn names_of(&self, address: IpAddr) -> Result<Vec<Domain>, NoAnswer> {
        let reverse: Domain = reverse_name(address).parse().map_err(|_| NoAnswer::NoSuchName)?;
        self.all(&reverse, Rtype::PTR, |record| if let Record::Name(name) = record { Some(name) } else { None })
    }

    /// The texts of a name (TXT), the strings of each record joined (RFC 7208 §3.3).
    pub fn texts(&self, name: &Domain) -> Result<Vec<Vec<u8>>, NoAnswer> {
        self.all(name, Rtype::TXT, |record| if let Record::Text(text) = record { Some(text) } else { None })
    }

    /// What certificates a server has (RFC 6698), and whether signatures vouch for it, checked by a server that is
    /// trusted: on this host, or named so in /etc/resolv.conf (`options trust-ad`) or by the configuration.
    pub fn tlsa(&self, name: &Domain) -> Result<(Vec<Tlsa>, bool), NoAnswer> {
        self.vouched(name, Rtype::TLSA, |record| if let Record::Tlsa(tlsa) = record { Some(tlsa) } else { None })
    }

    fn all<T: Clone>(
        &self,
        name: &Domain,
        kind: Rtype,
        wanted: impl Fn(&Record) -> Option<&T>,
    ) -> Result<Vec<T>, NoAnswer> {
        self.vouched(name, kind, wanted).map(|(found, _)| found)
    }

    fn vouched<T: Clone>(
        &self,
        name: &Domain,
        kind: Rtype,
        wanted: impl Fn(&Record) -> Option<&T>,
    ) -> Result<(Vec<T>, bool), NoAnswer> {
        let found = self.ask(name, kind)?;
        Ok((found.records.iter().filter_map(wanted).cloned().collect(), found.authenticated))
    }

    fn ask(&self, name: &Domain, kind: Rtype) -> Known {
        let question = Question::new(name, kind).ok_or(NoAnswer::NoSuchName)?;
        self.upstream().ask(question)
    }

    fn upstream(&self) -> Arc<Upstream> {
        let (known, config) = {
            let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            if source.config.resolver.is_some() || source.looked_at.elapsed() < limits::DNS_SETTINGS_LOOK {
                return source.upstream.clone();
            }
            // The others go on with what they have while this thread looks.
            source.looked_at = Instant::now();
            (source.version, source.config)
        };
        let changed = settings::version(&self.file.path) != known;
        // One that can't be read for now is looked at again, and until then those asked so far are.
        let fresh = if changed { Source::read(config, &self.file).ok() } else { None };
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = fresh.filter(|fresh| fresh.config == source.config) {
            *source = fresh;
        }
        source.upstream.clone()
    }
}

impl Source {
    fn new(config: Dns, file: &SettingsFile) -> Source {
        Source::read(config, file).unwrap_or_else(|_| Source::of(config, None, Settings::without_file(&config)))
    }

    fn read(config: Dns, file: &SettingsFile) -> io::Result<Source> {
        // Before the file is read: a change in between is seen at the next look.
        let version = settings::version(&file.path);
        Ok(Source::of(config, version, Settings::of_config(&config, file)?))
    }

    fn of(config: Dns, version: Version, settings: Settings) -> Source {
        Source { config, version, looked_at: Instant::now(), upstream: Arc::new(Upstream::new(settings)) }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::dns::fake::{Fake, address, asked, record, refused, reply, wire};
    use domain::base::iana::Rcode;

    fn domain(name: &str) -> Domain {
        name.parse().unwrap()
    }

    fn at(server: SocketAddr) -> Dns {
        Dns { resolver: Some(server), ..Dns::default() }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kind(query: &[u8]) -> Rtype {
        domain::base::Message::from_octets(query).unwrap().sole_question().unwrap().qtype()
    }

    #[test]
    fn threads_share_one() {
        fn shared<T: Send + Sync>(_: T) {}
        shared(Resolver::new(&Dns::default()));
    }

    #[test]
    fn each_type_is_asked_for_and_returned() {
        let server = Fake::start(|query, _| {
            let (name, kind) = (asked(query), kind(query));
            let rdata = match kind {
                Rtype::MX => b"\x00\x0a\x02mx\x07example\x00".to_vec(),
                Rtype::TXT => b"\x01a\x01b".to_vec(),
                Rtype::PTR => wire("client.example"),
                Rtype::TLSA => b"\x03\x01\x01hash".to_vec(),
                _ => return vec![refused(query, Rcode::NXDOMAIN)],
            };
            vec![reply(query, &[record(&name, kind, 60, &rdata)])]
        });
        let resolver = Resolver::new(&at(server.address()));
        let name = domain("a.example");
        assert_eq!(resolver.mx(&name), Ok((vec![Mx { preference: 10, host: Some(domain("mx.example")) }], false)));
        assert_eq!(resolver.texts(&name), Ok(vec![b"ab".to_vec()]));
        assert_eq!(resolver.names_of("192.0.2.1".parse().unwrap()), Ok(vec![domain("client.example")]));
        let tlsa = Tlsa { usage: 3, selector: 1, matching: 1, association: b"hash".to_vec() };
        assert_eq!(resolver.tlsa(&name), Ok((vec![tlsa], false)));
        assert_eq!(resolver.addresses(&name), Err(NoAnswer::NoSuchName));
    }

    #[test]
    fn a_domain_that_takes_no_mail_says_so() {
        let server = Fake::start(|query, _| vec![reply(query, &[record("a.example", Rtype::MX, 60, &[0, 0, 0])])]);
        let resolver = Resolver::new(&at(server.address()));
        assert_eq!(resolver.mx(&domain("a.example")), Ok((vec![Mx { preference: 0, host: None }], false)));
    }

    #[test]
    fn a_fault_of_one_family_hides_no_address_of_the_other() {
        let server = Fake::start(|query, _| match kind(query) {
            Rtype::A => vec![reply(query, &[address("a.example", 60, [192, 0, 2, 1])])],
            _ => vec![refused(query, Rcode::SERVFAIL)],
        });
        let resolver = Resolver::new(&at(server.address()));
        assert_eq!(resolver.addresses(&domain("a.example")), Ok(addresses(&["192.0.2.1"])));
    }

    #[test]
    fn there_are_no_addresses_only_where_both_families_say_so() {
        let fault = NoAnswer::Fault("no luck".to_owned());
        let [six, four] = [addresses(&["2001:db8::1"]), addresses(&["192.0.2.1"])];
        let (no_name, none) = (NoAnswer::NoSuchName, NoAnswer::NoRecords);
        for (of_six, of_four, expected) in [
            (Ok(six.clone()), Ok(four.clone()), Ok(addresses(&["2001:db8::1", "192.0.2.1"]))),
            (Ok(six.clone()), Err(fault.clone()), Ok(six)),
            (Err(no_name.clone()), Ok(four.clone()), Ok(four)),
            (Err(none.clone()), Err(fault.clone()), Err(fault.clone())),
            (Err(fault.clone()), Err(no_name.clone()), Err(fault)),
            (Err(no_name.clone()), Err(no_name.clone()), Err(no_name.clone())),
            (Err(none.clone()), Err(no_name), Err(none)),
        ] {
            assert_eq!(either_family(of_six, of_four), expected);
        }
    }

    #[test]
    fn addresses_are_reversed_by_octets_and_by_nibbles() {
        let name = |address: &str| reverse_name(address.parse().unwrap());
        assert_eq!(name("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        assert_eq!(name("::ffff:192.0.2.1"), "1.2.0.192.in-addr.arpa");
        let six = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(name("2001:db8::1"), six);
        assert!(six.parse::<Domain>().is_ok());
    }

    #[test]
    fn a_name_too_long_to_be_in_the_dns_is_not_there() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(63));
        let nobody = Resolver::new(&at("127.0.0.1:1".parse().unwrap()));
        assert_eq!(nobody.mx(&domain(&long)), Err(NoAnswer::NoSuchName));
    }

    #[test]
    fn other_servers_begin_with_nothing_known() {
        let [first, second] = [1, 2].map(|last| {
            Fake::start(move |query, _| vec![reply(query, &[record("a.example", Rtype::TXT, 60, &[1, b'0' + last])])])
        });
        let resolver = Resolver::new(&at(first.address()));
        assert_eq!(resolver.texts(&domain("a.example")), Ok(vec![b"1".to_vec()]));
        resolver.configure(&at(second.address()));
        assert_eq!(resolver.texts(&domain("a.example")), Ok(vec![b"2".to_vec()]));
    }

    /// As when the second process has ended.
    #[test]
    fn a_file_that_can_not_be_read_any_more_leaves_the_servers_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let read = Arc::new({
            let ended = ended.clone();
            move |path: &Path| {
                if ended.load(Ordering::SeqCst) { Err(io::ErrorKind::NotConnected.into()) } else { file::read(path) }
            }
        });
        let resolver = Resolver::with_file(&Dns::default(), SettingsFile { path: path.clone(), read });
        fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        for (is_ended, expected) in [(true, "192.0.2.1"), (false, "192.0.2.22")] {
            ended.store(is_ended, Ordering::SeqCst);
            let past = resolver.source.lock().unwrap().looked_at.checked_sub(limits::DNS_SETTINGS_LOOK).unwrap();
            resolver.source.lock().unwrap().looked_at = past;
            assert_eq!(resolver.upstream().settings().servers[0].ip().to_string(), expected);
        }
    }

    #[test]
    fn a_changed_file_is_read_again_but_not_looked_at_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let settings = SettingsFile { path: file.clone(), read: Arc::new(file::read) };
        let resolver = Resolver::with_file(&Dns::default(), settings);
        let server = || resolver.upstream().settings().servers[0].ip().to_string();
        assert_eq!(server(), "192.0.2.1");
        let later = |resolver: &Resolver| {
            let mut source = resolver.source.lock().unwrap();
            source.looked_at = source.looked_at.checked_sub(limits::DNS_SETTINGS_LOOK).unwrap();
        };
        let before = resolver.upstream();
        later(&resolver);
        assert!(Arc::ptr_eq(&before, &resolver.upstream()), "an unchanged file leaves what is known");
        fs::write(&file, "nameserver 192.0.2.22\n").unwrap();
        assert_eq!(server(), "192.0.2.1", "it was looked at just now");
        later(&resolver);
        assert_eq!(server(), "192.0.2.22");
        resolver.configure(&at("192.0.2.3:53".parse().unwrap()));
        fs::write(&file, "nameserver 192.0.2.4\n").unwrap();
        later(&resolver);
        assert_eq!(server(), "192.0.2.3");
        resolver.configure(&Dns { trust_ad: true, ..Dns::default() });
        assert_eq!(server(), "192.0.2.4");
        fs::write(&file, "nameserver 192.0.2.55\n").unwrap();
        later(&resolver);
        assert_eq!(server(), "192.0.2.55");
        assert!(resolver.upstream().settings().trust_ad, "what the configuration says outlives the file");
    }
}
