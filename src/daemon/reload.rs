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
use crate::tls::Certificates;
use crate::users::Users;

/// A site, and how its files were just before they were read: what is changed while they are is seen afterwards.
#[derive(Debug)]
pub struct Loaded {
    /// What was read.
    pub site: Site,
    seen: Vec<Stamp>,
}

/// Reads everything the configuration names. An error is the text for a person.
pub fn load(config_path: &Path) -> Result<Loaded, String> {
    let config = Config::load(config_path).map_err(|error| error.to_string())?;
    with_tables(config, read_tables)
}

fn with_tables(config: Config, read: impl Fn(&Config) -> Result<(Users, Aliases), String>) -> Result<Loaded, String> {
    let seen = stamps(&config, &Aliases::default());
    let (users, aliases) = read(&config)?;
    if aliases.list_files().next().is_none() {
        return Ok(Loaded { site: Site { config, users, aliases }, seen });
    }
    // Only the aliases tell which lists there are: now that it is known, all are read once more.
    let seen = stamps(&config, &aliases);
    let (users, aliases) = read(&config)?;
    Ok(Loaded { site: Site { config, users, aliases }, seen })
}

fn read_tables(config: &Config) -> Result<(Users, Aliases), String> {
    let users = Users::load(&config.users).map_err(|error| error.to_string())?;
    let aliases = Aliases::load(&config.aliases).map_err(|error| error.to_string())?;
    Ok((users, aliases))
}

/// Keeps the site up to date.
pub struct Reloader {
    config_path: PathBuf,
    site: Arc<CurrentSite>,
    resolver: Arc<Resolver>,
    certificates: Arc<Certificates>,
    seen: Mutex<Vec<Stamp>>,
}

type Stamp = (PathBuf, Option<(SystemTime, u64)>);

impl Reloader {
    /// For what was loaded at start.
    pub fn new(
        config_path: &Path,
        loaded: Loaded,
        resolver: Arc<Resolver>,
        certificates: Arc<Certificates>,
    ) -> Reloader {
        let Loaded { site, seen } = loaded;
        let site = Arc::new(CurrentSite::new(site));
        Reloader { config_path: config_path.to_owned(), site, resolver, certificates, seen: Mutex::new(seen) }
    }

    /// The site, as it is kept up to date.
    pub fn site(&self) -> Arc<CurrentSite> {
        self.site.clone()
    }

    /// SIGHUP.
    pub fn reload(&self) {
        maillog::reopen_if_moved();
        let old = self.site.get();
        let before = stamps(&old.config, &old.aliases);
        let loaded = Config::load(&self.config_path).map_err(|error| error.to_string());
        let kept = loaded.map(|new| {
            old.config.fixed_keys_changed(&new).into_iter().for_each(maillog::reload_ignored);
            keep_fixed(&old.config, new)
        });
        let loaded = kept.and_then(|config| with_tables(config, read_tables));
        if let Ok(Loaded { site, .. }) = &loaded
            && let Err(error) = self.certificates.take_up(&site.config.tls, site.config.hostname.as_str())
        {
            // The rest of the configuration is taken up: it is right.
            maillog::reload_failed(error);
        }
        self.take_up(loaded, before, "configuration, users and aliases");
    }

    /// Looks whether the users, the aliases or a list have changed. A few calls of `stat`.
    pub fn reload_changed_tables(&self) {
        let site = self.site.get();
        let now = stamps(&site.config, &site.aliases);
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != now {
            self.take_up(with_tables(site.config.clone(), read_tables), now, "users and aliases");
        }
    }

    /// `before` is how the old site's files were before they were read again.
    fn take_up(&self, loaded: Result<Loaded, String>, before: Vec<Stamp>, what: &str) {
        let seen = match loaded {
            Ok(Loaded { site, seen }) => {
                self.resolver.configure(&site.config.dns);
                site.aliases.broken_lists().for_each(maillog::list_unreadable);
                self.site.set(site);
                maillog::reloaded(what);
                seen
            }
            // A broken file is complained about once, and looked at again when it changes.
            Err(error) => {
                maillog::reload_failed(error);
                before
            }
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

fn stamps(config: &Config, aliases: &Aliases) -> Vec<Stamp> {
    let tables = [config.users.as_path(), config.aliases.as_path()];
    let mut paths: Vec<&Path> = tables.into_iter().chain(aliases.list_files()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    /// Reads the tables, and then someone writes `name` at once.
    fn loaded_while_written(folder: &Path, name: &str) -> Loaded {
        let config = Config::parse("aliases = \"aliases\"\nusers = \"users\"", folder).unwrap();
        let read = |config: &Config| {
            let tables = read_tables(config);
            // Longer each time: two writes within one tick of the clock have the same time.
            let mut file = fs::File::options().append(true).create(true).open(folder.join(name)).unwrap();
            file.write_all(b"# ann\n").unwrap();
            tables
        };
        with_tables(config, read).unwrap()
    }

    #[test]
    fn what_is_written_while_it_is_read_is_seen_as_changed() {
        let folder = tempfile::tempdir().unwrap();
        for (name, aliases) in [("users", ""), ("team", "team: :include:team\n")] {
            fs::write(folder.path().join("aliases"), aliases).unwrap();
            fs::write(folder.path().join("team"), "bob\n").unwrap();
            let _ = fs::remove_file(folder.path().join("users"));
            let Loaded { site, seen } = loaded_while_written(folder.path(), name);
            assert_ne!(seen, stamps(&site.config, &site.aliases), "{name}");
        }
        let config = Config::parse("aliases = \"aliases\"\nusers = \"nobody\"", folder.path()).unwrap();
        let Loaded { site, seen } = with_tables(config, read_tables).unwrap();
        assert_eq!(seen, stamps(&site.config, &site.aliases), "nothing changed");
        assert_eq!(seen.len(), 3, "the list is among them");
    }
}
