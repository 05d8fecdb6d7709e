//! Taking up a changed configuration, users and aliases: all of it at SIGHUP, the tables also when their files change.
//!
//! What is wrong leaves the old in place and is logged with its line. Paths, ports and the account stay as they were at
//! start (DESIGN §6): a change of those is logged too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::aliases::Aliases;
use crate::config::{Config, Limits};
use crate::dns::Resolver;
use crate::maillog;
use crate::route::{CurrentSite, Site};
use crate::users::Users;

/// Reads everything the configuration names. An error is the text for a person.
pub fn load(config_path: &Path) -> Result<Site, String> {
    let config = Config::load(config_path).map_err(|error| error.to_string())?;
    with_tables(config)
}

fn with_tables(config: Config) -> Result<Site, String> {
    let users = Users::load(&config.users).map_err(|error| error.to_string())?;
    let aliases = Aliases::load(&config.aliases).map_err(|error| error.to_string())?;
    Ok(Site { config, users, aliases })
}

/// Keeps the site up to date.
pub struct Reloader {
    config_path: PathBuf,
    site: Arc<CurrentSite>,
    resolver: Arc<Resolver>,
    seen: Mutex<Vec<Stamp>>,
}

type Stamp = (PathBuf, Option<(SystemTime, u64)>);

impl Reloader {
    /// For the site that was just loaded.
    pub fn new(config_path: &Path, site: Arc<CurrentSite>, resolver: Arc<Resolver>) -> Reloader {
        let seen = Mutex::new(stamps(&site.get()));
        Reloader { config_path: config_path.to_owned(), site, resolver, seen }
    }

    /// SIGHUP.
    pub fn reload(&self) {
        maillog::reopen_if_moved();
        let old = self.site.get();
        let loaded = Config::load(&self.config_path).map_err(|error| error.to_string());
        let kept = loaded.map(|new| {
            old.config.fixed_keys_changed(&new).into_iter().for_each(maillog::reload_ignored);
            keep_fixed(&old.config, new)
        });
        self.take_up(kept.and_then(with_tables), "configuration, users and aliases");
    }

    /// Looks whether the users, the aliases or a list have changed. A few calls of `stat`.
    pub fn reload_changed_tables(&self) {
        let site = self.site.get();
        let now = stamps(&site);
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != now {
            self.take_up(with_tables(site.config.clone()), "users and aliases");
        }
    }

    fn take_up(&self, loaded: Result<Site, String>, what: &str) {
        match loaded {
            Ok(site) => {
                self.resolver.set_fixed(site.config.dns.resolver);
                site.aliases.broken_lists().for_each(maillog::list_unreadable);
                self.site.set(site);
                maillog::reloaded(what);
            }
            Err(error) => maillog::reload_failed(error),
        }
        // A broken file is complained about once, and looked at again when it changes.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.site.get());
    }
}

fn stamps(site: &Site) -> Vec<Stamp> {
    let tables = [site.config.users.as_path(), site.config.aliases.as_path()];
    let mut paths: Vec<&Path> = tables.into_iter().chain(site.aliases.list_files()).collect();
    paths.sort();
    let stamp = |path: &Path| {
        path.metadata().ok().map(|found| (found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len()))
    };
    paths.into_iter().map(|path| (path.to_owned(), stamp(path))).collect()
}

fn keep_fixed(old: &Config, new: Config) -> Config {
    let limits = Limits {
        connections: old.limits.connections,
        connections_per_client: old.limits.connections_per_client,
        pop3_connections: old.limits.pop3_connections,
        ..new.limits
    };
    let mut delivery = new.delivery;
    delivery.threads = old.delivery.threads;
    Config {
        spool: old.spool.clone(),
        mailboxes: old.mailboxes.clone(),
        users: old.users.clone(),
        aliases: old.aliases.clone(),
        log: old.log.clone(),
        run_as: old.run_as.clone(),
        listen: old.listen.clone(),
        delivery,
        limits,
        ..new
    }
}
