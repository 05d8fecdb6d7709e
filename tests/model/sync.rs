//! The locks, conditions, flags and channels of a model: loom's, which tries the orders of what threads do with them.
//!
//! Where std's and crossbeam's differ from them, the difference is made up for here: a wait with a bound ends when the
//! model's clock says so ([`super::clock`]), and a channel is bounded. Loom itself never ends a wait before its time: a
//! thread that nobody wakes is a deadlock, which fails the model.

use std::collections::VecDeque;
use std::ops::Deref;
use std::time::Duration;

pub use loom::sync::atomic::{AtomicBool, Ordering};
pub use loom::sync::{Mutex, MutexGuard};
pub use std::sync::{Arc, LockResult, PoisonError};

use super::clock;

/// A condition that threads wait for.
#[derive(Debug, Default)]
pub struct Condvar(Arc<loom::sync::Condvar>);

impl Condvar {
    pub fn new() -> Condvar {
        Condvar::default()
    }

    pub fn wait<'g, T>(&self, guard: MutexGuard<'g, T>) -> LockResult<MutexGuard<'g, T>> {
        self.0.wait(guard)
    }

    pub fn wait_while<'g, T>(
        &self,
        mut guard: MutexGuard<'g, T>,
        mut holds: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'g, T>> {
        while holds(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// The second value is whether the time was over, which nobody asks.
    pub fn wait_timeout<'g, T>(&self, guard: MutexGuard<'g, T>, wait: Duration) -> LockResult<(MutexGuard<'g, T>, ())> {
        if !clock::begin_wait(wait, &self.0) {
            return Ok((guard, ()));
        }
        let guard = self.wait(guard).unwrap_or_else(PoisonError::into_inner);
        clock::end_wait();
        Ok((guard, ()))
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A bounded channel. Its ends are used as the spool uses them: nobody waits at one whose other end is gone.
pub fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel { waiting: Mutex::default(), changed: Condvar::new(), most });
    (Sender(channel.clone()), Receiver(channel))
}

#[derive(Debug)]
pub struct Sender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub struct Receiver<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub struct Channel<T> {
    waiting: Mutex<VecDeque<T>>,
    changed: Condvar,
    most: usize,
}

/// What no end of a model's channel says; the spool takes it for the end of the other side.
#[derive(Debug)]
pub struct Ended;

impl<T> Sender<T> {
    pub fn send(&self, work: T) -> Result<(), Ended> {
        let waiting = self.0.waiting.lock().unwrap();
        let mut waiting = self.0.changed.wait_while(waiting, |waiting| waiting.len() >= self.0.most).unwrap();
        waiting.push_back(work);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub fn recv(&self) -> Result<T, Ended> {
        let waiting = self.0.waiting.lock().unwrap();
        let mut waiting = self.0.changed.wait_while(waiting, |waiting| waiting.is_empty()).unwrap();
        self.0.changed.notify_all();
        waiting.pop_front().ok_or(Ended)
    }

    pub fn try_recv(&self) -> Result<T, Ended> {
        self.0.waiting.lock().unwrap().pop_front().ok_or(Ended)
    }
}

/// A number that any thread may wait for to change: for the threads of a model that do not wait for the spool.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<(Mutex<u64>, Condvar)>);

impl Bell {
    pub fn ring(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    /// How often it has rung.
    pub fn rung(&self) -> u64 {
        *self.0.0.lock().unwrap()
    }

    /// Waits until it has rung more than `heard` times; returns how often.
    pub fn wait(&self, heard: u64) -> u64 {
        let rung = self.0.0.lock().unwrap();
        *self.0.1.wait_while(rung, |rung| *rung == heard).unwrap().deref()
    }
}
