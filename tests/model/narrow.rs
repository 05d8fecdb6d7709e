//! Scenes of one meeting each: what leads to it happens in sequence, and then two or three threads take only those
//! steps that may meet. The watch's looks are called one by one, by the thread that plays the person.
//!
//! Each fails without some line of the spool's that no other scene misses.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loom::thread::{JoinHandle, yield_now};
use nix::sys::inotify::AddWatchFlags;

use crate::scenes::{hold, release};
use crate::spool::{Accepted, Claim, Settlement, by_hand};
use crate::stage::{End, Stage, id};
use crate::sync::Arc;
use crate::{clock, durable, limits};

const WENT: AddWatchFlags = AddWatchFlags::IN_MOVED_FROM;
const CAME: AddWatchFlags = AddWatchFlags::IN_MOVED_TO;
const REMOVED: AddWatchFlags = AddWatchFlags::IN_DELETE;
const TOUCHED: AddWatchFlags = AddWatchFlags::IN_ATTRIB;

/// As [`crate::scenes::ALL`].
pub const ALL: &[(&str, usize, fn())] = &[
    ("removed_in_an_attempt_it_is_forgotten", 2, removed_in_an_attempt_it_is_forgotten),
    ("held_and_released_in_an_attempt_it_stays_claimed", 2, held_and_released_in_an_attempt_it_stays_claimed),
    ("released_as_it_is_given_back_it_comes_again", 2, released_as_it_is_given_back_it_comes_again),
    ("released_as_it_is_settled_it_comes_once", 2, released_as_it_is_settled_it_comes_once),
    ("released_as_it_is_missed_it_comes_once", 2, released_as_it_is_missed_it_comes_once),
    ("taken_as_it_is_missed_it_stays_claimed", 2, taken_as_it_is_missed_it_stays_claimed),
    ("moved_to_another_time_it_is_due_once", 2, moved_to_another_time_it_is_due_once),
    ("what_comes_together_has_two_threads", 1, what_comes_together_has_two_threads),
    ("behind_a_rename_nothing_waits", 1, behind_a_rename_nothing_waits),
    ("just_written_it_is_held_and_released", 2, just_written_it_is_held_and_released),
];

/// Nobody's change to notice: whoever gives it back looks, and does not leave it until it would be due.
fn removed_in_an_attempt_it_is_forgotten() {
    let (stage, _writer) = Stage::with(1);
    let claim = stage.claim();
    let person = stage.also(|stage| {
        by_hand::remove(stage.spool.folders(), &stage.listed().unwrap()).unwrap();
        stage.sees(id(1), REMOVED);
    });
    stage.end(claim, End::Parked);
    person.join().unwrap();
    assert!(stage.is_empty());
}

/// The attempt goes on, and ends, and the next begins.
fn held_and_released_in_an_attempt_it_stays_claimed() {
    let (stage, _writer) = Stage::with(1);
    let claim = stage.claim();
    let person = stage.also(|stage| {
        hold(stage);
        stage.sees(id(1), WENT);
        release(stage);
        stage.sees(id(1), CAME);
    });
    stage.end(claim, End::Dropped);
    finish(&stage, person, |_| End::Taken);
}

/// Held before, and released while who gives it back looks where it is. Its state is where it is.
fn released_as_it_is_given_back_it_comes_again() {
    meet(|stage| {
        fs::write(stage.spool.folders().state(id(1)), DONE).unwrap();
        let claim = stage.claim();
        hold(stage);
        stage.sees(id(1), WENT);
        let person = stage.also(|stage| {
            release(stage);
            stage.sees(id(1), CAME);
        });
        stage.end(claim, End::Dropped);
        finish(stage, person, settled_before);
    });
}

/// Held before, and released while its outcome is written to where it was: two threads see it come, and one of them may
/// have it claimed before the other has looked. What is written comes along.
fn released_as_it_is_settled_it_comes_once() {
    meet(|stage| {
        let claim = stage.claim();
        hold(stage);
        stage.sees(id(1), WENT);
        let person = stage.also(|stage| {
            release(stage);
            stage.sees(id(1), CAME);
        });
        stage.end(claim, End::Settled(done()));
        finish(stage, person, settled_before);
    });
}

/// It is due and held, and released while the watch looks where it is: it may be claimed before the watch goes on.
fn released_as_it_is_missed_it_comes_once() {
    let (stage, _writer) = Stage::with(1);
    hold(&stage);
    let watch = stage.also(|stage| {
        stage.sees(id(1), WENT);
        stage.until(|stage| stage.spool.folders().eml(id(1)).exists());
        stage.sees(id(1), CAME);
    });
    release(&stage);
    finish(&stage, watch, |_| End::Taken);
}

/// The same where it is missed by who gives it back, and taken by another thread: touched, it is due at once. Who gives
/// it back claims nothing more here, and so has to wake the other.
fn taken_as_it_is_missed_it_stays_claimed() {
    let (stage, _writer) = Stage::with(1);
    let claim = stage.claim();
    hold(&stage);
    stage.sees(id(1), WENT);
    let is_given_back = Arc::new(AtomicUsize::new(0));
    let given_back = is_given_back.clone();
    let other = stage.also(move |stage| {
        release(stage);
        stage.sees(id(1), CAME);
        stage.sees(id(1), TOUCHED);
        let claim = stage.claim();
        stage.until(|_| given_back.load(Ordering::Relaxed) == 1);
        keep(stage, &claim);
        stage.end(claim, End::Taken);
    });
    stage.end(claim, End::Parked);
    is_given_back.store(1, Ordering::Relaxed);
    stage.bell.ring();
    other.join().unwrap();
    assert!(stage.is_empty());
}

/// Forgotten and back, then parked and touched: nothing is left of the times at which it would have been due.
fn moved_to_another_time_it_is_due_once() {
    let (stage, _writer) = Stage::with(1);
    let second = || clock::pass(Duration::from_secs(1));
    hold(&stage);
    stage.sees(id(1), WENT);
    second();
    release(&stage);
    stage.sees(id(1), CAME);
    stage.end(stage.claim(), End::Parked);
    second();
    stage.sees(id(1), TOUCHED);
    let claim = stage.claim();
    clock::pass(limits::PARKED);
    let threads = vec![stage.deliver(|_| End::Taken)];
    durable::step();
    stage.end(claim, End::Taken);
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// Two threads wait, and one of them is told of two messages.
fn what_comes_together_has_two_threads() {
    come_together(Duration::ZERO);
}

/// The same where the first is a rename, after which the other need not wait for a thread's whole attempt.
fn behind_a_rename_nothing_waits() {
    come_together(Duration::from_secs(1));
}

/// Two messages, the first of which goes ahead by this. No attempt ends before both are under way. Threads that only
/// begin to wait would look themselves: both wait already.
fn come_together(ahead: Duration) {
    let (stage, _writer) = Stage::with(2);
    let claims = [stage.claim(), stage.claim()];
    claims.into_iter().for_each(|claim| stage.end(claim, End::Parked));
    let begun = Arc::new(AtomicUsize::new(0));
    let attempt = || {
        let (begun, on) = (begun.clone(), stage.clone());
        stage.deliver(move |_| {
            begun.fetch_add(1, Ordering::Relaxed);
            on.bell.ring();
            on.until(|_| begun.load(Ordering::Relaxed) == 2);
            End::Taken
        })
    };
    let threads = vec![attempt(), attempt()];
    while stage.spool.schedule().idle < 2 {
        yield_now();
    }
    let new = |number, ahead| Accepted { id: id(number), ahead, written: None };
    stage.spool.schedule_all([new(1, ahead), new(2, Duration::ZERO)]);
    stage.until(|stage| stage.has_delivered(2));
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// On a stack that has room for states: that of loom's first thread has none.
fn meet(scene: fn(&Stage)) {
    let (stage, _writer) = Stage::with(1);
    stage.also(scene).join().unwrap();
}

/// Its first attempt has it as it was written, and it may be elsewhere by then.
fn just_written_it_is_held_and_released() {
    let (stage, writer) = Stage::with(0);
    let writing = stage.write(writer);
    let id = stage.commit();
    stage.spool.stop_writer();
    writing.join().unwrap();
    let person = stage.also(move |stage| {
        hold(stage);
        stage.sees(id, WENT);
        release(stage);
        stage.sees(id, CAME);
    });
    finish(&stage, person, |_| End::Taken);
    assert!(stage.has_delivered(1));
}

fn settled_before(claim: &Claim<'_>) -> End {
    assert!(claim.state.is_some(), "its outcome is lost");
    End::Settled(done())
}

/// Has attempts until nothing is left. Whatever the other thread does during the first of them, it takes nothing away.
fn finish(stage: &Stage, other: JoinHandle<()>, attempt: impl Fn(&Claim<'_>) -> End) {
    let mut other = Some(other);
    durable::step();
    while !stage.is_empty() {
        let claim = stage.claim();
        if let Some(other) = other.take() {
            other.join().unwrap();
        }
        keep(stage, &claim);
        let end = attempt(&claim);
        stage.end(claim, end);
    }
    if let Some(other) = other {
        other.join().unwrap();
    }
    assert!(stage.is_empty());
}

/// It is claimed, as this thread believes: what waits for its time, as it would be for a second thread, can't be woken.
fn keep(stage: &Stage, claim: &Claim<'_>) {
    assert!(stage.spool.wake(claim.id), "{} could be claimed twice", claim.id);
}

/// Its one target has it.
const DONE: &str = "Attempts: 1\n\nTarget: b@far.example\nVia: next-hop\nStatus: delivered\n";

fn done() -> Settlement {
    let state = DONE.parse().unwrap();
    Settlement { state, retry: Duration::ZERO, broken_off: None, reports: vec![], report_missing: false }
}
