//! What the server may open once it has started (DESIGN §6): the trees of its cage, from the configuration.
//!
//! It writes to the spool, the mailboxes and the folder of the log; it reads the configuration, users, aliases and
//! lists again when they change. Editors and renewals put another file in the place of the old one, so it is their
//! folders that are opened, and where such a file is a link, the folder that it leads to as well. Keys and passwords are
//! not among them: the second process reads those.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::{StartError, unavailable};
use crate::config::LogTarget;
use crate::dns::RESOLV_CONF;
use crate::io::durable;
use crate::io::sandbox::{self, Trees};
use crate::maillog;
use crate::route::Site;
use crate::tls::SYSTEM_ROOTS;

/// Enters the cage, and says in the log what the kernel does of it. To be called before the first thread is started.
pub fn enter(config_path: &Path, site: &Site) -> Result<(), StartError> {
    let trees = trees(config_path, site);
    for folder in &trees.write {
        // What is made later than this could not be opened. One that can't be is told of by whoever needs it.
        let _ = durable::create_dirs(folder);
    }
    let enforced = sandbox::enter(&trees).map_err(|error| unavailable("enter the sandbox", &error, ""))?;
    maillog::sandboxed(enforced);
    if !enforced.missing().is_nothing() {
        maillog::sandbox_lacks(enforced.missing());
    }
    Ok(())
}

fn trees(config_path: &Path, site: &Site) -> Trees {
    let config = &site.config;
    let mut write = vec![config.spool.clone(), config.mailboxes.clone()];
    write.extend(elsewhere(&config.mailboxes));
    if let LogTarget::File(path) = &config.log {
        write.push(durable::folder_of(path).to_owned());
    }
    let files = [config_path, &config.users, &config.aliases].into_iter().chain(site.aliases.list_files());
    let with_links = files.flat_map(|file| [Some(file.to_owned()), file.canonicalize().ok()]).flatten();
    let mut read: Vec<PathBuf> = with_links.map(|file| durable::folder_of(&file).to_owned()).collect();
    read.extend(roots());
    read.extend(resolver_folder());
    read.sort();
    read.dedup();
    Trees { read, write }
}

/// Mailboxes, and domains of them, that a link puts on another disk.
fn elsewhere(mailboxes: &Path) -> Vec<PathBuf> {
    let inner = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let all: Vec<PathBuf> = inner(mailboxes).flat_map(|domain| inner(&domain).chain([domain.clone()])).collect();
    all.into_iter().filter(|path| path.is_symlink()).collect()
}

/// Where the system keeps the authorities that it trusts, and what links there lead to.
fn roots() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = SYSTEM_ROOTS.iter().map(PathBuf::from).collect();
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        found.extend(env::var_os(name).iter().flat_map(env::split_paths));
    }
    let inner = found.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let links = inner.map(|entry| entry.path()).filter(|path| path.is_symlink());
    let targets = links.filter_map(|path| path.canonicalize().ok());
    let elsewhere: Vec<PathBuf> =
        targets.filter(|target| !found.iter().any(|folder| target.starts_with(folder))).collect();
    found.extend(elsewhere);
    found
}

/// Where the list of DNS servers is kept; in /etc it is read through the second process: the rest of /etc stays shut.
fn resolver_folder() -> Option<PathBuf> {
    let file = Path::new(RESOLV_CONF).canonicalize().ok()?;
    file.parent().filter(|folder| *folder != Path::new("/etc")).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use crate::users::Users;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_trees_are_those_that_the_configuration_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("mail/a.example")).unwrap();
        fs::create_dir_all(path("disk/bob")).unwrap();
        symlink(path("disk/bob"), path("mail/a.example/bob")).unwrap();
        symlink(path("disk"), path("mail/b.example")).unwrap();
        let text = "spool = \"spool\"\nmailboxes = \"mail\"\nlog = \"log/mail.log\"\nusers = \"etc/users\"\n\
                    aliases = \"tables/aliases\"\n[tls]\nkey = \"keys/key.pem\"\ncertificate = \"keys/c.pem\"";
        let config = Config::parse(text, folder.path()).unwrap();
        let aliases = Aliases::parse(&config.aliases, "team: :include:../lists/team\n").unwrap();
        let site = Site { config, users: Users::default(), aliases };
        let Trees { read, mut write } = trees(&path("etc/postrider.toml"), &site);
        write.sort();
        assert_eq!(write, ["log", "mail", "mail/a.example/bob", "mail/b.example", "spool"].map(path));
        let of_ours: Vec<&PathBuf> = read.iter().filter(|one| one.starts_with(folder.path())).collect();
        assert_eq!(of_ours.len(), 3, "{of_ours:?}");
        for name in ["etc", "tables"] {
            assert!(read.contains(&path(name)), "{read:?}");
        }
        assert!(of_ours.iter().any(|path| path.ends_with("lists")), "{read:?}");
        assert!(!read.iter().any(|path| path == Path::new("/etc") || path.ends_with("keys")), "{read:?}");
    }
}
