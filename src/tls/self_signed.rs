//! The certificate of a host that was given none: made at the first start, and kept, so that who trusts it once can go on.
//!
//! It encrypts, and proves nothing to strangers; most other hosts ask for no more. It lives in `tls/` of the spool, for ten
//! years; when it has expired, or the host has another name, another is made with the same key. Fails with the file and
//! what can't be done with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::certificate::{Certificate, Source};
use super::files::DirectFiles;
use crate::io::clock::Now;
use crate::io::durable;
use crate::io::table::LocatedError;
use crate::limits;

/// How long it is valid.
const YEARS: i64 = 10;

/// Where it is kept.
pub fn source(spool: &Path) -> Source {
    let folder = spool.join("tls");
    Source { certificate: folder.join("self-signed.pem"), key: folder.join("self-signed.key") }
}

/// Makes it unless a good one is there. Whether it was made now.
pub fn ensure(source: &Source, hostname: &str, now: Now) -> Result<bool, LocatedError> {
    let hostname = hostname.to_ascii_lowercase();
    if let Ok(there) = Certificate::read(source, &DirectFiles)
        && there.names.contains(&hostname)
        && there.is_valid(now)
        && there.days_left(now) >= limits::CERTIFICATE_DAYS
    {
        return Ok(false);
    }
    let folder = source.certificate.parent().unwrap_or(Path::new("."));
    durable::create_dirs(folder).map_err(|error| LocatedError::of(folder, error.to_string()))?;
    let key = keep_key(&source.key)?;
    let made = params(&hostname, now)
        .and_then(|params| params.self_signed(&key))
        .map_err(|error| LocatedError::of(&source.certificate, format!("cannot be made: {error}")))?;
    keep(&source.certificate, made.pem().as_bytes())?;
    Ok(true)
}

/// The key that is there, or a new one.
fn keep_key(path: &Path) -> Result<KeyPair, LocatedError> {
    let there = match fs::read_to_string(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LocatedError::of(path, format!("cannot be read: {error}")));
        }
        there => there.ok().and_then(|text| KeyPair::from_pem(&text).ok()),
    };
    if let Some(key) = there {
        return Ok(key);
    }
    let key = KeyPair::generate().map_err(|error| LocatedError::of(path, format!("cannot be made: {error}")))?;
    keep(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

fn keep(path: &Path, content: &[u8]) -> Result<(), LocatedError> {
    let draft = PathBuf::from(format!("{}.new", path.display()));
    durable::replace(path, &draft, content).map_err(|error| LocatedError::of(path, error.to_string()))
}

fn params(hostname: &str, now: Now) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![hostname.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    let seconds = i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX);
    let today = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    let today = today.to_zoned(jiff::tz::TimeZone::UTC).date();
    // From yesterday on: the clocks of others are late.
    let from = today.saturating_sub(jiff::Span::new().days(1));
    let to = today.saturating_add(jiff::Span::new().years(YEARS));
    let ymd = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (ymd(from), ymd(to));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn at(years: u64) -> Now {
        let now = Now::read();
        Now { wall: now.wall + Duration::from_secs(years * 366 * 86_400), ..now }
    }

    #[test]
    fn it_is_made_once_and_again_with_the_same_key_when_it_has_expired() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        assert!(ensure(&source, "Mail.example.org", at(0)).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&source.key), mode(folder.path().join("tls").as_path())), (0o600, 0o700));
        let first = fs::read(&source.certificate).unwrap();
        assert!(!ensure(&source, "mail.example.org", at(9)).unwrap());
        let key = fs::read(&source.key).unwrap();
        assert!(ensure(&source, "mail.example.org", at(11)).unwrap());
        assert_ne!(fs::read(&source.certificate).unwrap(), first);
        assert_eq!(fs::read(&source.key).unwrap(), key);
        assert!(Certificate::read(&source, &DirectFiles).unwrap().is_valid(at(20)));
    }

    #[test]
    fn another_name_or_damage_makes_another() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        ensure(&source, "a.example", at(0)).unwrap();
        assert!(ensure(&source, "b.example", at(0)).unwrap());
        assert_eq!(Certificate::read(&source, &DirectFiles).unwrap().names, ["b.example"]);
        fs::write(&source.key, "").unwrap();
        assert!(ensure(&source, "b.example", at(0)).unwrap());
        Certificate::read(&source, &DirectFiles).unwrap();
    }

    #[test]
    fn a_clock_in_1970_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let first = Now { wall: Duration::ZERO, boot: Duration::ZERO };
        assert!(ensure(&source, "a.example", first).unwrap());
        assert!(ensure(&source, "a.example", at(0)).unwrap(), "the clock was set");
    }

    #[test]
    fn a_spool_that_cannot_be_written_is_named() {
        let error = ensure(&source(Path::new("/proc/nowhere")), "a.example", at(0)).unwrap_err();
        assert!(error.to_string().starts_with("/proc/nowhere/tls: cannot make the folder"), "{error}");
    }
}
