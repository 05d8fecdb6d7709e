//! On which terms a next hop is spoken with: what it has to prove, and who logs in there.
//!
//! Promises: certificate authorities are read once in [`limits::AUTHORITIES_AGE`] and not for each session; what a command
//! printed is asked for again once a hop refused it, or after [`limits::TOKEN_AGE`]; a password in a file is read each
//! time. What can't be read defers the mail, in words that name the key.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::HopSettings;
use crate::io::secrets::{Secrets, first_line};
use crate::limits;
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::reply::Enhanced;
use crate::mail::sasl::Secret;
use crate::mail::sasl::client::Login;
use crate::relay::{Credentials, Security};
use crate::tls::{self, Level, Roots};

/// The port on which TLS begins with the first octet (RFC 8314 §3.3).
const IMPLICIT: u16 = 465;

/// Who vouches for next hops, and what commands printed.
#[derive(Debug)]
pub struct Trust {
    secrets: Arc<dyn Secrets>,
    /// By the file they are in, or `None` for those of the system: no more than the configuration names, whichever hops
    /// they vouch for.
    authorities: Mutex<BTreeMap<Option<PathBuf>, (Roots, Instant)>>,
    printed: Mutex<HashMap<Vec<String>, Printed>>,
}

#[derive(Debug)]
struct Printed {
    secret: Secret,
    since: Instant,
}

/// The terms of one session.
#[derive(Debug)]
pub struct Terms {
    /// For the session.
    pub security: Security,
    /// Whether the secret is one that was asked for earlier.
    pub is_old: bool,
}

impl Trust {
    /// With secrets from there.
    pub fn new(secrets: Arc<dyn Secrets>) -> Trust {
        Trust { secrets, authorities: Mutex::default(), printed: Mutex::default() }
    }

    /// What `settings` ask of the hop.
    pub fn terms(&self, hop: &NextHop, settings: &HopSettings) -> Result<Terms, Outcome> {
        let security = self.security(hop, settings)?;
        let (credentials, is_old) = self.credentials(settings).map_err(|what| wrong(hop, &what))?;
        Ok(Terms { security: security.with(credentials), is_old })
    }

    /// The hop has refused what a command printed: it is asked for again.
    pub fn forget(&self, settings: &HopSettings) {
        for command in [&settings.password_command, &settings.token_command].into_iter().flatten() {
            lock(&self.printed).remove(command);
        }
    }

    /// Whether this host can tell what `settings` want proved.
    pub fn knows_proof(&self, hop: &NextHop, settings: &HopSettings) -> bool {
        self.security(hop, settings).is_ok()
    }

    fn security(&self, hop: &NextHop, settings: &HopSettings) -> Result<Security, Outcome> {
        let level = Level::vouched_by(settings, |ca| self.authorities(ca));
        let security = level.and_then(|level| Security::new(hop, level));
        security.map(|security| security.implicit(hop.port == Some(IMPLICIT))).map_err(|what| wrong(hop, &what))
    }

    fn authorities(&self, ca: Option<&Path>) -> Result<Roots, String> {
        let key = ca.map(Path::to_owned);
        let known = {
            let mut kept = lock(&self.authorities);
            kept.retain(|_, (_, since)| is_fresh(*since, limits::AUTHORITIES_AGE));
            kept.get(&key).map(|(roots, _)| roots.clone())
        };
        if let Some(roots) = known {
            return Ok(roots);
        }
        // A file that is slow to read holds up no other hop.
        let roots = tls::roots(ca, &|path: &Path| self.secrets.read(path))?;
        lock(&self.authorities).insert(key, (roots.clone(), Instant::now()));
        Ok(roots)
    }

    fn credentials(&self, settings: &HopSettings) -> Result<(Option<Credentials>, bool), String> {
        let Some(name) = settings.user.clone() else { return Ok((None, false)) };
        let (key, (secret, is_old)) = match settings {
            HopSettings { password_file: Some(path), .. } => {
                let read = self.secrets.read(path).and_then(|content| first_line(&content));
                let secret = read.map_err(|error| format!("password_file, {}: {error}", path.display()))?;
                (format!("password_file, {}", path.display()), (Secret(secret), false))
            }
            HopSettings { password_command: Some(command), .. } => {
                ("password_command".to_owned(), self.print(command, "password_command")?)
            }
            HopSettings { token_command: Some(command), .. } => {
                ("token_command".to_owned(), self.print(command, "token_command")?)
            }
            _ => return Err("user is set, and no password_file, password_command or token_command".to_owned()),
        };
        let login = match key == "token_command" {
            true => Login::Token { name, token: secret },
            false => Login::Password { name, password: secret },
        };
        Ok((Some(Credentials { login, key }), is_old))
    }

    /// What a command prints, and whether that is from earlier.
    fn print(&self, command: &[String], key: &str) -> Result<(Secret, bool), String> {
        let known = |printed: &Printed| is_fresh(printed.since, limits::TOKEN_AGE).then(|| printed.secret.clone());
        if let Some(secret) = lock(&self.printed).get(command).and_then(known) {
            return Ok((secret, true));
        }
        // Without the lock: it may take its time.
        let printed = self.secrets.run(command).and_then(|content| first_line(&content));
        let secret = printed.map(Secret).map_err(|error: io::Error| {
            format!("{key}, {}: {error}", command.first().map(String::as_str).unwrap_or_default())
        })?;
        let mut all = lock(&self.printed);
        all.retain(|_, printed| is_fresh(printed.since, limits::TOKEN_AGE));
        all.insert(command.to_vec(), Printed { secret: secret.clone(), since: Instant::now() });
        Ok((secret, false))
    }
}

fn wrong(hop: &NextHop, what: &str) -> Outcome {
    Outcome::Deferred(Cause::local(Enhanced(4, 3, 5), format!("relay.hops.\"{hop}\": {what}")))
}

fn is_fresh(since: Instant, most: Duration) -> bool {
    since.elapsed() < most
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsLevel;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts how often it was asked.
    #[derive(Debug, Default)]
    struct Asked(AtomicUsize);

    impl Secrets for Asked {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            let count = self.0.fetch_add(1, Ordering::SeqCst);
            match path.extension() {
                _ if path == Path::new("/none") => Err(io::ErrorKind::NotFound.into()),
                Some(end) if end == "pem" => std::fs::read(path),
                _ => Ok(format!("{count}\nx").into()),
            }
        }

        fn run(&self, _: &[String]) -> io::Result<Vec<u8>> {
            Ok(format!("{}\n", self.0.fetch_add(1, Ordering::SeqCst)).into())
        }
    }

    fn hop() -> NextHop {
        "smtp.provider.example:587".parse().unwrap()
    }

    fn settings() -> HopSettings {
        HopSettings { user: Some("ann".into()), tls: Some(TlsLevel::Required), ..HopSettings::default() }
    }

    /// The secret, and whether it is old.
    fn secret(trust: &Trust, settings: &HopSettings) -> (String, bool) {
        let (credentials, is_old) = trust.credentials(settings).unwrap();
        let secret = match credentials.unwrap().login {
            Login::Password { password: secret, .. } | Login::Token { token: secret, .. } => secret.0,
        };
        (String::from_utf8(secret).unwrap(), is_old)
    }

    #[test]
    fn what_a_command_printed_is_kept_until_it_is_refused() {
        let trust = Trust::new(Arc::new(Asked::default()));
        let settings = HopSettings { token_command: Some(vec!["token".into()]), ..settings() };
        assert_eq!(secret(&trust, &settings), ("0".into(), false));
        assert_eq!(secret(&trust, &settings), ("0".into(), true));
        trust.forget(&settings);
        assert_eq!(secret(&trust, &settings), ("1".into(), false));
        let other = HopSettings { token_command: Some(vec!["other".into()]), ..settings };
        assert_eq!(secret(&trust, &other), ("2".into(), false));
    }

    #[test]
    fn a_file_is_read_each_time() {
        let trust = Trust::new(Arc::new(Asked::default()));
        let settings = HopSettings { password_file: Some("/x".into()), ..settings() };
        assert_eq!(secret(&trust, &settings), ("0".into(), false));
        assert_eq!(secret(&trust, &settings), ("1".into(), false));
    }

    #[test]
    fn what_is_wrong_with_the_settings_defers_and_names_the_key() {
        let trust = Trust::new(Arc::new(Asked::default()));
        let file = |path: &str| Some(PathBuf::from(path));
        for (settings, expected) in [
            (settings(), "user is set, and no password_file"),
            (HopSettings { password_file: file("/none"), ..settings() }, "password_file, /none: entity not found"),
            (HopSettings { ca: file("/none"), tls: None, ..HopSettings::default() }, "/none"),
            (HopSettings { pin: Some("x".into()), ..HopSettings::default() }, "\"x\" is no pin"),
        ] {
            let Err(Outcome::Deferred(cause)) = trust.terms(&hop(), &settings) else { panic!("{settings:?}") };
            let text = cause.to_string();
            let start = "451 4.3.5 relay.hops.\"smtp.provider.example:587\": ";
            assert!(text.starts_with(start) && text.contains(expected), "{text}");
        }
    }

    #[test]
    fn authorities_are_read_where_they_are_asked_for_and_once_for_all_hops() {
        let file = tempfile::Builder::new().suffix(".pem").tempfile().unwrap();
        std::fs::write(file.path(), &crate::tls::testing::Authority::new().certificate).unwrap();
        let trust = Trust::new(Arc::new(Asked::default()));
        let terms = |hop: &str, settings: &HopSettings| trust.terms(&hop.parse().unwrap(), settings).map(drop);
        for tls in [None, Some(TlsLevel::Opportunistic), Some(TlsLevel::Required)] {
            let settings = HopSettings { tls, ca: tls.map(|_| file.path().to_owned()), ..HopSettings::default() };
            terms("mx:far.example", &settings).unwrap();
        }
        assert!(lock(&trust.authorities).is_empty());
        let settings = HopSettings { ca: Some(file.path().to_owned()), ..HopSettings::default() };
        (0..9).for_each(|at| terms(&format!("mx:d{at}.example"), &settings).unwrap());
        // A message may want a proof that the configuration does not.
        let raised = HopSettings { tls: Some(TlsLevel::Opportunistic), ..settings.clone() }.verified();
        std::fs::write(file.path(), "nothing").unwrap();
        terms("mx:d0.example", &raised).unwrap();
        assert_eq!(lock(&trust.authorities).len(), 1);
        lock(&trust.authorities).clear();
        terms("mx:d0.example", &raised).unwrap_err();
    }
}
