//! The two clocks a mail server needs: the wall's, which people read and which may jump, and the one that only counts
//! the time that passed, suspended or not, since this machine started.
//!
//! Patience is counted with the second one (DESIGN P9); the first is for log lines, names and fields. Reading either
//! never fails: a wall clock before 1970 reads as 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Since 1970, by the wall clock.
    pub wall: Duration,
    /// Since this machine started, counting time asleep (CLOCK_BOOTTIME).
    pub boot: Duration,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Now {
        Now { wall: wall(), boot: boot() }
    }

    /// The day by the wall clock, counted from 1970.
    pub fn day(&self) -> u64 {
        self.wall.as_secs() / (24 * 3600)
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_else(|_| wall())
}

/// Local time as RFC 3339 with milliseconds and offset, for log lines.
pub fn rfc3339_millis(wall: Duration) -> String {
    zoned(wall).strftime("%Y-%m-%dT%H:%M:%S.%3f%:z").to_string()
}

/// Local time as RFC 3339 to the second, for state files, which people read.
pub fn rfc3339(wall: Duration) -> String {
    zoned(wall).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// Local time as RFC 5322 §3.3 writes it, for header fields.
pub fn rfc5322(wall: Duration) -> String {
    zoned(wall).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

/// Reads what [`rfc3339`] wrote, or any other RFC 3339 time with an offset.
pub fn parse_rfc3339(text: &str) -> Option<Duration> {
    let timestamp: jiff::Timestamp = text.trim().parse().ok()?;
    Some(Duration::from_secs(u64::try_from(timestamp.as_second()).ok()?))
}

fn zoned(wall: Duration) -> jiff::Zoned {
    let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::new(seconds, wall.subsec_nanos() as i32).unwrap_or(jiff::Timestamp::MAX);
    timestamp.to_zoned(jiff::tz::TimeZone::system())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for seconds in [0, 1_000_000_000, 1_795_000_000] {
            let wall = Duration::from_secs(seconds);
            assert_eq!(parse_rfc3339(&rfc3339(wall)), Some(wall));
        }
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for text in ["", "tomorrow", "2026-13-01T00:00:00Z", "1969-12-31T00:00:00Z"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
