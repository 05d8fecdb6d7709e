//! Who may check a password now: a few at once, in the order they came, and together no more memory than there is for it.
//!
//! Promises: a check whose memory is not free waits, and nobody who came later goes before it, so that dear ones are not
//! kept out by cheap ones. Fails with a [`NoTurn`]: the wait was too long, or more memory is asked for than there ever is.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits;

/// The turns of one server.
#[derive(Debug)]
pub struct Turns {
    /// KiB that all checks under way may take.
    memory: u64,
    free: Mutex<Free>,
    changed: Condvar,
}

#[derive(Debug)]
struct Free {
    checks: usize,
    memory: u64,
    /// Who waits, by number, first come first.
    waiting: VecDeque<u64>,
    next: u64,
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    memory: u64,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// Others took too long.
    Busy,
    /// There will never be as much memory.
    TooDear,
}

impl Turns {
    /// With so many KiB for all.
    pub fn new(memory: u64) -> Turns {
        let free = Free { checks: limits::LOGIN_CHECKS, memory, waiting: VecDeque::new(), next: 0 };
        Turns { memory, free: Mutex::new(free), changed: Condvar::new() }
    }

    /// Waits for a turn to check a password that takes so many KiB.
    pub fn take(&self, memory: u64) -> Result<Turn<'_>, NoTurn> {
        if memory > self.memory {
            return Err(NoTurn::TooDear);
        }
        let mut free = self.free();
        let number = free.next;
        free.next += 1;
        free.waiting.push_back(number);
        let must_wait =
            |free: &mut Free| free.waiting.front() != Some(&number) || free.checks == 0 || free.memory < memory;
        let waited = self.changed.wait_timeout_while(free, limits::LOGIN_WAIT, must_wait);
        let (mut free, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        free.waiting.retain(|waiting| *waiting != number);
        let taken = !wait.timed_out();
        if taken {
            free.checks -= 1;
            free.memory -= memory;
        }
        drop(free);
        // There may be enough for the next one too.
        self.changed.notify_all();
        if taken { Ok(Turn { turns: self, memory }) } else { Err(NoTurn::Busy) }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut free = self.turns.free();
        free.checks += 1;
        free.memory += self.memory;
        drop(free);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn all_checks_together_keep_to_the_memory_and_all_have_their_turn() {
        let (turns, now, most, done) = (Turns::new(100), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for memory in (0..100).map(|number| [10, 40, 60, 100][number % 4]) {
                let (turns, now, most, done) = (&turns, &now, &most, &done);
                scope.spawn(move || {
                    let _turn = turns.take(memory).unwrap();
                    most.fetch_max(now.fetch_add(memory, Ordering::SeqCst) + memory, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(1));
                    now.fetch_sub(memory, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), 100);
        assert!(most.into_inner() <= 100);
        let free = turns.free();
        assert_eq!((free.checks, free.memory, free.waiting.len()), (limits::LOGIN_CHECKS, 100, 0));
    }

    #[test]
    fn a_dear_one_is_not_kept_out_by_those_who_come_later() {
        let turns = Turns::new(100);
        let first = turns.take(60).unwrap();
        thread::scope(|scope| {
            let dear = scope.spawn(|| turns.take(100).map(|_| Instant::now()));
            while turns.free().waiting.is_empty() {
                thread::yield_now();
            }
            let cheap = scope.spawn(|| turns.take(1).map(|_| Instant::now()));
            while turns.free().waiting.len() < 2 {
                thread::yield_now();
            }
            drop(first);
            assert!(dear.join().unwrap().unwrap() < cheap.join().unwrap().unwrap());
        });
    }

    #[test]
    fn what_there_never_is_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(Turns::new(100).take(101).unwrap_err(), NoTurn::TooDear);
        assert!(begun.elapsed() < limits::LOGIN_WAIT / 2);
    }
}
