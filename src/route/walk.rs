//! The walk from a recipient to the ends of its route.
//!
//! Pure, and bounded whatever the tables say: aliases lead to aliases to a certain depth, what lies behind a name is walked
//! once, and so are so many names in all. What is over a bound ends nowhere, with 5.4.6 and its reason.

use std::collections::{HashMap, HashSet};

use super::{End, POSTMASTER, Place, Route, Site, Step};
use crate::aliases::AliasTarget;
use crate::limits;
use crate::mail::address::{Address, Domain, ReversePath};
use crate::mail::outcome::Cause;
use crate::mail::reply::Enhanced;
use crate::mail::srs::Reversed;

/// The whole way of mail from `reverse_path` for `recipient`.
pub(super) fn walk(site: &Site, recipient: &Address, reverse_path: &ReversePath) -> Route {
    let mut walk = Walk::of(site);
    walk.follow(recipient, reverse_path);
    if let Some(why) = walk.too_much {
        walk.route.ends.clear();
        walk.seen.clear();
        walk.nowhere(recipient.clone(), reverse_path, Enhanced(5, 4, 6), why);
    }
    if walk.route.ends.is_empty() {
        // Else a message would have nobody to go to, and nobody would hear of it.
        walk.nowhere(recipient.clone(), reverse_path, Enhanced(5, 1, 1), "nobody is on the list");
    }
    walk.route
}

struct Walk<'s> {
    site: &'s Site,
    route: Route,
    /// The ends, by their address and whether it is a mailbox.
    seen: HashSet<(Address, bool)>,
    on_the_way: Vec<Address>,
    /// How deep what lies behind an address was walked: the same again at that depth, or below it, finds nothing new.
    walked: HashMap<Address, usize>,
    /// Targets looked at.
    work: usize,
    /// Why the walk was broken off.
    too_much: Option<&'static str>,
}

impl<'s> Walk<'s> {
    fn of(site: &'s Site) -> Walk<'s> {
        Walk {
            site,
            route: Route::default(),
            seen: HashSet::new(),
            on_the_way: Vec::new(),
            walked: HashMap::new(),
            work: 0,
            too_much: None,
        }
    }

    fn follow(&mut self, address: &Address, reverse_path: &ReversePath) {
        if !self.site.is_local(address) {
            let (hop, why) = self.site.next_hop(address.host());
            self.route.steps.push(Step::Leaves(address.clone(), hop.clone(), why));
            return self.end(address.clone(), reverse_path, Place::NextHop(hop));
        }
        let address = address.folded();
        let loops = self.on_the_way.contains(&address);
        if loops && self.site.has_mailbox(&address) {
            // `ann: ann, bob` keeps a copy in her own mailbox.
            return self.end(address, reverse_path, Place::Mailbox);
        }
        if loops {
            return self.nowhere(address, reverse_path, Enhanced(5, 4, 6), "the alias leads back to itself");
        }
        let depth = self.on_the_way.len();
        if depth >= limits::ALIAS_DEPTH {
            return self.nowhere(address, reverse_path, Enhanced(5, 4, 6), "aliases lead to aliases too many times");
        }
        if self.walked.get(&address).is_some_and(|walked| *walked <= depth) {
            return;
        }
        self.walked.insert(address.clone(), depth);
        self.look_up(&address, reverse_path);
    }

    fn look_up(&mut self, address: &Address, reverse_path: &ReversePath) {
        let site = self.site;
        let Some(domain) = address.domain() else { return };
        let local_part = address.local_part();
        if self.by_name(address, local_part, reverse_path) {
            return;
        }
        if let Some(Reversed { address, .. }) = site.rewritten_from(address) {
            self.route.steps.push(Step::Rewritten(address.clone()));
            return self.follow(&address, reverse_path);
        }
        if let Some((base, _tag)) = local_part.split_once('+').filter(|(base, _)| !base.is_empty()) {
            let base_address = site.at(base, domain);
            if site.aliases.get(base, domain).is_some() || site.has_mailbox(&base_address) || base == POSTMASTER {
                self.route.steps.push(Step::Subaddress(base_address.clone()));
                return self.follow(&base_address, reverse_path);
            }
        }
        if let Some(targets) = site.aliases.catch_all(domain) {
            self.route.steps.push(Step::CatchAll(address.clone()));
            return self.expand(address, targets, reverse_path);
        }
        self.nowhere(address.clone(), reverse_path, Enhanced(5, 1, 1), "no such mailbox here");
    }

    /// An alias, a mailbox, or the postmaster, by exactly this name.
    fn by_name(&mut self, address: &Address, name: &str, reverse_path: &ReversePath) -> bool {
        let site = self.site;
        let Some(domain) = address.domain() else { return false };
        if let Some(targets) = site.aliases.get(name, domain) {
            self.route.steps.push(Step::Alias(address.clone(), name.to_owned()));
            let owner = self.owner_of(name, domain, reverse_path);
            self.expand(address, targets, &owner);
        } else if name == POSTMASTER && !site.users.contains(address) {
            let target = site.config.postmaster.clone().unwrap_or_else(|| site.postmaster_mailbox());
            self.route.steps.push(Step::Postmaster(target.clone()));
            if target.folded() == *address {
                self.end(address.clone(), reverse_path, Place::Mailbox);
            } else if target == site.postmaster_mailbox() {
                self.end(target, reverse_path, Place::Mailbox);
            } else {
                self.on_the_way.push(address.clone());
                self.follow(&target, reverse_path);
                self.on_the_way.pop();
            }
        } else if site.users.contains(address) {
            self.end(address.clone(), reverse_path, Place::Mailbox);
        } else {
            return false;
        }
        true
    }

    /// The reverse-path of a list is its owner's; a null one stays null, or a report could be reported on.
    fn owner_of(&mut self, name: &str, domain: &Domain, reverse_path: &ReversePath) -> ReversePath {
        let owner_name = format!("owner-{name}");
        if *reverse_path == ReversePath::Null || self.site.aliases.get(&owner_name, domain).is_none() {
            return reverse_path.clone();
        }
        let owner = self.site.at(&owner_name, domain);
        self.route.steps.push(Step::Owner(owner.clone()));
        ReversePath::Address(owner)
    }

    fn expand(&mut self, address: &Address, targets: &[AliasTarget], reverse_path: &ReversePath) {
        self.on_the_way.push(address.clone());
        for target in targets {
            self.target(address, target, reverse_path);
        }
        self.on_the_way.pop();
    }

    fn target(&mut self, from: &Address, target: &AliasTarget, reverse_path: &ReversePath) {
        let site = self.site;
        self.work += 1;
        if self.work > limits::ROUTE_WORK.saturating_add(site.config.limits.targets) {
            self.too_much.get_or_insert("the aliases behind it name too many others");
        }
        if self.too_much.is_some() {
            return;
        }
        match target {
            AliasTarget::Address(address) => self.follow(address, reverse_path),
            AliasTarget::Name(name) => self.follow(&site.at(name, site.config.first_domain()), reverse_path),
            AliasTarget::Mailbox(name) => {
                let address = site.at(name, site.config.first_domain());
                if site.has_mailbox(&address) {
                    self.end(address, reverse_path, Place::Mailbox);
                } else {
                    self.nowhere(address, reverse_path, Enhanced(5, 1, 1), "no such mailbox here");
                }
            }
            AliasTarget::Include(path) => match site.aliases.list(path) {
                Ok(members) => members.iter().for_each(|member| self.target(from, member, reverse_path)),
                Err(error) => {
                    let text = format!("the list can't be read: {error}");
                    self.nowhere(from.clone(), reverse_path, Enhanced(4, 2, 4), text);
                }
            },
        }
    }

    fn nowhere(&mut self, address: Address, reverse_path: &ReversePath, code: Enhanced, text: impl Into<String>) {
        self.end(address, reverse_path, Place::Nowhere(Cause::local(code, text)));
    }

    fn end(&mut self, address: Address, reverse_path: &ReversePath, place: Place) {
        if self.seen.insert((address.clone(), place == Place::Mailbox)) {
            self.route.ends.push(End { address, reverse_path: reverse_path.clone(), place });
            if self.route.ends.len() > self.site.config.limits.targets {
                self.too_much.get_or_insert("the list has too many members");
            }
        }
    }
}
