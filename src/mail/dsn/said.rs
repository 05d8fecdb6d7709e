//! What the last reply for a recipient says: its codes, and the words after them.
//!
//! The text is another host's, or this one's; reading it never fails.

use super::{Action, Reported};
use crate::mail::reply::Enhanced;

/// A reply in one line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// All of it.
    pub text: &'a str,
    /// The three digits at its front.
    pub code: Option<u16>,
    /// The enhanced code after them.
    pub enhanced: Option<Enhanced>,
    /// Whether it was tried until patience was at its end.
    pub gave_up: bool,
}

impl<'a> Said<'a> {
    /// Takes the reply for a recipient apart.
    pub fn of(recipient: &Reported<'a>) -> Said<'a> {
        Said { gave_up: recipient.gave_up, ..Said::read(recipient.reply.unwrap_or_default()) }
    }

    fn read(reply: &'a str) -> Said<'a> {
        let mut words = reply.split(' ');
        let code =
            words.next().filter(|word| word.len() == 3).and_then(number).filter(|code| (200..600).contains(code));
        let enhanced = code.and_then(|_| words.next()).and_then(enhanced);
        Said { text: reply, code, enhanced, gave_up: false }
    }

    /// What follows the codes; all of it, if nothing does.
    pub fn words(&self) -> &'a str {
        let codes = usize::from(self.code.is_some()) + usize::from(self.enhanced.is_some());
        self.text.splitn(codes + 1, ' ').nth(codes).unwrap_or(self.text)
    }

    /// The status for a report of `action` (RFC 3464 §2.3.4): the enhanced code where its class is one of the action's,
    /// else the class alone.
    ///
    /// A failure may have class 4 (RFC 3463 §2): it was given up, and sending again may help. Then the code is that of
    /// the real trouble if there is one, rather than 4.4.7 (RFC 3463 §3.5).
    pub fn status(&self, action: Action) -> Enhanced {
        let by_code = self.code.map(|code| (code / 100) as u8);
        let classes: &[u8] = match action {
            Action::Failed => &[5, 4],
            Action::Delayed => &[4],
            Action::Delivered | Action::Relayed | Action::Expanded => &[2],
        };
        let fits = |class: u8| classes.contains(&class);
        let known = self.enhanced.filter(|code| fits(code.0));
        match known {
            _ if self.gave_up && known.is_none_or(|code| code.0 == 5 || (code.1, code.2) == (0, 0)) => {
                Enhanced(4, 4, 7)
            }
            Some(code) => code,
            None => Enhanced(by_code.filter(|class| fits(*class)).unwrap_or(classes[0]), 0, 0),
        }
    }
}

/// A number of one to three digits.
fn number(text: &str) -> Option<u16> {
    let is_one = (1..=3).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_one)
}

/// RFC 3463 §2.
fn enhanced(word: &str) -> Option<Enhanced> {
    let mut parts = word.split('.');
    let (class, subject, detail) = (parts.next()?, number(parts.next()?)?, number(parts.next()?)?);
    let class = match class {
        "2" => 2,
        "4" => 4,
        "5" => 5,
        _ => return None,
    };
    parts.next().is_none().then_some(Enhanced(class, subject, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(action: Action, reply: &str) -> String {
        Said::read(reply).status(action).to_string()
    }

    #[test]
    fn the_status_is_the_replys_where_its_class_fits() {
        for (action, reply, expected) in [
            (Action::Failed, "550 5.1.1 no such user", "5.1.1"),
            (Action::Failed, "550 no such user", "5.0.0"),
            (Action::Failed, "451 4.7.1 later", "4.7.1"),
            (Action::Failed, "450 later", "4.0.0"),
            (Action::Failed, "250 2.0.0 ok", "5.0.0"),
            (Action::Failed, "", "5.0.0"),
            (Action::Failed, "no code at all", "5.0.0"),
            (Action::Failed, "550 5.1.1234 x", "5.0.0"),
            (Action::Failed, "550 5.1 x", "5.0.0"),
            (Action::Failed, "550 5.1.1.1 x", "5.0.0"),
            (Action::Failed, "550 3.1.1 x", "5.0.0"),
            (Action::Failed, "999 5.1.1 x", "5.0.0"),
            (Action::Failed, "+55 5.1.1 x", "5.0.0"),
            (Action::Delayed, "451 4.4.1 no answer", "4.4.1"),
            (Action::Delayed, "550 5.1.1 x", "4.0.0"),
            (Action::Delivered, "250 2.1.5 ok", "2.1.5"),
            (Action::Relayed, "250 ok", "2.0.0"),
            (Action::Expanded, "", "2.0.0"),
        ] {
            assert_eq!(status(action, reply), expected, "{reply}");
        }
    }

    #[test]
    fn words_stand_without_their_codes() {
        for (reply, words) in [
            ("451 4.4.1 no answer", "no answer"),
            ("451 no answer", "no answer"),
            ("no answer", "no answer"),
            ("451 4.4.1", "451 4.4.1"),
            ("", ""),
        ] {
            assert_eq!(Said::read(reply).words(), words, "{reply}");
        }
    }

    #[test]
    fn what_was_given_up_has_the_code_of_the_trouble() {
        for (last, expected) in
            [("451 4.4.1 no answer", "4.4.1"), ("450 greylisted", "4.4.7"), ("450 4.0.0 later", "4.4.7"), ("", "4.4.7")]
        {
            let said = Said { gave_up: true, ..Said::read(last) };
            assert_eq!((said.status(Action::Failed).to_string().as_str(), said.text), (expected, last));
        }
        // In words that were ours once, another host says no more than in its own.
        let said = Said::read("550 5.4.7 given up; the last reply was: 451 4.4.1 no answer");
        assert_eq!((said.gave_up, said.status(Action::Failed)), (false, Enhanced(5, 4, 7)));
    }
}
