//! How threads are made: each has a name, and one that panics says so in the log and harms no other.
//!
//! What must go on (accept loops, delivery, the watch) is begun again after a panic. The writer can't be: half a batch may be
//! committed, so the process ends and the next start clears up. The number of panics is in the log and must be 0.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use nix::sys::prctl::set_name;

use super::idle::{self, Job};
use super::{StartError, unavailable};
use crate::io::stream::Place;
use crate::limits;
use crate::maillog;
use crate::spool::{Spool, Writer};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What panics at once after each restart must not keep a processor busy.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How many threads have panicked.
pub fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}

/// From now on a panic is a line of the log.
pub fn log_panics() {
    panic::set_hook(Box::new(|what| {
        let total = PANICS.fetch_add(1, Ordering::Relaxed) + 1;
        let thread = thread::current();
        let name = PEER.get().map(|peer| peer.to_string());
        let name = name.as_deref().or(thread.name()).unwrap_or("unnamed");
        maillog::panicked(name, &what.to_string(), total);
    }));
}

/// A thread that runs `body` once.
pub fn once(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    let started = Builder::new().name(name.to_owned()).spawn(body);
    started.map_err(|error| unavailable("start a thread", &error, "raise the limit of processes"))
}

/// A thread that begins `body` again when it panics.
pub fn restarting(name: &str, body: impl Fn() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    once(name, move || {
        while panic::catch_unwind(AssertUnwindSafe(&body)).is_err() {
            thread::sleep(RESTART_PAUSE);
        }
    })
}

/// The writer's thread.
pub fn writer(spool: Arc<Spool>, writer: Writer) -> Result<JoinHandle<()>, StartError> {
    once("writer", move || {
        if panic::catch_unwind(AssertUnwindSafe(|| writer.run(&spool))).is_err() {
            maillog::flush();
            process::exit(70);
        }
    })
}

thread_local! {
    /// Whom the thread serves, which a panic names.
    static PEER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
}

/// A thread for one connection: one whose own has just ended, or a new one. Where none can be had, the place is given back.
pub fn connection(
    peer: SocketAddr,
    place: Place,
    serve: impl FnOnce(Place) + Send + 'static,
) -> Result<(), (io::Error, Place)> {
    let slot = Arc::new(Mutex::new(Some(place)));
    let for_thread = slot.clone();
    let take = |slot: &Mutex<Option<Place>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let job: Job = Box::new(move || {
        PEER.set(Some(peer));
        // For who looks which connection is busy; nothing depends on it.
        let _ = CString::new(peer.to_string()).map(|name| set_name(&name));
        if let Some(place) = take(&for_thread) {
            serve(place);
        }
    });
    let Some(job) = idle::hand_on(job) else { return Ok(()) };
    match Builder::new().name("connection".to_owned()).stack_size(limits::CONNECTION_STACK).spawn(|| serve_all(job)) {
        Ok(_) => Ok(()),
        // A thread that was not made has taken nothing.
        Err(error) => take(&slot).map_or(Ok(()), |place| Err((error, place))),
    }
}

/// The body of a connection's thread: that connection, and those that come soon after.
fn serve_all(first: Job) {
    let mut job = Some(first);
    while let Some(next) = job {
        next();
        job = idle::another();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_is_begun_again() {
        let begun = Arc::new(AtomicUsize::new(0));
        let count = begun.clone();
        let thread = restarting("test", move || assert_ne!(count.fetch_add(1, Ordering::SeqCst), 0, "on purpose"));
        thread.unwrap().join().unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
