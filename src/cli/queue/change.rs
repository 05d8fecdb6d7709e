//! `queue retry`, `hold`, `release` and `remove`: one line for each message, and how many were changed.
//!
//! Messages are changed one by one; an error ends it there, and what was changed before stays so. What of it is safe
//! beside a running server is said in `spool::by_hand`.

use std::collections::HashSet;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use super::Queue;
use crate::cli::words::{count, plain};
use crate::cli::{Failure, exit, print};
use crate::limits;
use crate::spool::Folders;
use crate::spool::by_hand::{self, Done};
use crate::spool::listed::{Listed, Place};

/// A verb that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Try now.
    Retry,
    /// Set aside.
    Hold,
    /// Let go on.
    Release,
    /// Remove for good.
    Remove,
}

impl Verb {
    /// The verb as it is typed.
    pub fn by_name(name: &str) -> Option<Verb> {
        match name {
            "retry" => Some(Verb::Retry),
            "hold" => Some(Verb::Hold),
            "release" => Some(Verb::Release),
            "remove" => Some(Verb::Remove),
            _ => None,
        }
    }

    /// Whether it means messages in this folder where no id is said.
    fn means(self, place: Place) -> bool {
        match self {
            Verb::Retry => place != Place::Hold,
            Verb::Hold => place == Place::Queue,
            Verb::Release => place == Place::Hold,
            Verb::Remove => true,
        }
    }

    fn apply(self, folders: &Folders, listed: &Listed) -> io::Result<Done> {
        match self {
            Verb::Retry => by_hand::retry(folders, listed),
            Verb::Hold => by_hand::hold(folders, listed),
            Verb::Release => by_hand::release(folders, listed),
            Verb::Remove => by_hand::remove(folders, listed),
        }
    }

    /// What was done.
    fn done(self) -> &'static str {
        match self {
            Verb::Retry => "brought forward",
            Verb::Hold => "held",
            Verb::Release => "released",
            Verb::Remove => "removed",
        }
    }

    /// What comes of it.
    fn then(self, running: bool) -> &'static str {
        match (self, running) {
            (Verb::Retry, true) => ": tried now",
            (Verb::Retry, false) => ": no server runs; the next start tries",
            (Verb::Release, false) => "; no server runs",
            _ => "",
        }
    }
}

/// Changes what was asked for. Returns the exit code.
pub fn run(queue: &Queue, verb: Verb, yes: bool) -> Result<u8, Failure> {
    let agreed = match verb {
        Verb::Remove if !yes => Some(agreed(queue)?),
        _ => None,
    };
    let (mut matched, mut changed) = (0, 0);
    for listed in queue.messages()? {
        let meant = verb.means(listed.place) || queue.selection.names(listed.id);
        if !meant || agreed.as_ref().is_some_and(|agreed| !agreed.contains(&listed.path)) {
            continue;
        }
        matched += 1;
        let done = verb.apply(&queue.folders, &listed).map_err(|error| queue.failure(&error))?;
        changed += usize::from(done == Done::Changed);
        // Where nobody reads it any more, the changes are still wanted.
        print(&told(verb, &listed, &done))?;
    }
    let running = by_hand::is_running(&queue.config.spool);
    if matched == 0 {
        return Err(Failure::new(exit::NO_INPUT, format!("there is no message to {}", name(verb))));
    }
    print(&format!("{} {}{}.\n", count(changed, "message"), verb.done(), verb.then(running)))?;
    Ok(if changed > 0 { exit::OK } else { exit::DATA })
}

fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Retry => "retry",
        Verb::Hold => "hold",
        Verb::Release => "release",
        Verb::Remove => "remove",
    }
}

fn told(verb: Verb, listed: &Listed, done: &Done) -> String {
    let what = match done {
        Done::Changed => verb.done().to_owned(),
        Done::Gone => "is gone: it was delivered, moved or removed meanwhile".to_owned(),
        Done::Refused(why) => format!("is left as it is: {}", plain(why)),
    };
    let whom = listed.envelope.as_ref().map(|envelope| {
        let first = envelope.recipients.first().map(|recipient| recipient.address.to_string()).unwrap_or_default();
        let more = match envelope.recipients.len() {
            0 | 1 => String::new(),
            number => format!(" and {} more", number - 1),
        };
        format!(" (from {} to {}{more})", plain(&envelope.reverse_path.to_string()), plain(&first))
    });
    format!("{}{} {what}\n", listed.id, whom.unwrap_or_default())
}

/// The files of the messages that may be removed: asked for where it is more than one, because it can't be undone.
fn agreed(queue: &Queue) -> Result<HashSet<PathBuf>, Failure> {
    let paths: HashSet<PathBuf> = queue.messages()?.map(|listed| listed.path).collect();
    if paths.len() <= 1 {
        return Ok(paths);
    }
    if !io::stdin().is_terminal() {
        let what = format!("{} match; to remove them without being asked, say --yes", count(paths.len(), "message"));
        return Err(Failure::new(exit::USAGE, what));
    }
    // Without standard error nobody can be asked, and nobody agrees.
    let _ = write!(io::stderr(), "Remove {} for good? Nobody is told. [y/N] ", count(paths.len(), "message"));
    let mut answer = String::new();
    let _ = io::stdin().lock().take(limits::ANSWER).read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(paths),
        _ => Err(Failure::new(exit::DATA, "nothing was removed")),
    }
}
