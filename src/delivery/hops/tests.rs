//! Who may speak with a next hop, and who is woken when: the table alone, without threads.

use super::*;
use crate::mail::reply::Enhanced;

fn id(number: u64) -> QueueId {
    QueueId::after(None, Duration::from_secs(number), 0)
}

fn hop(name: &str) -> NextHop {
    name.parse().unwrap()
}

struct World {
    table: Table,
    settings: Delivery,
    now: Duration,
    next: u64,
}

impl World {
    fn new(threads: usize) -> World {
        World { table: Table::new(threads), settings: Delivery::default(), now: Duration::from_secs(100), next: 0 }
    }

    fn enter(&mut self, name: &str) -> Entered {
        self.next += 1;
        self.enter_as(name, self.next, false)
    }

    fn enter_as(&mut self, name: &str, number: u64, asked: bool) -> Entered {
        self.table.enter(&hop(name), id(number), asked, &Moment { now: self.now, settings: &self.settings })
    }

    fn leave(&mut self, name: &str, verdict: impl Into<Option<Verdict>>) -> Vec<QueueId> {
        self.table.leave(&hop(name), verdict.into(), &Moment { now: self.now, settings: &self.settings }).wake
    }

    fn fill(&mut self, name: &str) -> usize {
        (0..1000).take_while(|_| self.enter(name) == Entered::Granted).count()
    }
}

fn unreachable() -> Verdict {
    Verdict::Unreachable(Cause::local(Enhanced(4, 4, 1), "no answer"))
}

#[test]
fn a_new_hop_gets_little_and_one_that_works_gets_more() {
    let mut world = World::new(16);
    assert_eq!(world.fill("a.example"), FIRST_WINDOW);
    for _ in 0..20 {
        world.leave("a.example", Verdict::Worked);
        assert_eq!(world.enter("a.example"), Entered::Granted);
    }
    assert_eq!(FIRST_WINDOW + world.fill("a.example"), world.settings.connections_per_hop);
    world.leave("a.example", Verdict::Strained);
    assert_eq!(world.fill("a.example"), 0);
}

#[test]
fn dead_hops_leave_room_for_good_ones_and_both_for_local_mail() {
    let mut world = World::new(16);
    world.enter("good.example");
    world.leave("good.example", Verdict::Worked);
    let dead: usize = (0..50).map(|at| world.fill(&format!("dead{at}.example"))).sum();
    assert_eq!(dead, 6, "half of what is not kept for local mail");
    assert_eq!(world.enter("good.example"), Entered::Granted);
    let good: usize = (0..50).map(|_| usize::from(world.enter("good.example") == Entered::Granted)).sum();
    assert!(good >= 2 && dead + 1 + good <= 12, "{good}");
}

#[test]
fn one_thread_for_all_still_reaches_other_hosts() {
    let mut world = World::new(1);
    assert_eq!(world.enter("a.example"), Entered::Granted);
    assert_eq!(world.enter("b.example"), Entered::Full);
}

#[test]
fn what_is_down_costs_one_attempt_and_tells_all_who_wait() {
    let mut world = World::new(16);
    assert_eq!(world.fill("a.example"), 2);
    world.enter("a.example");
    assert_eq!(world.leave("a.example", unreachable()).len(), 2, "both learn of it");
    let Entered::Down(cause, wait) = world.enter("a.example") else { panic!("it is down") };
    assert_eq!(cause.reply.enhanced(), Some(Enhanced(4, 4, 1)));
    assert!(wait <= world.settings.retry_min.mul_f64(1.1));
    world.leave("a.example", unreachable());
    world.now += world.settings.retry_min * 2;
    assert_eq!(world.enter("a.example"), Entered::Granted, "one attempt tells");
    assert_eq!(world.enter("a.example"), Entered::Full);
    assert_eq!(world.leave("a.example", Verdict::Worked).len(), 1);
    assert_eq!(world.enter("a.example"), Entered::Granted);
}

#[test]
fn who_asks_is_let_in_where_others_are_not() {
    let mut world = World::new(16);
    world.enter("a.example");
    world.leave("a.example", unreachable());
    assert!(matches!(world.enter("a.example"), Entered::Down(..)));
    assert_eq!(world.enter_as("a.example", 77, true), Entered::Granted);
    assert_eq!(world.enter_as("a.example", 78, true), Entered::Full, "one at a time");
    assert_eq!(world.leave("a.example", unreachable()), [id(78)]);
}

#[test]
fn hops_are_woken_in_turn() {
    let mut world = World::new(2);
    assert_eq!(world.enter_as("a.example", 1, false), Entered::Granted);
    for (name, number) in [("a.example", 2), ("a.example", 3), ("b.example", 4), ("c.example", 5)] {
        assert_eq!(world.enter_as(name, number, false), Entered::Full);
    }
    let mut woken: Vec<QueueId> = Vec::new();
    for _ in 0..4 {
        woken.extend(world.leave("a.example", Verdict::Worked));
    }
    woken[..2].sort();
    assert_eq!(woken, [id(4), id(5), id(2), id(3)], "those first whose last turn is longest ago");
}

#[test]
fn a_place_that_is_free_is_given_on_whatever_was_found_out() {
    for verdict in [Some(Verdict::Worked), Some(Verdict::Strained), Some(unreachable()), None] {
        let mut world = World::new(2);
        assert_eq!(world.enter_as("a.example", 1, false), Entered::Granted);
        assert_eq!(world.enter_as("b.example", 2, false), Entered::Full);
        assert_eq!(world.leave("a.example", verdict.clone()), [id(2)], "{verdict:?}");
    }
}

#[test]
fn counts_come_back_to_nothing() {
    let mut world = World::new(16);
    for verdict in [Verdict::Worked, unreachable(), Verdict::Strained, Verdict::Worked, unreachable()] {
        for at in 0..30 {
            world.fill(&format!("h{}.example", at % 7));
        }
        for at in 0..7 {
            while world.table.hops[&hop(&format!("h{at}.example"))].running > 0 {
                world.leave(&format!("h{at}.example"), verdict.clone());
            }
        }
        assert_eq!((world.table.running, world.table.unproven), (0, 0), "{verdict:?}");
        world.now += world.settings.retry_max * 2;
    }
}

#[test]
fn hops_that_are_not_used_are_forgotten() {
    let mut world = World::new(16);
    for at in 0..3 * limits::HOPS_KNOWN {
        world.now += Duration::from_secs(1);
        if world.enter(&format!("h{at}.example")) == Entered::Granted {
            world.leave(&format!("h{at}.example"), Verdict::Worked);
        }
    }
    assert!(world.table.hops.len() <= limits::HOPS_KNOWN);
}

#[test]
fn those_in_use_are_not_looked_through_for_each_new_one() {
    let mut world = World::new(16);
    let mut looks = 0;
    for at in 0..4 * limits::HOPS_KNOWN {
        let next_look = world.table.next_look;
        world.enter(&format!("h{at}.example"));
        looks += usize::from(world.table.next_look != next_look);
    }
    assert_eq!(world.table.hops.len(), 4 * limits::HOPS_KNOWN, "all of them wait");
    assert_eq!(looks, 2);
}

#[test]
fn who_has_had_its_turn_is_not_woken_for_it() {
    let mut world = World::new(16);
    assert_eq!(world.enter_as("a.example", 1, false), Entered::Granted);
    assert_eq!(world.enter_as("a.example", 2, false), Entered::Granted);
    assert_eq!(world.enter_as("a.example", 3, false), Entered::Full);
    world.table.abandon(&hop("a.example"));
    assert_eq!(world.enter_as("a.example", 3, false), Entered::Granted);
    assert_eq!(world.leave("a.example", Verdict::Worked), []);
}

#[test]
fn one_connection_too_many_puts_no_hop_down_that_works() {
    let mut world = World::new(16);
    world.enter("a.example");
    world.leave("a.example", Verdict::Worked);
    for _ in 0..3 {
        assert_eq!(world.enter("a.example"), Entered::Granted);
    }
    world.leave("a.example", unreachable());
    assert_eq!(world.enter("a.example"), Entered::Full, "as many as it bears");
    world.leave("a.example", Verdict::Worked);
    assert_eq!(world.enter("a.example"), Entered::Granted);
}
