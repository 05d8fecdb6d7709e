//! Where what several threads share gets its locks, conditions, flags and channels: the standard library's and crossbeam's,
//! as they are.
//!
//! They are named in one place so that a model checker can put its own there: `tests/model` compiles the spool with those of
//! loom, which tries the orders in which threads can take their steps. Nothing here can fail.

pub use std::sync::atomic::{AtomicBool, Ordering};
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use crossbeam_channel::{Receiver, Sender, bounded};
