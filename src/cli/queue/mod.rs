//! `postrider queue`: what is waiting, for whom, why, when it is tried next, and what a person may change of it.
//!
//! Everything is read from the files of the spool, and changed as `mv`, `touch` and `rm` would: with the server up or
//! down. Fails for a spool that is not there, or that this account may not read.
//!
//! | file | room |
//! | --- | --- |
//! | `table` | `list` |
//! | `show` | `show` |
//! | `json` | both for a program |
//! | `change` | `retry`, `hold`, `release`, `remove` |

mod change;
mod json;
mod show;
mod table;

use std::io;
use std::path::Path;

use super::{Failure, become_run_as, code_of, exit, misused};
use crate::config::Config;
use crate::io::clock::Now;
use crate::spool::Folders;
use crate::spool::listed::{Listed, Next};
use crate::spool::listing;
use crate::spool::selection::Selection;
use change::Verb;

/// The options that this verb knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    /// For a program.
    pub json: bool,
    /// Without asking.
    pub yes: bool,
}

/// Does `queue ...`; `words` are those after `queue`. Returns the exit code.
pub fn run(config: &Path, words: &[&str], flags: Flags) -> Result<u8, Failure> {
    let (verb, rest) = words.split_first().map_or(("list", words), |(verb, rest)| (*verb, rest));
    if flags.json && !matches!(verb, "list" | "show") {
        return Err(misused("only list and show know --json", "queue"));
    }
    if flags.yes && verb != "remove" {
        return Err(misused("only remove knows --yes", "queue"));
    }
    let change = Verb::by_name(verb);
    if rest.is_empty() && (verb == "show" || change.is_some()) {
        return Err(misused(&format!("say which messages to {verb}: an id, an address, a domain, or all"), "queue"));
    }
    if change.is_none() && !matches!(verb, "list" | "show") {
        return Err(misused(&format!("queue can't {verb}"), "queue"));
    }
    let selection = match rest {
        [] => Selection::all(),
        _ => Selection::parse(rest).map_err(|what| Failure::new(exit::DATA, what))?,
    };
    let queue = Queue::open(config, selection)?;
    match change {
        Some(change) => change::run(&queue, change, flags.yes),
        None if verb == "show" => show::run(&queue, flags.json),
        None if flags.json => json::list(&queue),
        None => table::run(&queue, rest.is_empty()),
    }
}

/// The part of the spool that was asked for.
struct Queue {
    config: Config,
    folders: Folders,
    selection: Selection,
}

impl Queue {
    /// Reads the configuration, and becomes the account that the files belong to.
    fn open(config: &Path, selection: Selection) -> Result<Queue, Failure> {
        let config = Config::load(config)?;
        become_run_as(&config)?;
        let folders = Folders::of(&config.spool);
        Ok(Queue { config, folders, selection })
    }

    /// The messages, oldest first.
    fn messages(&self) -> Result<impl Iterator<Item = Listed>, Failure> {
        listing::each(&self.folders, &self.selection).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let mend = match error.kind() {
            io::ErrorKind::PermissionDenied => match &self.config.run_as {
                Some(name) => format!("; the spool belongs to {name}: try as root"),
                None => "; the spool belongs to another account: try as root".to_owned(),
            },
            io::ErrorKind::NotFound => "; the server makes the spool when it first starts".to_owned(),
            _ => String::new(),
        };
        Failure::new(code_of(error, exit::NO_INPUT), format!("{error}{mend}"))
    }
}

/// How long it is until `listed` is tried again; `None` if it is not.
fn next_in(listed: &Listed) -> Option<std::time::Duration> {
    match listed.next {
        Next::Now => Some(std::time::Duration::ZERO),
        Next::At(wall) => Some(wall.saturating_sub(Now::read().wall)),
        Next::Never => None,
    }
}
