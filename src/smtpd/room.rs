//! Memory for envelopes: small ones always have it, and large ones as long as there is some for all of them together.
//!
//! A transaction may have a thousand recipients, and a small machine a hundred connections: not all of them can have as
//! many at once. Whoever finds no room is told to send the rest in another transaction (RFC 5321 §4.5.3.1.10), which
//! loses nothing. What a [`Share`] took is given back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

/// What all connections share.
#[derive(Debug)]
pub struct EnvelopeRoom {
    left: AtomicUsize,
    /// What one of them may take.
    most: usize,
}

/// What the envelope of one connection has taken of it.
#[derive(Debug)]
pub struct Share {
    room: Arc<EnvelopeRoom>,
    taken: usize,
}

impl EnvelopeRoom {
    /// Octets for what is beyond [`limits::ENVELOPE_SMALL`] in all envelopes.
    pub fn new(octets: usize) -> Arc<EnvelopeRoom> {
        Arc::new(EnvelopeRoom { left: AtomicUsize::new(octets), most: octets / limits::ENVELOPES_LARGE })
    }

    /// That of a connection, which has no envelope yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { room: self.clone(), taken: 0 }
    }
}

impl Share {
    /// Whether an envelope may grow to so many octets. If so, they are taken.
    pub fn grow_to(&mut self, octets: usize) -> bool {
        let beyond = octets.saturating_sub(limits::ENVELOPE_SMALL);
        let more = beyond.saturating_sub(self.taken);
        if more == 0 {
            // As nearly always: nothing is asked of what all share.
            return true;
        }
        let take = |left: usize| left.checked_sub(more).filter(|_| beyond <= self.room.most);
        let has_room = self.room.left.try_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        self.taken += if has_room { more } else { 0 };
        has_room
    }

    /// The envelope is gone.
    pub fn release(&mut self) {
        if self.taken > 0 {
            self.room.left.fetch_add(std::mem::take(&mut self.taken), Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_envelopes_share_the_room_and_small_ones_need_none() {
        let room = EnvelopeRoom::new(1000);
        let small = limits::ENVELOPE_SMALL;
        let most = 1000 / limits::ENVELOPES_LARGE;
        let mut shares: Vec<Share> = (0..=limits::ENVELOPES_LARGE).map(|_| room.share()).collect();
        let (last, others) = shares.split_last_mut().unwrap();
        for share in &mut *others {
            assert!(share.grow_to(small + 1) && share.grow_to(small + most) && !share.grow_to(small + most + 1));
        }
        assert!(!last.grow_to(small + 1) && last.grow_to(small));
        others[0].release();
        assert!(last.grow_to(small + most));
        drop(shares);
        assert_eq!(room.left.load(Ordering::Relaxed), 1000);
    }
}
