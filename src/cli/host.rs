//! What `check` finds on this host: ports, accounts, folders and room. It makes nothing; a port is bound and let go.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;
use nix::unistd::{AccessFlags, access};

use super::finding::Finding;
use crate::config::{Config, Listen, LogTarget};
use crate::io::{account, durable, listener, sandbox};
use crate::limits;
use crate::spool::by_hand;

/// The folders of the spool (DESIGN §3), besides the mailboxes.
const SPOOL_FOLDERS: [&str; 5] = ["drop", "tmp", "queue", "hold", "failed"];

/// Whether every port can be had, or is ours already.
pub fn ports(config: &Config) -> Vec<Finding> {
    let running = by_hand::is_running(&config.spool);
    let mut findings = Vec::new();
    if running {
        findings.push(Finding::ok(format!("a server is running on the spool {}", config.spool.display())));
    }
    let listen = &config.listen;
    for (key, addresses) in [
        ("smtp", &listen.smtp),
        ("submission", &listen.submission),
        ("submissions", &listen.submissions),
        ("pop3", &listen.pop3),
        ("pop3s", &listen.pop3s),
    ] {
        findings.extend(addresses.iter().map(|address| port(key, address, running)));
    }
    if findings.is_empty() {
        findings
            .push(Finding::warning("listen has no address: nobody can connect; mail comes only by the drop folder"));
    }
    findings
}

fn port(key: &str, address: &SocketAddr, running: bool) -> Finding {
    let error = match listener::bind(*address) {
        Ok(_) => return Finding::ok(format!("listen.{key}: {address} is free")),
        Err(error) => error,
    };
    if error.kind() == io::ErrorKind::AddrInUse && running {
        return Finding::ok(format!("listen.{key}: {address} is in use, as it is when the server runs"));
    }
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!("another program has it; `ss -ltnp sport = :{port}` shows which: stop it, or set listen.{key}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need root: start as root and set run_as, or set listen.{key} to a higher port")
        }
        io::ErrorKind::AddrNotAvailable => format!("this host has no such address; set listen.{key} to one of its own"),
        _ => format!("set listen.{key} to another address"),
    };
    Finding::error(format!("listen.{key}: cannot listen on {address}: {error}; {mend}"))
}

/// Addresses of this host that may relay, while strangers can connect: behind a proxy, or the bridge of a container, they
/// all seem to come from there.
pub fn proxies(config: &Config, is_of_this_host: impl Fn(IpAddr) -> bool) -> Vec<Finding> {
    let Some(port) = Listen::outside(&config.listen.smtp) else { return Vec::new() };
    let is_own = |network: &&IpNet| {
        let address = network.addr().to_canonical();
        network.prefix_len() == network.max_prefix_len() && !address.is_loopback() && is_of_this_host(address)
    };
    let finding = |network: &IpNet| {
        Finding::warning(format!(
            "relay.from has {}, an address of this host, and listen.smtp has {port}: strangers who come through a proxy or \
             a container's bridge have that address, and could send anywhere; take it out, and let programs here use loopback",
            network.addr()
        ))
    };
    config.relay.from.iter().filter(is_own).map(finding).collect()
}

/// Whether the accounts that are named exist.
pub fn accounts(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &config.run_as {
        None if account::is_root() => findings.push(Finding::warning(
            "run_as is not set: started by root, the server stays root; set it to an account of its own",
        )),
        Some(name) => match account::find(name) {
            // That it is missing is said by who would become it.
            Err(_) if account::is_root() => {}
            Err(error) => findings.push(Finding::error(format!("run_as: {error}"))),
            Ok(_) if !account::is_root() && *name != account::own_name() => findings.push(Finding::warning(format!(
                "only root can look with the eyes of run_as ({name}); what follows is seen as {}",
                account::own_name()
            ))),
            Ok(_) if account::is_root() && *name != account::own_name() => findings.push(Finding::ok(format!(
                "run_as: started by root, the server becomes {name} once its ports are bound; a second process stays root"
            ))),
            Ok(_) => findings.push(Finding::ok(format!("run_as: started by {name}, the server stays {name}"))),
        },
        None => {
            let name = account::own_name();
            findings.push(Finding::ok(format!("run_as is not set: started by {name}, the server stays {name}")));
        }
    }
    for login in config.drop.senders.keys().filter(|login| account::find(login).is_err()) {
        let text = format!("drop.senders names {login}, but this system has no such account; remove it or make it");
        findings.push(Finding::warning(text));
    }
    findings
}

/// What this kernel will keep the server from, once it has started.
pub fn sandbox() -> Finding {
    let offered = sandbox::offered();
    let text = format!("sandbox: this kernel limits a server that has started: {offered}");
    if offered.files && offered.calls {
        return Finding::ok(text);
    }
    Finding::warning(format!("{text}; files need Landlock (Linux 5.19), calls seccomp on x86_64, aarch64 or riscv64"))
}

/// Whether the server can write where it has to.
pub fn folders(config: &Config) -> Vec<Finding> {
    let mut findings = vec![folder("spool", &config.spool)];
    let inner = SPOOL_FOLDERS.iter().map(|name| config.spool.join(name)).filter(|path| path.exists());
    findings.extend(inner.filter_map(|path| unwritable("spool", &path).map(Finding::error)));
    findings.push(folder("mailboxes", &config.mailboxes));
    findings.extend(one_filesystem(config));
    if let LogTarget::File(path) = &config.log {
        findings.push(log(path));
    }
    findings
}

fn folder(key: &str, path: &Path) -> Finding {
    let standing = standing(path);
    let told = |path: &Path, mend: String| {
        Finding::error(format!("{key}: {} can't be made in {}: {mend}", path.display(), standing.display()))
    };
    if standing == path {
        return match unwritable(key, path) {
            Some(text) => Finding::error(text),
            None => Finding::ok(format!("{key}: {} can be written", path.display())),
        };
    }
    let name = account::own_name();
    if !standing.is_dir() {
        return told(path, "that is no folder; name another place".to_owned());
    }
    if !may_write(standing) {
        return told(
            path,
            format!("{name} may not write there; as root: install -d -o {name} -m 700 {}", path.display()),
        );
    }
    Finding::ok(format!("{key}: {} is not there yet; the server makes it", path.display()))
}

/// The path itself, or what is there of it.
fn standing(path: &Path) -> &Path {
    let found = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    found.unwrap_or(Path::new("."))
}

/// What is to be done where a file is there and the account may not read it.
pub fn unreadable(path: &Path) -> Option<Finding> {
    let name = account::own_name();
    let denied = access(path, AccessFlags::R_OK) == Err(nix::Error::EACCES);
    let mend =
        format!("as root: chgrp {name} {0} && chmod g+r {0}, and chmod a+x the folders above it", path.display());
    denied.then(|| Finding::error(format!("{}: {name} may not read it; {mend}", path.display())))
}

fn may_write(folder: &Path) -> bool {
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

fn unwritable(key: &str, path: &Path) -> Option<String> {
    let name = account::own_name();
    if !path.is_dir() {
        return Some(format!("{key}: {} is no folder; move it away, or name another place", path.display()));
    }
    let text = format!("{key}: {0} can't be written by {name}; as root: chown -R {name} {0}", path.display());
    (!may_write(path)).then_some(text)
}

fn one_filesystem(config: &Config) -> Option<Finding> {
    let device = |path: &Path| standing(path).metadata().map(|metadata| metadata.dev()).ok();
    let (spool, mailboxes) = (device(&config.spool)?, device(&config.mailboxes)?);
    (spool != mailboxes).then(|| {
        Finding::ok(format!(
            "mailboxes: {} is on another filesystem than the spool: delivery copies each message instead of renaming it",
            config.mailboxes.display()
        ))
    })
}

fn log(path: &Path) -> Finding {
    let folder = durable::folder_of(path);
    let name = account::own_name();
    if !folder.is_dir() {
        let mend = format!("as root: install -d -o {name} {}", folder.display());
        return Finding::error(format!("log: the folder {} is not there; {mend}", folder.display()));
    }
    if path.is_dir() {
        return Finding::error(format!("log: {} is a folder; name a file in it", path.display()));
    }
    if path.exists() && access(path, AccessFlags::W_OK).is_err() {
        return Finding::error(format!(
            "log: {0} can't be written by {name}; as root: chown {name} {0}",
            path.display()
        ));
    }
    if !may_write(folder) {
        let text = format!("log: {name} can't make a file in {}", folder.display());
        let mend = format!("as root: chown {name} {}", folder.display());
        return match path.exists() {
            true => Finding::warning(format!("{text}, so none after a rotation; {mend}")),
            false => Finding::error(format!("{text}; {mend}")),
        };
    }
    Finding::ok(format!("log: {} can be written", path.display()))
}

/// Whether there is room for mail.
pub fn disk(config: &Config) -> Vec<Finding> {
    match durable::free(standing(&config.spool)) {
        Ok((octets, inodes)) => vec![room(config, octets, inodes)],
        Err(error) => vec![Finding::error(format!("spool: {}: {error}", config.spool.display()))],
    }
}

fn room(config: &Config, octets: u64, inodes: Option<u64>) -> Finding {
    const MIB: u64 = 1 << 20;
    let (free, kept, spool) = (octets / MIB, config.limits.free_space / MIB, config.spool.display());
    if octets < config.limits.free_space {
        let mend = "make room, or lower limits.free_space";
        return Finding::warning(format!(
            "spool: {spool}: {free} MiB are free and {kept} MiB are to be kept: new mail is told to wait; {mend}"
        ));
    }
    if let Some(inodes) = inodes.filter(|inodes| *inodes < limits::FREE_INODES) {
        return Finding::warning(format!(
            "spool: {spool}: only {inodes} more files fit (inodes): new mail is told to wait; remove small files"
        ));
    }
    Finding::ok(format!("spool: {spool}: {free} MiB are free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Level;

    #[test]
    fn room_is_weighed_against_what_is_to_be_kept() {
        let config = Config::parse("[limits]\nfree_space = \"10MiB\"", Path::new("")).unwrap();
        for (octets, inodes, level) in [
            (11 << 20, None, Level::Ok),
            (11 << 20, Some(1000), Level::Ok),
            (9 << 20, Some(1000), Level::Warning),
            (11 << 20, Some(3), Level::Warning),
        ] {
            assert_eq!(room(&config, octets, inodes).level, level, "{octets} {inodes:?}");
        }
    }

    #[test]
    fn own_addresses_that_may_relay_are_told_where_strangers_can_come_by_them() {
        for (from, smtp, is_told) in [
            ("192.0.2.1", "0.0.0.0:25", true),
            ("192.0.2.2", "0.0.0.0:25", false),
            ("192.0.2.1", "127.0.0.1:25", false),
            ("192.0.2.0/24", "0.0.0.0:25", false),
            ("127.0.0.1", "0.0.0.0:25", false),
        ] {
            let text = format!("[relay]\nfrom = [\"{from}\"]\n[listen]\nsmtp = [\"{smtp}\"]");
            let config = Config::parse(&text, Path::new("")).unwrap();
            let is_own = |address: IpAddr| address.is_loopback() || address.to_string() == "192.0.2.1";
            assert_eq!(proxies(&config, is_own).len(), usize::from(is_told), "{from} {smtp}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_what_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, level, part) in [
            (folder.path().to_owned(), Level::Ok, "can be written"),
            (folder.path().join("a/b"), Level::Ok, "not there yet"),
            (file.clone(), Level::Error, "is no folder"),
            (file.join("a"), Level::Error, "is no folder"),
        ] {
            let found = super::folder("spool", &path);
            assert!(found.level == level && found.text.contains(part), "{found:?}");
        }
        assert!(!folder.path().join("a").exists(), "a check makes nothing");
    }

    #[test]
    fn a_port_in_use_is_fine_when_the_server_runs() {
        let taken = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let config = |spool: &Path| {
            let listen = format!("[listen]\nsmtp = [\"{address}\"]\npop3 = []");
            Config::parse(&format!("spool = {spool:?}\n{listen}"), Path::new("")).unwrap()
        };
        let spool = tempfile::tempdir().unwrap();
        let found = ports(&config(spool.path()));
        assert!(found.len() == 1 && found[0].level == Level::Error && found[0].text.contains("ss -ltnp"), "{found:?}");
        let lock = std::fs::File::open(spool.path()).unwrap();
        lock.lock().unwrap();
        let found = ports(&config(spool.path()));
        assert!(found[0].text.contains("a server is running"), "{found:?}");
        assert!(found.iter().all(|finding| finding.level == Level::Ok), "{found:?}");
    }

    #[test]
    fn the_log_needs_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(log(&folder.path().join("mail.log")).level, Level::Ok);
        assert!(log(&folder.path().join("gone/mail.log")).text.contains("install -d"));
        assert_eq!(log(folder.path()).level, Level::Error);
    }
}
