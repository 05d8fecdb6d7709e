//! The resolver against a real DNS server, with zones that hold what mail meets.
#![allow(missing_docs)]

mod support;

use std::net::IpAddr;
use std::thread;

use postrider::config::Dns;
use postrider::dns::{Mx, NoAnswer, Resolver, Tlsa};
use postrider::mail::address::Domain;
use support::zone::Zone;

fn domain(name: &str) -> Domain {
    name.parse().unwrap()
}

fn asking(zone: &Zone<'_>) -> Resolver {
    Resolver::new(&Dns { resolver: Some(zone.address()), ..Dns::default() })
}

fn mx(preference: u16, host: &str) -> Mx {
    Mx { preference, host: host.parse().ok() }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn is_fault<T>(answer: &Result<T, NoAnswer>) -> bool {
    matches!(answer, Err(NoAnswer::Fault(_)))
}

#[test]
fn mail_exchangers() {
    let Some(zone) = Zone::start(
        "example. MX 20 two.example.\nexample. MX 10 One.Example.\n\
         silent.example. MX 0 .\n\
         odd.example. MX 5 sp\\ ace.example.\nodd.example. MX 5 192.0.2.1.\nodd.example. MX 7 good_name.example.\n\
         alias.example. CNAME example.\n\
         *.wild.example. MX 3 wild.example.\n\
         bare.example. A 192.0.2.1",
    ) else {
        return;
    };
    let resolver = asking(&zone);
    let sorted = |name: &str| {
        let (mut found, vouched) = resolver.mx(&domain(name)).unwrap();
        assert!(!vouched, "an authoritative server checks nothing");
        found.sort_by_key(|mx| mx.preference);
        found
    };
    assert_eq!(sorted("example"), [mx(10, "one.example"), mx(20, "two.example")]);
    assert_eq!(sorted("alias.example"), sorted("example"));
    assert_eq!(sorted("silent.example"), [mx(0, "")]);
    assert_eq!(sorted("odd.example"), [mx(7, "good_name.example")]);
    assert_eq!(sorted("any.wild.example"), [mx(3, "wild.example")]);
    assert_eq!(resolver.mx(&domain("bare.example")), Err(NoAnswer::NoRecords));
    assert_eq!(resolver.mx(&domain("none.example")), Err(NoAnswer::NoSuchName));
}

#[test]
fn addresses_of_both_families_and_through_aliases() {
    let Some(zone) = Zone::start(
        "both.example. A 192.0.2.1\nboth.example. A 192.0.2.2\nboth.example. AAAA 2001:db8::1\n\
         four.example. A 192.0.2.4\nsix.example. AAAA 2001:db8::6\n\
         a.example. CNAME b.example.\nb.example. CNAME c/d.example.\nc/d.example. CNAME four.example.\n\
         lost.example. CNAME none.example.\n\
         text.example. TXT x",
    ) else {
        return;
    };
    let resolver = asking(&zone);
    let found = |name: &str| {
        let mut found = resolver.addresses(&domain(name))?;
        found.sort_by_key(|address| (address.is_ipv4(), *address));
        Ok(found)
    };
    assert_eq!(found("both.example"), Ok(addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"])));
    assert_eq!(found("four.example"), Ok(addresses(&["192.0.2.4"])));
    assert_eq!(found("six.example"), Ok(addresses(&["2001:db8::6"])));
    assert_eq!(found("a.example"), Ok(addresses(&["192.0.2.4"])));
    assert_eq!(found("lost.example"), Err(NoAnswer::NoSuchName));
    assert_eq!(found("text.example"), Err(NoAnswer::NoRecords));
    assert_eq!(found("none.example"), Err(NoAnswer::NoSuchName));
}

#[test]
fn names_texts_and_certificates() {
    let six = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa.", "0.".repeat(23));
    let Some(zone) = Zone::start(&format!(
        "7.2.0.192.in-addr.arpa. CNAME 7.0/25.2.0.192.in-addr.arpa.\n\
         7.0/25.2.0.192.in-addr.arpa. PTR client.example.\n{six} PTR six.example.\n\
         example. TXT \"v=spf1 \" \"-all\"\n\
         _25._tcp.mx.example. TLSA 3 1 1 {}",
        "ab".repeat(32)
    )) else {
        return;
    };
    let resolver = asking(&zone);
    let names = |address: &str| resolver.names_of(address.parse().unwrap());
    assert_eq!(names("192.0.2.7"), Ok(vec![domain("client.example")]));
    assert_eq!(names("2001:db8::1"), Ok(vec![domain("six.example")]));
    assert_eq!(names("192.0.2.8"), Err(NoAnswer::NoSuchName));
    assert_eq!(resolver.texts(&domain("example")), Ok(vec![b"v=spf1 -all".to_vec()]));
    let tlsa = Tlsa { usage: 3, selector: 1, matching: 1, association: vec![0xab; 32] };
    // An authoritative server checks nothing, and says so.
    assert_eq!(resolver.tlsa(&domain("_25._tcp.mx.example")), Ok((vec![tlsa], false)));
}

#[test]
fn answers_of_every_size() {
    let exchangers: String = (0..300).map(|host| format!("many.example. MX {host} host{host}.example.\n")).collect();
    let text: String = (0..200).map(|_| format!("\"{}\" ", "x".repeat(250))).collect();
    let Some(zone) = Zone::start(&format!("{exchangers}long.example. TXT {text}")) else { return };
    let resolver = asking(&zone);
    assert_eq!(resolver.mx(&domain("many.example")).unwrap().0.len(), 300);
    assert_eq!(resolver.texts(&domain("long.example")), Ok(vec![vec![b'x'; 50_000]]));
}

#[test]
fn what_leads_nowhere_is_a_fault_and_nothing_worse() {
    let Some(zone) = Zone::start(
        "a.example. CNAME b.example.\nb.example. CNAME a.example.\nself.example. CNAME self.example.\n\
         elsewhere.example. NS ns.nowhere.example.",
    ) else {
        return;
    };
    let resolver = asking(&zone);
    for name in ["a.example", "self.example", "mail.elsewhere.example"] {
        assert!(is_fault(&resolver.mx(&domain(name))), "{name}: {:?}", resolver.mx(&domain(name)));
    }
}

#[test]
fn a_server_that_comes_back_is_asked_again_and_what_holds_outlives_it() {
    let Some(mut zone) = Zone::start("kept.example. 3600 A 192.0.2.1\nasked.example. A 192.0.2.2") else { return };
    let resolver = asking(&zone);
    let (kept, asked) = (domain("kept.example"), domain("asked.example"));
    assert!(resolver.addresses(&kept).is_ok() && resolver.addresses(&asked).is_ok());
    zone.stop();
    assert_eq!(resolver.addresses(&kept), Ok(addresses(&["192.0.2.1"])));
    let NoAnswer::Fault(words) = resolver.addresses(&asked).unwrap_err() else { panic!("an outage is a fault") };
    assert_eq!(words, format!("AAAA of asked.example: {}: nobody listens there", zone.address()));
    zone.start_again();
    assert_eq!(resolver.addresses(&asked), Ok(addresses(&["192.0.2.2"])));
}

#[test]
fn many_threads_ask_at_once() {
    let records: String = (0..100).map(|host| format!("h{host}.example. 60 A 192.0.2.{host}\n")).collect();
    let Some(zone) = Zone::start(&records) else { return };
    let resolver = asking(&zone);
    thread::scope(|scope| {
        for thread in 0..8 {
            let resolver = &resolver;
            scope.spawn(move || {
                for host in (0..100).map(|host| (host + 13 * thread) % 100) {
                    let found = resolver.addresses(&domain(&format!("h{host}.example")));
                    assert_eq!(found, Ok(addresses(&[&format!("192.0.2.{host}")])));
                }
            });
        }
    });
}
