//! DNS answers: nothing but a packet for this very query tells anything; what is kept is in proportion to what came; and
//! a packet that is cut short never tells what the whole one does not.
//!
//! Input: an octet that chooses the question, then a packet, whose id is set right.

use domain::base::Name;
use domain::base::iana::Rtype;
use postrider::dns::Record;
use postrider::dns::answer::{Answer, Meaning, Query, Question, Told};
use postrider::limits;
use postrider::mail::address::Domain;

use super::is_one_line;

const ID: u16 = 0x1234;
const KINDS: [Rtype; 6] = [Rtype::MX, Rtype::A, Rtype::AAAA, Rtype::TXT, Rtype::PTR, Rtype::TLSA];

fn query(by: u8, id: u16) -> Query {
    let name: Domain = "a.example".parse().unwrap();
    let question = Question::new(&name, KINDS[usize::from(by & 7) % KINDS.len()]).unwrap();
    Query::new(&question, id, by & 8 == 0)
}

pub fn check(octets: &[u8]) {
    let Some((&by, packet)) = octets.split_first() else { return };
    let mut packet = packet.to_vec();
    if packet.len() >= 2 {
        packet[..2].copy_from_slice(&ID.to_be_bytes());
    }
    let meaning = query(by, ID).read(&packet);
    assert_eq!(query(by, ID + 1).read(&packet), Meaning::NotOurs, "another id");
    match &meaning {
        Meaning::Answer(answer) => check_answer(answer, packet.len()),
        Meaning::Fault(words) | Meaning::Unreadable(words) => assert!(is_one_line(words) && words.len() < 200),
        Meaning::NotOurs | Meaning::Truncated | Meaning::NoEdns => {}
    }
    // Behind the records an OPT may stand, whose loss changes what the code means.
    let has_additional = packet.get(10..12) != Some(&[0, 0]);
    if has_additional {
        return;
    }
    for end in (0..packet.len()).rev().take(40) {
        if let cut @ Meaning::Answer(_) = query(by, ID).read(&packet[..end]) {
            assert_eq!(cut, meaning, "cut to {end}");
        }
    }
}

fn check_answer(answer: &Answer, octets: usize) {
    assert!(answer.ttl <= limits::DNS_TTL);
    match &answer.told {
        // A record has a name of an octet at least, ten octets, and what it holds.
        Told::Records(records) => {
            assert!(records.len() <= octets / 11, "more records than there is room for");
            records.iter().for_each(|record| check_record(record, octets));
        }
        Told::Alias(name) => assert!(Name::<Vec<u8>>::vec_from_str(&name.to_string()).is_ok()),
        Told::NoSuchName | Told::NoRecords => assert!(answer.ttl <= limits::DNS_NEGATIVE_TTL),
    }
}

fn check_record(record: &Record, octets: usize) {
    let check_host = |host: &Domain| assert_eq!(host.as_str().parse().as_ref(), Ok(host));
    match record {
        Record::Mx(mx) => mx.host.iter().for_each(check_host),
        Record::Name(host) => check_host(host),
        Record::Address(address) => assert_eq!(address.to_canonical(), *address),
        Record::Text(text) => assert!(text.len() <= octets),
        Record::Tlsa(tlsa) => assert!(tlsa.association.len() <= octets),
    }
}

fn wire(name: &str) -> Vec<u8> {
    Name::<Vec<u8>>::vec_from_str(name).unwrap().into_octets()
}

fn record(owner: &[u8], kind: Rtype, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rdata.len()).unwrap().to_be_bytes();
    [owner, &kind.to_int().to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes(), &length, rdata].concat()
}

/// The answer to the question that `by` chooses: a code, and records of the answer and of the authority section.
fn packet(by: u8, code: u8, answers: &[Vec<u8>], authority: &[Vec<u8>]) -> Vec<u8> {
    let query = query(by, ID).packet();
    let end = 12 + wire("a.example").len() + 4;
    let count = |records: &[Vec<u8>]| u16::try_from(records.len()).unwrap().to_be_bytes();
    let header = [&query[..2], &[0x81, 0x80 | code], &[0, 1], &count(answers), &count(authority), &[0, 0]].concat();
    [&[by], &header[..], &query[12..end], &answers.concat(), &authority.concat()].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let here = [0xc0, 12];
    let mx = |preference: u16, host: &str| {
        record(&here, Rtype::MX, 60, &[&preference.to_be_bytes()[..], &wire(host)].concat())
    };
    let alias = |owner: &str, target: &str| record(&wire(owner), Rtype::CNAME, 60, &wire(target));
    let start = [&wire("ns.example")[..], &wire("admin.example"), &[0; 16], &300u32.to_be_bytes()].concat();
    let six = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut opt = packet(0, 0, &[mx(10, "one.example")], &[]);
    opt[12] = 1;
    opt.extend([0, 0, 41, 2, 0, 1, 0, 0, 0, 0, 0]);
    vec![
        packet(0, 0, &[mx(20, "two.example"), mx(10, "ONE.example"), mx(0, ".")], &[]),
        packet(
            1,
            0,
            &[alias("a.example", "b.example"), record(&wire("b.example"), Rtype::A, 60, &[192, 0, 2, 1])],
            &[],
        ),
        packet(1, 0, &[alias("a.example", "b.example"), alias("b.example", "a.example")], &[]),
        packet(1, 0, &[alias("a.example", "b.example")], &[]),
        packet(2, 0, &[record(&here, Rtype::AAAA, u32::MAX, &six)], &[]),
        packet(3, 0, &[record(&here, Rtype::TXT, 60, b"\x03v=x\x00\x02 y")], &[]),
        packet(4, 0, &[record(&here, Rtype::PTR, 60, &[4, b'h', b'o', b's', b't', 0xc0, 12])], &[]),
        packet(5, 0, &[record(&here, Rtype::TLSA, 60, b"\x03\x01\x01hash")], &[]),
        packet(8, 3, &[], &[record(&wire("example"), Rtype::SOA, 60, &start)]),
        packet(0, 0, &[], &[record(&wire("example"), Rtype::NS, 60, &wire("ns.example"))]),
        packet(0, 2, &[], &[]),
        packet(0, 1, &[], &[]),
        // A name that points at itself.
        packet(0, 0, &[record(&[0xc0, 29], Rtype::MX, 60, &[0, 1, 0xc0, 29])], &[]),
        opt,
    ]
}
