//! What is known of each next hop right now: how many threads speak with it, whether it is down, and who waits for it.
//!
//! Promises: a part of the threads never speaks with another host, so that local mail waits for none; hops that have not
//! taken a message yet share half of the others, so that dead ones never hold up good ones; a hop that is down costs one
//! attempt, not one for each of its messages; no hop gets more connections than it has shown it can bear. An entry
//! without room waits here by its id and is woken in its turn; nobody waits in a thread.
//!
//! [`Table`] is pure: the time comes from outside. Nothing here is on the disk: after a start every hop is unknown.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::patience;
use crate::config::Delivery;
use crate::io::clock::Now;
use crate::limits;
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::Cause;
use crate::mail::queue_id::QueueId;
use crate::maillog;

/// The next hops, shared by the delivery threads.
#[derive(Debug)]
pub struct Hops(Mutex<Table>);

/// Whether a thread may speak with a hop.
#[derive(Debug)]
pub enum Admission<'h> {
    /// Now, until the ticket is given back.
    Granted(Ticket<'h>),
    /// No: the entry is woken once there is room.
    Full,
    /// No: it did not answer, and is left alone for this long.
    Down(Cause, Duration),
}

/// One thread's leave to speak with a hop. Dropped, it is given back without a verdict.
#[derive(Debug)]
pub struct Ticket<'h> {
    hops: &'h Hops,
    hop: NextHop,
    is_given_back: bool,
}

/// What a thread found out about a hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered and took its part of the work, whatever it said to it.
    Worked,
    /// It asked for less, broke off, or took very long.
    Strained,
    /// It could not be spoken with.
    Unreachable(Cause),
}

impl Hops {
    /// For a pool of as many threads as the configuration says.
    pub fn new(settings: &Delivery) -> Hops {
        Hops(Mutex::new(Table::new(settings.threads)))
    }

    /// Asks for leave to speak with `hop` about the entry `id`; `asked` means that a person wants it tried in any case.
    pub fn enter(&self, hop: &NextHop, id: QueueId, (asked, settings): (bool, &Delivery)) -> Admission<'_> {
        let now = Now::read().boot;
        match self.table().enter(hop, id, asked, &Moment { now, settings }) {
            Entered::Granted => Admission::Granted(Ticket { hops: self, hop: hop.clone(), is_given_back: false }),
            Entered::Full => Admission::Full,
            Entered::Down(cause, wait) => Admission::Down(cause, wait),
        }
    }

    /// Wakes as many entries as have room, in case wake-ups went to some that were gone: called about once a second.
    /// `wake` says whether there still is such an entry.
    pub fn wake(&self, settings: &Delivery, wake: impl Fn(QueueId) -> bool) {
        let moment = Moment { now: Now::read().boot, settings };
        let mut room = self.table().room();
        while room > 0 {
            let Some(id) = self.table().next_to_wake(&moment) else { return };
            room -= usize::from(wake(id));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Gives the leave back with what was found out, if anything was. Returns the entries to wake, and for how long the hop
    /// is left alone if it is down.
    pub fn give_back(mut self, verdict: Option<Verdict>, settings: &Delivery) -> (Vec<QueueId>, Option<Duration>) {
        self.is_given_back = true;
        let now = Now::read().boot;
        let Left { wake, news } = self.hops.table().leave(&self.hop, verdict, &Moment { now, settings });
        let mut down_for = None;
        match news {
            Some(News::Down(cause, wait)) => {
                maillog::hop_down(&self.hop, &cause, wait);
                down_for = Some(wait);
            }
            Some(News::Up) => maillog::hop_up(&self.hop),
            None => {}
        }
        (wake, down_for)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.hops.table().abandon(&self.hop);
        }
    }
}

struct Moment<'a> {
    now: Duration,
    settings: &'a Delivery,
}

#[derive(Debug, PartialEq, Eq)]
enum Entered {
    Granted,
    Full,
    Down(Cause, Duration),
}

/// What follows when a thread is done with a hop.
#[derive(Debug, Default)]
struct Left {
    wake: Vec<QueueId>,
    news: Option<News>,
}

/// What a person wants to know of a hop.
#[derive(Debug)]
enum News {
    /// It does not answer, and is left alone for this long.
    Down(Cause, Duration),
    /// It does again.
    Up,
}

/// All that is known of the hops.
#[derive(Debug)]
struct Table {
    /// Threads that may speak with other hosts at a time.
    most: usize,
    running: usize,
    /// Those of them that speak with hops that have not taken a message yet.
    unproven: usize,
    /// Counts the turns hops had, so that the one that waited longest is next.
    turn: u64,
    hops: HashMap<NextHop, Hop>,
    /// At how many hops the old ones are next looked for.
    next_look: usize,
}

#[derive(Debug, Default)]
struct Hop {
    running: usize,
    /// How many may run: grows with each success, shrinks with each strain.
    window: usize,
    is_proven: bool,
    down: Option<Down>,
    parked: Line,
    last_turn: u64,
    used: Duration,
}

/// Entries that wait for room, each once.
#[derive(Debug, Default)]
struct Line {
    order: VecDeque<QueueId>,
    present: HashSet<QueueId>,
}

impl Line {
    fn join(&mut self, id: QueueId) {
        if self.present.insert(id) {
            self.order.push_back(id);
        }
    }

    /// Who leaves keeps its place in `order`, which means nothing then.
    fn leave(&mut self, id: QueueId) {
        self.present.remove(&id);
        if self.present.is_empty() {
            self.order.clear();
        }
    }

    fn next(&mut self) -> Option<QueueId> {
        loop {
            let id = self.order.pop_front()?;
            if self.present.remove(&id) {
                return Some(id);
            }
        }
    }

    fn all(&mut self) -> Vec<QueueId> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn is_empty(&self) -> bool {
        self.present.is_empty()
    }
}

#[derive(Debug)]
struct Down {
    cause: Cause,
    /// When it stopped answering.
    since: Duration,
    /// When it is tried again.
    until: Duration,
}

/// Threads for a hop of which nothing is known: a second one shows whether more are welcome.
const FIRST_WINDOW: usize = 2;

impl Table {
    fn new(threads: usize) -> Table {
        // A quarter, and at least one, is kept for mail that goes to no other host.
        let kept = (threads / 4).max(1);
        Table {
            most: threads.saturating_sub(kept).max(1),
            running: 0,
            unproven: 0,
            turn: 0,
            hops: HashMap::new(),
            next_look: limits::HOPS_KNOWN,
        }
    }

    fn enter(&mut self, name: &NextHop, id: QueueId, asked: bool, moment: &Moment<'_>) -> Entered {
        if !self.hops.contains_key(name) {
            self.forget_old(moment.now);
        }
        let share = self.share();
        let all_full = self.room() == 0;
        let hop = self.hops.entry(name.clone()).or_insert_with(Hop::unknown);
        hop.used = moment.now;
        if let Some(down) = hop.down.as_ref().filter(|down| moment.now < down.until && !asked) {
            return Entered::Down(down.cause.clone(), down.until - moment.now);
        }
        if all_full || !hop.has_room(share, moment.settings) {
            hop.parked.join(id);
            return Entered::Full;
        }
        hop.parked.leave(id);
        hop.running += 1;
        self.turn += 1;
        hop.last_turn = self.turn;
        self.running += 1;
        self.unproven += usize::from(!hop.is_proven);
        Entered::Granted
    }

    /// Wakes all who wait for a hop that is down, so that they learn it, and those that have room now.
    fn leave(&mut self, name: &NextHop, verdict: Option<Verdict>, moment: &Moment<'_>) -> Left {
        self.abandon(name);
        let mut left = Left::default();
        let Some(hop) = self.hops.get_mut(name) else { return left };
        hop.used = moment.now;
        match verdict {
            None => {}
            Some(Verdict::Worked) => {
                left.news = hop.down.take().map(|_| News::Up);
                if !hop.is_proven {
                    hop.is_proven = true;
                    // Those that still speak with it do so with a hop that is proven now.
                    self.unproven -= hop.running.min(self.unproven);
                }
                hop.window = (hop.window + 1).min(moment.settings.connections_per_hop);
            }
            // One connection too many is refused by a hop that works for the others.
            Some(Verdict::Unreachable(_)) if hop.is_proven && hop.running > 0 => hop.window = hop.running,
            Some(Verdict::Strained) => hop.window = (hop.window / 2).max(1),
            Some(Verdict::Unreachable(cause)) => {
                let since = hop.down.as_ref().map_or(moment.now, |down| down.since);
                let waited = moment.now.saturating_sub(since);
                let wait = patience::next_wait(waited, moment.settings, patience::chance());
                left.news = Some(News::Down(cause.clone(), wait));
                hop.down = Some(Down { cause, since, until: moment.now + wait });
                hop.window = FIRST_WINDOW;
                if std::mem::take(&mut hop.is_proven) {
                    self.unproven += hop.running;
                }
                left.wake = hop.parked.all();
            }
        }
        // One place is free, and a window that grew may have made another.
        let room = self.room().min(2);
        left.wake.extend((0..room).filter_map(|_| self.next_to_wake(moment)));
        left
    }

    /// Takes a thread off without a verdict.
    fn abandon(&mut self, name: &NextHop) {
        let Some(hop) = self.hops.get_mut(name) else { return };
        hop.running = hop.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        self.unproven = self.unproven.saturating_sub(usize::from(!hop.is_proven));
    }

    /// The entry whose turn it is, if there is room for it: that of the hop with the fewest threads, and among those of
    /// the one whose last turn is longest ago.
    fn next_to_wake(&mut self, moment: &Moment<'_>) -> Option<QueueId> {
        if self.room() == 0 {
            return None;
        }
        let share = self.share();
        let has_room = |hop: &&mut Hop| !hop.parked.is_empty() && hop.has_room(share, moment.settings);
        let next = self.hops.values_mut().filter(has_room).min_by_key(|hop| (hop.running, hop.last_turn))?;
        self.turn += 1;
        next.last_turn = self.turn;
        next.parked.next()
    }

    /// Threads that may speak with other hosts besides those that do.
    fn room(&self) -> usize {
        self.most.saturating_sub(self.running)
    }

    fn share(&self) -> Share {
        let most = (self.most / 2).max(1);
        if self.unproven >= most {
            Share::Full
        } else if self.unproven >= most / 2 {
            Share::Scarce
        } else {
            Share::Free
        }
    }

    /// Bounds the memory: what was not used for long, and is not in use, is unknown again.
    fn forget_old(&mut self, now: Duration) {
        if self.hops.len() < self.next_look {
            return;
        }
        let in_use = |hop: &Hop| hop.running > 0 || !hop.parked.is_empty();
        let mut used: Vec<Duration> = self.hops.values().map(|hop| hop.used).collect();
        used.sort();
        let middle = used.get(used.len() / 2).copied().unwrap_or(now);
        self.hops.retain(|_, hop| in_use(hop) || hop.used > middle);
        // Where most are in use, a look at all of them for each new one would cost more with each.
        self.next_look = limits::HOPS_KNOWN.max(2 * self.hops.len());
    }
}

impl Hop {
    fn unknown() -> Hop {
        Hop { window: FIRST_WINDOW, ..Hop::default() }
    }

    fn has_room(&self, share: Share, settings: &Delivery) -> bool {
        let window = match share {
            // Whether a hop that was down is back, one attempt tells; so it does of each of many that are unknown.
            _ if self.down.is_some() => 1,
            Share::Scarce if !self.is_proven => 1,
            _ => self.window.min(settings.connections_per_hop),
        };
        self.running < window && (self.is_proven || share != Share::Full)
    }
}

/// What is left of the threads for hops that have not taken a message yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Free,
    /// Each gets one only.
    Scarce,
    Full,
}

#[cfg(test)]
mod tests;
