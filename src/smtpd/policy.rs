//! Who may send what to whom: the session's questions, answered from the site, the spool's disk and the client's address.

use std::cell::RefCell;
use std::net::IpAddr;

use super::room::Share;
use super::session::Policy;
use crate::auth;
use crate::io::clock::Now;
use crate::mail::address::{Address, Domain, ForwardPath, ReversePath};
use crate::mail::parameter::{MailParameters, Notify, RcptParameters};
use crate::mail::reply::{self, Reply};
use crate::maillog;
use crate::route::{Place, Route, Site, Why};
use crate::spool::{Selection, Spool};

/// The policy towards one client.
pub struct SitePolicy<'a> {
    /// What this host is.
    pub site: &'a Site,
    /// Where messages would go.
    pub spool: &'a Spool,
    /// The client's address.
    pub client: IpAddr,
    /// Whether it came to a port for submission.
    pub submission: bool,
    /// Memory for its envelope.
    pub share: &'a RefCell<Share>,
}

impl Policy for SitePolicy<'_> {
    fn hostname(&self) -> &str {
        self.site.config.hostname.as_str()
    }

    fn message_size(&self) -> u64 {
        self.site.config.limits.message_size
    }

    fn recipients(&self) -> usize {
        self.site.config.limits.recipients
    }

    fn errors(&self) -> u32 {
        self.site.config.limits.errors
    }

    fn sender(&self, path: &ReversePath, parameters: &MailParameters, user: Option<&Address>) -> Result<(), Reply> {
        if let (Some(user), Some(sender)) = (user, path.address())
            && !auth::may_send_as(self.site, user, sender)
        {
            return Err(reply::not_your_address());
        }
        let size = parameters.size.unwrap_or(0);
        if size > self.message_size() {
            return Err(reply::too_large());
        }
        match self.spool.has_room(size, self.site.config.limits.free_space) {
            Ok(true) => Ok(()),
            Ok(false) => Err(reply::no_space()),
            Err(error) => {
                maillog::spool_error(None, error);
                Err(reply::cannot_store())
            }
        }
    }

    fn recipient(&self, path: &ForwardPath, from: &ReversePath, user: Option<&Address>) -> Result<Address, Reply> {
        let address = self.site.recipient(path);
        if !self.site.is_local(&address) {
            if user.is_none() && !self.site.config.may_relay(self.client) {
                return Err(reply::relaying_denied());
            }
            if self.submission && self.is_unqualified(&address) {
                return Err(reply::unqualified_domain());
            }
            return Ok(address);
        }
        if let Some(reversed) = self.site.rewritten_from(&address) {
            // Else whoever saw the address in a message could send through this host to whom it stands for.
            if *from != ReversePath::Null && user.is_none() && !self.site.config.may_relay(self.client) {
                return Err(reply::for_reports_only());
            }
            if reversed.is_expired(Now::read().day()) {
                return Err(reply::address_expired());
            }
        }
        match refusal(&self.site.route(&address, from)) {
            None => Ok(address),
            Some(refusal) => Err(refusal),
        }
    }

    fn heeded(&self, parameters: RcptParameters, user: Option<&Address>) -> RcptParameters {
        if user.is_some() || self.site.config.may_relay(self.client) {
            return parameters;
        }
        // A stranger may name anyone as the sender, who then would get a report of each message that arrives.
        let notify = parameters.notify.map(|notify| Notify { success: false, ..notify });
        RcptParameters { notify, ..parameters }
    }

    fn envelope_may_have(&self, octets: usize) -> bool {
        self.share.borrow_mut().grow_to(octets)
    }

    fn verify(&self, name: &str) -> Reply {
        if !self.site.config.may_relay(self.client) {
            return reply::cannot_verify();
        }
        let Some(address) = self.named(name) else { return reply::nobody() };
        if !self.site.is_local(&address) {
            // RFC 5321 §3.5.3: it would be relayed, and only its own host knows.
            return reply::cannot_verify();
        }
        let found = refusal(&self.site.route(&address, &ReversePath::Null)).is_none();
        let address = found.then(|| format!("<{address}>"));
        reply::addresses(address.into_iter()).unwrap_or_else(reply::nobody)
    }

    fn expand(&self, name: &str) -> Reply {
        if !self.site.config.may_relay(self.client) {
            return reply::cannot_expand();
        }
        let local = self.named(name).filter(|address| self.site.is_local(address));
        let ends = local.map(|address| self.site.route(&address, &ReversePath::Null).ends).unwrap_or_default();
        let reachable = ends.iter().filter(|end| !matches!(end.place, Place::Nowhere(_)));
        reply::addresses(reachable.map(|end| format!("<{}>", end.address))).unwrap_or_else(reply::nobody)
    }

    fn bring_forward(&self, domain: &Domain) -> Reply {
        if !self.site.config.may_relay(self.client) {
            return reply::cannot_bring_forward();
        }
        match self.spool.bring_forward(&Selection::of_host(domain.clone().into())) {
            Ok(0) => reply::nothing_waits(),
            Ok(count) => reply::brought_forward(count),
            Err(error) => {
                maillog::spool_error(None, error);
                reply::internal_error()
            }
        }
    }
}

impl SitePolicy<'_> {
    /// Whether the domain is half a name, and not one that `relay.domains` has.
    fn is_unqualified(&self, address: &Address) -> bool {
        let has_one_label = address.domain().is_some_and(|domain| !domain.as_str().contains('.'));
        has_one_label && self.site.next_hop(address.host()).1 != Why::Domains
    }

    /// The address that VRFY or EXPN means, with or without brackets and domain.
    fn named(&self, name: &str) -> Option<Address> {
        let bare = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(name);
        let full = format!("{bare}@{}", self.site.config.first_domain());
        bare.parse().or_else(|_| full.parse()).ok()
    }
}

/// Why nothing at all of a route can be reached: for good if that is so of every end, else for now.
fn refusal(route: &Route) -> Option<Reply> {
    let mut refusal = None;
    for end in &route.ends {
        match &end.place {
            // A list that can't be read now is no reason to refuse its mail: it waits in the queue.
            Place::Nowhere(cause) if cause.reply.code() >= 500 => refusal = Some(cause.reply.clone()),
            _ => return None,
        }
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::limits;
    use crate::mail::srs::Srs;
    use crate::smtpd::room::EnvelopeRoom;
    use crate::users::Users;
    use std::path::Path;

    fn share() -> RefCell<Share> {
        RefCell::new(EnvelopeRoom::new(0).share())
    }

    #[test]
    fn reports_to_a_rewritten_sender_are_taken_for_a_while_and_from_anyone() {
        let text = "hostname = \"mail.example.org\"\n[relay]\nfrom = []\nsrs_secret = \"a secret of this test\"";
        let config = Config::parse(text, Path::new("/")).unwrap();
        let domain = config.first_domain().clone();
        let site = Site { config, users: Users::default(), aliases: Aliases::default() };
        let folder = tempfile::tempdir().unwrap();
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let share = share();
        let client = "192.0.2.7".parse().unwrap();
        let policy = SitePolicy { site: &site, spool: &spool, client, submission: false, share: &share };
        let today = Now::read().day();
        let said_to = |from: &str, day: u64, secret: &str| {
            let rewritten = Srs::new(secret).forward(&"ann@far.example".parse().unwrap(), &domain, day).unwrap();
            policy.recipient(&ForwardPath::Address(rewritten), &from.parse().unwrap(), None).map(|_| ())
        };
        let said = |day: u64, secret: &str| said_to("<>", day, secret);
        assert_eq!(said(today, "a secret of this test"), Ok(()));
        assert_eq!(said(today - limits::SRS_DAYS + 1, "a secret of this test"), Ok(()));
        assert_eq!(said(today - limits::SRS_DAYS - 2, "a secret of this test"), Err(reply::address_expired()));
        assert_eq!(said(today, "a secret of someone"), Err(reply::no_such_mailbox()));
        // No stranger's letters go to whom it stands for.
        assert_eq!(said_to("<x@b.example>", today, "a secret of this test"), Err(reply::for_reports_only()));
        // The Kelvin sign is a small k too, as routes are looked up.
        let with_k = (0..100).map(|number| format!("ann{number}@far.example").parse().unwrap());
        let rewritten =
            with_k.map(|sender| Srs::new("a secret of this test").forward(&sender, &domain, today).unwrap());
        let kelvin = rewritten.map(|address| address.to_string()).find(|text| text[..13].contains('K')).unwrap();
        let path = ForwardPath::Address(kelvin.replacen('K', "\u{212A}", 1).parse().unwrap());
        let said = policy.recipient(&path, &"<x@b.example>".parse().unwrap(), None);
        assert_eq!(said, Err(reply::for_reports_only()));
        let mut config = site.config.clone();
        config.relay.from = vec!["192.0.2.7/32".parse().unwrap()];
        let site = Site { config, users: Users::default(), aliases: Aliases::default() };
        let trusted =
            SitePolicy { site: &site, spool: &spool, client: policy.client, submission: false, share: &share };
        let rewritten = Srs::new("a secret of this test").forward(&"ann@far.example".parse().unwrap(), &domain, today);
        let path = ForwardPath::Address(rewritten.unwrap());
        assert!(trusted.recipient(&path, &"<x@b.example>".parse().unwrap(), None).is_ok());
    }

    #[test]
    fn strangers_have_no_success_reported() {
        let site = Site {
            config: Config::parse("relay.from = [\"192.0.2.7\"]", Path::new("/")).unwrap(),
            users: Users::default(),
            aliases: Aliases::default(),
        };
        let folder = tempfile::tempdir().unwrap();
        let (spool, _writer) = Spool::open(folder.path()).unwrap();
        let asked = |client: &str, notify: &str| {
            let (share, client) = (share(), client.parse().unwrap());
            let policy = SitePolicy { site: &site, spool: &spool, client, submission: false, share: &share };
            policy.heeded(RcptParameters::parse(notify).unwrap(), None).to_string()
        };
        for (notify, heeded) in [
            (" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;a", " NOTIFY=FAILURE,DELAY ORCPT=rfc822;a"),
            (" NOTIFY=SUCCESS", " NOTIFY=NEVER"),
            (" NOTIFY=FAILURE", " NOTIFY=FAILURE"),
            ("", ""),
        ] {
            assert_eq!(asked("192.0.2.7", notify), notify);
            assert_eq!(asked("192.0.2.8", notify), heeded);
        }
    }
}
