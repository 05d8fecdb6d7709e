//! The certificates of this host: which is shown to whom, and when they are read again.
//!
//! The default one is configured, or signed by itself; those of a folder are for clients that ask for their names. About
//! once a second it is looked whether a file changed. A certificate is read once its files have been still for one look,
//! so that a renewal is not seen half done, and taken up for the connections that come after; one that is broken, or is
//! not valid while the old one is, leaves the old in place and is told of once. Only at the start is a broken default an
//! error. Tickets are good for as long as the certificates stay (RFC 8446 §4.6.1): a resumed session never leans on one
//! that was replaced.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::certificate::{Certificate, Source};
use super::files::{Files, Stamp};
use super::time::{Tickets, WallClock};
use super::{provider, self_signed};
use crate::config;
use crate::io::clock::Now;
use crate::io::table::LocatedError;
use crate::limits;
use crate::maillog;

/// How often it is told that a certificate is about to expire.
const WARN_EACH: Duration = Duration::from_secs(86_400);

/// What this host shows of itself; shared by all connections.
pub struct Certificates {
    files: Box<dyn Files>,
    spool: PathBuf,
    state: Mutex<State>,
    config: RwLock<Arc<ServerConfig>>,
}

struct State {
    settings: config::Tls,
    hostname: String,
    default: Watched,
    by_folder: Vec<Watched>,
    /// The folder of certificates can't be read, and this was told.
    is_folder_broken: bool,
}

/// One certificate and what is known of its files.
struct Watched {
    source: Source,
    current: Option<Certificate>,
    /// The files at the last look, and when they were read last.
    seen: [Stamp; 2],
    tried: Option<[Stamp; 2]>,
    /// When its end was warned of, by the clock that does not jump.
    warned: Option<Duration>,
}

impl Certificates {
    /// Reads what `settings` name. With no certificate there one is made for `hostname`, and kept in the `spool`. Those in
    /// the folder that are broken are logged, and left out until they change.
    pub fn load(
        settings: &config::Tls,
        hostname: &str,
        spool: &Path,
        files: Box<dyn Files>,
    ) -> Result<Certificates, LocatedError> {
        let state = State::read(settings, hostname, spool, &*files)?;
        let config = RwLock::new(state.server_config()?);
        Ok(Certificates { files, spool: spool.to_owned(), state: Mutex::new(state), config })
    }

    /// Those of a host that was given none, for tests of what stands behind them.
    #[cfg(test)]
    pub fn self_signed(folder: &Path) -> Certificates {
        let files = Box::new(super::DirectFiles);
        Certificates::load(&config::Tls::default(), "mail.example.org", folder, files).expect("the folder is writable")
    }

    /// What is wrong with the certificates that `settings` name. Nothing is made and nothing logged.
    pub fn check(settings: &config::Tls, files: &dyn Files) -> Vec<LocatedError> {
        let mut found = Vec::new();
        let sources = match configured(settings) {
            Err(error) => return vec![error],
            Ok(default) => default.into_iter().chain(folder_sources(settings, files).unwrap_or_else(|error| {
                found.push(error);
                Vec::new()
            })),
        };
        let broken: Vec<_> = sources.filter_map(|source| Certificate::read(&source, files).err()).collect();
        found.extend(broken);
        found
    }

    /// Takes up other settings; if their default is broken, the old ones stay.
    pub fn take_up(&self, settings: &config::Tls, hostname: &str) -> Result<(), LocatedError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.settings == *settings && state.hostname == hostname {
            return Ok(());
        }
        let new = State::read(settings, hostname, &self.spool, &*self.files)?;
        self.set(new.server_config()?);
        *state = new;
        Ok(())
    }

    /// What a new connection is to use.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for changes, and whether a certificate is about to expire. To be called about once a second.
    pub fn look(&self) {
        self.look_at(Now::read());
    }

    fn look_at(&self, now: Now) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.refresh(&*self.files, now) {
            return;
        }
        match state.server_config() {
            Ok(config) => self.set(config),
            Err(error) => maillog::certificate_broken(&error, None),
        }
    }

    fn set(&self, config: Arc<ServerConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

impl State {
    fn read(settings: &config::Tls, hostname: &str, spool: &Path, files: &dyn Files) -> Result<State, LocatedError> {
        let now = Now::read();
        let source = match configured(settings)? {
            Some(source) => source,
            None => {
                let source = self_signed::source(spool);
                if self_signed::ensure(&source, hostname, now)? {
                    maillog::certificate_made(&source.certificate, hostname);
                }
                source
            }
        };
        let mut default = Watched::new(source);
        default.read(files, now)?;
        let (settings, hostname) = (settings.clone(), hostname.to_owned());
        let mut state = State { settings, hostname, default, by_folder: Vec::new(), is_folder_broken: false };
        state.list_folder(files);
        for one in &mut state.by_folder {
            one.read_or_keep(files, now);
        }
        Ok(state)
    }

    /// Whether anything is to be shown that was not before.
    fn refresh(&mut self, files: &dyn Files, now: Now) -> bool {
        if self.settings.certificate.is_none() {
            self.renew_self_signed(now);
        }
        let mut has_changed = self.list_folder(files);
        for one in std::iter::once(&mut self.default).chain(&mut self.by_folder) {
            let stamps = one.stamps(files);
            let is_still = one.seen == stamps;
            one.seen = stamps;
            if is_still && one.tried.as_ref() != Some(&one.seen) {
                has_changed |= one.read_or_keep(files, now);
            }
            one.warn(now);
        }
        has_changed
    }

    /// Makes another before the old one expires; the change of the file is seen like any other.
    fn renew_self_signed(&mut self, now: Now) {
        let Some(current) = &self.default.current else { return };
        let is_good = current.is_valid(now) && current.days_left(now) >= limits::CERTIFICATE_DAYS;
        if is_good || !self.default.may_warn(now) {
            return;
        }
        match self_signed::ensure(&self.default.source, &self.hostname, now) {
            Ok(true) => maillog::certificate_made(&self.default.source.certificate, &self.hostname),
            Ok(false) => {}
            Err(error) => {
                self.default.warned = Some(now.boot);
                maillog::certificate_broken(&error, Some(current.days_left(now)));
            }
        }
    }

    /// Adds new folders, and forgets those that are gone. Whether one is gone.
    fn list_folder(&mut self, files: &dyn Files) -> bool {
        let sources = match folder_sources(&self.settings, files) {
            Ok(sources) => sources,
            Err(error) => {
                if !std::mem::replace(&mut self.is_folder_broken, true) {
                    maillog::certificate_broken(&error, None);
                }
                return false;
            }
        };
        self.is_folder_broken = false;
        let before = self.by_folder.len();
        self.by_folder.retain(|one| {
            let is_there = sources.contains(&one.source);
            if !is_there {
                maillog::certificate_gone(&one.source.certificate);
            }
            is_there
        });
        let has_lost = self.by_folder.len() < before;
        for source in sources {
            if !self.by_folder.iter().any(|one| one.source == source) {
                self.by_folder.push(Watched::new(source));
            }
        }
        has_lost
    }

    fn server_config(&self) -> Result<Arc<ServerConfig>, LocatedError> {
        let wrong = |error: rustls::Error| LocatedError::of(&self.default.source.certificate, error.to_string());
        let Some(default) = &self.default.current else {
            return Err(wrong(rustls::Error::NoCertificatesPresented));
        };
        let others = self.by_folder.iter().filter_map(|one| one.current.as_ref());
        let resolver = ByName::new(default, others);
        let mut config = ServerConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(wrong)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.ignore_client_order = true;
        config.ticketer = Arc::new(Tickets::default());
        // Tickets do it without memory here, and one is enough: a mail client comes back with one connection.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

impl Watched {
    fn new(source: Source) -> Watched {
        let missing = || Stamp::Missing(std::io::ErrorKind::NotFound);
        Watched { source, current: None, seen: [missing(), missing()], tried: None, warned: None }
    }

    fn stamps(&self, files: &dyn Files) -> [Stamp; 2] {
        [files.stamp(&self.source.certificate), files.stamp(&self.source.key)]
    }

    fn read(&mut self, files: &dyn Files, now: Now) -> Result<(), LocatedError> {
        // Before the files: what changes meanwhile is seen later.
        self.seen = self.stamps(files);
        self.tried = Some(self.seen.clone());
        let new = Certificate::read(&self.source, files)?;
        if !new.is_valid(now) && self.current.as_ref().is_some_and(|old| old.is_valid(now)) {
            let what = if new.days_left(now) < 0 { "it has expired already" } else { "it is not valid yet" };
            return Err(LocatedError::of(&self.source.certificate, what));
        }
        maillog::certificate(&self.source.certificate, &new.names, new.days_left(now));
        self.current = Some(new);
        self.warned = None;
        Ok(())
    }

    /// Whether it was replaced.
    fn read_or_keep(&mut self, files: &dyn Files, now: Now) -> bool {
        let result = self.read(files, now);
        if let Err(error) = &result {
            maillog::certificate_broken(error, self.current.as_ref().map(|old| old.days_left(now)));
        }
        result.is_ok()
    }

    fn may_warn(&self, now: Now) -> bool {
        self.warned.is_none_or(|warned| now.boot.saturating_sub(warned) >= WARN_EACH)
    }

    fn warn(&mut self, now: Now) {
        let Some(days) = self.current.as_ref().map(|current| current.days_left(now)) else { return };
        if days < limits::CERTIFICATE_DAYS && self.may_warn(now) {
            self.warned = Some(now.boot);
            maillog::certificate_expires(&self.source.certificate, days);
        }
    }
}

/// The default that a person chose; its key may be in the same file.
fn configured(settings: &config::Tls) -> Result<Option<Source>, LocatedError> {
    match (&settings.certificate, &settings.key) {
        (Some(certificate), key) => {
            let key = key.as_ref().unwrap_or(certificate).clone();
            Ok(Some(Source { certificate: certificate.clone(), key }))
        }
        (None, Some(key)) => {
            Err(LocatedError::of(key, "this is tls.key, but no certificate is named for it: set tls.certificate"))
        }
        (None, None) => Ok(None),
    }
}

/// As certbot lays them, in the order of their names.
fn folder_sources(settings: &config::Tls, files: &dyn Files) -> Result<Vec<Source>, LocatedError> {
    let Some(folder) = &settings.certificates else { return Ok(Vec::new()) };
    let names = files.folders(folder).map_err(|error| LocatedError::of(folder, format!("cannot be read: {error}")))?;
    let source = |name| {
        let inside = folder.join(name);
        Source { certificate: inside.join("fullchain.pem"), key: inside.join("privkey.pem") }
    };
    Ok(names.into_iter().map(source).collect())
}

/// Chooses by the name that the client asks for (RFC 6066 §3); who asks for none, or another, gets the default.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Of two certificates for a name the one that lasts longer is shown.
    fn new<'a>(default: &'a Certificate, others: impl Iterator<Item = &'a Certificate>) -> ByName {
        let mut all: Vec<&Certificate> = std::iter::once(default).chain(others).collect();
        all.sort_by_key(|certificate| certificate.not_after());
        let names = all.into_iter().flat_map(|one| one.names.iter().map(|name| (name.clone(), one.key.clone())));
        ByName { default: default.key.clone(), names: names.collect() }
    }

    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let name = name.unwrap_or("").to_ascii_lowercase();
        let wild = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wild).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name()).clone())
    }
}

#[cfg(test)]
mod tests;
