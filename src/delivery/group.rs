//! Which targets of a message go out together: one transaction with one next hop. Pure.
//!
//! Here the envelope of what leaves is made: the reverse-path as the hop gets it, and what of the sender's wishes for
//! reports goes along (RFC 3461 §5.2.7).

use std::collections::HashMap;

use crate::limits;
use crate::mail::address::ReversePath;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::next_hop::NextHop;
use crate::mail::parameter::{MailParameters, Notify, RcptParameters};
use crate::route::{Site, Why};
use crate::spool::state::Target;

/// Targets of one message that go to one next hop with one reverse-path, at most [`limits::RELAY_RECIPIENTS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they go.
    pub hop: NextHop,
    /// What chose it.
    pub why: Why,
    /// As the hop gets it.
    pub reverse_path: ReversePath,
    /// What the sender asked for.
    pub parameters: MailParameters,
    /// For RCPT.
    pub recipients: Vec<Recipient>,
    /// Their places in the state, in the same order.
    pub targets: Vec<usize>,
}

impl Group {
    /// Those of its targets whose places in it are in `kept`, if there are any.
    pub fn part(&self, kept: &[usize]) -> Option<Group> {
        let recipients: Vec<Recipient> = kept.iter().map(|at| self.recipients[*at].clone()).collect();
        let targets = kept.iter().map(|at| self.targets[*at]).collect();
        (!recipients.is_empty()).then(|| Group { recipients, targets, ..self.clone() })
    }
}

/// The groups of those targets whose places are in `open`. `day`, in days since 1970, is for rewritten senders.
pub fn groups(open: &[usize], targets: &[Target], envelope: &Envelope, (site, day): (&Site, u64)) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last: HashMap<(NextHop, ReversePath), usize> = HashMap::new();
    let mut siblings: HashMap<&crate::mail::address::Address, usize> = HashMap::new();
    targets.iter().for_each(|target| *siblings.entry(&target.recipient).or_default() += 1);
    let asked = envelope.asked();
    for at in open {
        let target = &targets[*at];
        let (hop, why) = site.next_hop(target.address.host());
        let reverse_path = sender_for(why, target, (site, day));
        let key = (hop.clone(), reverse_path.clone());
        let is_expanded = siblings.get(&target.recipient).is_some_and(|count| *count > 1);
        let wanted = asked.get(&target.recipient).filter(|_| !target.is_of_list(envelope));
        let parameters = wanted.map(|wanted| rcpt_parameters(wanted, is_expanded)).unwrap_or_default();
        let place = last.get(&key).copied().filter(|at| groups[*at].targets.len() < limits::RELAY_RECIPIENTS);
        let place = place.unwrap_or_else(|| {
            let parameters = mail_parameters(target, envelope);
            groups.push(Group { hop, why, reverse_path, parameters, recipients: Vec::new(), targets: Vec::new() });
            last.insert(key, groups.len() - 1);
            groups.len() - 1
        });
        groups[place].recipients.push(Recipient { address: target.address.clone(), parameters });
        groups[place].targets.push(*at);
    }
    groups
}

fn mail_parameters(target: &Target, envelope: &Envelope) -> MailParameters {
    let parameters = envelope.parameters.clone();
    // Its owner asked for nothing.
    if target.is_of_list(envelope) { MailParameters { ret: None, envid: None, ..parameters } } else { parameters }
}

/// The reverse-path as the hop gets it. A smarthost may take one sender only; what an alias sends on has a sender of this
/// host, so that SPF holds there (RFC 7208 §D.1). The null reverse-path stays what it is.
fn sender_for(why: Why, target: &Target, (site, day): (&Site, u64)) -> ReversePath {
    let ReversePath::Address(sender) = &target.reverse_path else { return ReversePath::Null };
    if let (Why::Smarthost, Some(own), true) = (why, &site.config.relay.smarthost_sender, site.is_local(sender)) {
        return ReversePath::Address(own.clone());
    }
    let is_sent_on = target.address != target.recipient && !site.is_local(sender);
    let rewritten =
        site.srs().filter(|_| is_sent_on).and_then(|srs| srs.forward(sender, site.config.first_domain(), day));
    ReversePath::Address(rewritten.unwrap_or_else(|| sender.clone()))
}

/// What RCPT says for a target (RFC 3461 §5.2.7).
fn rcpt_parameters(asked: &RcptParameters, is_expanded: bool) -> RcptParameters {
    let mut parameters = asked.clone();
    if let Some(notify) = parameters.notify.filter(|notify| is_expanded && notify.success) {
        // That it was expanded is all that the sender hears of success.
        parameters.notify = Some(Notify { success: false, ..notify });
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::spool::state::Via;
    use std::path::Path;

    fn site(relay: &str) -> Site {
        let text = format!("hostname = \"example.org\"\n[relay]\n{relay}");
        Site {
            config: Config::parse(&text, Path::new("")).unwrap(),
            users: Default::default(),
            aliases: Aliases::parse(Path::new("/aliases"), "").unwrap(),
        }
    }

    fn envelope(sender: &str, recipients: &[(&str, &str)]) -> Envelope {
        let recipient = |(address, parameters): &(&str, &str)| Recipient {
            address: address.parse().unwrap(),
            parameters: RcptParameters::parse(parameters).unwrap(),
        };
        Envelope {
            reverse_path: sender.parse().unwrap(),
            parameters: MailParameters::parse("RET=HDRS ENVID=x").unwrap(),
            recipients: recipients.iter().map(recipient).collect(),
        }
    }

    fn target(address: &str, recipient: &str, reverse_path: &str) -> Target {
        let reverse_path = reverse_path.parse().unwrap();
        Target::new(address.parse().unwrap(), Via::NextHop, recipient.parse().unwrap(), reverse_path)
    }

    fn all(targets: &[Target], envelope: &Envelope, site: &Site) -> Vec<Group> {
        let open: Vec<usize> = (0..targets.len()).collect();
        groups(&open, targets, envelope, (site, 20_000))
    }

    #[test]
    fn one_hop_and_one_sender_are_one_transaction_of_bounded_length() {
        let own = "<s@far.example>";
        let mut targets: Vec<Target> =
            (0..250).map(|at| target(&format!("u{at}@b.example"), "all@example.org", own)).collect();
        targets.push(target("x@c.example", "x@c.example", own));
        targets.push(target("y@b.example", "team@example.org", "<owner-team@example.org>"));
        let envelope = envelope(own, &[("all@example.org", ""), ("x@c.example", ""), ("team@example.org", "")]);
        let found = all(&targets, &envelope, &site(""));
        let shape: Vec<(String, usize)> =
            found.iter().map(|group| (group.hop.to_string(), group.targets.len())).collect();
        let of = |hop: &str, count| (hop.to_owned(), count);
        assert_eq!(
            shape,
            [
                of("mx:b.example", 100),
                of("mx:b.example", 100),
                of("mx:b.example", 50),
                of("mx:c.example", 1),
                of("mx:b.example", 1)
            ]
        );
        assert_eq!(found.iter().flat_map(|group| &group.targets).count(), 252);
        assert_eq!(found[4].reverse_path.to_string(), "<owner-team@example.org>");
        assert_eq!((&found[0].parameters.envid, &found[4].parameters.envid), (&Some("x".to_owned()), &None));
    }

    #[test]
    fn what_the_sender_asked_goes_along_as_far_as_it_is_theirs() {
        let sender = "<s@far.example>";
        let recipients = [
            ("x@b.example", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@b.example"),
            ("one@example.org", "NOTIFY=SUCCESS"),
            ("two@example.org", "NOTIFY=SUCCESS,FAILURE"),
            ("team@example.org", "NOTIFY=NEVER"),
        ];
        let targets = [
            target("x@b.example", "x@b.example", sender),
            target("o@b.example", "one@example.org", sender),
            target("t@b.example", "two@example.org", sender),
            target("u@b.example", "two@example.org", sender),
            target("v@b.example", "team@example.org", "<owner-team@example.org>"),
        ];
        let found = all(&targets, &envelope(sender, &recipients), &site(""));
        let said: Vec<String> = found
            .iter()
            .flat_map(|group| &group.recipients)
            .map(|recipient| recipient.parameters.to_string())
            .collect();
        assert_eq!(
            said,
            [
                " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@b.example",
                " NOTIFY=SUCCESS",
                " NOTIFY=FAILURE",
                " NOTIFY=FAILURE",
                ""
            ]
        );
    }

    #[test]
    fn the_sender_is_rewritten_where_that_is_wanted_and_nowhere_else() {
        let smart = "smarthost = \"smart.example\"\nsmarthost_sender = \"me@smart.example\"\ndomains = { \"b.example\" = \"b.example\" }";
        let srs = "srs_secret = \"a secret that is long\"";
        for (relay, sender, address, recipient, expected) in [
            (smart, "<ann@example.org>", "x@c.example", "x@c.example", "<me@smart.example>"),
            (smart, "<ann@example.org>", "x@b.example", "x@b.example", "<ann@example.org>"),
            (smart, "<s@far.example>", "x@c.example", "x@c.example", "<s@far.example>"),
            (smart, "<>", "x@c.example", "x@c.example", "<>"),
            (srs, "<s@far.example>", "x@c.example", "x@c.example", "<s@far.example>"),
            (srs, "<ann@example.org>", "x@c.example", "all@example.org", "<ann@example.org>"),
            (srs, "<>", "x@c.example", "all@example.org", "<>"),
            ("", "<s@far.example>", "x@c.example", "all@example.org", "<s@far.example>"),
        ] {
            let found = all(&[target(address, recipient, sender)], &envelope(sender, &[(recipient, "")]), &site(relay));
            assert_eq!(found[0].reverse_path.to_string(), expected, "{relay} {sender} {address} {recipient}");
        }
        let sender = "<s@far.example>";
        let sent_on = [target("x@c.example", "all@example.org", sender)];
        let found = all(&sent_on, &envelope(sender, &[("all@example.org", "")]), &site(srs));
        let address = found[0].reverse_path.address().unwrap();
        assert_eq!(site(srs).rewritten_from(address).unwrap().address.to_string(), "s@far.example");
    }
}
