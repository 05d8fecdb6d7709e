//! The files of a model: real ones, written by the product's own calls, each of which is a step that any other thread can
//! come before or after.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};

use super::sync::Bell;

pub use postrider::io::durable::*;

/// What all calls have in common, so that loom knows that their order matters; and what tells of changes.
#[derive(Default)]
struct Disk {
    steps: Arc<AtomicUsize>,
    bell: Option<Bell>,
}

thread_local!(static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) });

/// Begins anew, with each execution of a model. The bell is rung at each change.
pub fn reset(bell: Option<Bell>) {
    DISK.set(Some(Disk { bell, ..Disk::default() }));
}

/// Other threads may take steps before what follows.
pub fn step() {
    let steps = DISK.with_borrow(|disk| disk.as_ref().unwrap().steps.clone());
    steps.fetch_add(1, Ordering::Relaxed);
}

fn changed<T>(result: T) -> T {
    if let Some(bell) = DISK.with_borrow(|disk| disk.as_ref().unwrap().bell.clone()) {
        bell.ring();
    }
    result
}

pub fn exists(path: &Path) -> io::Result<bool> {
    step();
    let found = postrider::io::durable::exists(path)?;
    // The last look for a message that is gone comes after it is forgotten, which no change of a file follows.
    if !found
        && path.parent().is_some_and(|folder| folder.ends_with("queue"))
        && path.extension() == Some("eml".as_ref())
    {
        changed(());
    }
    Ok(found)
}

pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step();
    changed(postrider::io::durable::rename(from, to))
}

pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    step();
    changed(postrider::io::durable::rename_new(from, to))
}

pub fn rename_beside(from: &Path, folder: &Path, name: &std::ffi::OsStr) -> io::Result<PathBuf> {
    step();
    changed(postrider::io::durable::rename_beside(from, folder, name))
}

pub fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(path).map(|_| ())
}

pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    step();
    changed(postrider::io::durable::remove_if_there(path))
}

pub fn replace(path: &Path, draft: &Path, content: &[u8]) -> io::Result<()> {
    step();
    changed(postrider::io::durable::replace(path, draft, content))
}

/// The last step of whatever changes a folder.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    step();
    changed(postrider::io::durable::sync_dir(path))
}
