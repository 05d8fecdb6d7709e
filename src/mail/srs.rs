//! The Sender Rewriting Scheme: the reverse-path of a message that is sent on, made an address of this host, so that
//! SPF holds at the next hop and reports still find the first sender.
//!
//! `ann@example.org` becomes `SRS0=hash=stamp=example.org=ann@here`. What another host has rewritten already becomes
//! `SRS1=hash=host=…@here`, which leads back to that host at once, however many hosts are between; our stamp is the end of
//! that hash, which means nothing to others. The hash is
//! HMAC-SHA-256 under a secret of this host, cut to 40 bits; without it nobody makes an address that [`Srs::back`] takes,
//! so that this host sends no strangers' mail on.
//!
//! Hosts on the way may change the case of a local-part, so hash and stamp are in letters that survive it, and the hash
//! covers the lower-case form. Nothing here fails but by `None`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::address::{Address, Domain, Host, folded};
use crate::limits;

/// RFC 4648 §6: the same letters in either case.
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Octets of a hash, and the letters they make.
const HASH: usize = 5;
const HASH_LETTERS: usize = 8;
/// A stamp is the day modulo what two letters hold, as other hosts' are.
const STAMP_LETTERS: usize = 2;
const STAMPS: u64 = 1 << (5 * STAMP_LETTERS);

/// Whether some host has rewritten this address: its local-part begins with SRS0 or SRS1 and a separator.
pub fn is_srs(address: &Address) -> bool {
    tagged(address.local_part()).is_some()
}

/// Rewrites senders under one secret.
#[derive(Clone)]
pub struct Srs {
    /// With the secret taken in, and nothing else.
    mac: Hmac<Sha256>,
}

/// Where a report to a rewritten sender goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reversed {
    /// The first sender, in the case that it came back in; or the address that the first host rewrote it to.
    pub address: Address,
    /// The day it was rewritten on, modulo 1024.
    pub stamp: u64,
}

impl Reversed {
    /// Whether it was rewritten more than [`limits::SRS_DAYS`] before `today`, in days since 1970. A stamp of tomorrow is
    /// taken, because clocks are set back.
    pub fn is_expired(&self, today: u64) -> bool {
        (today % STAMPS + 1 + STAMPS - self.stamp % STAMPS) % STAMPS > limits::SRS_DAYS + 1
    }
}

impl Srs {
    /// Guards addresses with this secret.
    pub fn new(secret: &str) -> Srs {
        let mac = Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
        Srs { mac }
    }

    /// The sender as it is rewritten at `domain` on `day`, in days since 1970. What is ours already stays as it is.
    /// `None` if it would be longer than [`limits::LOCAL_PART`], or `sender` is at an address literal.
    pub fn forward(&self, sender: &Address, domain: &Domain, day: u64) -> Option<Address> {
        let host = sender.domain()?;
        if host == domain && self.back(sender).is_some() {
            return Some(sender.clone());
        }
        let stamp = stamp(day);
        let guarded = match tagged(sender.local_part()) {
            None => {
                let guarded = format!("{stamp}={host}={}", sender.local_part());
                let hash = letters(self.mac_of("SRS0", &guarded));
                return Address::new(&format!("SRS0={hash}={guarded}"), domain.clone()).ok();
            }
            Some((Tag::Srs0, opaque)) => format!("{host}={opaque}"),
            Some((Tag::Srs1, rest)) => {
                // The hash of the host before means nothing here, and neither does that host.
                let (_, guarded) = rest[1..].split_once('=')?;
                split_srs1(guarded)?;
                guarded.to_owned()
            }
        };
        let hash = letters(self.mac_of("SRS1", &format!("{stamp}={guarded}")));
        Address::new(&format!("SRS1={hash}{stamp}={guarded}"), domain.clone()).ok()
    }

    /// Where a report to `address` goes, if this host made it. Whether it is too old is for the caller to ask, and
    /// whether its domain is one of ours.
    pub fn back(&self, address: &Address) -> Option<Reversed> {
        let (tag, rest) = tagged(address.local_part())?;
        let (hash, guarded) = rest[1..].split_once('=')?;
        if tag == Tag::Srs1 {
            let (hash, stamp) = hash.split_at_checked(HASH_LETTERS)?;
            self.verify("SRS1", &format!("{stamp}={guarded}"), hash)?;
            let (host, opaque) = split_srs1(guarded)?;
            let address = Address::new(&format!("SRS0{opaque}"), host).ok()?;
            return Some(Reversed { address, stamp: number(stamp, STAMP_LETTERS)? });
        }
        self.verify("SRS0", guarded, hash)?;
        let (stamp, rest) = guarded.split_once('=')?;
        let (host, local_part) = rest.split_once('=')?;
        let address = Address::new(local_part, host.parse::<Domain>().ok()?).ok()?;
        Some(Reversed { address, stamp: number(stamp, STAMP_LETTERS)? })
    }

    /// In constant time.
    fn verify(&self, tag: &str, guarded: &str, hash: &str) -> Option<()> {
        self.authenticator(tag, guarded).verify_truncated_left(&octets(hash)?).ok()
    }

    fn authenticator(&self, tag: &str, guarded: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(tag.as_bytes());
        mac.update(folded(guarded).as_bytes());
        mac
    }

    fn mac_of(&self, tag: &str, guarded: &str) -> [u8; HASH] {
        let whole = self.authenticator(tag, guarded).finalize().into_bytes();
        std::array::from_fn(|at| whole[at])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Srs0,
    Srs1,
}

/// The tag in front, and what follows it, from the separator on.
fn tagged(local_part: &str) -> Option<(Tag, &str)> {
    let (tag, rest) = local_part.split_at_checked(4)?;
    let tag = match () {
        () if tag.eq_ignore_ascii_case("SRS0") => Tag::Srs0,
        () if tag.eq_ignore_ascii_case("SRS1") => Tag::Srs1,
        () => return None,
    };
    rest.starts_with(['=', '+', '-']).then_some((tag, rest))
}

/// The first host, and the local-part that it made, without the tag.
fn split_srs1(guarded: &str) -> Option<(Host, &str)> {
    let (host, opaque) = guarded.split_once('=')?;
    let host: Domain = host.parse().ok()?;
    opaque.starts_with(['=', '+', '-']).then_some((host.into(), opaque))
}

fn stamp(day: u64) -> String {
    let letter = |value: u64| char::from(LETTERS[(value & 31) as usize]);
    [letter(day >> 5), letter(day)].iter().collect()
}

fn letters(hash: [u8; HASH]) -> String {
    let value = hash.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
    (0..HASH_LETTERS).rev().map(|place| char::from(LETTERS[(value >> (5 * place) & 31) as usize])).collect()
}

fn octets(letters: &str) -> Option<[u8; HASH]> {
    let value = number(letters, HASH_LETTERS)?.to_be_bytes();
    value.last_chunk().copied()
}

/// The number that exactly `count` letters write, in either case.
fn number(text: &str, count: usize) -> Option<u64> {
    let digit = |octet: u8| LETTERS.iter().position(|letter| letter.eq_ignore_ascii_case(&octet));
    let value = text.bytes().take(count).try_fold(0, |value, octet| Some(value << 5 | digit(octet)? as u64));
    value.filter(|_| text.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 20_780;

    fn srs() -> Srs {
        Srs::new("secret")
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn forward(sender: &str, domain: &str) -> Option<String> {
        Some(srs().forward(&address(sender), &domain.parse().unwrap(), DAY)?.to_string())
    }

    fn back(text: &str) -> Option<String> {
        Some(srs().back(&address(text))?.address.to_string())
    }

    #[test]
    fn the_form_is_the_one_that_others_read() {
        let sent = forward("Ann+x=y@example.org", "here.example").unwrap();
        assert_eq!(sent, "SRS0=2FAIAAZ7=JM=example.org=Ann+x=y@here.example");
        assert_eq!(back(&sent).as_deref(), Some("Ann+x=y@example.org"));
        assert_eq!(back(&sent.to_lowercase()).as_deref(), Some("ann+x=y@example.org"));
        assert_eq!(back(&sent.to_uppercase()).as_deref(), Some("ANN+X=Y@example.org"));
    }

    #[test]
    fn what_was_rewritten_before_leads_back_to_the_first_host() {
        for first in ["SRS0=HHHH=TT=example.org=ann@one.example", "srs0+HHHH=TT=example.org=ann@one.example"] {
            let second = forward(first, "two.example").unwrap();
            let opaque = &first[4..first.find('@').unwrap()];
            assert!(second.starts_with("SRS1=") && second.ends_with(&format!("=one.example={opaque}@two.example")));
            let third = Srs::new("of the third").forward(&address(&second), &"three.example".parse().unwrap(), DAY);
            let third = third.unwrap();
            assert!(third.local_part().ends_with(&format!("=one.example={opaque}")), "{third}");
            assert_eq!(third.local_part().len(), second.find('@').unwrap());
            for (srs, address) in [(srs(), address(&second)), (Srs::new("of the third"), third)] {
                let found = srs.back(&address).unwrap();
                assert_eq!(found.address.to_string(), first.replace("srs0", "SRS0"));
                assert!(!found.is_expired(DAY + limits::SRS_DAYS) && found.is_expired(DAY + limits::SRS_DAYS + 1));
            }
        }
    }

    #[test]
    fn our_own_stays_and_a_forged_one_of_ours_is_wrapped() {
        let sent = forward("ann@example.org", "here.example").unwrap();
        assert_eq!(forward(&sent, "here.example").as_deref(), Some(&*sent));
        assert!(forward(&sent, "other.example").unwrap().starts_with("SRS1="));
        assert!(forward("SRS0=AAAAAAAA=JM=x.example=y@here.example", "here.example").unwrap().starts_with("SRS1="));
    }

    #[test]
    fn what_has_no_form_is_none() {
        assert_eq!(forward("ann@[192.0.2.1]", "here.example"), None);
        let length = |count: usize| forward(&format!("{}@example.org", "a".repeat(count)), "here.example");
        let fixed = "SRS0=2FAIAAZ7=JM=example.org=".len();
        assert!(length(limits::LOCAL_PART - fixed).is_some());
        assert_eq!(length(limits::LOCAL_PART - fixed + 1), None);
        for text in ["SRS1=x@a.example", "SRS1=x=y@a.example", "SRS1=x=y=z@a.example", "SRS1=x=-y==z@a.example"] {
            assert_eq!(forward(text, "here.example"), None, "{text}");
        }
        for text in ["ann@a.example", "SRS0@a.example", "SRS0=@a.example", "SRS1==@a.example", "SRS2=x=y@a.example"] {
            assert_eq!(back(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes_alone_tell_what_was_rewritten() {
        for (text, expected) in [
            ("srs0=x@a.example", true),
            ("SRS1+x@a.example", true),
            ("SRS0-@a.example", true),
            ("SRS0@a.example", false),
            ("SRS0x@a.example", false),
            ("SRß=@a.example", false),
            ("SR@a.example", false),
        ] {
            assert_eq!(is_srs(&address(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_stamp_holds_for_its_days_over_the_turn_of_the_count() {
        for day in [0, 1, 1020, 1023, DAY, 1024 * 30 - 1] {
            let sent = srs().forward(&address("ann@example.org"), &"a.example".parse().unwrap(), day).unwrap();
            let found = srs().back(&sent).unwrap();
            assert_eq!(found.stamp, day % 1024);
            for (today, expired) in [
                (day.saturating_sub(1), false),
                (day, false),
                (day + limits::SRS_DAYS, false),
                (day + limits::SRS_DAYS + 1, true),
                (day + 1000, true),
            ] {
                assert_eq!(found.is_expired(today), expired, "{day} {today}");
            }
        }
        let found = Reversed { address: address("ann@example.org"), stamp: 1023 };
        assert!(found.is_expired(1021) && !found.is_expired(u64::MAX));
    }

    proptest! {
        #[test]
        fn back_undoes_forward(local in "[ -~äßİΣſ]{0,60}", host in "([a-z0-9_]{1,5}\\.){0,3}[a-z]{2,5}", day: u64, secret in ".{0,80}") {
            let srs = Srs::new(&secret);
            let sender = Address::new(&local, host.parse::<Domain>().unwrap()).unwrap();
            prop_assume!(!is_srs(&sender));
            let Some(sent) = srs.forward(&sender, &"here.example".parse().unwrap(), day) else { return Ok(()) };
            prop_assert_eq!(srs.back(&sent), Some(Reversed { address: sender.clone(), stamp: day % 1024 }));
            prop_assert_eq!(sent.to_string().parse::<Address>(), Ok(sent.clone()));
            // What has no room to be folded stays as it is, and the longer one may have none.
            let folded = srs.back(&sent.folded()).map(|found| found.address.folded());
            prop_assert_eq!(folded, Some(sender.folded()));
            prop_assert_eq!(Srs::new("another").back(&sent), None);
            // And over two more hosts.
            let second = Srs::new("second").forward(&sent, &"second.example".parse().unwrap(), day);
            if let Some(second) = second {
                prop_assert_eq!(Srs::new("second").back(&second).map(|found| found.address), Some(sent));
            }
        }

        #[test]
        fn no_letter_can_be_changed(local in "[a-z]{1,20}", at: prop::sample::Index, letter in "[ -~]") {
            let sent = forward(&format!("{local}@example.org"), "here.example").unwrap();
            let twice = forward(&format!("SRS0=HHHH=TT=x.example={local}@example.org"), "here.example").unwrap();
            for text in [sent, twice] {
                let mut changed = text.split_once('@').unwrap().0.to_owned();
                let at = at.index(changed.len());
                prop_assume!(!changed[at..=at].eq_ignore_ascii_case(&letter));
                changed.replace_range(at..=at, &letter);
                let changed = Address::new(&changed, "here.example".parse::<Domain>().unwrap()).unwrap();
                // The first separator has three forms.
                prop_assume!(at != 4 || !is_srs(&changed));
                prop_assert_eq!(srs().back(&changed), None);
            }
        }

        #[test]
        fn no_input_panics(local in "(SRS[01])?[=+-]?\\PC{0,30}|(srs[01][=+-][A-Za-z2-7]{8})?[=a-z.]{0,30}", day: u64) {
            let address = Address::new(&local, "a.example".parse::<Domain>().unwrap()).unwrap();
            prop_assert!(srs().back(&address).is_none());
            let sent = srs().forward(&address, &"b.example".parse().unwrap(), day);
            let came_back = sent.as_ref().and_then(|sent| srs().back(sent)).map(|found| found.address.folded());
            prop_assert!(sent.is_none() || came_back.is_some());
        }
    }
}
