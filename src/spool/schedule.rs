//! Which entry comes when: all that is known of the queue in memory, a few hundred octets an entry.
//!
//! Pure: the time comes from outside, by the clock that does not jump. An entry is in exactly one phase: being
//! committed, waiting until it is due, or claimed by one delivery thread. What is not known here is not ours to touch,
//! and every change of a file by hand shows by differing from it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::entry::Entry;
use super::settlement::Settlement;
use crate::limits;
use crate::mail::queue_id::QueueId;

/// The entries of the queue and when each is due.
#[derive(Debug, Default)]
pub struct Schedule {
    slots: HashMap<QueueId, Slot>,
    /// Those that were never tried, and those that were: they are claimed in turn, so that no backlog stands before new
    /// mail.
    due: [BTreeSet<(Duration, QueueId)>; 2],
    /// Which of both has the next turn.
    turn: usize,
    /// How many delivery threads wait for something to be due.
    pub idle: usize,
}

/// The places in [`Schedule::due`].
const NEW: usize = 0;
const TRIED: usize = 1;

/// What is known of one entry.
#[derive(Debug)]
pub struct Slot {
    phase: Phase,
    /// Whether it was tried, or stood in the queue when the server started.
    is_tried: bool,
    /// Whether its first attempt is one rename.
    is_quick: bool,
    /// As it was written, for the first attempt to spare what is known already; none once a person did anything to it.
    pub written: Option<Box<Entry>>,
    /// Whether a person did while it was being committed.
    is_changed: bool,
    /// What the server wrote into the state file last, as a number: no change by hand.
    pub own_state: Option<u64>,
    /// How long it had waited at `since`.
    waited: Duration,
    since: Duration,
    /// Whether it was found in the queue, at start or moved there: a copy of it may be in a mailbox already.
    pub was_found: bool,
    /// An outcome that is not on the disk yet; until it is, nothing is tried.
    pub unwritten: Option<Box<Settlement>>,
    /// Whether someone asked for an attempt, whatever is known of the hosts it leads to.
    asked: bool,
    /// The round of attempts under way, if it was broken off because some next hop had no room.
    round: Option<Box<Round>>,
}

/// An entry that was just accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its name.
    pub id: QueueId,
    /// It is claimed before those that came up to so much earlier. One with such a lead is in its mailbox by one rename.
    pub ahead: Duration,
    /// As it was written, if it has such a lead.
    pub written: Option<Box<Entry>>,
}

/// A round of attempts: each target is tried once before the entry is due again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The targets that had their turn, by their place in the state.
    pub tried: Vec<usize>,
    /// When the next round begins.
    pub next: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Committing,
    Waiting(Duration),
    Claimed {
        /// Someone asked for another attempt meanwhile.
        touched: bool,
        /// A next hop has room again, if that is what it is going to wait for.
        woken: bool,
    },
}

impl Slot {
    fn new(is_tried: bool) -> Slot {
        Slot {
            phase: Phase::Committing,
            is_tried,
            is_quick: false,
            written: None,
            is_changed: false,
            own_state: None,
            waited: Duration::ZERO,
            since: Duration::ZERO,
            was_found: false,
            unwritten: None,
            asked: false,
            round: None,
        }
    }

    fn lane(&self) -> usize {
        if self.is_tried { TRIED } else { NEW }
    }

    /// How long this host has seen the entry wait.
    pub fn waited(&self, now: Duration) -> Duration {
        self.waited.saturating_add(now.saturating_sub(self.since))
    }
}

impl Schedule {
    /// Makes the entry known before its file gets its name, so that nobody takes that for a change by hand.
    pub fn announce(&mut self, id: QueueId) {
        self.slots.insert(id, Slot::new(false));
    }

    /// Lets the entry be claimed from `due` on. `waited` is how long it has waited until `now`.
    pub fn wait(&mut self, id: QueueId, due: Duration, waited: Duration, now: Duration) {
        let slot = self.slots.entry(id).or_insert_with(|| Slot::new(true));
        (slot.round, slot.written) = (None, None);
        (slot.waited, slot.since) = (waited, now);
        self.move_to(id, due);
    }

    /// Lets an entry that was just accepted be claimed now.
    pub fn begin(&mut self, new: Accepted, now: Duration) {
        let Accepted { id, ahead, written } = new;
        // A person may have removed or moved it already.
        if !self.knows(id) {
            return;
        }
        let is_soon = self.due[NEW].len() < limits::HANDED_OVER;
        self.wait(id, now.saturating_sub(ahead), Duration::ZERO, now);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_quick = !ahead.is_zero();
            slot.written = written.filter(|_| is_soon && !slot.is_changed);
        }
    }

    /// A person did something to the files of an entry: what was written is no more what is there.
    pub fn changed(&mut self, id: QueueId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            (slot.written, slot.is_changed) = (None, true);
        }
    }

    /// Whether one more thread should look for what is due, beside that which has just claimed this entry. For renames one
    /// is enough: to wake another takes as long as they do.
    pub fn wants_another(&self, claimed: QueueId, now: Duration) -> bool {
        let is_quick = |id: &QueueId| self.slots.get(id).is_some_and(|slot| slot.is_quick);
        let first = self.due.iter().filter_map(|lane| lane.first());
        let mut due = first.filter(|(due, _)| *due <= now);
        due.any(|(_, id)| !is_quick(&claimed) || !is_quick(id))
    }

    /// Lets an entry that is known be claimed from `due` on.
    fn move_to(&mut self, id: QueueId, due: Duration) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Phase::Waiting(before) = slot.phase {
            self.due[slot.lane()].remove(&(before, id));
        }
        slot.phase = Phase::Waiting(due);
        self.due[slot.lane()].insert((due, id));
    }

    /// What is known of an entry.
    pub fn slot_mut(&mut self, id: QueueId) -> Option<&mut Slot> {
        self.slots.get_mut(&id)
    }

    /// Whether the entry is known.
    pub fn knows(&self, id: QueueId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Whether the entry waits, so that a change of its files can only be by hand.
    pub fn is_waiting(&self, id: QueueId) -> bool {
        self.slots.get(&id).is_some_and(|slot| matches!(slot.phase, Phase::Waiting(_)))
    }

    /// Claims an entry that is due: that which has been so for longest, of those never tried and of the others in turn.
    pub fn claim(&mut self, now: Duration) -> Option<QueueId> {
        let is_due = |lane: &usize| self.due[*lane].first().is_some_and(|(due, _)| *due <= now);
        let lane = [self.turn, 1 - self.turn].into_iter().find(is_due)?;
        self.turn = 1 - lane;
        let (_, id) = self.due[lane].pop_first()?;
        let slot = self.slots.get_mut(&id)?;
        slot.phase = Phase::Claimed { touched: false, woken: false };
        slot.is_tried = true;
        Some(id)
    }

    /// Makes the entry due now, or as soon as the attempt under way is over, because someone asked for it. Says whether
    /// the entry is known.
    pub fn touch(&mut self, id: QueueId, now: Duration) -> bool {
        self.changed(id);
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        slot.asked = true;
        match &mut slot.phase {
            Phase::Committing => {}
            Phase::Claimed { touched, .. } => *touched = true,
            Phase::Waiting(due) => {
                let due = now.min(*due);
                self.move_to(id, due);
            }
        }
        true
    }

    /// Goes on with an entry whose round was broken off, because a next hop has room again; or is about to be, if it is
    /// claimed. Says whether there is such an entry.
    pub fn wake(&mut self, id: QueueId, now: Duration) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        match &mut slot.phase {
            Phase::Claimed { woken, .. } => *woken = true,
            Phase::Waiting(due) if slot.round.is_some() => {
                let due = now.min(*due);
                self.move_to(id, due);
            }
            // It waits for something else.
            Phase::Waiting(_) | Phase::Committing => return false,
        }
        true
    }

    /// Has an outcome that is not on the disk yet written down now.
    pub fn write_now(&mut self, id: QueueId, now: Duration) {
        if self.slots.get(&id).is_some_and(|slot| matches!(slot.phase, Phase::Waiting(_))) {
            self.move_to(id, now);
        }
    }

    /// The entries with outcomes that are not on the disk yet.
    pub fn unwritten(&self) -> Vec<QueueId> {
        self.slots.iter().filter(|(_, slot)| slot.unwritten.is_some()).map(|(id, _)| *id).collect()
    }

    /// Whether someone asked for the attempt that begins now, and which targets had their turn in its round.
    pub fn begin_attempt(&mut self, id: QueueId, now: Duration) -> (bool, Vec<usize>) {
        let Some(slot) = self.slots.get_mut(&id) else { return (false, Vec::new()) };
        let asked = std::mem::take(&mut slot.asked);
        let round = slot.round.take().filter(|round| !asked && now < round.next);
        (asked, round.map(|round| round.tried).unwrap_or_default())
    }

    /// Moves an entry that waits to another time. Says whether that is another time by more than a second: the times in a
    /// state file are whole seconds.
    pub fn reschedule(&mut self, id: QueueId, due: Duration, waited: Duration, now: Duration) -> bool {
        let Some(Slot { phase: Phase::Waiting(before), .. }) = self.slots.get(&id) else { return false };
        let before = *before;
        if before.abs_diff(due) <= Duration::from_secs(1) || before.max(due) <= now {
            return false;
        }
        self.wait(id, due, waited, now);
        true
    }

    /// Ends a claim: the entry waits until `due`, or is due now if it was touched meanwhile.
    pub fn give_back(&mut self, id: QueueId, due: Duration, now: Duration) {
        let Some(slot) = self.slots.get(&id) else { return };
        let due = if matches!(slot.phase, Phase::Claimed { touched: true, .. }) { now } else { due };
        let waited = slot.waited(now);
        self.wait(id, due, waited, now);
    }

    /// As [`Schedule::give_back`], in the middle of a round: the entry is woken once a next hop has room, or is due when
    /// the next round begins.
    pub fn park(&mut self, id: QueueId, round: Round, now: Duration) {
        let is_woken = self.slots.get(&id).is_some_and(|slot| matches!(slot.phase, Phase::Claimed { woken: true, .. }));
        self.give_back(id, if is_woken { now } else { round.next }, now);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.round = Some(Box::new(round));
        }
    }

    /// Forgets the entry. Says whether it was known.
    pub fn forget(&mut self, id: QueueId) -> bool {
        let Some(slot) = self.slots.remove(&id) else { return false };
        if let Phase::Waiting(due) = slot.phase {
            self.due[slot.lane()].remove(&(due, id));
        }
        true
    }

    /// When the next entry is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.iter().filter_map(|lane| lane.first().map(|(due, _)| *due)).min()
    }

    /// How many entries are known.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The entries that wait.
    pub fn waiting(&self) -> impl Iterator<Item = QueueId> {
        self.due.iter().flatten().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> QueueId {
        QueueId::after(None, Duration::from_secs(number), 0)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_being_committed_is_known_and_not_due() {
        let mut schedule = Schedule::default();
        schedule.announce(id(1));
        assert!(schedule.knows(id(1)) && !schedule.is_waiting(id(1)));
        schedule.touch(id(1), at(9));
        assert_eq!(schedule.claim(at(9)), None);
    }

    #[test]
    fn entries_are_claimed_once_each_in_the_order_they_are_due() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(5), at(0), at(0));
        schedule.wait(id(2), at(3), at(0), at(0));
        schedule.wait(id(3), at(9), at(0), at(0));
        assert_eq!(schedule.claim(at(2)), None);
        assert_eq!(
            (schedule.claim(at(6)), schedule.claim(at(6)), schedule.claim(at(6))),
            (Some(id(2)), Some(id(1)), None)
        );
        assert_eq!(schedule.next_due(), Some(at(9)));
    }

    #[test]
    fn a_touch_during_an_attempt_counts_after_it() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(0), at(0), at(0));
        schedule.claim(at(0));
        schedule.touch(id(1), at(1));
        assert_eq!(schedule.claim(at(1)), None, "one thread an entry");
        schedule.give_back(id(1), at(900), at(2));
        assert_eq!(schedule.claim(at(2)), Some(id(1)));
        schedule.give_back(id(1), at(900), at(3));
        assert_eq!(schedule.claim(at(899)), None);
    }

    #[test]
    fn a_touch_never_delays() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(5), at(0), at(0));
        schedule.touch(id(1), at(7));
        assert_eq!(schedule.next_due(), Some(at(5)));
    }

    #[test]
    fn a_round_goes_on_when_woken_and_ends_when_asked_or_over() {
        let parked = || {
            let mut schedule = Schedule::default();
            schedule.wait(id(1), at(0), at(0), at(0));
            schedule.claim(at(0));
            schedule.park(id(1), Round { tried: vec![0, 2], next: at(300) }, at(1));
            assert_eq!(schedule.claim(at(2)), None);
            schedule
        };
        let mut woken = parked();
        woken.wake(id(1), at(2));
        assert_eq!(woken.claim(at(2)), Some(id(1)));
        assert_eq!(woken.begin_attempt(id(1), at(2)), (false, vec![0, 2]));
        let mut asked = parked();
        asked.touch(id(1), at(2));
        assert_eq!(asked.begin_attempt(id(1), at(2)), (true, vec![]));
        assert_eq!(asked.begin_attempt(id(1), at(2)), (false, vec![]), "asked once");
        let mut over = parked();
        assert_eq!(over.claim(at(300)), Some(id(1)));
        assert_eq!(over.begin_attempt(id(1), at(300)), (false, vec![]));
    }

    #[test]
    fn new_mail_and_a_backlog_have_their_turns() {
        let mut schedule = Schedule::default();
        for number in 1..=4 {
            schedule.wait(id(number), at(0), at(0), at(0));
        }
        for number in 5..=6 {
            schedule.announce(id(number));
            schedule.wait(id(number), at(9), at(0), at(9));
        }
        let claimed: Vec<QueueId> = (0..6).filter_map(|_| schedule.claim(at(9))).collect();
        assert_eq!(claimed, [5, 1, 6, 2, 3, 4].map(id));
        schedule.give_back(id(5), at(10), at(9));
        assert_eq!((schedule.next_due(), schedule.claim(at(10))), (Some(at(10)), Some(id(5))));
    }

    #[test]
    fn one_thread_is_enough_for_renames_and_not_for_other_hosts() {
        let mut schedule = Schedule::default();
        (1..=4).for_each(|number| schedule.announce(id(number)));
        (1..=2).for_each(|number| schedule.begin(Accepted { id: id(number), ahead: at(10), written: None }, at(20)));
        assert_eq!((schedule.claim(at(20)), schedule.wants_another(id(1), at(20))), (Some(id(1)), false));
        (3..=4).for_each(|number| schedule.begin(Accepted { id: id(number), ahead: at(0), written: None }, at(20)));
        assert_eq!((schedule.claim(at(20)), schedule.wants_another(id(2), at(20))), (Some(id(2)), true));
        assert_eq!((schedule.claim(at(20)), schedule.wants_another(id(3), at(20))), (Some(id(3)), true));
        assert_eq!((schedule.claim(at(20)), schedule.wants_another(id(4), at(20))), (Some(id(4)), false));
    }

    #[test]
    fn only_who_waits_for_room_is_woken() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(0), at(0), at(0));
        schedule.claim(at(0));
        assert!(schedule.wake(id(1), at(1)), "it may be about to wait for it");
        schedule.give_back(id(1), at(300), at(1));
        assert_eq!(schedule.claim(at(2)), None, "but it does not");
        assert!(!schedule.wake(id(1), at(2)) && !schedule.wake(id(2), at(2)));
        assert_eq!(schedule.claim(at(3)), None);
    }

    #[test]
    fn who_is_woken_during_an_attempt_is_due_after_it() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(0), at(0), at(0));
        schedule.claim(at(0));
        schedule.wake(id(1), at(1));
        schedule.park(id(1), Round { tried: vec![1], next: at(300) }, at(1));
        assert_eq!(schedule.claim(at(1)), Some(id(1)));
        assert_eq!(schedule.begin_attempt(id(1), at(1)), (false, vec![1]));
    }

    #[test]
    fn waiting_is_summed_up_over_attempts() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(10), at(100), at(10));
        schedule.claim(at(20));
        schedule.give_back(id(1), at(30), at(25));
        assert_eq!(schedule.slot_mut(id(1)).unwrap().waited(at(40)), at(130));
    }

    #[test]
    fn what_is_forgotten_is_due_no_more() {
        let mut schedule = Schedule::default();
        schedule.wait(id(1), at(0), at(0), at(0));
        assert!(schedule.forget(id(1)) && !schedule.forget(id(1)));
        assert_eq!((schedule.claim(at(1)), schedule.len()), (None, 0));
    }
}
