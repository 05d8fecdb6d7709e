//! A model of the spool's index and claims: loom runs the spool's own code with threads that take their steps in every
//! order in which no more than one or two of them have to stand back ([`scenes::ALL`] and
//! [`narrow::ALL`]).
//!
//! In no order is an entry with two threads at once, lost, or left lying while it is due; no thread waits for what has
//! happened already; and what a person does meanwhile with `postrider queue` is done in the end.
//!
//! The files of `src/spool` are compiled here once more, as they are, with loom's locks ([`sync`]), a clock that leaps
//! when it is told to ([`clock`]), and files whose calls are steps ([`durable`]). The files are real, and so is inotify. A model
//! fails by a panic that names its assertion, or by loom's `deadlock`: then `LOOM_LOG=trace` tells the steps that led to
//! it. `LOOM_MAX_PREEMPTIONS` sets a wider bound, `cargo test --test model NAME` runs one.
#![allow(dead_code, unused_imports, missing_docs, clippy::print_stdout)]

mod clock;
mod durable;
mod narrow;
mod scenes;
mod stage;
mod sync;

/// What the spool's files name by `crate::io`.
mod io {
    pub(crate) use crate::{clock, durable, sync};
    pub use postrider::io::{account, table};
}

/// The product's, but the watch looks as soon as it may: it waits for the model instead.
mod limits {
    use std::time::Duration;

    pub use postrider::limits::*;

    pub const WATCH: Duration = Duration::ZERO;
    pub const WATCH_TOGETHER: Duration = Duration::ZERO;
}

#[path = "../../src/maildir.rs"]
mod maildir;
#[path = "../../src/spool/mod.rs"]
mod spool;

use postrider::{aliases, config, dns, mail, maillog, route, users};

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let scenes = Mutex::new(scenes::ALL.iter().chain(narrow::ALL).filter(|(name, ..)| is_wanted(name)));
    let next = || scenes.lock().unwrap().next();
    let failed = AtomicUsize::new(0);
    let play = || {
        while let Some((name, bound, scene)) = next() {
            if catch_unwind(|| check(name, *bound, *scene)).is_err() {
                println!("model {name} ... FAILED");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let players = thread::available_parallelism().map_or(1, |cores| cores.get());
    thread::scope(|scope| (0..players).for_each(|_| _ = scope.spawn(play)));
    assert_eq!(failed.into_inner(), 0, "models failed");
}

fn check(name: &str, bound: usize, scene: fn()) {
    let (begun, orders) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(bound));
    model.max_branches = 10_000;
    let played = orders.clone();
    model.check(move || {
        played.fetch_add(1, Ordering::Relaxed);
        clock::reset();
        scene();
    });
    println!(
        "model {name} ... ok, {} orders in {:.1} s",
        orders.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f32()
    );
}
