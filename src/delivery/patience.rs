//! When a message is tried again, and when no more (DESIGN §4, P9).
//!
//! Pure: counted with the time this server has seen the message wait, never with the wall clock.

use std::time::Duration;

use crate::config::Delivery;
use crate::limits;

/// Part of the wait by which it is made longer or shorter at most, so that what failed together is not tried together.
const JITTER: f64 = 0.1;

/// How long to wait after an attempt on a message that has `waited` so far: as long again, within the bounds. `chance` is
/// anything from 0 to 1.
pub fn next_wait(waited: Duration, settings: &Delivery, chance: f64) -> Duration {
    let wait = waited.clamp(settings.retry_min, settings.retry_max);
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0))
}

/// Whether a message that has just been tried, and has `waited` so far, is given up.
pub fn is_over(waited: Duration, settings: &Delivery) -> bool {
    waited >= settings.give_up
}

/// Whether the sender of a message that has `waited` so far is to be told that it is late.
pub fn is_late(waited: Duration, settings: &Delivery) -> bool {
    waited >= settings.warn_after
}

/// What is added to a wait so that what was let go together does not come back together.
pub fn spread(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(JITTER * chance.clamp(0.0, 1.0))
}

/// How long a message waits for room at its next hop at most, unless it is woken before: one to two times
/// [`limits::PARKED`], so that a long line is not asked for all at once.
pub fn parked(chance: f64) -> Duration {
    limits::PARKED.mul_f64(1.0 + chance.clamp(0.0, 1.0))
}

/// How long a message has waited at each of its attempts, from the first to the one after which it is given up: what
/// [`next_wait`] and [`is_over`] come to, but for chance.
pub fn schedule(settings: &Delivery) -> impl Iterator<Item = Duration> {
    let next = |waited: &Duration| {
        (!is_over(*waited, settings)).then(|| waited.saturating_add(next_wait(*waited, settings, 0.5)))
    };
    std::iter::successors(Some(Duration::ZERO), next)
}

/// Any number from 0 to 1.
pub fn chance() -> f64 {
    // Without randomness the waits are merely all alike.
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds() {
        let settings = Delivery::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (waited, expected) in [(0, 5), (5, 5), (10, 10), (20, 20), (10_000, 180)] {
            assert_eq!(next_wait(minutes(waited), &settings, 0.5), minutes(expected), "{waited}");
        }
    }

    #[test]
    fn a_schedule_ends_with_the_attempt_after_which_it_is_over() {
        let settings = Delivery::default();
        let attempts: Vec<u64> = schedule(&settings).map(|waited| waited.as_secs() / 60).collect();
        assert_eq!(attempts[..9], [0, 5, 10, 20, 40, 80, 160, 320, 500]);
        let give_up = settings.give_up.as_secs() / 60;
        assert!(attempts.iter().rev().skip(1).all(|waited| *waited < give_up) && *attempts.last().unwrap() >= give_up);
    }

    #[test]
    fn a_long_line_does_not_come_back_together() {
        assert_eq!([0.0, 0.5, 1.0].map(parked), [1.0, 1.5, 2.0].map(|times| limits::PARKED.mul_f64(times)));
    }

    #[test]
    fn jitter_is_small_and_goes_both_ways() {
        let settings = Delivery::default();
        let wait = |chance| next_wait(Duration::from_secs(1000), &settings, chance).as_secs();
        assert_eq!((wait(0.0), wait(1.0)), (900, 1100));
    }

    #[test]
    fn patience_ends() {
        let settings = Delivery::default();
        assert!(!is_over(settings.give_up - Duration::from_secs(1), &settings));
        assert!(is_over(settings.give_up, &settings));
    }
}
