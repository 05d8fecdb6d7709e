//! The time that TLS goes by: the wall clock as [`Now`] reads it, so that one before 1970 reads as 1970.
//!
//! rustls itself panics then, at each handshake and for each ticket. Without a right clock a handshake still goes on; only
//! tickets there are none, and a client that comes back begins anew. Nothing here can fail.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

use crate::io::clock::Now;

/// What handshakes take for the time.
#[derive(Debug)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Now::read().wall))
    }
}

/// The tickets of rustls, for as long as the clock can be reckoned with. Their keys are made for the first of them: to gather
/// chance for keys takes longer than all else of a start.
#[derive(Debug, Default)]
pub struct Tickets(OnceLock<Arc<dyn ProducesTickets>>);

impl Tickets {
    /// `None` where the clock can't be reckoned with, or no keys can be had: then each session begins anew.
    fn producer(&self) -> Option<&Arc<dyn ProducesTickets>> {
        if !is_reckonable() {
            return None;
        }
        if self.0.get().is_none() {
            // Another thread may be faster, and its keys are as good.
            let _ = self.0.set(Ticketer::new().ok()?);
        }
        self.0.get()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.producer().is_some()
    }

    fn lifetime(&self) -> u32 {
        self.producer().map_or(0, |producer| producer.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.producer()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.producer()?.decrypt(cipher)
    }
}

fn is_reckonable() -> bool {
    !Now::read().wall.is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_again_by_who_gave_it_alone() {
        let (ours, others) = (Tickets::default(), Tickets::default());
        assert!(ours.enabled() && ours.lifetime() > 0);
        let ticket = ours.encrypt(b"session").unwrap();
        assert_eq!(ours.decrypt(&ticket), Some(b"session".to_vec()));
        assert_eq!(others.decrypt(&ticket), None);
    }
}
