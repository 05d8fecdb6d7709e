//! Where mail for an address goes, and why: a pure function of the address and of this host's [`Site`].
//!
//! RCPT, delivery, VRFY, EXPN and the log all use [`Site::route`], so that they never disagree. The chain is: is the
//! domain ours → alias → mailbox → the same without `+tag` → catch-all; an alias's targets go through it again, to a
//! bounded depth, and no name twice. Every end is one of three: a mailbox, another host, or nowhere with a reason.

mod walk;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::aliases::Aliases;
use crate::config::Config;
use crate::mail::address::{Address, Domain, ForwardPath, Host, ReversePath};
use crate::mail::envelope::Envelope;
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::Cause;
use crate::mail::srs::{self, Reversed, Srs};
use crate::users::Users;

/// What this host is at one moment: its configuration, users and aliases. A reload makes a new one.
#[derive(Debug)]
pub struct Site {
    /// The configuration.
    pub config: Config,
    /// Whose mailboxes are here.
    pub users: Users,
    /// What names stand for.
    pub aliases: Aliases,
}

/// The site as it is now; a reload puts another in its place, and who holds the old one ends with it.
#[derive(Debug)]
pub struct CurrentSite(RwLock<Arc<Site>>);

impl CurrentSite {
    /// Begins with `site`.
    pub fn new(site: Site) -> CurrentSite {
        CurrentSite(RwLock::new(Arc::new(site)))
    }

    /// The site as it is now.
    pub fn get(&self) -> Arc<Site> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in its place.
    pub fn set(&self, site: Site) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    }
}

/// Where one recipient's mail goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Each decision, in the order it was taken.
    pub steps: Vec<Step>,
    /// Where it ends; the same end twice is one.
    pub ends: Vec<End>,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The address has an alias, or a list, of this name.
    Alias(Address, String),
    /// The part after the + was put aside.
    Subaddress(Address),
    /// Nothing has the name; the catch-all of the domain takes it.
    CatchAll(Address),
    /// Reports about the list go to its owner.
    Owner(Address),
    /// The postmaster's mail goes to this address.
    Postmaster(Address),
    /// It is an address of our own making (SRS), and stands for this one.
    Rewritten(Address),
    /// It leads to another host.
    Leaves(Address, NextHop, Why),
}

/// What chose a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `relay.domains`
    Domains,
    /// `relay.smarthost`
    Smarthost,
    /// DNS, or the address literal itself.
    Address,
}

/// One end of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The address it came to.
    pub address: Address,
    /// The reverse-path from here on: the sender's, or that of a list's owner.
    pub reverse_path: ReversePath,
    /// What is there.
    pub place: Place,
}

/// What stands at the end of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The mailbox of [`End::address`].
    Mailbox,
    /// Another host.
    NextHop(NextHop),
    /// Nothing: for good (5.x.x), or as long as something on this host is broken (4.x.x).
    Nowhere(Cause),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Alias(address, name) => write!(out, "{address} is the alias {name}"),
            Step::Subaddress(address) => write!(out, "without its tag it is {address}"),
            Step::CatchAll(address) => write!(out, "nothing has the name {address}; the catch-all takes it"),
            Step::Owner(address) => write!(out, "reports go to the owner, {address}"),
            Step::Postmaster(address) => write!(out, "the postmaster is {address}"),
            Step::Rewritten(address) => write!(out, "it was made here to report to {address}"),
            Step::Leaves(address, hop, Why::Domains) => {
                write!(out, "{address} goes to another host; relay.domains names {hop}")
            }
            Step::Leaves(address, hop, Why::Smarthost) => {
                write!(out, "{address} goes to another host, all of whose mail relay.smarthost takes: {hop}")
            }
            Step::Leaves(address, hop, Why::Address) if hop.by_mx => {
                write!(out, "{address} goes to another host; DNS knows its mail exchangers")
            }
            Step::Leaves(address, ..) => write!(out, "{address} names another host by its address"),
        }
    }
}

impl Site {
    /// The address a forward-path means: `<postmaster>` is the one of the first local domain.
    pub fn recipient(&self, path: &ForwardPath) -> Address {
        match path {
            ForwardPath::Postmaster => self.at(POSTMASTER, self.config.first_domain()),
            ForwardPath::Address(address) => address.clone(),
        }
    }

    /// Whether mail for the address ends on this host.
    pub fn is_local(&self, address: &Address) -> bool {
        address.domain().is_some_and(|domain| self.config.is_local(domain))
    }

    /// The next hop of mail for a host that is not this one, and what chose it.
    pub fn next_hop(&self, host: &Host) -> (NextHop, Why) {
        let relay = &self.config.relay;
        if let Some(hop) = host_domain(host).and_then(|domain| relay.hop_of(domain)) {
            return (hop.clone(), Why::Domains);
        }
        match &relay.smarthost {
            Some(hop) => (hop.clone(), Why::Smarthost),
            None => (NextHop::of(host), Why::Address),
        }
    }

    /// The whole way of mail from `reverse_path` for `recipient`.
    pub fn route(&self, recipient: &Address, reverse_path: &ReversePath) -> Route {
        walk::walk(self, recipient, reverse_path)
    }

    /// What rewrites senders, if the configuration wants it.
    pub fn srs(&self) -> Option<Srs> {
        self.config.relay.srs_secret.as_deref().map(Srs::new)
    }

    /// Where a report to `address` goes, if this host made the address.
    pub fn rewritten_from(&self, address: &Address) -> Option<Reversed> {
        if !srs::is_srs(address) || !self.is_local(address) {
            return None;
        }
        // As routes do: who asks before would else be told something else.
        self.srs()?.back(&address.folded())
    }

    /// The mailbox in which the whole way of a message ends, if it has one recipient and one end: then it can be laid out
    /// for a delivery by one rename.
    pub fn single_mailbox(&self, envelope: &Envelope) -> Option<Address> {
        let [recipient] = envelope.recipients.as_slice() else { return None };
        if recipient.parameters.wants_success() {
            // A report follows the delivery, and is made from the file that a rename takes away.
            return None;
        }
        let route = self.route(&recipient.address, &envelope.reverse_path);
        match route.ends.as_slice() {
            [End { address, reverse_path, place: Place::Mailbox }] if *reverse_path == envelope.reverse_path => {
                Some(address.clone())
            }
            _ => None,
        }
    }

    /// The addresses that the alias `name` has, at the local domains.
    pub fn addresses_of(&self, name: &str) -> Vec<Address> {
        let (local_part, only) = match name.rsplit_once('@') {
            // Whatever else is sent to the domain: a name that nobody has stands for it.
            Some(("", domain)) => ("?", Some(domain)),
            Some((local_part, domain)) => (local_part, Some(domain)),
            None => (name, None),
        };
        let domains =
            self.config.local_domains.iter().filter(|local| only.is_none_or(|domain| domain == local.as_str()));
        domains.filter_map(|domain| Address::new(local_part, domain.clone()).ok()).collect()
    }

    /// Whether mail may be put into the mailbox of `address`, which a route ended in: now, or before a change.
    pub fn has_mailbox(&self, address: &Address) -> bool {
        self.users.contains(address) || *address == self.postmaster_mailbox()
    }

    /// The mailbox that always exists (DESIGN §6).
    pub fn postmaster_mailbox(&self) -> Address {
        self.at(POSTMASTER, self.config.first_domain())
    }

    fn at(&self, name: &str, domain: &Domain) -> Address {
        Address::new(name, domain.clone()).expect("names from tables were checked when they were read")
    }
}

fn host_domain(host: &Host) -> Option<&Domain> {
    match host {
        Host::Domain(domain) => Some(domain),
        Host::Literal(_) => None,
    }
}

const POSTMASTER: &str = "postmaster";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use std::path::Path;

    fn site(users: &[&str], aliases: &str) -> Site {
        let text = "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\", \"example.net\"]";
        Site {
            config: Config::parse(text, Path::new("")).unwrap(),
            users: users.iter().map(|user| user.parse().unwrap()).collect(),
            aliases: Aliases::parse(Path::new("aliases"), aliases).unwrap(),
        }
    }

    fn ends(site: &Site, recipient: &str) -> Vec<String> {
        let sender = "sender@far.example".parse().map(ReversePath::Address).unwrap();
        let route = site.route(&recipient.parse().unwrap(), &sender);
        let show = |end: &End| match &end.place {
            Place::Mailbox => format!("{} box", end.address),
            Place::NextHop(hop) => format!("{} {hop}", end.address),
            Place::Nowhere(cause) => format!("{} {}", end.address, cause.reply.enhanced().unwrap()),
        };
        route.ends.iter().map(show).collect()
    }

    #[test]
    fn a_list_without_members_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        std::fs::write(&list, "# nobody yet\n").unwrap();
        let site =
            site(&["ann@example.org"], &format!("team: :include:{0}\nall: team\nboth: team, ann", list.display()));
        assert_eq!(ends(&site, "team@example.org"), ["team@example.org 5.1.1"]);
        assert_eq!(ends(&site, "all@example.org"), ["all@example.org 5.1.1"]);
        assert_eq!(ends(&site, "both@example.org"), ["ann@example.org box"]);
    }

    #[test]
    fn the_chain_is_walked_in_its_order() {
        let site = site(
            &["ann@example.org", "bob@example.org", "ann+own@example.org"],
            "info: bob\nann: ann, carol@far.example\nsales@example.net: info\n@example.net: ann",
        );
        for (recipient, expected) in [
            ("bob@example.org", &["bob@example.org box"][..]),
            ("BOB@Example.org", &["bob@example.org box"]),
            ("bob+tag@example.org", &["bob@example.org box"]),
            ("ann+own@example.org", &["ann+own@example.org box"]),
            ("ann@example.org", &["ann@example.org box", "carol@far.example mx:far.example"]),
            ("info@example.net", &["bob@example.org box"]),
            ("info+x@example.org", &["bob@example.org box"]),
            ("sales@example.net", &["bob@example.org box"]),
            ("sales@example.org", &["sales@example.org 5.1.1"]),
            ("any@example.net", &["ann@example.org box", "carol@far.example mx:far.example"]),
            ("nobody@example.org", &["nobody@example.org 5.1.1"]),
            ("+tag@example.org", &["+tag@example.org 5.1.1"]),
            ("Dora@far.example", &["Dora@far.example mx:far.example"]),
            ("dora@[192.0.2.1]", &["dora@[192.0.2.1] 192.0.2.1"]),
            ("postmaster@example.net", &["postmaster@example.org box"]),
            ("Postmaster+x@example.org", &["postmaster@example.org box"]),
        ] {
            assert_eq!(ends(&site, recipient), expected, "{recipient}");
        }
    }

    #[test]
    fn letters_that_take_more_room_in_lower_case_lead_nowhere_else() {
        let (most, tagged) = ("\u{130}".repeat(limits::LOCAL_PART / 2), "\u{23a}".repeat(limits::LOCAL_PART / 2 - 1));
        let site = site(&["ann@example.org"], &format!("{most}: ann\ninfo: {tagged}\n"));
        assert_eq!(ends(&site, &format!("{most}@example.org")), ["ann@example.org box"]);
        let nobody = format!("{tagged}+x@example.org");
        assert_eq!(ends(&site, &nobody), [format!("{nobody} 5.1.1")]);
        assert_eq!(ends(&site, "info@example.org"), [format!("{tagged}@example.org 5.1.1")]);
    }

    #[test]
    fn a_local_part_is_no_address_whatever_it_looks_like() {
        let site = site(&["ann@example.org"], "info@example.net: ann\n@example.net: ann\n");
        for local_part in ["info@example.net", "@example.net"] {
            let recipient = format!("\"{local_part}\"@example.org");
            assert_eq!(ends(&site, &recipient), [format!("{recipient} 5.1.1")]);
        }
    }

    #[test]
    fn a_look_alike_is_another_domain() {
        let mut site = site(&["ann@example.org"], "");
        let text = "local_domains = [\"example.org\"]\n[relay.domains]\n\"partner.example\" = \"10.0.0.2\"";
        site.config = Config::parse(text, Path::new("")).unwrap();
        assert_eq!(ends(&site, "ann@partner.example"), ["ann@partner.example 10.0.0.2"]);
        // Each has a Cyrillic letter, and goes where DNS says that it goes.
        for domain in ["ex\u{430}mple.org", "p\u{430}rtner.example"] {
            let end = &ends(&site, &format!("ann@{domain}"))[0];
            assert!(end.starts_with("ann@xn--") && end.contains(" mx:xn--"), "{end}");
        }
    }

    #[test]
    fn a_report_to_a_rewritten_sender_finds_the_first_one() {
        let mut site = site(&[], "");
        let sender: Address = "Ann@far.example".parse().unwrap();
        let rewritten = Srs::new("secret").forward(&sender, site.config.first_domain(), 20_000).unwrap().to_string();
        assert!(ends(&site, &rewritten)[0].ends_with("5.1.1"), "nobody can ask for it without the secret");
        site.config.relay.srs_secret = Some("secret".into());
        assert_eq!(ends(&site, &rewritten), ["ann@far.example mx:far.example"]);
        assert!(ends(&site, &rewritten.replace("=Ann@", "=Bob@"))[0].ends_with("5.1.1"));
    }

    #[test]
    fn loops_and_depth_are_cut() {
        let mut deep = String::from("a: b\nb: a\n");
        for at in 0..limits::ALIAS_DEPTH + 2 {
            deep.push_str(&format!("d{at}: d{}\n", at + 1));
        }
        let site = site(&[], &deep);
        assert_eq!(ends(&site, "a@example.org"), ["a@example.org 5.4.6"]);
        assert!(ends(&site, "d0@example.org")[0].ends_with("5.4.6"));
    }

    /// So many levels of three names, each of which leads to all three of the next; the last leads to `end`.
    fn lattice(levels: usize, end: &str) -> String {
        let names =
            |level: usize| if level < levels { format!("{level}a, {level}b, {level}c") } else { end.to_owned() };
        let line = |level: usize, name: &str| format!("{level}{name}: {}\n", names(level + 1));
        (0..levels).flat_map(|level| ["a", "b", "c"].map(|name| line(level, name))).collect()
    }

    #[test]
    fn many_ways_to_the_same_names_are_walked_once() {
        let levels = limits::ALIAS_DEPTH - 2;
        let site = site(&["bob@example.org"], &lattice(levels, "bob"));
        let route = site.route(&"0a@example.org".parse().unwrap(), &ReversePath::Null);
        assert_eq!(route.ends.len(), 1);
        assert_eq!(route.steps.len(), 1 + 3 * (levels - 1));
    }

    #[test]
    fn a_shorter_way_goes_further_than_a_longer_one_that_was_cut() {
        let depth = limits::ALIAS_DEPTH;
        let mut chain: String = (0..depth).map(|at| format!("d{at}: d{}\n", at + 1)).collect();
        chain.push_str(&format!("all: d1, d{}\nd{depth}: bob\n", depth - 2));
        let site = site(&["bob@example.org"], &chain);
        assert_eq!(ends(&site, "all@example.org").last().unwrap(), "bob@example.org box");
    }

    #[test]
    fn more_work_than_any_list_takes_is_refused() {
        // Each list has all members, and each walk through them finds nothing new.
        let members = vec!["bob"; 1000].join(", ");
        let lists: String = (0..1000).map(|at| format!("l{at}: {members}\n")).collect();
        let all: Vec<String> = (0..1000).map(|at| format!("l{at}")).collect();
        let site = site(&["bob@example.org"], &format!("all: {}\n{lists}", all.join(", ")));
        let route = site.route(&"all@example.org".parse().unwrap(), &ReversePath::Null);
        assert!(route.steps.len() <= 1001);
        assert_eq!(ends(&site, "all@example.org"), ["all@example.org 5.4.6"]);
        let Place::Nowhere(cause) = &route.ends[0].place else { panic!("{:?}", route.ends) };
        assert!(cause.reply.to_string().contains("the aliases behind it name too many others"), "{}", cause.reply);
    }

    #[test]
    fn the_same_end_twice_is_one() {
        let site = site(&["bob@example.org"], "all: bob, BOB@example.org, team\nteam: bob");
        assert_eq!(ends(&site, "all@example.org"), ["bob@example.org box"]);
    }

    #[test]
    fn reports_about_a_list_go_to_its_owner_but_null_stays_null() {
        let site = site(&["bob@example.org"], "team: bob\nowner-team: ann@far.example");
        let team = "team@example.org".parse().unwrap();
        let of = |sender: ReversePath| site.route(&team, &sender).ends[0].reverse_path.to_string();
        assert_eq!(of("x@far.example".parse().map(ReversePath::Address).unwrap()), "<owner-team@example.org>");
        assert_eq!(of(ReversePath::Null), "<>");
    }
}
