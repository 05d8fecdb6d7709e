//! Who has which mailbox open.
//!
//! Promises: a mailbox is open in one session at a time, and free again when its [`Login`] is dropped, however the session
//! ended: this is kept in memory, and no file can stay locked. Who may come in, the [`Gate`] says. Fails with a [`Denied`].

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::mailbox::Mailbox;
use crate::auth::{self, Gate};
use crate::io::stream::Pace;
use crate::mail::address::Address;
use crate::mail::sasl::Credentials;
use crate::maildir::Maildir;
use crate::route::CurrentSite;

/// What all POP3 connections share.
#[derive(Debug)]
pub struct Server {
    /// What this host is.
    pub site: Arc<CurrentSite>,
    /// How slowly clients may read.
    pub pace: Pace,
    /// Who is let in.
    pub gate: Arc<Gate>,
    open: Arc<Open>,
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
    /// The gate says so.
    Gate(auth::Denied),
    /// The name can't be that of a folder.
    Unsafe,
    /// Another session has the mailbox.
    InUse,
    /// The mailbox can't be read.
    Unreadable(Address, io::Error),
}

impl Server {
    /// A server without sessions.
    pub fn new(site: Arc<CurrentSite>, gate: Arc<Gate>, pace: Pace) -> Server {
        Server { site, gate, pace, open: Arc::default() }
    }

    /// Opens the mailbox that `name` means, for a client that knows its password.
    pub fn log_in(&self, client: IpAddr, name: &str, password: &[u8]) -> Result<Login, Denied> {
        let address = self.gate.check(client, &Credentials::new(name, password)).map_err(Denied::Gate)?;
        self.open(address)
    }

    /// Opens the mailbox of someone whom the gate has let in.
    pub fn open(&self, address: Address) -> Result<Login, Denied> {
        let maildir = Maildir::of(&self.site.get().config.mailboxes, &address).ok_or(Denied::Unsafe)?;
        let hold = Hold::take(&self.open, &address).ok_or(Denied::InUse)?;
        match Mailbox::open(maildir.path()) {
            Ok(mailbox) => Ok(Login { address, mailbox, fetched: 0, _hold: hold }),
            Err(error) => Err(Denied::Unreadable(address, error)),
        }
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

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::auth::tests::HASH;
    use crate::config::Config;
    use crate::route::Site;
    use crate::users::Users;
    use std::fs;
    use std::net::Ipv4Addr;
    use std::path::Path;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// The users ann and bob at example.org, whose mailboxes are in `folder`.
    pub fn server(folder: &Path) -> Server {
        let config =
            Config::parse("local_domains = [\"example.org\", \"example.net\"]\nspool = \".\"", folder).unwrap();
        let path = folder.join("users");
        fs::write(&path, format!("ann@example.org:{HASH}\nbob@example.org:{HASH}\n")).unwrap();
        let users = Users::load(&path).unwrap();
        let site = Arc::new(CurrentSite::new(Site { config, users, aliases: Default::default() }));
        Server::new(site.clone(), Arc::new(Gate::without_waits(site)), Pace::CLIENT)
    }

    /// An open mailbox with files of these names.
    pub fn login(folder: &Path, names: &[&str]) -> Login {
        let new = folder.join("mail/example.org/ann/new");
        fs::create_dir_all(&new).unwrap();
        names.iter().for_each(|name| fs::write(new.join(name), b"").unwrap());
        server(folder).log_in(CLIENT, "ann", b"correct horse").unwrap()
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
            let denied = server.log_in(CLIENT, name, password.as_bytes());
            assert!(matches!(denied, Err(Denied::Gate(auth::Denied::Wrong(_)))), "{name}: {denied:?}");
        }
        assert!(!folder.path().join("mail").exists());
        assert!(server.log_in(CLIENT, "ANN@example.org", b"correct horse").is_ok());
    }

    #[test]
    fn a_mailbox_is_open_once_and_free_again_whatever_happens() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let first = server.log_in(CLIENT, "ann", b"correct horse").unwrap();
        assert!(matches!(server.log_in(CLIENT, "Ann@example.org", b"correct horse"), Err(Denied::InUse)));
        assert!(server.log_in(CLIENT, "bob", b"correct horse").is_ok());
        drop(first);
        fs::create_dir_all(folder.path().join("mail/example.org/ann")).unwrap();
        fs::write(folder.path().join("mail/example.org/ann/cur"), b"no folder").unwrap();
        assert!(matches!(server.log_in(CLIENT, "ann", b"correct horse"), Err(Denied::Unreadable(..))));
        assert!(matches!(server.log_in(CLIENT, "ann", b"correct horse"), Err(Denied::Unreadable(..))), "not in use");
    }
}
