//! Threads whose connection has ended wait here for another: a new thread costs as much as a small message, a stack and its
//! removal.
//!
//! The thread that came last is the first to go, so that a few are kept busy and the others end after
//! [`limits::IDLE_THREAD`]. A job that was handed to a thread is done by it, whatever its clock says.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits;

/// What a thread does for one connection.
pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    job: Mutex<Option<Job>>,
    came: Condvar,
}

static IDLE: Mutex<Vec<Arc<Waiting>>> = Mutex::new(Vec::new());

/// Gives the job to a thread that waits for one; back, if there is none.
pub fn hand_on(job: Job) -> Option<Job> {
    let Some(waiting) = lock(&IDLE).pop() else { return Some(job) };
    *lock(&waiting.job) = Some(job);
    waiting.came.notify_one();
    None
}

/// Waits for a job. `None` where none came for long.
pub fn another() -> Option<Job> {
    another_within(limits::IDLE_THREAD)
}

fn another_within(time: Duration) -> Option<Job> {
    let waiting = Arc::new(Waiting::default());
    lock(&IDLE).push(waiting.clone());
    let is_none = |job: &mut Option<Job>| job.is_none();
    let job = waiting.came.wait_timeout_while(lock(&waiting.job), time, is_none);
    if let Some(job) = job.unwrap_or_else(PoisonError::into_inner).0.take() {
        return Some(job);
    }
    let mut idle = lock(&IDLE);
    if let Some(at) = idle.iter().position(|other| Arc::ptr_eq(other, &waiting)) {
        idle.remove(at);
        return None;
    }
    drop(idle);
    // Whoever took it from there is about to bring a job.
    let job = waiting.came.wait_while(lock(&waiting.job), is_none);
    job.unwrap_or_else(PoisonError::into_inner).take()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    fn wait_until(count: usize) {
        while lock(&IDLE).len() != count {
            thread::yield_now();
        }
    }

    #[test]
    fn the_last_comes_first_and_who_gets_nothing_ends() {
        const LONG: Duration = Duration::from_secs(600);
        assert!(hand_on(Box::new(|| {})).is_some(), "nobody waits");
        let (done, who) = channel();
        let waiting = |name: u8, done: Sender<u8>| {
            thread::spawn(move || {
                another_within(LONG).unwrap()();
                done.send(name).unwrap();
            })
        };
        let first = waiting(1, done.clone());
        wait_until(1);
        let second = waiting(2, done);
        wait_until(2);
        assert!(another_within(Duration::from_millis(1)).is_none());
        for (thread, name) in [(second, 2), (first, 1)] {
            assert!(hand_on(Box::new(|| {})).is_none());
            assert_eq!(who.recv(), Ok(name));
            thread.join().unwrap();
        }
        assert!(lock(&IDLE).is_empty());
    }
}
