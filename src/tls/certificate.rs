//! One certificate with its chain and its key: read from PEM, and fit to be shown, or refused in plain words.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::files::Files;
use super::provider;
use crate::io::clock::Now;
use crate::io::table::LocatedError;
use crate::io::x509::Fields;

const DAY: i64 = 86_400;

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A certificate in use.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// What rustls shows and signs with.
    pub key: Arc<CertifiedKey>,
    /// The names it is for, in lower case; `*.` in front stands for one label.
    pub names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads and checks both files. An expired one is taken: it encrypts, and its owner is told elsewhere.
    pub fn read(source: &Source, files: &dyn Files) -> Result<Certificate, LocatedError> {
        let chain = read_chain(&source.certificate, files)?;
        let key = read_key(&source.key, files)?;
        let leaf = chain.first().map_or(&[][..], |first| first.as_ref());
        let wrong = |what: &str| LocatedError::of(&source.certificate, what);
        let fields = Fields::read(leaf).ok_or_else(|| wrong("the first certificate in it is damaged"))?;
        if fields.version < 3 {
            return Err(wrong(
                "this is an X.509 certificate of an old version, without names: make a new one (X.509 v3)",
            ));
        }
        let (not_before, not_after) = (fields.not_before, fields.not_after);
        let names = names_of(&chain[0]).ok_or_else(|| wrong("the first certificate in it is damaged"))?;
        let signing = provider().key_provider.load_private_key(key);
        let signing =
            signing.map_err(|error| LocatedError::of(&source.key, format!("this key is of no use: {error}")))?;
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            // A key that can't tell its public half is one that someone else made fit.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let what = format!(
                    "this is not the key of the first certificate in {}; put that one first, or name its key",
                    source.certificate.display()
                );
                return Err(LocatedError::of(&source.key, what));
            }
            Err(error) => return Err(wrong(&format!("the first certificate in it is damaged: {error}"))),
        }
        Ok(Certificate { key: Arc::new(key), names, not_before, not_after })
    }

    /// Days until it expires; below zero, since it has.
    pub fn days_left(&self, now: Now) -> i64 {
        (self.not_after - seconds(now)).div_euclid(DAY)
    }

    /// Whether clients that look take it now.
    pub fn is_valid(&self, now: Now) -> bool {
        (self.not_before..=self.not_after).contains(&seconds(now))
    }

    /// When it expires, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

fn seconds(now: Now) -> i64 {
    i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX)
}

/// The names in a certificate of version 3.
fn names_of(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

/// All certificates of a file; there is one at least.
pub fn read_chain(path: &Path, files: &dyn Files) -> Result<Vec<CertificateDer<'static>>, LocatedError> {
    let content = read(path, files)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let chain = chain.map_err(|error| LocatedError::of(path, format!("this is no PEM: {error}")))?;
    if chain.is_empty() {
        let what = "there is no certificate in it; it is to be in PEM, between BEGIN CERTIFICATE and END CERTIFICATE";
        return Err(LocatedError::of(path, what));
    }
    Ok(chain)
}

fn read_key(path: &Path, files: &dyn Files) -> Result<PrivateKeyDer<'static>, LocatedError> {
    let content = read(path, files)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| {
        let is_locked = memchr::memmem::find(&content, b"ENCRYPTED").is_some();
        let what = match error {
            _ if is_locked => {
                "the key has a passphrase, which nobody is here to type; take it off with openssl pkey".into()
            }
            rustls::pki_types::pem::Error::NoItemsFound => {
                "there is no key in it; it is to be in PEM, between BEGIN PRIVATE KEY and END PRIVATE KEY".into()
            }
            error => format!("this is no PEM: {error}"),
        };
        LocatedError::of(path, what)
    })
}

fn read(path: &Path, files: &dyn Files) -> Result<Vec<u8>, LocatedError> {
    files.read(path).map_err(|error| LocatedError::of(path, format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::files::DirectFiles;
    use super::super::testing::Made;
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn write(folder: &Path, made: &Made) -> Source {
        let source = Source { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&source.certificate, &made.certificate).unwrap();
        fs::write(&source.key, &made.key).unwrap();
        source
    }

    #[test]
    fn a_certificate_knows_its_names_and_its_days() {
        let folder = tempfile::tempdir().unwrap();
        let made = Made::new(&["Mail.Example.org", "*.example.net"], 100);
        let certificate = Certificate::read(&write(folder.path(), &made), &DirectFiles).unwrap();
        assert_eq!(certificate.names, ["mail.example.org", "*.example.net"]);
        let now = Now::read();
        assert!((98..=100).contains(&certificate.days_left(now)) && certificate.is_valid(now));
        let later = Now { wall: now.wall + Duration::from_secs(101 * 86_400), ..now };
        assert!(certificate.days_left(later) < 0 && !certificate.is_valid(later));
    }

    #[test]
    fn what_is_wrong_is_said_of_the_file_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = Made::new(&["a.example"], 100);
        let other = Made::new(&["b.example"], 100);
        let read = |certificate: &str, key: &str| {
            let files = Made { certificate: certificate.to_owned(), key: key.to_owned() };
            Certificate::read(&write(folder.path(), &files), &DirectFiles).unwrap_err()
        };
        let half = &made.certificate[..made.certificate.len() / 2];
        let damaged = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        for (certificate, key, file, what) in [
            ("", made.key.as_str(), "cert.pem", "there is no certificate in it"),
            (half, &made.key, "cert.pem", "this is no PEM"),
            (damaged, &made.key, "cert.pem", "damaged"),
            (&made.certificate, "", "key.pem", "there is no key in it"),
            (&made.certificate, &made.key[..80], "key.pem", "this is no PEM"),
            (&made.certificate, &other.key, "key.pem", "this is not the key of the first certificate in "),
            (&made.certificate, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "key.pem", "has a passphrase"),
        ] {
            let error = read(certificate, key);
            assert!(error.path.ends_with(file) && error.what.contains(what), "{error}");
        }
        let nowhere = Source { certificate: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
        let error = Certificate::read(&nowhere, &DirectFiles).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/cert.pem: cannot be read: "), "{error}");
    }
}
