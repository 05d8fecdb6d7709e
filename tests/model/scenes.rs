//! The scenes: each is played in every order of its steps, and ends with nothing left in the queue.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loom::thread::JoinHandle;

use crate::spool::listed::Place;
use crate::spool::state::Status;
use crate::spool::{Claim, Settlement, by_hand};
use crate::stage::{End, Stage, id};
use crate::sync::{Arc, Mutex};

/// Their names; how often a thread that could go on has to stand back, in one order; and what is played.
pub const ALL: &[(&str, usize, fn())] = &[
    ("what_is_due_is_shared", 2, what_is_due_is_shared),
    ("a_new_message_finds_a_thread", 1, a_new_message_finds_a_thread),
    ("what_is_given_back_comes_again", 2, what_is_given_back_comes_again),
    ("who_waits_for_room_is_woken", 2, who_waits_for_room_is_woken),
    ("a_touch_counts_whenever_it_comes", 2, a_touch_counts_whenever_it_comes),
    ("held_and_released_no_two_threads_have_it", 1, held_and_released_no_two_threads_have_it),
    ("held_and_released_it_is_delivered_once", 2, held_and_released_it_is_delivered_once),
    ("held_and_released_it_keeps_its_outcome", 1, held_and_released_it_keeps_its_outcome),
    ("removed_it_leaves_nothing", 2, removed_it_leaves_nothing),
];

/// Two threads deliver two messages.
fn what_is_due_is_shared() {
    let (stage, _writer) = Stage::with(2);
    let threads = (0..2).map(|_| stage.deliver(|_| End::Taken)).collect();
    stage.until(|stage| stage.has_delivered(2));
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// A client's message comes while two threads wait, or begin to.
fn a_new_message_finds_a_thread() {
    let (stage, writer) = Stage::with(0);
    let threads = vec![stage.deliver(|_| End::Taken), stage.deliver(|_| End::Taken)];
    let writing = stage.write(writer);
    stage.commit();
    stage.until(|stage| stage.has_delivered(1));
    stage.stop(threads);
    stage.stop_writing(writing);
}

/// The first attempt comes to nothing, and its time comes while the other thread waits, or begins to.
fn what_is_given_back_comes_again() {
    let (stage, _writer) = Stage::with(1);
    let attempts = Arc::new(Mutex::new(0));
    let attempt = || {
        let attempts = attempts.clone();
        stage.deliver(move |_| {
            let mut attempts = attempts.lock().unwrap();
            *attempts += 1;
            if *attempts == 1 { End::Dropped } else { End::Taken }
        })
    };
    let threads = vec![attempt(), attempt()];
    stage.until(|stage| stage.has_delivered(1));
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// A next hop has room again while an attempt finds that it has none.
fn who_waits_for_room_is_woken() {
    #[derive(Default)]
    struct Hop {
        has_room: bool,
        is_waited_for: bool,
    }
    let (stage, _writer) = Stage::with(1);
    let hop = Arc::new(Mutex::new(Hop::default()));
    let attempt = || {
        let hop = hop.clone();
        stage.deliver(move |_| {
            let mut hop = hop.lock().unwrap();
            hop.is_waited_for = !hop.has_room;
            if hop.has_room { End::Taken } else { End::Parked }
        })
    };
    let threads = vec![attempt(), attempt()];
    let is_waited_for = {
        let mut hop = hop.lock().unwrap();
        hop.has_room = true;
        hop.is_waited_for
    };
    if is_waited_for {
        assert!(stage.spool.wake(id(1)), "it is known");
    }
    stage.until(|stage| stage.has_delivered(1));
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// A person has a message tried that would wait for long.
fn a_touch_counts_whenever_it_comes() {
    let (stage, _writer) = Stage::with(1);
    let attempt = |claim: &mut Claim<'_>| if claim.asked { End::Taken } else { End::Parked };
    let threads = vec![stage.deliver(attempt), stage.watch()];
    by_hand::retry(stage.spool.folders(), &stage.listed().unwrap()).unwrap();
    stage.bell.ring();
    stage.until(|stage| stage.has_delivered(1));
    stage.stop(threads);
    assert!(stage.is_empty());
}

/// A person sets a message aside and releases it while it is delivered.
fn held_and_released_it_is_delivered_once() {
    let (stage, _writer) = Stage::with(1);
    hold_and_release(&stage, vec![stage.deliver(|_| End::Taken), stage.watch()]);
}

/// The same with two threads that would have it, and a person who comes after one has it, and waits until that is noticed.
fn held_and_released_no_two_threads_have_it() {
    let (stage, _writer) = Stage::with(1);
    let has_begun = Arc::new(AtomicBool::new(false));
    let attempt = || {
        let (has_begun, bell) = (has_begun.clone(), stage.bell.clone());
        stage.deliver(move |_| {
            has_begun.store(true, Ordering::Relaxed);
            bell.ring();
            End::Taken
        })
    };
    let threads = vec![attempt(), attempt(), stage.watch()];
    stage.until(|_| has_begun.load(Ordering::Relaxed));
    hold(&stage);
    stage.until(|stage| stage.spool.queued() == 0);
    release(&stage);
    stage.until(Stage::is_empty);
    stage.stop(threads);
}

fn hold_and_release(stage: &Stage, threads: Vec<JoinHandle<()>>) {
    hold(stage);
    release(stage);
    stage.until(Stage::is_empty);
    stage.stop(threads);
}

pub fn hold(stage: &Stage) {
    if let Some(listed) = stage.listed() {
        by_hand::hold(stage.spool.folders(), &listed).unwrap();
    }
}

pub fn release(stage: &Stage) {
    if let Some(listed) = stage.listed().filter(|listed| listed.place == Place::Hold) {
        by_hand::release(stage.spool.folders(), &listed).unwrap();
    }
}

/// The same while its first attempt is settled: one target has it, and never gets it again.
fn held_and_released_it_keeps_its_outcome() {
    let (stage, writer) = Stage::with(1);
    let writing = stage.write(writer);
    hold_and_release(&stage, vec![deliver_in_two_attempts(&stage), stage.watch()]);
    stage.stop_writing(writing);
}

/// A person removes a message while its attempts are settled.
fn removed_it_leaves_nothing() {
    let (stage, writer) = Stage::with(1);
    let threads = vec![deliver_in_two_attempts(&stage), stage.watch()];
    let writing = stage.write(writer);
    if let Some(listed) = stage.listed() {
        by_hand::remove(stage.spool.folders(), &listed).unwrap();
    }
    stage.until(Stage::is_empty);
    stage.stop(threads);
    stage.stop_writing(writing);
}

const HALF: &str = "Attempts: 1\n\nTarget: b@far.example\nVia: next-hop\nStatus: delivered\n\n\
                    Target: c@far.example\nVia: next-hop\n";

/// The first attempt delivers to one of two targets, the second to the other.
fn deliver_in_two_attempts(stage: &Stage) -> JoinHandle<()> {
    let begun = Cell::new(false);
    stage.deliver(move |claim| {
        let mut state = match &claim.state {
            Some(state) => {
                let statuses: Vec<Status> = state.targets.iter().map(|target| target.status).collect();
                assert_eq!(statuses, [Status::Delivered, Status::Pending]);
                state.clone()
            }
            None => {
                assert!(!begun.replace(true), "the outcome of the first attempt is lost");
                HALF.parse().unwrap()
            }
        };
        if claim.state.is_some() {
            state.targets[1].status = Status::Delivered;
        }
        let retry = Duration::from_secs(300);
        End::Settled(Settlement { state, retry, broken_off: None, reports: vec![], report_missing: false })
    })
}
