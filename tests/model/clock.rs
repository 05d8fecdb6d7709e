//! The clock of a model: it stands still until the model lets it leap, and then ends the waits whose time has come.
//!
//! The format of times is the product's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use loom::thread::{ThreadId, current};

pub use postrider::io::clock::{parse_rfc3339, rfc3339, rfc3339_millis, rfc5322};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    pub wall: Duration,
    pub boot: Duration,
}

/// All threads of a model are one thread of this host.
#[derive(Default)]
struct Time {
    boot: Duration,
    /// When each thread looked at the clock last: a bounded wait was reckoned from then.
    looked: HashMap<ThreadId, Duration>,
    /// Until when threads wait, and where.
    waiting: HashMap<ThreadId, (Duration, Arc<loom::sync::Condvar>)>,
}

thread_local!(static TIME: RefCell<Time> = RefCell::default());

impl Now {
    pub fn read() -> Now {
        TIME.with_borrow_mut(|time| {
            time.looked.insert(current().id(), time.boot);
            Now { wall: Duration::from_secs(1_795_000_000) + time.boot, boot: time.boot }
        })
    }

    pub fn day(&self) -> u64 {
        self.wall.as_secs() / (24 * 3600)
    }
}

/// Begins anew, with each execution of a model.
pub fn reset() {
    TIME.set(Time { boot: Duration::from_secs(1000), ..Time::default() });
}

/// Lets this much time pass.
pub fn pass(span: Duration) {
    let over: Vec<Arc<loom::sync::Condvar>> = TIME.with_borrow_mut(|time| {
        time.boot += span;
        time.waiting.values().filter(|(until, _)| *until <= time.boot).map(|(_, condvar)| condvar.clone()).collect()
    });
    over.iter().for_each(|condvar| condvar.notify_all());
}

/// This thread is going to wait there for so long, from when it looked at the clock. Says whether that is not over yet.
pub fn begin_wait(wait: Duration, at: &Arc<loom::sync::Condvar>) -> bool {
    TIME.with_borrow_mut(|time| {
        let thread = current().id();
        let until = time.looked.get(&thread).copied().unwrap_or(time.boot) + wait;
        let waits = until > time.boot;
        if waits {
            time.waiting.insert(thread, (until, at.clone()));
        }
        waits
    })
}

/// It does not wait any more.
pub fn end_wait() {
    TIME.with_borrow_mut(|time| _ = time.waiting.remove(&current().id()));
}
