//! Taking up a changed configuration, users and aliases: all of it at SIGHUP, the tables also when their files change.
//!
//! What is wrong leaves the old in place and is logged with its line. Paths, ports and the account stay as they were at
//! start (DESIGN §6): a change of those is logged too. A file that is gone, or is being written, is no reason to refuse
//! mail for good: one that is gone is wrong, and a change counts only once two looks find the same.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::aliases::Aliases;
use crate::config::{self, Config};
use crate::dns::Resolver;
use crate::io::table::{self, LocatedError};
use crate::limits;
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
    with_tables(config, |config| read_tables(config, None))
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

/// Reads the tables. One that is not there is an empty one, unless `old` has anything of it: who moves a file away is
/// about to put another in its place.
fn read_tables(config: &Config, old: Option<&Site>) -> Result<(Users, Aliases), String> {
    let text_of = |path: &Path, had_any: bool| match table::read(path, limits::TABLE_FILE)? {
        None if had_any => Err(LocatedError::of(path, GONE)),
        text => Ok(text.unwrap_or_default()),
    };
    let had_users = old.is_some_and(|old| old.users.addresses().next().is_some());
    let had_aliases = old.is_some_and(|old| old.aliases.names().next().is_some());
    let users = text_of(&config.users, had_users).and_then(|text| Users::parse(&config.users, &text));
    let aliases = text_of(&config.aliases, had_aliases).and_then(|text| Aliases::parse(&config.aliases, &text));
    Ok((users.map_err(|error| error.to_string())?, aliases.map_err(|error| error.to_string())?))
}

const GONE: &str =
    "the file is gone, and what it said still counts; put it back, or an empty one if nothing is to count";

/// Keeps the site up to date.
pub struct Reloader {
    config_path: PathBuf,
    site: Arc<CurrentSite>,
    resolver: Arc<Resolver>,
    certificates: Arc<Certificates>,
    seen: Mutex<Seen>,
}

type Stamp = (PathBuf, Option<(SystemTime, u64)>);

/// What the looks at the tables found.
#[derive(Debug)]
struct Seen {
    /// How they were when they were read.
    read: Vec<Stamp>,
    /// How they were at the last look, and at how many looks in a row.
    last: Vec<Stamp>,
    alike: u32,
    /// At how many looks they were not as they were read.
    changed: u32,
}

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
        let seen = Mutex::new(Seen { last: seen.clone(), read: seen, alike: 0, changed: 0 });
        Reloader { config_path: config_path.to_owned(), site, resolver, certificates, seen }
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
        let new = match Config::load(&self.config_path) {
            Ok(new) => new,
            // The tables were not read: a change of theirs is still to be seen.
            Err(error) => return maillog::reload_failed(error),
        };
        old.config.fixed_keys_changed(&new).into_iter().for_each(maillog::reload_ignored);
        let loaded = with_tables(keep_fixed(&old.config, new), |config| read_tables(config, Some(&old)));
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
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).has_settled(&now) {
            let loaded = with_tables(site.config.clone(), |config| read_tables(config, Some(&site)));
            self.take_up(loaded, now, "users and aliases");
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
        let mut of_looks = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (of_looks.read, of_looks.changed) = (seen, 0);
    }
}

impl Seen {
    /// Whether there is a change, as this look finds it, that nobody is about to go on with. For somebody who never stops
    /// nobody waits: what is broken then leaves the old in place.
    fn has_settled(&mut self, now: &[Stamp]) -> bool {
        self.alike = if self.last == now { self.alike + 1 } else { 1 };
        self.last = now.to_vec();
        self.changed = if self.read == now { 0 } else { self.changed + 1 };
        let is_emptied = |stamp: &Stamp| matches!(stamp.1, Some((_, 0))) && !self.read.contains(stamp);
        let is_settled = self.alike >= 2 && !now.iter().any(is_emptied);
        self.changed > 0 && (is_settled || self.changed >= limits::EMPTIED_LOOKS)
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
    let limits = config::Limits {
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
            let tables = read_tables(config, None);
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
        let Loaded { site, seen } = with_tables(config, |config| read_tables(config, None)).unwrap();
        assert_eq!(seen, stamps(&site.config, &site.aliases), "nothing changed");
        assert_eq!(seen.len(), 3, "the list is among them");
    }

    const ANN: &str = "ann@example.org:{BLF-CRYPT}$2y$04$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K\n";

    /// A running server's, with Ann as its user and one alias.
    fn reloader(folder: &Path) -> Reloader {
        let config = folder.join("postrider.toml");
        fs::write(&config, "hostname = \"example.org\"\nusers = \"users\"\naliases = \"aliases\"\n").unwrap();
        fs::write(folder.join("users"), ANN).unwrap();
        fs::write(folder.join("aliases"), "info: ann\n").unwrap();
        let loaded = load(&config).unwrap();
        let resolver = Arc::new(Resolver::new(&loaded.site.config.dns));
        Reloader::new(&config, loaded, resolver, Arc::new(Certificates::self_signed(folder)))
    }

    /// How many users and aliases there are after so many looks.
    fn counted(reloader: &Reloader, looks: u32) -> (usize, usize) {
        (0..looks).for_each(|_| reloader.reload_changed_tables());
        let site = reloader.site.get();
        (site.users.addresses().count(), site.aliases.names().count())
    }

    #[test]
    fn a_table_that_is_gone_still_counts() {
        let folder = tempfile::tempdir().unwrap();
        let reloader = reloader(folder.path());
        for name in ["users", "aliases"] {
            let (path, aside) = (folder.path().join(name), folder.path().join("aside"));
            fs::rename(&path, &aside).unwrap();
            assert_eq!(counted(&reloader, 30), (1, 1), "{name}");
            reloader.reload();
            assert_eq!(counted(&reloader, 0), (1, 1), "{name} after SIGHUP");
            fs::rename(&aside, &path).unwrap();
            assert_eq!(counted(&reloader, 3), (1, 1), "{name}");
        }
        fs::write(folder.path().join("users"), ANN.repeat(2).replacen("ann", "bob", 1)).unwrap();
        assert_eq!(counted(&reloader, 3), (2, 1));
        fs::write(folder.path().join("users"), "").unwrap();
        reloader.reload();
        assert_eq!(counted(&reloader, 0), (0, 1), "who sends a signal is done with writing");
        fs::remove_file(folder.path().join("users")).unwrap();
        fs::write(folder.path().join("aliases"), "info: bob\nsales: bob\n").unwrap();
        assert_eq!(counted(&reloader, 3), (0, 2), "nothing is lost with it");
    }

    #[test]
    fn a_table_that_is_being_written_does_not_count_yet() {
        let folder = tempfile::tempdir().unwrap();
        let reloader = reloader(folder.path());
        let path = folder.path().join("users");
        fs::write(&path, "").unwrap();
        assert_eq!(counted(&reloader, 5), (1, 1), "who writes it has just begun");
        fs::write(&path, ANN.replace("ann", "eve")).unwrap();
        assert_eq!(counted(&reloader, 1), (1, 1));
        fs::write(&path, ANN.repeat(3).replacen("ann", "bob", 1).replacen("ann", "eve", 1)).unwrap();
        assert_eq!(counted(&reloader, 1), (1, 1), "it changed since the last look");
        assert_eq!(counted(&reloader, 1), (3, 1));
        fs::write(folder.path().join("new"), ANN).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(counted(&reloader, 2), (1, 1), "two looks are enough");
        fs::write(&path, "").unwrap();
        assert_eq!(counted(&reloader, limits::EMPTIED_LOOKS - 1), (1, 1));
        assert_eq!(counted(&reloader, 1), (0, 1), "nobody goes on writing");
    }

    #[test]
    fn a_list_that_changes_all_the_time_keeps_no_user_out_and_none_in() {
        let folder = tempfile::tempdir().unwrap();
        let reloader = reloader(folder.path());
        fs::write(folder.path().join("aliases"), format!("team: :include:{}\n", folder.path().join("list").display()))
            .unwrap();
        reloader.reload();
        fs::write(folder.path().join("users"), ANN.repeat(2).replacen("ann", "bob", 1)).unwrap();
        let looks = (1..100).find(|look| {
            fs::write(folder.path().join("list"), "ann\n".repeat(*look)).unwrap();
            counted(&reloader, 1).0 == 2
        });
        assert_eq!(looks, Some(limits::EMPTIED_LOOKS as usize));
    }

    #[test]
    fn a_change_of_the_tables_outlives_a_configuration_that_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let reloader = reloader(folder.path());
        fs::write(folder.path().join("users"), ANN.repeat(2).replacen("ann", "bob", 1)).unwrap();
        fs::write(folder.path().join("postrider.toml"), "hostname =").unwrap();
        reloader.reload();
        assert_eq!(counted(&reloader, 2), (2, 1));
    }
}
