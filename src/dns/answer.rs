//! What the octets of an answer mean to the question that was asked (RFC 1035 §4, RFC 2308, RFC 6891). Pure.
//!
//! A packet is another's octets: forged, cut, or made to be expensive. One that does not repeat the id and the question
//! tells nothing, nor does one whose records can't be read to the end. Nothing here panics, and what is kept is in
//! proportion to what came.

use std::time::Duration;

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message::RecordSection;
use domain::base::message_builder::OptBuilder;
use domain::base::name::ToName;
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Name, ParsedRecord, Ttl};
use domain::rdata::{Cname, Soa};

use super::record::{self, Record};
use crate::limits;
use crate::mail::address::Domain;

/// A name and a type of record. Names differ in case alone are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Whose records.
    pub name: Name<Vec<u8>>,
    /// Of which type.
    pub kind: Rtype,
}

/// A question as it is sent once.
#[derive(Clone, Debug)]
pub struct Query {
    question: Question,
    id: u16,
    edns: bool,
}

/// What a packet tells whoever sent a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It does not answer this query: forged, late, or cut short.
    NotOurs,
    /// It answers this query, and its records can't be read: why.
    Unreadable(String),
    /// The answer is too large for a datagram.
    Truncated,
    /// The server knows no EDNS (RFC 6891 §7).
    NoEdns,
    /// The server has no answer, in words.
    Fault(String),
    /// An answer.
    Answer(Answer),
}

/// An answer of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub told: Told,
    /// How long it holds; zero is for this once.
    pub ttl: Duration,
    /// Whether the server says that it checked the signatures (RFC 4035 §3.2.3).
    pub authenticated: bool,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The records of the type that was asked for. Those that name a host no [`Domain`] can be are left out.
    Records(Vec<Record>),
    /// They are under another name, which is still to be asked for.
    Alias(Name<Vec<u8>>),
    /// There is no such name (RFC 2308 §2.1).
    NoSuchName,
    /// The name has no records of this type (RFC 2308 §2.2).
    NoRecords,
}

type Records<'a> = Vec<ParsedRecord<'a, [u8]>>;

impl Question {
    /// Asks for the records of this type; `None` where the name is longer than any in the DNS (RFC 1035 §2.3.4).
    pub fn new(name: &Domain, kind: Rtype) -> Option<Question> {
        let name = Name::vec_from_str(name.as_str()).ok()?;
        Some(Question { name, kind })
    }
}

impl Query {
    /// The question under this id, which must be one that nobody can guess.
    pub fn new(question: &Question, id: u16, edns: bool) -> Query {
        Query { question: question.clone(), id, edns }
    }

    /// As octets, without the length that stands before them in TCP.
    pub fn packet(&self) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec().question();
        let header = message.header_mut();
        header.set_id(self.id);
        header.set_rd(true);
        // We understand the bit in answers (RFC 6840 §5.7).
        header.set_ad(true);
        let fits = "a vector takes a question";
        message.push((&self.question.name, self.question.kind)).expect(fits);
        let mut message = message.additional();
        if self.edns {
            let ask = |opt: &mut OptBuilder<'_, _>| {
                opt.set_udp_payload_size(limits::DNS_DATAGRAM);
                Ok(())
            };
            message.opt(ask).expect(fits);
        }
        message.finish()
    }

    /// Reads a packet that came from the server.
    pub fn read(&self, octets: &[u8]) -> Meaning {
        let Ok(message) = Message::from_slice(octets) else { return Meaning::NotOurs };
        if !self.is_answered_by(message) {
            return Meaning::NotOurs;
        }
        match message.opt_rcode() {
            OptRcode::FORMERR | OptRcode::NOTIMP | OptRcode::BADVERS if self.edns => Meaning::NoEdns,
            OptRcode::NOERROR | OptRcode::NXDOMAIN if message.header().tc() => Meaning::Truncated,
            OptRcode::NOERROR | OptRcode::NXDOMAIN => self
                .answer(message)
                .unwrap_or_else(|error| Meaning::Unreadable(format!("its answer is cut or wrong: {error}"))),
            code => Meaning::Fault(format!("it says {code}")),
        }
    }

    fn is_answered_by(&self, message: &Message<[u8]>) -> bool {
        let header = message.header();
        if header.id() != self.id || !header.qr() || header.opcode() != Opcode::QUERY {
            return false;
        }
        match message.sole_question() {
            Ok(asked) => {
                let Question { name, kind } = &self.question;
                asked.qname().name_eq(name) && asked.qtype() == *kind && asked.qclass() == Class::IN
            }
            // Who could not read a question need not repeat it (RFC 1035 §4.1.1).
            Err(_) => {
                message.header_counts().qdcount() == 0 && matches!(header.rcode(), Rcode::FORMERR | Rcode::NOTIMP)
            }
        }
    }

    /// Follows the aliases inside the answer to the records (RFC 1034 §4.3.2), or as far as they go.
    fn answer(&self, message: &Message<[u8]>) -> Result<Meaning, ParseError> {
        let kind = self.question.kind;
        let records = of_interest(message.answer()?, &[kind, Rtype::CNAME])?;
        let authenticated = message.header().ad();
        let mut name = self.question.name.clone();
        let mut ttl = limits::DNS_TTL;
        for _ in 0..=limits::DNS_ALIASES {
            let here = |record: &&ParsedRecord<'_, [u8]>| record.owner().name_eq(&name);
            let found: Vec<_> = records.iter().filter(here).filter(|it| it.rtype() == kind).collect();
            if !found.is_empty() {
                ttl = found.iter().map(|record| seconds(record.ttl())).fold(ttl, Duration::min);
                let read = found.iter().filter_map(|record| record::read(record).transpose());
                let told = Told::Records(read.collect::<Result<_, _>>()?);
                return Ok(Meaning::Answer(Answer { told, ttl, authenticated }));
            }
            let Some(alias) = records.iter().filter(here).find(|it| it.rtype() == Rtype::CNAME) else {
                if name != self.question.name && message.header().rcode() == Rcode::NOERROR {
                    return Ok(Meaning::Answer(Answer { told: Told::Alias(name), ttl, authenticated }));
                }
                return nothing_there(message, ttl);
            };
            ttl = ttl.min(seconds(alias.ttl()));
            let target = alias.to_record::<Cname<_>>()?.ok_or_else(record::not_of_its_type)?;
            name = target.data().cname().to_vec();
        }
        Ok(Meaning::Fault("its aliases lead to one another".to_owned()))
    }
}

/// What it means that there are no records, and how long it holds: as the zone's start says, `ttl` at most. An NXDOMAIN is
/// about the last name of a chain of aliases (RFC 6604 §3).
fn nothing_there(message: &Message<[u8]>, ttl: Duration) -> Result<Meaning, ParseError> {
    let header = message.header();
    let told = if header.rcode() == Rcode::NXDOMAIN { Told::NoSuchName } else { Told::NoRecords };
    let authority = of_interest(message.authority()?, &[Rtype::SOA, Rtype::NS])?;
    let holds = match authority.iter().find(|record| record.rtype() == Rtype::SOA) {
        Some(start) => {
            let soa = start.to_record::<Soa<_>>()?.ok_or_else(record::not_of_its_type)?;
            seconds(soa.ttl()).min(seconds(soa.data().minimum())).min(limits::DNS_NEGATIVE_TTL)
        }
        // Name servers without the start of a zone are a referral (RFC 2308 §2.2): it says nothing about the name.
        None if told == Told::NoRecords && !authority.is_empty() && !header.aa() => {
            return Ok(Meaning::Fault("it only names other servers".to_owned()));
        }
        None => Duration::ZERO,
    };
    Ok(Meaning::Answer(Answer { told, ttl: ttl.min(holds), authenticated: header.ad() }))
}

fn of_interest<'a>(section: RecordSection<'a, [u8]>, kinds: &[Rtype]) -> Result<Records<'a>, ParseError> {
    let mut records = Vec::new();
    for record in section {
        let record = record?;
        if record.class() == Class::IN && kinds.contains(&record.rtype()) {
            records.push(record);
        }
    }
    Ok(records)
}

/// A TTL with its highest bit set is none (RFC 2181 §8).
fn seconds(ttl: Ttl) -> Duration {
    i32::try_from(ttl.as_secs()).map_or(Duration::ZERO, |_| ttl.into_duration())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::fake::{address, alias, answer, asked, record, refused, reply, start_of_authority, wire};

    const MINUTE: Duration = Duration::from_secs(60);

    fn query(name: &str, kind: Rtype) -> Query {
        Query::new(&Question::new(&name.parse().unwrap(), kind).unwrap(), 0x1234, true)
    }

    /// What the answer section comes to for a question about `a.example`.
    fn meaning(kind: Rtype, answers: &[Vec<u8>]) -> Meaning {
        let query = query("a.example", kind);
        query.read(&reply(&query.packet(), answers))
    }

    fn records(kind: Rtype, answers: &[Vec<u8>]) -> Vec<Record> {
        match meaning(kind, answers) {
            Meaning::Answer(Answer { told: Told::Records(records), .. }) => records,
            other => panic!("{other:?}"),
        }
    }

    fn answered(told: Told, ttl: Duration) -> Meaning {
        Meaning::Answer(Answer { told, ttl, authenticated: false })
    }

    fn unreadable(meaning: &Meaning) -> bool {
        matches!(meaning, Meaning::Unreadable(_))
    }

    fn ip(text: &str) -> Record {
        Record::Address(text.parse().unwrap())
    }

    fn mx(preference: u16, host: &[u8]) -> Vec<u8> {
        record("a.example", Rtype::MX, 60, &[&preference.to_be_bytes(), host].concat())
    }

    #[test]
    fn a_query_is_what_the_rfcs_say() {
        let question = [&wire("a.example")[..], &[0, 15, 0, 1]].concat();
        let header = |additional| [0x12, 0x34, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, additional];
        let opt = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
        let mut query = query("a.example", Rtype::MX);
        assert_eq!(query.packet(), [&header(1)[..], &question, &opt].concat());
        query.edns = false;
        assert_eq!(query.packet(), [&header(0)[..], &question].concat());
    }

    #[test]
    fn a_hundred_records_are_a_hundred() {
        let answers: Vec<_> = (0..100).map(|last| address("a.example", 60, [192, 0, 2, last])).collect();
        assert_eq!(records(Rtype::A, &answers).len(), 100);
    }

    #[test]
    fn what_is_not_about_the_name_is_no_answer() {
        let answers = [
            address("b.example", 60, [6, 6, 6, 6]),
            record("a.example", Rtype::TXT, 60, b"\x01x"),
            [&wire("a.example")[..], &[0, 1, 0, 3, 0, 0, 0, 60, 0, 4, 6, 6, 6, 6]].concat(),
        ];
        assert_eq!(meaning(Rtype::A, &answers), answered(Told::NoRecords, Duration::ZERO));
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_the_shortest_time_holds() {
        let answers = [
            address("c.example", 300, [192, 0, 2, 1]),
            alias("b.example", 60, "C.example"),
            alias("a.example", 600, "b.example"),
        ];
        assert_eq!(meaning(Rtype::A, &answers), answered(Told::Records(vec![ip("192.0.2.1")]), MINUTE));
        let told = Told::Alias(Name::vec_from_str("c.example").unwrap());
        assert_eq!(meaning(Rtype::A, &answers[1..]), answered(told, MINUTE));
    }

    #[test]
    fn aliases_in_a_circle_or_without_end_are_a_fault() {
        let circle = Meaning::Fault("its aliases lead to one another".to_owned());
        assert_eq!(meaning(Rtype::A, &[alias("a.example", 60, "a.example")]), circle);
        let two = [alias("a.example", 60, "b.example"), alias("b.example", 60, "a.example")];
        assert_eq!(meaning(Rtype::A, &two), circle);
        let name = |number| if number == 0 { "a.example".to_owned() } else { format!("a{number}.example") };
        let chain: Vec<_> = (0..100).map(|number| alias(&name(number), 60, &name(number + 1))).collect();
        assert_eq!(meaning(Rtype::A, &chain), circle);
        assert!(matches!(meaning(Rtype::A, &chain[..limits::DNS_ALIASES]), Meaning::Answer(_)));
    }

    #[test]
    fn nothing_there_holds_as_the_start_of_the_zone_says() {
        let query = query("a.example", Rtype::MX);
        let read = |code, answers: &[Vec<u8>], authority: &[Vec<u8>]| {
            query.read(&answer(&query.packet(), code, answers, authority))
        };
        let start = |ttl, minimum| [start_of_authority("example", ttl, minimum)];
        assert_eq!(read(Rcode::NXDOMAIN, &[], &start(60, 300)), answered(Told::NoSuchName, MINUTE));
        assert_eq!(read(Rcode::NOERROR, &[], &start(300, 60)), answered(Told::NoRecords, MINUTE));
        assert_eq!(read(Rcode::NOERROR, &[], &start(9999, 9999)), answered(Told::NoRecords, limits::DNS_NEGATIVE_TTL));
        assert_eq!(read(Rcode::NXDOMAIN, &[], &[]), answered(Told::NoSuchName, Duration::ZERO));
        let through = [alias("a.example", 1, "gone.example")];
        assert_eq!(read(Rcode::NXDOMAIN, &through, &start(60, 60)), answered(Told::NoSuchName, MINUTE / 60));
        let servers = [record("example", Rtype::NS, 60, &wire("ns.example"))];
        assert_eq!(read(Rcode::NOERROR, &[], &servers), Meaning::Fault("it only names other servers".to_owned()));
    }

    #[test]
    fn codes_that_say_nothing_about_the_name_are_faults() {
        let query = query("a.example", Rtype::MX);
        let read = |code| query.read(&refused(&query.packet(), code));
        assert_eq!(read(Rcode::SERVFAIL), Meaning::Fault("it says SERVFAIL".to_owned()));
        assert_eq!(read(Rcode::REFUSED), Meaning::Fault("it says REFUSED".to_owned()));
        assert_eq!(read(Rcode::FORMERR), Meaning::NoEdns);
        let header_alone = [0x12, 0x34, 0x80, 4, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(query.read(&header_alone), Meaning::NoEdns);
        assert_eq!(query.read(&[0x12, 0x34, 0x80, 3, 0, 0, 0, 0, 0, 0, 0, 0]), Meaning::NotOurs);
        assert_eq!(query.read(&[0x12, 0x34, 0x80, 1, 0, 1, 0, 0, 0, 0, 0, 0]), Meaning::NotOurs);
        // BADVERS has its higher bits in the OPT record, and would be NOERROR without them (RFC 6891 §6.1.3).
        let mut badvers = refused(&query.packet(), Rcode::NOERROR);
        badvers[11] = 1;
        badvers.extend([0, 0, 41, 2, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(query.read(&badvers), Meaning::NoEdns);
    }

    #[test]
    fn times_are_bounded_and_none_is_none() {
        let ttl = |ttl| match meaning(Rtype::A, &[address("a.example", ttl, [192, 0, 2, 1])]) {
            Meaning::Answer(answer) => answer.ttl,
            other => panic!("{other:?}"),
        };
        assert_eq!(ttl(60), MINUTE);
        assert_eq!(ttl(0), Duration::ZERO);
        assert_eq!(ttl(0x7fff_ffff), limits::DNS_TTL);
        assert_eq!(ttl(0x8000_0000), Duration::ZERO);
    }

    #[test]
    fn what_the_server_checked_is_said() {
        let query = query("a.example", Rtype::A);
        let mut packet = reply(&query.packet(), &[address("a.example", 60, [192, 0, 2, 1])]);
        packet[3] |= 0x20;
        assert!(matches!(query.read(&packet), Meaning::Answer(Answer { authenticated: true, .. })));
    }

    #[test]
    fn records_that_are_cut_or_point_in_circles_are_unreadable() {
        let tail = |octets: &[u8]| [octets, &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat();
        let query = query("a.example", Rtype::A);
        let end = u8::try_from(reply(&query.packet(), &[]).len()).unwrap();
        for (what, owner) in
            [("itself", vec![0xc0, end]), ("ahead", vec![0xc0, end + 4]), ("a circle", vec![1, b'a', 0xc0, end])]
        {
            assert!(unreadable(&query.read(&reply(&query.packet(), &[tail(&owner)]))), "{what}");
        }
        assert!(unreadable(&meaning(Rtype::A, &[record("a.example", Rtype::A, 60, &[192, 0, 2])])));
        assert!(unreadable(&meaning(Rtype::A, &[record("a.example", Rtype::A, 60, &[192, 0, 2, 1, 1])])));
        assert!(unreadable(&meaning(Rtype::TXT, &[record("a.example", Rtype::TXT, 60, b"\x05abc")])));
        let mut short = reply(&query.packet(), &[address("a.example", 60, [192, 0, 2, 1])]);
        short[7] = 2;
        assert!(unreadable(&query.read(&short)), "two are announced and one is there");
    }

    #[test]
    fn a_name_longer_than_any_is_not_asked_for() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert!(Question::new(&longest.parse().unwrap(), Rtype::A).is_some());
        assert!(Question::new(&format!("{longest}b").parse().unwrap(), Rtype::A).is_none());
    }

    #[test]
    fn the_question_is_compared_without_regard_to_case() {
        let query = query("a.example", Rtype::A);
        let mut packet = reply(&query.packet(), &[address("a.example", 60, [192, 0, 2, 1])]);
        packet[13] = b'A';
        assert_eq!(asked(&packet), "A.example");
        assert!(matches!(query.read(&packet), Meaning::Answer(_)));
        let changes =
            [(13, 2, "name"), (24, 2, "type"), (26, 2, "class"), (2, 0x80, "query"), (2, 8, "opcode"), (0, 2, "id")];
        for (place, bits, what) in changes {
            let mut other = packet.clone();
            other[place] ^= bits;
            assert_eq!(query.read(&other), Meaning::NotOurs, "{what}");
            other[3] |= Rcode::FORMERR.to_int();
            assert_eq!(query.read(&other), Meaning::NotOurs, "{what} that was not understood");
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), counts in any::<[u8; 6]>(), kind in 0..6_usize) {
            let kind = [Rtype::A, Rtype::MX, Rtype::TXT, Rtype::PTR, Rtype::TLSA, Rtype::AAAA][kind];
            let query = query("a.example", kind);
            query.read(&tail);
            let mut packet = reply(&query.packet(), &[tail]);
            packet[6..12].copy_from_slice(&counts.map(|count| count % 4));
            query.read(&packet);
        }

        #[test]
        fn no_change_of_a_good_answer_panics(changes in proptest::collection::vec((3..200_usize, any::<u8>()), 1..6), length in 12..300_usize) {
            let query = query("a.example", Rtype::MX);
            let authority = [start_of_authority("example", 60, 60)];
            let answers = [alias("a.example", 60, "b.example"), mx(10, &wire("mx.example")), mx(20, b"\xc0\x0c")];
            let mut packet = answer(&query.packet(), Rcode::NOERROR, &answers, &authority);
            for (place, octet) in changes {
                let place = place % packet.len();
                packet[place] = octet;
            }
            packet.truncate(length);
            query.read(&packet);
        }
    }
}
