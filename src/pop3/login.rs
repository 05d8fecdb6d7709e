//! Who has which mailbox open.
//!
//! Promises: a mailbox is open in one session at a time, and free again when its [`Login`] is dropped, however the session
//! ended: this is kept in memory, and no file can stay locked. Who may come in, the [`Gate`] says. Fails with a [`Denied`].

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::mailbox::Mailbox;
use crate::auth::Gate;
use crate::io::stream::Pace;
use crate::limits;
use crate::mail::address::Address;
use crate::maildir::Maildir;
use crate::route::CurrentSite;
use crate::tls::Certificates;

/// What all POP3 connections share.
pub struct Server {
    /// What this host is.
    pub site: Arc<CurrentSite>,
    /// How slowly clients may read.
    pub pace: Pace,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// What this host shows of itself.
    pub certificates: Arc<Certificates>,
    /// How long a client may take to log in.
    pub login_time: Duration,
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
    /// The name can't be that of a folder.
    Unsafe,
    /// Another session has the mailbox.
    InUse,
    /// The mailbox can't be read.
    Unreadable(Address, io::Error),
}

impl Server {
    /// A server without sessions.
    pub fn new(site: Arc<CurrentSite>, gate: Arc<Gate>, certificates: Arc<Certificates>, pace: Pace) -> Server {
        Server { site, gate, certificates, pace, login_time: limits::POP3_LOGIN_TIME, open: Arc::default() }
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
    use crate::mail::sasl::Credentials;
    use crate::route::Site;
    use crate::users::Users;
    use std::fs;
    use std::net::{IpAddr, Ipv4Addr};
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
        let gate = Arc::new(Gate::without_waits(site.clone()));
        Server::new(site, gate, Arc::new(Certificates::self_signed(folder)), Pace::CLIENT)
    }

    /// What PASS does. Nothing if the gate is closed.
    pub fn log_in(server: &Server, name: &str, password: &str) -> Option<Result<Login, Denied>> {
        let credentials = Credentials::new(name, password.as_bytes());
        Some(server.open(server.gate.check(CLIENT, &credentials).ok()?))
    }

    /// An open mailbox with files of these names.
    pub fn login(folder: &Path, names: &[&str]) -> Login {
        let new = folder.join("mail/example.org/ann/new");
        fs::create_dir_all(&new).unwrap();
        names.iter().for_each(|name| fs::write(new.join(name), b"").unwrap());
        log_in(&server(folder), "ann", "correct horse").unwrap().unwrap()
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
            assert!(log_in(&server, name, password).is_none(), "{name}");
        }
        assert!(!folder.path().join("mail").exists());
        assert!(log_in(&server, "ANN@example.org", "correct horse").unwrap().is_ok());
    }

    #[test]
    fn a_mailbox_is_open_once_and_free_again_whatever_happens() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let open = |name: &str| log_in(&server, name, "correct horse").unwrap();
        let first = open("ann").unwrap();
        assert!(matches!(open("Ann@example.org"), Err(Denied::InUse)));
        assert!(open("bob").is_ok());
        drop(first);
        fs::create_dir_all(folder.path().join("mail/example.org/ann")).unwrap();
        fs::write(folder.path().join("mail/example.org/ann/cur"), b"no folder").unwrap();
        assert!(matches!(open("ann"), Err(Denied::Unreadable(..))));
        assert!(matches!(open("ann"), Err(Denied::Unreadable(..))), "not in use");
    }
}
