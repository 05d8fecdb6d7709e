//! What `check` finds of the certificates, keys and passwords that the configuration names, and of its commands.
//!
//! Root looks first, because what only root may read is read by the second process where root starts the server (DESIGN
//! §6); the rest is seen with the eyes of `run_as`. Secrets that anyone can read are errors: a mailbox elsewhere, or this
//! host's name, is lost with them. What is wrong in a certificate is told by who reads it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::config::Config;
use crate::io::account;
use crate::io::keeper::{self, file};
use crate::io::secrets::first_line;

/// A file that the configuration names, as it was seen before root was given up.
pub struct Seen {
    key: String,
    path: PathBuf,
    kind: Kind,
    /// Where others on this host may read it.
    open_to_others: bool,
    /// Whether the second process would read it as root; `None` where it won't be root.
    by_root: Option<Result<(), String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    Key,
    Password,
}

impl Seen {
    fn new(config: &Config, key: &str, path: &Path, kind: Kind) -> Seen {
        let for_another = config.run_as.as_ref().is_some_and(|name| *name != account::own_name());
        let by_root = || file::only_root_decides(path).map_err(|error| error.to_string());
        Seen {
            key: key.to_owned(),
            path: path.to_owned(),
            kind,
            open_to_others: open_to_others(path),
            by_root: (account::is_root() && for_another).then(by_root),
        }
    }
}

/// Whether the file may be read by anyone, and every folder above it entered.
fn open_to_others(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let may = |path: &Path, bit: u32| path.metadata().is_ok_and(|found| found.mode() & bit != 0);
    may(&path, 0o004) && path.ancestors().skip(1).all(|folder| may(folder, 0o001))
}

/// Looks at every file that is named. To be called as root still.
pub fn see(config: &Config) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut look = |key: &str, path: &Option<PathBuf>, kind| {
        seen.extend(path.iter().map(|path| Seen::new(config, key, path, kind)));
    };
    look("tls.certificate", &config.tls.certificate, Kind::Certificate);
    look("tls.key", &config.tls.key, Kind::Key);
    for (name, hop) in &config.relay.hops {
        look(&format!("relay.hops.\"{}\".ca", name.0), &hop.ca, Kind::Certificate);
        look(&format!("relay.hops.\"{}\".password_file", name.0), &hop.password_file, Kind::Password);
    }
    if let Some(folder) = &config.tls.certificates {
        let names = file::list(folder).unwrap_or_default();
        // Where there is none, the folder itself is told of.
        look("tls.certificates", &names.is_empty().then(|| folder.clone()), Kind::Certificate);
        for inner in names.iter().map(|name| folder.join(name.as_str())) {
            look("tls.certificates", &Some(inner.join("fullchain.pem")), Kind::Certificate);
            look("tls.certificates", &Some(inner.join("privkey.pem")), Kind::Key);
        }
    }
    seen
}

/// Whether each can be read by who has to, and not by everyone. To be called as `run_as`.
pub fn files(seen: &[Seen]) -> Vec<Finding> {
    seen.iter().filter_map(readable).collect()
}

fn readable(Seen { key, path, kind, open_to_others, by_root }: &Seen) -> Option<Finding> {
    let place = path.display();
    let error = match file::read(path)
        .and_then(|content| if *kind == Kind::Password { first_line(&content) } else { Ok(content) })
    {
        Ok(_) if *kind != Kind::Certificate && *open_to_others => {
            let text = "anyone on this host may read this secret";
            return Some(Finding::error(format!("{key}: {place}: {text}; chmod o-rwx {place}")));
        }
        Ok(_) => return Some(Finding::ok(format!("{key}: {place} can be read"))),
        Err(_) if path.is_dir() => {
            let text = "holds no certificate: NAME/fullchain.pem and NAME/privkey.pem";
            return Some(Finding::warning(format!("{key}: {place} {text}")));
        }
        Err(error) => error,
    };
    let name = account::own_name();
    match (error.kind(), by_root) {
        (io::ErrorKind::PermissionDenied, Some(Ok(()))) => {
            let text = format!("{name} may not read it; the second process does, as root");
            Some(Finding::ok(format!("{key}: {place}: {text}")))
        }
        (io::ErrorKind::PermissionDenied, Some(Err(text))) => Some(Finding::error(format!("{key}: {text}"))),
        _ if *kind != Kind::Password => None,
        (io::ErrorKind::PermissionDenied, None) => {
            let mend = format!("start the server as root, or as root: chgrp {name} {place} && chmod g+r {place}");
            Some(Finding::error(format!("{key}: {place}: {error}: {name} may not; {mend}")))
        }
        _ => Some(Finding::error(format!("{key}: {place}: {error}; write the password into it"))),
    }
}

/// Whether each command is there and can be run, and not changed by everyone. To be called as `run_as`.
pub fn commands(config: &Config) -> Vec<Finding> {
    let of_hops = config.relay.hops.iter().flat_map(|(name, hop)| {
        let key = move |key: &str| format!("relay.hops.\"{}\".{key}", name.0);
        [(key("password_command"), &hop.password_command), (key("token_command"), &hop.token_command)]
    });
    of_hops.filter_map(|(key, command)| Some(runnable(&key, command.as_ref()?.first()?))).collect()
}

fn runnable(key: &str, name: &str) -> Finding {
    if name.contains('/') && !name.starts_with('/') {
        return Finding::error(format!("{key}: {name}: write the whole path of the program"));
    }
    let places = keeper::PATH.split(':').map(|folder| Path::new(folder).join(name));
    let Some(program) = places.into_iter().find(|path| path.is_file()) else {
        let mend = "write its whole path, or install it";
        return Finding::error(format!("{key}: there is no program {name} ({}); {mend}", keeper::PATH));
    };
    let (place, account) = (program.display(), account::own_name());
    if access(&program, AccessFlags::X_OK).is_err() {
        return Finding::error(format!("{key}: {account} may not run {place}; as root: chmod a+x {place}"));
    }
    let open = |path: &Path| path.metadata().is_ok_and(|found| found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0);
    let real = program.canonicalize().unwrap_or_else(|_| program.clone());
    if let Some(path) = real.ancestors().find(|path| open(path)) {
        let text = format!("anyone on this host may change what {place} does");
        return Finding::error(format!("{key}: {text}; chmod o-w {}", path.display()));
    }
    Finding::ok(format!("{key}: {place} can be run, as {account}"))
}

/// Whether the account of the server could name files for root to read at the next start. To be called as `run_as`.
pub fn configuration(path: &Path, seen: &[Seen]) -> Option<Finding> {
    let may = access(path, AccessFlags::W_OK).is_ok() && seen.iter().any(|seen| seen.by_root.is_some());
    let text = format!(
        "{0}: {1} may write it, so a server in a stranger's hands could name files that root reads at the next start; \
         as root: chown root {0}",
        path.display(),
        account::own_name()
    );
    may.then(|| Finding::warning(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Level;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn told(found: &[Finding], level: Level, part: &str) {
        assert!(
            found.iter().any(|finding| finding.level == level && finding.text.contains(part)),
            "{part}\n{found:#?}"
        );
    }

    #[test]
    fn files_are_there_and_secrets_are_not_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        mode(folder.path(), 0o755);
        for (name, bits) in [("open", 0o644), ("closed", 0o640), ("chain", 0o644)] {
            fs::write(path(name), "x").unwrap();
            mode(&path(name), bits);
        }
        fs::create_dir_all(path("live/a.example")).unwrap();
        fs::write(path("live/a.example/fullchain.pem"), "x").unwrap();
        let text = "[tls]\ncertificate = \"chain\"\nkey = \"open\"\ncertificates = \"live\"\n\
                    [relay.hops.\"a.example\"]\nca = \"gone\"\npassword_file = \"closed\"";
        let config = Config::parse(text, folder.path()).unwrap();
        let found = files(&see(&config));
        told(&found, Level::Ok, "tls.certificate: ");
        told(&found, Level::Error, "tls.key: ");
        told(&found, Level::Error, "chmod o-rwx");
        told(&found, Level::Ok, "password_file");
        mode(&path("closed"), 0o644);
        told(&files(&see(&config)), Level::Error, "closed: anyone on this host may read this secret; chmod o-rwx");
        mode(folder.path(), 0o700);
        assert!(files(&see(&config)).iter().all(|finding| finding.level == Level::Ok), "nobody gets there");
        for mend in ["", "\n"] {
            fs::write(path("closed"), mend).unwrap();
            told(&files(&see(&config)), Level::Error, "write the password into it");
        }
        fs::remove_file(path("closed")).unwrap();
        told(&files(&see(&config)), Level::Error, "write the password into it");
    }

    #[test]
    fn commands_can_be_run_and_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, bits) in [("good", 0o755), ("plain", 0o644), ("open", 0o757)] {
            fs::write(path(name), "#!/bin/sh\n").unwrap();
            mode(&path(name), bits);
        }
        let of = |name: &str| runnable("key", path(name).to_str().unwrap());
        told(&[of("good")], Level::Ok, "can be run");
        told(&[of("plain")], Level::Error, "chmod a+x");
        told(&[of("open")], Level::Error, "chmod o-w");
        told(&[of("gone")], Level::Error, "there is no program");
        told(&[runnable("key", "sh")], Level::Ok, "/sh can be run");
        told(&[runnable("key", "./sh")], Level::Error, "whole path");
        mode(folder.path(), 0o777);
        told(&[of("good")], Level::Error, "chmod o-w");
        let text = "[relay.hops.\"a.example\"]\npassword_command = [\"sh\"]\ntoken_command = [\"no-such-thing\"]";
        let found = commands(&Config::parse(text, folder.path()).unwrap());
        assert_eq!(found.len(), 2);
        told(&found, Level::Error, "relay.hops.\"a.example\".token_command: ");
    }
}
