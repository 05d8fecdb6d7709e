//! Why servers of a next hop were of no use, and what that means together: pure.
//!
//! Promises: while one server can't be had now, or was not come to, nothing final comes of what others say; and what a
//! message asks for beyond others is held against no hop.

use super::hops::Verdict;
use crate::mail::outcome::{Cause, Outcome};

/// Why a server was of no use.
pub enum Refused {
    /// It, or what should lead to it, can't be spoken with.
    Unreachable(Outcome),
    /// It broke off in the middle.
    Broke(Outcome),
    /// It does not take such a message.
    Unwilling(Outcome),
    /// It has not the protection that the message asks for; others it may take as well as ever.
    Unprotected(Outcome),
    /// It was not come to, and might have taken it: it stands before those that were tried, whose words say more unless
    /// they are final. Of the hop it shows nothing.
    Untried(Outcome),
}

/// What a hop has shown of itself.
pub fn verdict(worked: bool, refusals: &[Refused]) -> Option<Verdict> {
    match (worked, refusals.last()) {
        (true, None | Some(Refused::Unwilling(_) | Refused::Unprotected(_) | Refused::Untried(_))) => {
            Some(Verdict::Worked)
        }
        (true, Some(_)) => Some(Verdict::Strained),
        (false, Some(Refused::Broke(_))) => Some(Verdict::Strained),
        (false, Some(Refused::Unreachable(Outcome::Deferred(cause)))) if !is_our_own(cause) => {
            Some(Verdict::Unreachable(cause.clone()))
        }
        // It speaks, and says no to everybody; or nothing is known of it.
        (false, _) => None,
    }
}

/// What refusals mean together: if one server can't be had now and another does not want it, now is the wrong time to tell.
pub fn rest(refusals: &[Refused]) -> Option<Outcome> {
    let all = || refusals.iter().rev().map(Refused::outcome);
    all().find(|outcome| matches!(outcome, Outcome::Deferred(_))).or_else(|| all().next()).cloned()
}

/// Whether something is short on this host, which says nothing of another.
fn is_our_own(cause: &Cause) -> bool {
    cause.host.is_none() && cause.reply.enhanced().is_some_and(|code| code.1 == 3)
}

impl Refused {
    /// What it means for the mail.
    pub fn outcome(&self) -> &Outcome {
        match self {
            Refused::Unreachable(outcome)
            | Refused::Broke(outcome)
            | Refused::Unwilling(outcome)
            | Refused::Unprotected(outcome)
            | Refused::Untried(outcome) => outcome,
        }
    }
}

/// Large providers refuse clients whose IPv6 address leads to no name, each in its own words.
pub fn is_about_our_name(cause: &Cause) -> bool {
    let reply = &cause.reply;
    let text = reply.to_string().to_ascii_lowercase();
    // RFC 7372 §3.
    reply.enhanced().is_some_and(|code| (code.1, code.2) == (7, 25))
        || ["ptr record", "reverse dns", "reverse hostname", "reverse name", "rdns", "ipv6 sending guidelines"]
            .iter()
            .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::reply::{Enhanced, Reply};

    #[test]
    fn nothing_final_comes_of_servers_that_were_not_all_tried() {
        let cause = |code: Enhanced| Cause::local(code, "words");
        let failed = || Outcome::Failed(cause(Enhanced(5, 7, 1)));
        let deferred = || Outcome::Deferred(cause(Enhanced(4, 4, 1)));
        let untried = || Refused::Untried(Outcome::Deferred(cause(Enhanced(4, 4, 2))));
        let is_down = |refusals: &[Refused]| matches!(verdict(false, refusals), Some(Verdict::Unreachable(_)));
        for (tried, expected, down) in [
            (Refused::Unreachable(failed()), Enhanced(4, 4, 2), false),
            (Refused::Unwilling(failed()), Enhanced(4, 4, 2), false),
            (Refused::Unprotected(failed()), Enhanced(4, 4, 2), false),
            (Refused::Unreachable(deferred()), Enhanced(4, 4, 1), true),
        ] {
            let refusals = [untried(), tried];
            assert_eq!(rest(&refusals), Some(Outcome::Deferred(cause(expected))));
            assert_eq!(is_down(&refusals), down);
        }
        assert!(!is_down(&[untried()]) && matches!(verdict(true, &[untried()]), Some(Verdict::Worked)));
    }

    #[test]
    fn refusals_for_want_of_a_name_are_known_by_code_or_words() {
        for (code, text, expected) in [
            (Some(Enhanced(5, 7, 25)), "no", true),
            (Some(Enhanced(5, 7, 1)), "The IP you're using lacks a PTR record", true),
            (None, "cannot find your reverse hostname, [2001:db8::1]", true),
            (Some(Enhanced(5, 7, 1)), "spam", false),
        ] {
            let cause = Cause { reply: Reply::new(550, code, text), host: None };
            assert_eq!(is_about_our_name(&cause), expected, "{text}");
        }
    }
}
