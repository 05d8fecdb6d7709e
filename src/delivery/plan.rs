//! What an attempt has to do: a pure function of the entry, its state and the site.
//!
//! Recipients are resolved once. Where there are several targets they are written down before the first attempt, and
//! later attempts use them as they stand, so that a list is never sent twice to those who have it. Only what is pending
//! and can't be reached so, because its domain came to this host or left it, is resolved again.

use std::collections::HashSet;

use crate::mail::address::{Address, ReversePath};
use crate::mail::envelope::Envelope;
use crate::mail::outcome::Cause;
use crate::mail::reply::Enhanced;
use crate::route::{End, Place, Site};
use crate::spool::state::{State, Status, Target, Told, Via};

/// What is to be done with one claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Rename the file, which was laid out for this mailbox at acceptance.
    Rename(Address),
    /// Try what is pending.
    Targets {
        /// All targets, tried or not.
        state: State,
        /// Whether they have to be on the disk first.
        record: bool,
    },
}

/// Plans an attempt. `state` is what its file says.
pub fn plan(envelope: &Envelope, laid_out_for: Option<&Address>, state: Option<&State>, site: &Site) -> Plan {
    let Some(state) = state.filter(|state| !state.targets.is_empty()) else {
        return first(envelope, laid_out_for, state, site);
    };
    let is_open = |target: &Target| target.status == Status::Pending && is_unresolved(target, site);
    let (open, known): (Vec<Target>, Vec<Target>) = state.targets.iter().cloned().partition(is_open);
    if open.is_empty() {
        return match laid_out(envelope, laid_out_for, &state.targets) {
            Some(address) => Plan::Rename(address),
            None => Plan::Targets { state: state.clone(), record: false },
        };
    }
    let mut targets = Targets::new(known, site.config.limits.targets);
    for target in &open {
        let route = site.route(&target.address, &target.reverse_path);
        let known = targets.list.len();
        targets.add(&target.address, &route.ends, &target.recipient, &target.reverse_path);
        if target.told == Told::Late {
            targets.list[known..].iter_mut().for_each(|new| new.told = Told::Late);
        }
    }
    Plan::Targets { state: State { targets: targets.list, ..state.clone() }, record: true }
}

/// Whether it is not known how to reach it: it could not be resolved, or its domain has come to this host, or gone from
/// it, since it was.
fn is_unresolved(target: &Target, site: &Site) -> bool {
    match target.via {
        Via::Alias => true,
        Via::NextHop => site.is_local(&target.address),
        Via::Mailbox => !site.is_local(&target.address),
    }
}

fn first(envelope: &Envelope, laid_out_for: Option<&Address>, state: Option<&State>, site: &Site) -> Plan {
    let mut targets = Targets::new(Vec::new(), site.config.limits.targets.max(envelope.recipients.len()));
    for recipient in &envelope.recipients {
        let route = site.route(&recipient.address, &envelope.reverse_path);
        targets.add(&recipient.address, &route.ends, &recipient.address, &envelope.reverse_path);
    }
    let targets = targets.list;
    if let Some(address) = laid_out(envelope, laid_out_for, &targets) {
        return Plan::Rename(address);
    }
    // One target alone is written down with its outcome: if a crash comes before that, it is resolved anew, and there is
    // nobody else who could have it already.
    let record = targets.len() > 1 || envelope.recipients.len() > 1;
    Plan::Targets { state: State { targets, ..state.cloned().unwrap_or_default() }, record }
}

/// The mailbox that the file was laid out for, if it is the one place the message still goes to.
fn laid_out(envelope: &Envelope, laid_out_for: Option<&Address>, targets: &[Target]) -> Option<Address> {
    let [only] = targets else { return None };
    let fits = is_pending_mailbox(only)
        && envelope.recipients.len() == 1
        && laid_out_for == Some(&only.address)
        && only.reverse_path == envelope.reverse_path;
    fits.then(|| only.address.clone())
}

fn is_pending_mailbox(target: &Target) -> bool {
    target.via == Via::Mailbox && target.status == Status::Pending
}

/// The targets of a message: each place once, and no more than a small host can hold.
struct Targets {
    list: Vec<Target>,
    seen: HashSet<(Address, Via)>,
    most: usize,
}

impl Targets {
    fn new(list: Vec<Target>, most: usize) -> Targets {
        let seen = list.iter().map(|target| (target.address.clone(), target.via)).collect();
        Targets { list, seen, most }
    }

    /// Adds the ends of the route of `address` that are not there yet. Where they are too many, it fails as a whole.
    fn add(&mut self, address: &Address, ends: &[End], recipient: &Address, reverse_path: &ReversePath) {
        let mut new: Vec<Target> = ends.iter().map(|end| target(end, recipient)).collect();
        new.retain(|target| self.seen.insert((target.address.clone(), target.via)));
        if self.list.len() + new.len() <= self.most {
            return self.list.append(&mut new);
        }
        for target in &new {
            self.seen.remove(&(target.address.clone(), target.via));
        }
        let text = "the message would go to more than limits.targets; send it to fewer lists at once";
        let place = Place::Nowhere(Cause::local(Enhanced(5, 5, 3), text));
        let end = End { address: address.clone(), reverse_path: reverse_path.clone(), place };
        self.list.push(target(&end, recipient));
    }
}

fn target(end: &End, recipient: &Address) -> Target {
    let via = match &end.place {
        Place::Mailbox => Via::Mailbox,
        Place::NextHop(_) => Via::NextHop,
        Place::Nowhere(_) => Via::Alias,
    };
    let mut target = Target::new(end.address.clone(), via, recipient.clone(), end.reverse_path.clone());
    if let Place::Nowhere(cause) = &end.place {
        target.reply = Some(cause.to_string());
        if cause.reply.code() >= 500 {
            target.status = Status::Failed;
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::mail::address::ReversePath;
    use crate::mail::envelope::Recipient;
    use std::path::Path;

    fn site(aliases: &str) -> Site {
        Site {
            config: Config::parse("hostname = \"example.org\"", Path::new("")).unwrap(),
            users: ["ann@example.org", "bob@example.org"].iter().map(|user| user.parse().unwrap()).collect(),
            aliases: Aliases::parse(Path::new("/aliases"), aliases).unwrap(),
        }
    }

    fn envelope(recipients: &[&str]) -> Envelope {
        let recipient = |text: &&str| Recipient { address: text.parse().unwrap(), parameters: Default::default() };
        Envelope {
            reverse_path: ReversePath::Address("sender@far.example".parse().unwrap()),
            parameters: Default::default(),
            recipients: recipients.iter().map(recipient).collect(),
        }
    }

    fn targets(plan: Plan) -> (Vec<String>, bool) {
        match plan {
            Plan::Rename(address) => (vec![format!("rename {address}")], false),
            Plan::Targets { state, record } => (
                state
                    .targets
                    .iter()
                    .map(|target| format!("{} {:?} {:?}", target.address, target.via, target.status))
                    .collect(),
                record,
            ),
        }
    }

    #[test]
    fn one_mailbox_is_a_rename_while_its_route_stands() {
        let ann: Address = "ann@example.org".parse().unwrap();
        let one = envelope(&["ann+x@example.org"]);
        assert_eq!(plan(&one, Some(&ann), None, &site("")), Plan::Rename(ann.clone()));
        assert_eq!(targets(plan(&one, None, None, &site(""))), (vec!["ann@example.org Mailbox Pending".into()], false));
        let changed = site("ann: bob");
        assert_eq!(targets(plan(&one, Some(&ann), None, &changed)).0, ["bob@example.org Mailbox Pending"]);
        let owned = site("ann: \\ann\nowner-ann: bob");
        assert_eq!(targets(plan(&one, Some(&ann), None, &owned)).0, ["ann@example.org Mailbox Pending"]);
    }

    #[test]
    fn several_targets_are_written_down_first_and_each_place_stands_once() {
        let plan = plan(
            &envelope(&["ann@example.org", "all@example.org", "gone@example.org"]),
            None,
            None,
            &site("all: ann, x@far.example"),
        );
        let expected =
            ["ann@example.org Mailbox Pending", "x@far.example NextHop Pending", "gone@example.org Alias Failed"];
        assert_eq!(targets(plan), (expected.map(String::from).to_vec(), true));
    }

    #[test]
    fn lists_too_many_together_fail_as_a_whole() {
        let mut small = site("one: ann, x@far.example\ntwo: bob, y@far.example\nthree: ann, bob");
        small.config.limits.targets = 3;
        let plan = plan(&envelope(&["one@example.org", "two@example.org", "three@example.org"]), None, None, &small);
        let expected = [
            "ann@example.org Mailbox Pending",
            "x@far.example NextHop Pending",
            "two@example.org Alias Failed",
            "three@example.org Alias Failed",
        ];
        assert_eq!(targets(plan).0, expected);
    }

    #[test]
    fn recorded_targets_are_used_as_they_stand_but_for_what_could_not_be_resolved() {
        let broken = site("team: :include:/nowhere/list, bob");
        let Plan::Targets { mut state, .. } = plan(&envelope(&["team@example.org"]), None, None, &broken) else {
            panic!()
        };
        assert_eq!(state.targets[0].status, Status::Pending);
        state.targets[1].status = Status::Delivered;
        let mended = site("team: ann, bob");
        let (found, record) = targets(plan(&envelope(&["team@example.org"]), None, Some(&state), &mended));
        assert_eq!(found, ["bob@example.org Mailbox Delivered", "ann@example.org Mailbox Pending"]);
        assert!(record);
    }

    #[test]
    fn what_waits_follows_its_domain_to_this_host_and_away() {
        let state = |addresses: &[(&str, Via, Status)]| {
            let target = |(address, via, status): &(&str, Via, Status)| {
                let address: Address = address.parse().unwrap();
                let target = Target::new(address.clone(), *via, address, ReversePath::Null);
                Target { status: *status, told: Told::Late, ..target }
            };
            State::of(addresses.iter().map(target).collect())
        };
        use Status::{Delivered, Pending};
        let found = |state: State| {
            let plan = plan(&envelope(&["x@far.example"]), None, Some(&state), &site("x: \\ann, y@far.example"));
            if let Plan::Targets { state, .. } = &plan {
                assert!(state.targets.iter().all(|target| target.told == Told::Late || target.status != Pending));
            }
            targets(plan)
        };
        let came = [("ann@example.org", Via::NextHop, Pending), ("bob@example.org", Via::NextHop, Delivered)];
        let expected = ["bob@example.org NextHop Delivered", "ann@example.org Mailbox Pending"];
        assert_eq!(found(state(&came)), (expected.map(String::from).to_vec(), true));
        let left = [("ann@old.example", Via::Mailbox, Pending)];
        assert_eq!(found(state(&left)), (vec!["ann@old.example NextHop Pending".into()], true));
        let alias = [("x@example.org", Via::NextHop, Pending)];
        let expected = ["ann@example.org Mailbox Pending", "y@far.example NextHop Pending"];
        assert_eq!(found(state(&alias)), (expected.map(String::from).to_vec(), true));
        let stays = [("ann@example.org", Via::Mailbox, Pending), ("y@far.example", Via::NextHop, Pending)];
        assert!(!found(state(&stays)).1);
    }
}
