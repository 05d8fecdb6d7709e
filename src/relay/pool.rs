//! Sessions that were opened for one message and wait a moment for the next.
//!
//! A connection to a next hop carries many messages before it is closed (DESIGN §4). What waits here is bounded in
//! number and time; a session that the other host has ended meanwhile is noticed when it is taken.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Session;
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
    session: Session,
    since: Instant,
}

impl Pool {
    /// A session with this hop, if one waits that is still good.
    pub fn take(&self, hop: &NextHop) -> Option<Session> {
        loop {
            let mut session = {
                let mut idle = self.idle();
                let at = idle.iter().rposition(|idle| idle.hop == *hop)?;
                idle.remove(at).session
            };
            if session.is_alive() {
                return Some(session);
            }
        }
    }

    /// Lets a session wait, or ends it where it has had its share or too many wait already.
    pub fn give(&self, hop: &NextHop, session: Session) {
        if !session.is_reusable() {
            return;
        }
        let is_spent = session.messages() >= limits::SESSION_MESSAGES;
        let mut idle = self.idle();
        if is_spent || idle.len() >= limits::IDLE_SESSIONS {
            drop(idle);
            return session.quit();
        }
        idle.push(Idle { hop: hop.clone(), session, since: Instant::now() });
    }

    /// Ends those that have waited for [`limits::IDLE_SESSION`]. Waits shortly for each to say goodbye.
    pub fn close_old(&self) {
        self.close(limits::IDLE_SESSION);
    }

    /// Ends all.
    pub fn close_all(&self) {
        self.close(Duration::ZERO);
    }

    fn close(&self, after: Duration) {
        let old: Vec<Idle> = self.idle().extract_if(.., |idle| idle.since.elapsed() >= after).collect();
        old.into_iter().for_each(|idle| idle.session.quit());
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
