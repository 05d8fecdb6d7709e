//! `postrider user`: who has a mailbox here, and with which password.
//!
//! Only the users file changes; delivery makes a mailbox when the first message comes, and nobody removes one. A server
//! that runs sees the change by itself.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Failure, become_run_as, code_of, exit, misused, password, print};
use crate::config::Config;
use crate::io::table::{self, LocatedError};
use crate::io::{account, durable};
use crate::limits;
use crate::mail::address::Address;
use crate::users::edit::{self, EditError};
use crate::users::{self, Users};

/// How a new password is kept.
type Keep = fn(&[u8]) -> String;

/// Does `user ...`; `words` are those after `user`. A new password is kept for SCRAM, if that was asked for.
pub fn run(config: &Path, words: &[&str], scram: bool) -> Result<(), Failure> {
    let read_config = || Config::load(config).map_err(Failure::from);
    let keep: Keep = if scram { users::scram } else { users::hash };
    match words {
        ["remove" | "list", ..] if scram => Err(misused("only user add and user passwd know --scram", "user")),
        ["add", address] => {
            let config = read_config()?;
            add(&config, &parse(&config, address)?, keep)
        }
        ["passwd", address] => {
            let config = read_config()?;
            passwd(&config, &parse(&config, address)?, keep)
        }
        ["remove", address] => {
            let config = read_config()?;
            remove(&config, &parse(&config, address)?)
        }
        ["list"] => list(&read_config()?),
        ["add" | "passwd" | "remove"] => Err(misused("the address is missing", "user")),
        [] => Err(misused("user needs one of add, passwd, remove and list", "user")),
        ["add" | "passwd" | "remove", _, word, ..] | ["list", word, ..] => {
            Err(misused(&format!("there is one word too many: {word}"), "user"))
        }
        [word, ..] => Err(misused(&format!("user can't {word}"), "user")),
    }
}

fn parse(config: &Config, text: &str) -> Result<Address, Failure> {
    let mend = || format!("write it like {}@{}", text.split('@').next().unwrap_or_default(), config.first_domain());
    let address = text.parse::<Address>();
    address.map_err(|error| Failure::new(exit::DATA, format!("{text}: {error}; {}", mend())))
}

fn add(config: &Config, address: &Address, keep: Keep) -> Result<(), Failure> {
    if !address.domain().is_some_and(|domain| config.is_local(domain)) {
        let domains: Vec<&str> = config.local_domains.iter().map(|domain| domain.as_str()).collect();
        let what = format!(
            "{address}: mail for {} does not end on this host; local_domains has {}",
            address.host(),
            domains.join(", ")
        );
        return Err(Failure::new(exit::DATA, what));
    }
    change(
        config,
        |text| edit::with_user(text, address, ""),
        || {
            let hash = keep(&password::read(&address.to_string())?);
            Ok(move |text: &str| edit::with_user(text, address, &hash))
        },
    )?;
    print(&format!("added {}\n", address.folded()))
}

fn passwd(config: &Config, address: &Address, keep: Keep) -> Result<(), Failure> {
    change(
        config,
        |text| edit::with_password(text, address, ""),
        || {
            let hash = keep(&password::read(&address.to_string())?);
            Ok(move |text: &str| edit::with_password(text, address, &hash))
        },
    )?;
    print(&format!("{} has another password\n", address.folded()))
}

fn remove(config: &Config, address: &Address) -> Result<(), Failure> {
    let without = |text: &str| edit::without_user(text, address);
    change(config, without, || Ok(without))?;
    let address = address.folded();
    print(&match mailbox(config, &address).filter(|folder| folder.exists()) {
        Some(folder) => format!("removed {address}; the mail stays in {}\n", folder.display()),
        None => format!("removed {address}, who had no mail here\n"),
    })
}

fn list(config: &Config) -> Result<(), Failure> {
    become_run_as(config)?;
    let users = Users::load(&config.users).map_err(|error| Failure::new(exit::CONFIG, error.to_string()))?;
    print(&users.addresses().map(|address| format!("{address}\n")).collect::<String>())
}

/// Where delivery puts the mail of a user (DESIGN §6).
fn mailbox(config: &Config, address: &Address) -> Option<PathBuf> {
    users::check_name(address).ok()?;
    Some(config.mailboxes.join(address.domain()?.as_str()).join(address.local_part()))
}

/// Tries a change on the file as it is, so that nobody types a password in vain; then makes the real one and applies it.
fn change<C: Fn(&str) -> Result<String, EditError>>(
    config: &Config,
    trial: impl Fn(&str) -> Result<String, EditError>,
    make: impl FnOnce() -> Result<C, Failure>,
) -> Result<(), Failure> {
    let failed = |error: EditError| failure(config, error);
    let group = become_editor(config)?;
    let text = table::read(&config.users, limits::TABLE_FILE).map_err(EditError::Wrong).map_err(failed)?;
    trial(&text.unwrap_or_default()).map_err(failed)?;
    edit::edit(&config.users, group, make()?).map_err(failed)
}

/// The users file usually stands in a folder of root's, where only root can replace it: root stays root there, and a new
/// file is for the group of `run_as` to read. Where folder and file belong to `run_as`, its own rights do.
fn become_editor(config: &Config) -> Result<Option<u32>, Failure> {
    let Some(name) = config.run_as.as_ref().filter(|_| account::is_root()) else { return Ok(None) };
    let account = account::find(name).map_err(|error| Failure::new(exit::CONFIG, format!("run_as: {error}")))?;
    let is_theirs = |path: &Path| path.metadata().map(|metadata| metadata.uid() == account.uid.as_raw());
    if is_theirs(durable::folder_of(&config.users)).unwrap_or(false) && is_theirs(&config.users).unwrap_or(true) {
        become_run_as(config)?;
        return Ok(None);
    }
    Ok(Some(account.gid.as_raw()))
}

fn failure(config: &Config, error: EditError) -> Failure {
    let code = match &error {
        EditError::Exists(_) | EditError::Unfit(..) => exit::DATA,
        EditError::Missing(_) => exit::NO_USER,
        EditError::Wrong(LocatedError { .. }) => exit::CONFIG,
        EditError::Unwritable(error) => code_of(error, exit::CANT_CREATE),
    };
    let mend = match &error {
        EditError::Unwritable(error) if durable::is_no_space(error) => "; make room there".to_owned(),
        EditError::Unwritable(_) => {
            let folder = durable::folder_of(&config.users).display();
            format!("; the folder {folder} must be there and yours to write: try as root")
        }
        _ => String::new(),
    };
    Failure::new(code, format!("{error}{mend}"))
}
