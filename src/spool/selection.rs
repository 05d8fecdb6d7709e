//! Which messages a person means: words on a command line, or a client's ETRN.
//!
//! Pure. Several words mean what any of them means. Local-parts are compared without their case, because a person types
//! them. Fails with a sentence that names the word.

use std::str::FromStr;

use super::listed::Listed;
use crate::mail::address::{Address, Host, ReversePath};
use crate::mail::queue_id::QueueId;

/// The messages that some words mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<Word>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    All,
    Id(QueueId),
    Anyone(Whom),
    Sender(Whom),
    /// The null reverse-path.
    NoSender,
    Recipient(Whom),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    /// One address, folded.
    Address(Address),
    /// Everybody there.
    Host(Host),
}

impl Selection {
    /// Every message.
    pub fn all() -> Selection {
        Selection(vec![Word::All])
    }

    /// The messages to `host`: what a client asks for by ETRN.
    pub fn of_host(host: Host) -> Selection {
        Selection(vec![Word::Recipient(Whom::Host(host))])
    }

    /// Reads `all`, queue ids (or the names of their files), addresses, domains with or without an @, and `from:` or `to:`
    /// before one of both. An address means sender, recipient or target; a domain alone means recipients and targets.
    pub fn parse(words: &[&str]) -> Result<Selection, String> {
        words
            .iter()
            .map(|word| word.parse().map_err(|what| format!("{word}: {what}")))
            .collect::<Result<_, _>>()
            .map(Selection)
    }

    /// Whether it means this message. One whose envelope can't be read has nothing but its id.
    pub fn matches(&self, listed: &Listed) -> bool {
        self.0.iter().any(|word| match word {
            Word::All => true,
            Word::Id(id) => *id == listed.id,
            Word::Anyone(whom @ Whom::Address(_)) => listed.sender().is_some_and(|it| whom.is(it)) || whom.gets(listed),
            Word::Anyone(whom) | Word::Recipient(whom) => whom.gets(listed),
            Word::Sender(whom) => listed.sender().is_some_and(|sender| whom.is(sender)),
            Word::NoSender => {
                listed.envelope.as_ref().is_some_and(|envelope| envelope.reverse_path == ReversePath::Null)
            }
        })
    }

    /// Whether it can mean a message of this id: where only ids were said, the other files need not be read.
    pub(super) fn may_match(&self, id: QueueId) -> bool {
        self.0.iter().any(|word| !matches!(word, Word::Id(other) if *other != id))
    }

    /// Whether it has a message of this id by its id.
    pub fn names(&self, id: QueueId) -> bool {
        self.0.contains(&Word::Id(id))
    }

    /// The id, if it means one message by its id.
    pub fn single_id(&self) -> Option<QueueId> {
        match self.0[..] {
            [Word::Id(id)] => Some(id),
            _ => None,
        }
    }
}

impl Whom {
    fn is(&self, address: &Address) -> bool {
        match self {
            Whom::Address(meant) => *meant == address.folded(),
            Whom::Host(host) => host == address.host(),
        }
    }

    fn gets(&self, listed: &Listed) -> bool {
        let recipients = listed.envelope.iter().flat_map(|envelope| &envelope.recipients);
        let targets = listed.state.iter().flat_map(|state| &state.targets);
        let mut all = recipients.map(|recipient| &recipient.address).chain(targets.map(|target| &target.address));
        all.any(|address| self.is(address))
    }
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Word, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Word::All);
        }
        if let Some(id) = id(text) {
            return Ok(Word::Id(id));
        }
        match text.split_once(':') {
            Some(("from", "<>")) => Ok(Word::NoSender),
            Some(("from", whom)) => whom.parse().map(Word::Sender),
            Some(("to", whom)) => whom.parse().map(Word::Recipient),
            _ if text == "<>" => Ok(Word::NoSender),
            _ => text.parse().map(Word::Anyone),
        }
    }
}

/// A queue id in any case, or the name of a file of that message.
fn id(text: &str) -> Option<QueueId> {
    let name = text.split('.').next().unwrap_or_default();
    let is_file = |rest: &str| rest.is_empty() || rest.starts_with(".eml") || rest.starts_with(".state");
    name.to_ascii_uppercase().parse().ok().filter(|_| is_file(&text[name.len()..]))
}

impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Whom, String> {
        let text = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
        match text.strip_prefix('@') {
            Some(host) => host.parse().map(Whom::Host),
            None if text.contains('@') => text.parse().map(|address: Address| Whom::Address(address.folded())),
            None => text.parse().map(Whom::Host),
        }
        .map_err(|error| format!("{error}; name a queue id, an address, a domain, from: or to: before one, or all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::listed::{Next, Place};
    use crate::spool::state::{State, Target, Via};
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::time::Duration;

    fn listed(envelope: &str, targets: &[&str]) -> Listed {
        let envelope = crate::mail::envelope::Envelope::read(envelope.as_bytes()).unwrap().map(|found| found.envelope);
        let target =
            |text: &&str| Target::new(text.parse().unwrap(), Via::NextHop, text.parse().unwrap(), ReversePath::Null);
        Listed {
            id: "0TQXGV0000001".parse().unwrap(),
            place: Place::Queue,
            path: PathBuf::new(),
            size: 0,
            envelope,
            state: Some(State::of(targets.iter().map(target).collect())),
            arrived: Duration::ZERO,
            waited: Duration::ZERO,
            next: Next::Now,
            problem: None,
        }
    }

    #[test]
    fn words_mean_what_a_person_expects() {
        let message = listed("X-Sender: <Ann@example.org>\r\nX-Receiver: <list@example.net>\r\n", &["bob@far.example"]);
        for (words, expected) in [
            (&["all"][..], true),
            (&["0TQXGV0000001"], true),
            (&["0tqxgv0000001"], true),
            (&["0TQXGV0000001.eml"], true),
            (&["0TQXGV0000001.eml.1"], true),
            (&["0TQXGV0000002"], false),
            (&["0TQXGV0000002", "bob@far.example"], true),
            (&["ann@EXAMPLE.org"], true),
            (&["<ann@example.org>"], true),
            (&["BOB@far.example"], true),
            (&["list@example.net"], true),
            (&["carol@far.example"], false),
            (&["far.example"], true),
            (&["@Far.Example"], true),
            (&["example"], false),
            // A domain alone is where the mail is stuck, not where it comes from.
            (&["example.org"], false),
            (&["from:@example.org"], true),
            (&["from:ann@example.org"], true),
            (&["from:bob@far.example"], false),
            (&["from:<>"], false),
            (&["to:ann@example.org"], false),
            (&["to:@far.example"], true),
            (&[], false),
        ] {
            assert_eq!(Selection::parse(words).unwrap().matches(&message), expected, "{words:?}");
        }
        let report = listed("X-Sender: <>\r\nX-Receiver: <a@b.org>\r\n", &[]);
        for words in ["<>", "from:<>"] {
            assert!(Selection::parse(&[words]).unwrap().matches(&report), "{words}");
        }
        assert!(Selection::of_host("b.org".parse().unwrap()).matches(&report));
    }

    #[test]
    fn where_only_ids_are_said_other_files_are_not_read() {
        let (ours, other) = ("0TQXGV0000001".parse().unwrap(), "0TQXGV0000002".parse().unwrap());
        let ids = Selection::parse(&["0TQXGV0000001"]).unwrap();
        assert!(ids.may_match(ours) && !ids.may_match(other));
        assert_eq!(ids.single_id(), Some(ours));
        let mixed = Selection::parse(&["0TQXGV0000001", "@b.org"]).unwrap();
        assert!(mixed.may_match(other) && mixed.single_id().is_none());
        assert!(mixed.names(ours) && !mixed.names(other));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for word in ["", "a b", "@", "ann@", "from:", "to:<>", "0TQXGV0000001.txt@", "from:a b@c.org"] {
            let error = Selection::parse(&["all", word]).unwrap_err();
            assert!(error.starts_with(&format!("{word}: ")) && error.contains("name a queue id"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_word_panics(word in "(from:|to:|@|<|0TQX|\\PC){0,6}\\PC{0,20}") {
            let _ = Selection::parse(&[&word]);
        }
    }
}
