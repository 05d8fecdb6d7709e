//! One answer from one thread to another that waits for it.
//!
//! A channel would spin before it sleeps: the writer answers after a flush, which takes longer than any spinning is worth,
//! and with tens of connections waiting on two processors each turn is taken from those that have work.

use crate::io::sync::{Arc, Condvar, Mutex, PoisonError};

/// Where the answer goes; dropped without one, whoever waits gets none.
#[derive(Debug)]
pub(super) struct Answer<T>(Arc<Place<T>>);

/// Where it is waited for.
#[derive(Debug)]
pub(super) struct Answered<T>(Arc<Place<T>>);

#[derive(Debug)]
struct Place<T> {
    content: Mutex<Content<T>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Content<T> {
    Nothing,
    Answer(T),
    Never,
}

/// Both ends.
pub(super) fn answer<T>() -> (Answer<T>, Answered<T>) {
    let place = Arc::new(Place { content: Mutex::new(Content::Nothing), changed: Condvar::new() });
    (Answer(place.clone()), Answered(place))
}

impl<T> Answer<T> {
    pub fn send(self, answer: T) {
        self.0.put(Content::Answer(answer));
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.0.put(Content::Never);
    }
}

impl<T> Place<T> {
    /// What comes first stays.
    fn put(&self, new: Content<T>) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*content, Content::Nothing) {
            *content = new;
            drop(content);
            self.changed.notify_one();
        }
    }
}

impl<T> Answered<T> {
    /// Waits for the answer. `None` if there will be none.
    pub fn wait(self) -> Option<T> {
        let content = self.0.content.lock().unwrap_or_else(PoisonError::into_inner);
        let is_nothing = |content: &mut Content<T>| matches!(content, Content::Nothing);
        let mut content = self.0.changed.wait_while(content, is_nothing).unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *content, Content::Never) {
            Content::Answer(answer) => Some(answer),
            Content::Nothing | Content::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_answer_comes_once_before_or_after_it_is_waited_for() {
        let (early, answered) = answer();
        early.send(1);
        assert_eq!(answered.wait(), Some(1));
        let (late, answered) = answer();
        let waiting = thread::spawn(|| answered.wait());
        late.send(2);
        assert_eq!(waiting.join().unwrap(), Some(2));
    }

    #[test]
    fn who_is_never_answered_does_not_wait() {
        let (never, answered) = answer::<u8>();
        let waiting = thread::spawn(|| answered.wait());
        drop(never);
        assert_eq!(waiting.join().unwrap(), None);
    }
}
