//! Records: what they hold that mail asks for, and how their octets are read. Pure.
//!
//! A name that is no [`Domain`], or octets that are not of the record's type, never get past this file.

use std::net::IpAddr;

use domain::base::ParsedRecord;
use domain::base::name::ToName;
use domain::base::wire::ParseError;
use domain::rdata::ZoneRecordData;

use crate::mail::address::Domain;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// MX
    Mx(Mx),
    /// A, or AAAA.
    Address(IpAddr),
    /// PTR
    Name(Domain),
    /// TXT, its strings put together.
    Text(Vec<u8>),
    /// TLSA
    Tlsa(Tlsa),
}

/// A host that takes a domain's mail (RFC 5321 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// The lowest is tried first.
    pub preference: u16,
    /// The host; `None` is the root, which says that the domain takes no mail (RFC 7505).
    pub host: Option<Domain>,
}

/// What a server's certificate must match (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// 2 is a trust anchor, 3 the server's own; 0 and 1 mean nothing for SMTP (RFC 7672 §3.1.3).
    pub usage: u8,
    /// 0 is the whole certificate, 1 its public key.
    pub selector: u8,
    /// 0 is the octets themselves, 1 their SHA-256, 2 their SHA-512.
    pub matching: u8,
    /// What must be found.
    pub association: Vec<u8>,
}

/// `None` for a record that names a host no [`Domain`] can be.
pub(super) fn read(record: &ParsedRecord<'_, [u8]>) -> Result<Option<Record>, ParseError> {
    let record = record.to_record::<ZoneRecordData<_, _>>()?.ok_or_else(not_of_its_type)?;
    Ok(match record.data() {
        ZoneRecordData::Mx(mx) if mx.exchange().is_root() => {
            Some(Record::Mx(Mx { preference: mx.preference(), host: None }))
        }
        ZoneRecordData::Mx(mx) => {
            host(mx.exchange()).map(|host| Record::Mx(Mx { preference: mx.preference(), host: Some(host) }))
        }
        ZoneRecordData::A(a) => Some(Record::Address(IpAddr::V4(a.addr()))),
        ZoneRecordData::Aaaa(aaaa) => Some(Record::Address(IpAddr::V6(aaaa.addr()).to_canonical())),
        ZoneRecordData::Ptr(ptr) => host(ptr.ptrdname()).map(Record::Name),
        ZoneRecordData::Txt(txt) => Some(Record::Text(txt.text())),
        ZoneRecordData::Tlsa(tlsa) => Some(Record::Tlsa(Tlsa {
            usage: tlsa.usage().to_int(),
            selector: tlsa.selector().to_int(),
            matching: tlsa.matching_type().to_int(),
            association: tlsa.data().to_vec(),
        })),
        _ => None,
    })
}

pub(super) fn not_of_its_type() -> ParseError {
    ParseError::form_error("a record is not of its type")
}

/// Odd octets are escaped by a backslash, which no [`Domain`] has.
fn host(name: &impl ToName) -> Option<Domain> {
    name.to_vec().to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use domain::base::iana::Rtype;

    use super::*;
    use crate::dns::answer::{Answer, Meaning, Query, Question, Told};
    use crate::dns::fake::{address, record, reply, wire};

    fn records(kind: Rtype, answers: &[Vec<u8>]) -> Vec<Record> {
        let query = Query::new(&Question::new(&"a.example".parse().unwrap(), kind).unwrap(), 0x1234, true);
        match query.read(&reply(&query.packet(), answers)) {
            Meaning::Answer(Answer { told: Told::Records(records), .. }) => records,
            other => panic!("{other:?}"),
        }
    }

    fn ip(text: &str) -> Record {
        Record::Address(text.parse().unwrap())
    }

    fn mx(preference: u16, host: &[u8]) -> Vec<u8> {
        record("a.example", Rtype::MX, 60, &[&preference.to_be_bytes(), host].concat())
    }

    #[test]
    fn records_of_every_type_are_read() {
        let six = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(records(Rtype::A, &[address("A.Example", 60, [192, 0, 2, 1])]), [ip("192.0.2.1")]);
        assert_eq!(records(Rtype::AAAA, &[record("a.example", Rtype::AAAA, 60, &six)]), [ip("2001:db8::1")]);
        let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 1]].concat();
        assert_eq!(records(Rtype::AAAA, &[record("a.example", Rtype::AAAA, 60, &mapped)]), [ip("192.0.2.1")]);
        let text =
            [record("a.example", Rtype::TXT, 60, b"\x03v=x\x00\x02 y"), record("a.example", Rtype::TXT, 60, b"\x01z")];
        assert_eq!(records(Rtype::TXT, &text), [Record::Text(b"v=x y".to_vec()), Record::Text(b"z".to_vec())]);
        let name = Record::Name("b.example".parse().unwrap());
        assert_eq!(records(Rtype::PTR, &[record("a.example", Rtype::PTR, 60, &wire("B.example"))]), [name]);
        let tlsa = Tlsa { usage: 3, selector: 1, matching: 1, association: b"hash".to_vec() };
        let found = records(Rtype::TLSA, &[record("a.example", Rtype::TLSA, 60, b"\x03\x01\x01hash")]);
        assert_eq!(found, [Record::Tlsa(tlsa)]);
    }

    #[test]
    fn mail_exchangers_are_read_as_they_came_and_odd_names_left_out() {
        let answers = [
            mx(20, &wire("two.example")),
            mx(5, b"\x03b\x00d\x07example\x00"),
            mx(5, b"\x0aa.example\r\x00"),
            mx(5, b"\x03192\x010\x012\x011\x00"),
            mx(10, &wire("ONE.example")),
            mx(0, b"\x00"),
        ];
        let host = |preference, host: &str| Record::Mx(Mx { preference, host: host.parse().ok() });
        let expected = [host(20, "two.example"), host(10, "one.example"), host(0, "")];
        assert_eq!(records(Rtype::MX, &answers), expected);
        assert_eq!(records(Rtype::MX, &answers[1..2]), [], "records there are, if of no use");
    }
}
