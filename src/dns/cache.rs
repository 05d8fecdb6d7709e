//! Answers for as long as they hold. A fault is never kept: the next question may be luckier.
//!
//! The lock is held for a look and no longer. Both the number of answers and their size are bounded, so that a zone made
//! for it fills no memory.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::answer::Question;
use super::found::{Found, Known, NoAnswer};
use super::record::Record;
use crate::limits;

/// The answers, those used last.
pub(super) struct Cache {
    answers: Mutex<LruCache<Question, (Instant, Known)>>,
}

impl Cache {
    /// Room for `most` answers.
    pub fn new(most: usize) -> Cache {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Cache { answers: Mutex::new(LruCache::new(most)) }
    }

    /// What is known, if it still holds at `now`.
    pub fn find(&self, question: &Question, now: Instant) -> Option<Known> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, known) = answers.get(question)?;
        if now < *until {
            return Some(known.clone());
        }
        answers.pop(question);
        None
    }

    /// Keeps an answer that came at `now` and holds for `ttl`.
    pub fn keep(&self, question: Question, known: &Known, ttl: Duration, now: Instant) {
        let is_fault = matches!(known, Err(NoAnswer::Fault(_)));
        let is_large = known.as_ref().is_ok_and(|found| size(found) > limits::DNS_CACHED_ANSWER);
        if ttl.is_zero() || is_fault || is_large {
            return;
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(question, (now + ttl, known.clone()));
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Cache")
    }
}

/// Octets of memory that the records take.
fn size(found: &Found) -> usize {
    let outside = |record: &Record| match record {
        Record::Mx(mx) => mx.host.as_ref().map_or(0, |host| host.as_str().len()),
        Record::Name(name) => name.as_str().len(),
        Record::Text(text) => text.len(),
        Record::Tlsa(tlsa) => tlsa.association.len(),
        Record::Address(_) => 0,
    };
    found.records.iter().map(|record| size_of::<Record>() + outside(record)).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::base::iana::Rtype;

    use super::*;

    fn question(name: &str) -> Question {
        Question::new(&name.parse().unwrap(), Rtype::TXT).unwrap()
    }

    fn texts(octets: usize) -> Known {
        Ok(Arc::new(Found { records: vec![Record::Text(vec![b'x'; octets])], authenticated: false }))
    }

    #[test]
    fn an_answer_is_known_until_it_no_longer_holds() {
        let (cache, now, second) = (Cache::new(8), Instant::now(), Duration::from_secs(1));
        cache.keep(question("a.example"), &texts(3), 60 * second, now);
        assert_eq!(cache.find(&question("A.Example"), now + 59 * second), Some(texts(3)));
        assert_eq!(cache.find(&question("b.example"), now), None);
        assert_eq!(cache.find(&question("a.example"), now + 60 * second), None);
        assert_eq!(cache.find(&question("a.example"), now), None, "it was thrown away");
    }

    #[test]
    fn that_nothing_is_there_is_known_too_and_a_fault_is_not() {
        let (cache, now, minute) = (Cache::new(8), Instant::now(), Duration::from_secs(60));
        let fault = NoAnswer::Fault("no luck".to_owned());
        for (name, known, kept) in [
            ("none.example", Err(NoAnswer::NoSuchName), true),
            ("empty.example", Err(NoAnswer::NoRecords), true),
            ("fault.example", Err(fault), false),
        ] {
            cache.keep(question(name), &known, minute, now);
            assert_eq!(cache.find(&question(name), now), kept.then_some(known), "{name}");
        }
    }

    #[test]
    fn what_holds_for_no_time_or_is_too_large_is_not_kept() {
        let (cache, now, minute) = (Cache::new(1), Instant::now(), Duration::from_secs(60));
        cache.keep(question("kept.example"), &texts(3), minute, now);
        cache.keep(question("once.example"), &texts(3), Duration::ZERO, now);
        assert_eq!(cache.find(&question("once.example"), now), None);
        assert_eq!(cache.find(&question("kept.example"), now), Some(texts(3)), "it needed no room");
        cache.keep(question("large.example"), &texts(limits::DNS_CACHED_ANSWER), minute, now);
        assert_eq!(cache.find(&question("large.example"), now), None);
    }

    #[test]
    fn the_answer_that_was_used_least_lately_makes_room() {
        let (cache, now, minute) = (Cache::new(2), Instant::now(), Duration::from_secs(60));
        cache.keep(question("a.example"), &texts(1), minute, now);
        cache.keep(question("b.example"), &texts(2), minute, now);
        cache.find(&question("a.example"), now);
        cache.keep(question("c.example"), &texts(3), minute, now);
        assert_eq!(cache.find(&question("b.example"), now), None);
        assert_eq!(cache.find(&question("a.example"), now), Some(texts(1)));
    }
}
