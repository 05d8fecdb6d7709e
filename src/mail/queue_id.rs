//! Queue ids: the name of a message on this host, in its files, its Received field and its log lines.
//!
//! Thirteen capital letters and digits (Crockford's base 32: no I, L, O or U), which sort as they were given out: 35 bits
//! of seconds since 1970, 14 of a counter, 15 of chance. Each id is later than the one before and, at start, than every
//! id in the spool, wherever the clock stands.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 13;
const CHANCE_BITS: u32 = 15;
const COUNTER_BITS: u32 = 14;
/// In the year 2514: ids of this second and later ones were not made by a clock.
const CLOCK_END: u64 = 1 << 34;

/// The name of one message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(u64);

impl QueueId {
    /// An id for a message that came at `wall`, later than `last` in any case, unless that was not made by a clock. `chance`
    /// keeps two hosts' ids apart.
    pub fn after(last: Option<QueueId>, wall: Duration, chance: u16) -> QueueId {
        let by_clock = wall.as_secs().min(CLOCK_END - 1) << COUNTER_BITS;
        let earliest = last.filter(|last| last.is_by_a_clock()).map_or(0, |last| (last.0 >> CHANCE_BITS) + 1);
        let chance = u64::from(chance) & ((1 << CHANCE_BITS) - 1);
        QueueId(by_clock.max(earliest) << CHANCE_BITS | chance)
    }

    /// When the message came, by the wall clock of then, in seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 >> (COUNTER_BITS + CHANCE_BITS)
    }

    /// Whether it is from before the year 2514. What is later was made up by someone.
    pub fn is_by_a_clock(self) -> bool {
        self.seconds() < CLOCK_END
    }

    /// Reads an id at the start of a file name such as `0M5Q2K7XR4B12.eml`, and returns the ending.
    pub fn of_file_name(name: &str) -> Option<(QueueId, &str)> {
        let (id, ending) = name.split_once('.')?;
        Some((id.parse().ok()?, ending))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * place) & 31) as usize];
        }
        out.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Not the text of a queue id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoQueueId;

impl FromStr for QueueId {
    type Err = NoQueueId;

    fn from_str(text: &str) -> Result<QueueId, NoQueueId> {
        let digit = |octet: u8| DIGITS.iter().position(|&digit| digit == octet).map(|at| at as u64);
        let value = text.bytes().try_fold(0u64, |value, octet| Some(value.checked_mul(32)? | digit(octet)?));
        value.filter(|_| text.len() == LENGTH).map(QueueId).ok_or(NoQueueId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_only_grow_even_when_the_clock_goes_back() {
        let first = QueueId::after(None, Duration::from_secs(1_795_000_000), 7);
        let second = QueueId::after(Some(first), Duration::ZERO, 0);
        assert!(first < second && first.to_string() < second.to_string());
        assert_eq!(second.seconds(), 1_795_000_000);
    }

    #[test]
    fn a_made_up_id_and_a_clock_gone_mad_leave_room_for_others() {
        let now = Duration::from_secs(1_795_000_000);
        for text in ["8000000000000", "FZZZZZZZZZZZZ", "FZZZZZZZZ0000"] {
            let forged: QueueId = text.parse().unwrap();
            let next = QueueId::after(Some(forged), now, 7);
            assert_eq!(next.seconds(), now.as_secs(), "{text}");
            assert!(!forged.is_by_a_clock() && next.is_by_a_clock());
        }
        let mut last = QueueId::after(None, Duration::MAX, 7);
        for _ in 0..100 {
            let next = QueueId::after(Some(last), Duration::MAX, 7);
            assert!(next > last && next.to_string().parse() == Ok(next));
            last = next;
        }
    }

    #[test]
    fn names_that_are_no_ids_are_refused() {
        for text in [
            "",
            "0",
            "0M5Q2K7XR4B1",
            "0M5Q2K7XR4B12A",
            "0m5q2k7xr4b12",
            "0M5Q2K7XR4BI2",
            "../../../etc/",
            "ZZZZZZZZZZZZZ",
        ] {
            assert_eq!(text.parse::<QueueId>(), Err(NoQueueId), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(seconds in 0..1u64 << 35, chance: u16) {
            let id = QueueId::after(None, Duration::from_secs(seconds), chance);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let name = format!("{id}.eml");
            prop_assert_eq!(QueueId::of_file_name(&name), Some((id, "eml")));
        }
    }
}
