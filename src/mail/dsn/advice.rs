//! What a person can do about a failure, chosen by its status (RFC 3463 and the registry that RFC 5248 opened).
//!
//! One table, in which a row for one detail stands before that for all of its subject. A status that nobody knows has
//! general advice; nothing fails.

use crate::mail::reply::Enhanced;

/// By subject and detail; `ANY` is every detail of that subject.
const BY_STATUS: &[(u16, u16, &str)] = &[
    (1, 0, MAILBOX),
    (1, 1, MAILBOX),
    (1, 2, DOMAIN),
    (1, 3, SYNTAX),
    (1, 4, AMBIGUOUS),
    (1, 6, MOVED),
    (1, 7, SENDER),
    (1, 8, SENDER),
    (1, 10, NO_MAIL),
    (1, ANY, ADDRESS),
    (2, 1, DISABLED),
    (2, 2, FULL),
    (2, 3, SIZE),
    (2, 4, LIST),
    (2, ANY, NOT_NOW),
    (3, 3, CONTENT),
    (3, 4, SIZE),
    (3, ANY, TROUBLE),
    (4, 6, LOOP),
    (4, 7, GAVE_UP),
    (4, ANY, UNREACHABLE),
    (5, 3, RECIPIENTS),
    (5, ANY, PROTOCOL),
    (6, 7, LETTERS),
    (6, 9, LETTERS),
    (6, ANY, CONTENT),
    (7, 4, PROTECTION),
    (7, 5, PROTECTION),
    (7, 8, PASSWORD),
    (7, 10, PROTECTION),
    (7, 11, PROTECTION),
    (7, 20, FORGED),
    (7, 21, FORGED),
    (7, 22, FORGED),
    (7, 23, FORGED),
    (7, 24, FORGED),
    (7, 25, FORGED),
    (7, 26, FORGED),
    (7, 27, NO_ANSWER),
    (7, 28, TOO_MUCH),
    (7, 30, PROTECTION),
    (7, ANY, REFUSED),
];

/// For a reply without an enhanced code, or with one that says nothing: what its three digits mean most often.
const BY_CODE: &[(u16, &str)] =
    &[(550, MAILBOX_OR_REFUSED), (551, MAILBOX), (552, SIZE_OR_FULL), (553, MAILBOX), (556, DOMAIN)];

const ANY: u16 = u16::MAX;

const MAILBOX: &str = "\
    There is no mailbox of this name. Check the spelling of what stands before the @; if it is right, ask the \
    recipient in another way for the address they use now.";
const DOMAIN: &str = "\
    There is no mail for the domain, which is what stands after the @. Check its spelling; if it is right, the \
    recipient's address has most likely changed.";
const SYNTAX: &str = "The address is not written as an address must be. Check it letter by letter.";
const AMBIGUOUS: &str = "\
    The address may mean more than one mailbox. Ask the recipient for one that is meant for mail from outside.";
const MOVED: &str = "The recipient has moved and left no new address. Ask for it in another way.";
const SENDER: &str = "\
    It is your own address that was refused, and not the recipient's. Check in your mail program how it is \
    written; if it is right, forward this message to your postmaster.";
const NO_MAIL: &str = "\
    This domain takes no mail at all, and says so. The address is wrong, or meant for something else than mail.";
const ADDRESS: &str = "\
    The address is wrong, or is not to be written to. Check the spelling; if it is right, ask the recipient in \
    another way.";
const DISABLED: &str = "The mailbox exists and takes no mail at present. Ask the recipient for another address.";
const FULL: &str = "\
    The recipient's mailbox is full. They must make room in it: tell them in another way, or send the message \
    again in some days.";
const SIZE: &str = "\
    The message is too large. Send its attachments in several messages, or make them smaller, or put them where \
    the recipient can fetch them.";
const LIST: &str = "The list behind this address could not be read. Tell whoever keeps the list.";
const NOT_NOW: &str = "\
    The recipient's mailbox can't take the message. Tell them in another way, or send it again in some days.";
const TROUBLE: &str = "\
    The recipient's mail host could not take mail, which is no fault of your message. Send it again in some \
    hours; if that does not help, ask the recipient whether their mail works.";
const LOOP: &str = "\
    Mail for this address goes in a circle. Only those who run the hosts on its way can mend that: forward this \
    message to your postmaster.";
const UNREACHABLE: &str = "\
    The recipient's mail host could not be reached. Check what stands after the @; if it is right, send the \
    message again tomorrow.";
const RECIPIENTS: &str = "The message had more recipients than are taken at once. Send it to fewer at a time.";
const PROTOCOL: &str = "\
    The two hosts did not understand each other, which is no fault of yours. Forward this message to your \
    postmaster.";
const LETTERS: &str = "\
    The other host does not take letters other than a to z in addresses or at the top of a message. Ask the \
    recipient for an address without them, and write from such a one.";
const CONTENT: &str = "The other host can't take a message of this form. Send it as plain text, without attachments.";
const PROTECTION: &str = "\
    The two hosts could not agree on a protected connection, and the message was not to go without one. Forward \
    this message to your postmaster.";
const PASSWORD: &str = "\
    The other host wanted a password of this one and did not get the right one. Forward this message to your \
    postmaster.";
const FORGED: &str = "\
    The other host could not make sure that the message comes from where it says. That is for your postmaster to \
    mend: forward this message to them.";
const NO_ANSWER: &str = "\
    Your own address can't receive answers, so the other host takes no mail from it. Write from an address that \
    can.";
const TOO_MUCH: &str = "Too much mail came in a short time. Wait some hours, and send again.";
const REFUSED: &str = "\
    The other host refused the message by a rule of its own: it may take it for spam or for dangerous, or you \
    may not write to this address. Its words above may say why, and how to be let through; else ask the \
    recipient in another way.";
const MAILBOX_OR_REFUSED: &str = "\
    Either there is no such mailbox or the other host did not want the message: its words above may say which. \
    Check the spelling of the address first.";
const SIZE_OR_FULL: &str = "\
    The message is too large, or the recipient's mailbox is full. Send a short message without attachments to \
    see which.";
const GAVE_UP: &str = "\
    The trouble did not end for as long as this server tries. Send the message again tomorrow; if that does not \
    help, ask the recipient whether their mail works.";
const UNKNOWN: &str = "\
    That is all that is known of the reason. If it does not help, forward this message to your postmaster.";

/// What to do about a failure with this status, whose reply had this code.
pub fn advice(status: Enhanced, code: Option<u16>) -> &'static str {
    let by_status =
        |&&(subject, detail, _): &&(u16, u16, &str)| subject == status.1 && (detail == status.2 || detail == ANY);
    if let Some((_, _, text)) = BY_STATUS.iter().find(by_status) {
        return text;
    }
    BY_CODE.iter().find(|(known, _)| code == Some(*known)).map_or(UNKNOWN, |(_, text)| text)
}

/// Whether the status is about the size of the message.
pub fn is_size(status: Enhanced) -> bool {
    matches!((status.1, status.2), (3, 4) | (2, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_advice_is_given() {
        for (subject, detail, code, words) in [
            (1, 1, 550, "no mailbox of this name"),
            (1, 0, 550, "no mailbox of this name"),
            (1, 9, 550, "The address is wrong"),
            (1, 10, 556, "takes no mail at all"),
            (2, 2, 552, "mailbox is full"),
            (3, 4, 552, "too large"),
            (3, 0, 451, "Send it again in some hours"),
            (4, 1, 451, "could not be reached"),
            (4, 6, 554, "circle"),
            (4, 7, 450, "did not end"),
            (6, 7, 550, "a to z"),
            (6, 0, 554, "plain text"),
            (7, 1, 554, "spam"),
            (7, 10, 550, "protected connection"),
            (0, 0, 550, "Either there is no such mailbox"),
            (0, 0, 554, "all that is known"),
            (99, 1, 554, "all that is known"),
            (u16::MAX, u16::MAX, 599, "all that is known"),
        ] {
            assert!(advice(Enhanced(5, subject, detail), Some(code)).contains(words), "{subject}.{detail}");
        }
        assert_eq!(advice(Enhanced(5, 0, 0), None), UNKNOWN);
    }

    #[test]
    fn no_row_is_hidden_behind_another() {
        for (at, (subject, detail, _)) in BY_STATUS.iter().enumerate() {
            let first = BY_STATUS.iter().position(|row| row.0 == *subject && (row.1 == *detail || row.1 == ANY));
            assert_eq!(first, Some(at), "{subject}.{detail}");
        }
    }
}
