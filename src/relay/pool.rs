//! Sessions that were opened for one message and wait a moment for the next.
//!
//! A connection to a next hop carries many messages before it is closed (DESIGN §4). What waits here is bounded in
//! number and time; a session that the other host has ended meanwhile is noticed when it is taken. One that was opened with
//! other settings than those of today is not taken: it is less secure, or someone else's. Goodbyes are said by whoever tends
//! the pool, so that no delivery waits for one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Session;
use crate::config::HopSettings;
use crate::limits;
use crate::mail::next_hop::NextHop;

/// The sessions that wait.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    hop: NextHop,
    settings: HopSettings,
    session: Session,
    since: Instant,
    /// It carries no more.
    is_spent: bool,
}

impl Pool {
    /// A session with this hop by these settings, if one waits that is still good.
    pub fn take(&self, hop: &NextHop, settings: &HopSettings) -> Option<Session> {
        loop {
            let mut session = {
                let mut idle = self.idle();
                let fits = |idle: &Idle| idle.hop == *hop && idle.settings == *settings && !idle.is_spent;
                let at = idle.iter().rposition(fits)?;
                idle.remove(at).session
            };
            if session.is_alive() {
                return Some(session);
            }
        }
    }

    /// Lets a session wait: for another message, or for its end where it has had its share or too many wait already.
    pub fn give(&self, hop: &NextHop, settings: &HopSettings, session: Session) {
        if !session.is_reusable() {
            return;
        }
        let mut idle = self.idle();
        if idle.len() >= 2 * limits::IDLE_SESSIONS {
            // Goodbyes are said more slowly than sessions end: this one is closed without.
            return;
        }
        let is_spent = session.messages() >= limits::SESSION_MESSAGES || idle.len() >= limits::IDLE_SESSIONS;
        let settings = settings.clone();
        idle.push(Idle { hop: hop.clone(), settings, session, since: Instant::now(), is_spent });
    }

    /// Ends those that are spent, or have waited for [`limits::IDLE_SESSION`]. Waits shortly for each to say goodbye.
    pub fn close_old(&self) {
        self.close(limits::IDLE_SESSION);
    }

    /// Ends all.
    pub fn close_all(&self) {
        self.close(Duration::ZERO);
    }

    fn close(&self, after: Duration) {
        let old: Vec<Idle> =
            self.idle().extract_if(.., |idle| idle.is_spent || idle.since.elapsed() >= after).collect();
        old.into_iter().for_each(|idle| idle.session.quit());
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
