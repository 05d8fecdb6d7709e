//! The few fields of a certificate that TLS libraries keep to themselves (RFC 5280 §4.1).
//!
//! Pure: octets in, fields out, and nothing is verified. Any version is read, for old hosts still show certificates of the
//! first one. What is cut off or no DER is `None`; depth and work are fixed, whatever the octets say.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// Fields of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// 1 to 3; without extensions, so without names, before 3.
    pub version: u8,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// The SubjectPublicKeyInfo with its tag, which pins are made of (RFC 7469 §2.4).
    pub public_key: &'a [u8],
    /// The object identifier of the algorithm that it is signed with, as DER has it.
    signed_with: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// 1.2.840.113549.1.1, the algorithms of RSA.
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01";
/// 1.2.840.10045.4, the signatures of ECDSA.
const ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04";

impl<'a> Fields<'a> {
    /// Reads a certificate in DER.
    pub fn read(der: &'a [u8]) -> Option<Fields<'a>> {
        let mut certificate = Der(Der(der).next(SEQUENCE)?.content);
        let mut signed = Der(certificate.next(SEQUENCE)?.content);
        let version = match signed.0.first() {
            Some(&VERSION) => *Der(signed.next(VERSION)?.content).next(INTEGER)?.content.last()?,
            _ => 0,
        };
        signed.next(INTEGER)?;
        signed.next(SEQUENCE)?;
        let _issuer = signed.next(SEQUENCE)?;
        let mut validity = Der(signed.next(SEQUENCE)?.content);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let _subject = signed.next(SEQUENCE)?;
        let public_key = signed.next(SEQUENCE)?.whole;
        let signed_with = Der(certificate.next(SEQUENCE)?.content).next(OBJECT_IDENTIFIER)?.content;
        Some(Fields { version: version.saturating_add(1), not_before, not_after, public_key, signed_with })
    }

    /// The SHA-256 of the public key: its pin (RFC 7469 §2.4).
    pub fn pin(&self) -> [u8; 32] {
        Sha256::digest(self.public_key).into()
    }
}

/// The channel binding `tls-server-end-point` of a certificate: its hash, by the hash function of its own signature, and
/// by SHA-256 in place of MD5 and SHA-1 (RFC 5929 §4.1). None where that signature has no such function.
pub fn server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    let signed_with = Fields::read(der)?.signed_with;
    let of_rsa = signed_with.strip_prefix(RSA);
    let of_ecdsa = signed_with.strip_prefix(ECDSA);
    Some(match (of_rsa, of_ecdsa) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Sha256::digest(der).to_vec(),
        (Some([12]), _) | (_, Some([3, 3])) => Sha384::digest(der).to_vec(),
        (Some([13]), _) | (_, Some([3, 4])) => Sha512::digest(der).to_vec(),
        (Some([14]), _) | (_, Some([3, 1])) => Sha224::digest(der).to_vec(),
        _ => return None,
    })
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Der<'a> {
    /// The next element, which must have this tag.
    fn next(&mut self, tag: u8) -> Option<Element<'a>> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, element)| element)
    }

    fn any(&mut self) -> Option<(u8, Element<'a>)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            ..=0x7f => (usize::from(first), rest),
            // No certificate has 16 MiB.
            0x81..=0x83 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some((tag, Element { whole, content }))
    }

    /// A time (RFC 5280 §4.1.2.5): years of two digits are from 1950 to 2049.
    fn time(&mut self) -> Option<i64> {
        let (tag, element) = self.any()?;
        let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|octet| octet.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match tag {
            UTC_TIME => {
                let year: i16 = text.get(..2)?.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
            _ => return None,
        };
        let part = |at: usize| rest.get(2 * at..2 * at + 2)?.parse::<i8>().ok();
        // Seconds were left out long ago.
        let second = part(4).unwrap_or(0);
        let time = jiff::civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, second, 0).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["mail.example.org".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 2);
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_fields_are_those_that_were_put_in() {
        let der = certificate();
        let fields = Fields::read(&der).unwrap();
        assert_eq!((fields.version, fields.not_before, fields.not_after), (3, 86_400, 2_524_608_000));
        let parsed = webpki::EndEntityCert::try_from(&der.as_slice().into()).map(|cert| cert.subject_public_key_info());
        assert_eq!(fields.public_key, parsed.unwrap().as_ref());
        assert_eq!(server_end_point(&der).unwrap(), Sha256::digest(&der).to_vec());
    }

    #[test]
    fn the_binding_follows_the_signature() {
        let der = certificate();
        let at = der.windows(8).rposition(|part| part == b"\x2a\x86\x48\xce\x3d\x04\x03\x02").unwrap();
        for (last, length) in [(1, Some(28)), (2, Some(32)), (3, Some(48)), (4, Some(64)), (9, None)] {
            let mut changed = der.clone();
            changed[at + 7] = last;
            assert_eq!(server_end_point(&changed).map(|hash| hash.len()), length, "{last}");
        }
    }

    #[test]
    fn times_of_both_forms_are_read() {
        let time = |tag: u8, text: &str| {
            let octets = [&[tag, text.len() as u8], text.as_bytes()].concat();
            Der(&octets).time()
        };
        assert_eq!(time(UTC_TIME, "700102000000Z"), Some(86_400));
        assert_eq!(time(UTC_TIME, "7001020000Z"), Some(86_400));
        assert_eq!(time(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        assert_eq!(time(GENERALIZED_TIME, "19700102000000Z"), Some(86_400));
        for wrong in ["", "Z", "70Z", "+70102000000Z", "701302000000Z", "700102000000"] {
            assert_eq!(time(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(at in 0..600usize, octet: u8, cut in 0..600usize) {
            let mut der = certificate();
            let length = der.len();
            der[at % length] = octet;
            let _ = server_end_point(&der);
            let _ = Fields::read(&der[..cut.min(length)]);
        }
    }
}
