//! Who may open which mailbox, and who has it open.
//!
//! Promises: a name that is not here and a wrong password cost the same work and tell the same; at most
//! `limits::LOGIN_CHECKS` passwords are checked at once; a mailbox is open in one session at a time, and free again
//! when its [`Login`] is dropped, however the session ended: this is kept in memory, and no file can stay locked. Fails
//! with a [`Denied`].

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::mailbox::Mailbox;
use crate::io::stream::Pace;
use crate::limits;
use crate::mail::address::{Address, Domain};
use crate::maildir::Maildir;
use crate::route::{CurrentSite, Site};

/// What all POP3 connections share.
#[derive(Debug)]
pub struct Server {
    /// What this host is.
    pub site: Arc<CurrentSite>,
    /// How slowly clients may read.
    pub pace: Pace,
    open: Arc<Open>,
    give: Sender<()>,
    take: Receiver<()>,
}

type Open = Mutex<HashSet<Address>>;

/// One session's hold on a mailbox.
#[derive(Debug)]
pub struct Login {
    /// Whose it is.
    pub address: Address,
    /// What is in it.
    pub mailbox: Mailbox,
    /// Messages that were sent.
    pub fetched: usize,
    _hold: Hold,
}

/// Why there is no login.
#[derive(Debug)]
pub enum Denied {
    /// Name or password are wrong; the words are for the log alone.
    Wrong(&'static str),
    /// Another session has the mailbox.
    InUse,
    /// Too many are being checked.
    Busy,
    /// The mailbox can't be read.
    Unreadable(Address, io::Error),
}

impl Server {
    /// A server without sessions.
    pub fn new(site: Arc<CurrentSite>, pace: Pace) -> Server {
        let (give, take) = bounded(limits::LOGIN_CHECKS);
        for _ in 0..limits::LOGIN_CHECKS {
            // There is room for all: it is made for as many.
            let _ = give.try_send(());
        }
        Server { site, pace, open: Arc::default(), give, take }
    }

    /// Opens the mailbox that `name` means.
    pub fn log_in(&self, name: &str, password: &[u8]) -> Result<Login, Denied> {
        let site = self.site.get();
        let address = self.check(&site, name, password)?;
        let unsafe_name = Denied::Wrong("the name can't be that of a folder");
        let maildir = Maildir::of(&site.config.mailboxes, &address).ok_or(unsafe_name)?;
        let hold = Hold::take(&self.open, &address).ok_or(Denied::InUse)?;
        match Mailbox::open(maildir.path()) {
            Ok(mailbox) => Ok(Login { address, mailbox, fetched: 0, _hold: hold }),
            Err(error) => Err(Denied::Unreadable(address, error)),
        }
    }

    fn check(&self, site: &Site, name: &str, password: &[u8]) -> Result<Address, Denied> {
        let address = address(name, site.config.first_domain());
        let _turn = self.turn().ok_or(Denied::Busy)?;
        // Also for what is no address: the time a check takes must not tell one from the other.
        let nobody = || Address::new("", site.config.first_domain().clone()).ok();
        let matches = address.clone().or_else(nobody).is_some_and(|asked| site.users.verify(&asked, password));
        match address {
            None => Err(Denied::Wrong("not an address")),
            Some(address) if !site.users.contains(&address) => Err(Denied::Wrong("no such user")),
            Some(_) if !matches => Err(Denied::Wrong("wrong password")),
            Some(address) => Ok(address),
        }
    }

    fn turn(&self) -> Option<Turn<'_>> {
        self.take.recv_timeout(limits::LOGIN_WAIT).ok()?;
        Some(Turn(self))
    }
}

/// One of the places where a password is checked; given back when dropped.
struct Turn<'a>(&'a Server);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The place it came from is free.
        let _ = self.0.give.try_send(());
    }
}

#[derive(Debug)]
struct Hold {
    open: Arc<Open>,
    address: Address,
}

impl Hold {
    fn take(open: &Arc<Open>, address: &Address) -> Option<Hold> {
        let is_free = open.lock().unwrap_or_else(PoisonError::into_inner).insert(address.clone());
        is_free.then(|| Hold { open: open.clone(), address: address.clone() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

/// A name without a domain is one of the first domain. What is no address is nobody.
fn address(name: &str, first_domain: &Domain) -> Option<Address> {
    let whole = name.parse().or_else(|_| format!("{name}@{first_domain}").parse::<Address>());
    whole.ok().map(|address| address.folded())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use crate::users::Users;
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// bcrypt at its cheapest, of `correct horse`.
    const HASH: &str = "{BLF-CRYPT}$2y$04$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K";

    /// The users ann and bob at example.org, whose mailboxes are in `folder`.
    pub fn server(folder: &Path) -> Server {
        let config =
            Config::parse("local_domains = [\"example.org\", \"example.net\"]\nspool = \".\"", folder).unwrap();
        let path = folder.join("users");
        fs::write(&path, format!("ann@example.org:{HASH}\nbob@example.org:{HASH}\n")).unwrap();
        let users = Users::load(&path).unwrap();
        Server::new(Arc::new(CurrentSite::new(Site { config, users, aliases: Default::default() })), Pace::CLIENT)
    }

    /// An open mailbox with files of these names.
    pub fn login(folder: &Path, names: &[&str]) -> Login {
        let new = folder.join("mail/example.org/ann/new");
        fs::create_dir_all(&new).unwrap();
        names.iter().for_each(|name| fs::write(new.join(name), b"").unwrap());
        server(folder).log_in("ann", b"correct horse").unwrap()
    }

    #[test]
    fn names_are_addresses_in_any_case_or_bare() {
        let domain = "example.org".parse().unwrap();
        for name in ["ann", "ANN", "Ann@example.org", "ann@EXAMPLE.org", "\"ann\"@example.org"] {
            assert_eq!(address(name, &domain).unwrap().to_string(), "ann@example.org", "{name}");
        }
        for name in ["", "ann@", "@example.org", "a nn", "ann@a@b", "ann@example.org/..", "ann@..", "a\0b", "<ann>"] {
            assert_eq!(address(name, &domain), None, "{name}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_denied_alike() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        for (name, password) in [
            ("ann", "wrong"),
            ("ann", ""),
            ("nobody", "correct horse"),
            ("ann@example.net", "correct horse"),
            ("../ann", "correct horse"),
            ("/etc/passwd", "correct horse"),
            ("", "correct horse"),
            ("ann@[127.0.0.1]", "correct horse"),
        ] {
            let denied = server.log_in(name, password.as_bytes());
            assert!(matches!(denied, Err(Denied::Wrong(_))), "{name}: {denied:?}");
        }
        assert!(!folder.path().join("mail").exists());
        assert!(server.log_in("ANN@example.org", b"correct horse").is_ok());
    }

    #[test]
    fn a_mailbox_is_open_once_and_free_again_whatever_happens() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let first = server.log_in("ann", b"correct horse").unwrap();
        assert!(matches!(server.log_in("Ann@example.org", b"correct horse"), Err(Denied::InUse)));
        assert!(server.log_in("bob", b"correct horse").is_ok());
        drop(first);
        fs::create_dir_all(folder.path().join("mail/example.org/ann")).unwrap();
        fs::write(folder.path().join("mail/example.org/ann/cur"), b"no folder").unwrap();
        assert!(matches!(server.log_in("ann", b"correct horse"), Err(Denied::Unreadable(..))));
        assert!(matches!(server.log_in("ann", b"correct horse"), Err(Denied::Unreadable(..))), "not in use");
    }

    #[test]
    fn so_many_are_checked_at_once_and_the_next_waits_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let mut turns: Vec<_> = (0..limits::LOGIN_CHECKS).map(|_| server.turn().unwrap()).collect();
        assert!(server.take.try_recv().is_err());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| server.log_in("ann", b"correct horse").is_ok());
            std::thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            turns.pop();
            assert!(waits.join().unwrap());
            assert!(begun.elapsed() < limits::LOGIN_WAIT / 2);
        });
        drop(turns);
        assert_eq!(server.take.len(), limits::LOGIN_CHECKS);
    }
}
