//! How much a next hop has to prove: nothing, that it speaks TLS, its name, or its key.
//!
//! Without proof anything goes, certificates of the first version, keys of 1024 bits and signatures by SHA-1 too: they
//! protect against who only listens, and clear text would not (RFC 7435). Nothing is resumed: each connection proves what
//! it has to by itself. TLS 1.2 and 1.3, no ALPN.

use std::path::Path;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::certificate::read_chain;
use super::files::Files;
use super::provider;
use super::time::WallClock;
use super::words::WrongPin;
use crate::config::{HopSettings, TlsLevel};
use crate::io::table::LocatedError;
use crate::io::x509::Fields;

/// What a next hop has to prove.
#[derive(Clone, Debug)]
pub enum Level {
    /// Nothing, and where TLS fails it may be done without.
    Opportunistic,
    /// That it speaks TLS.
    Required,
    /// Its name, by a certificate that one of these has signed.
    Verified(Roots),
    /// Its key, by the SHA-256 of it (RFC 7469 §2.4).
    Pinned([u8; 32]),
}

/// Who may vouch for a next hop.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Certificates that a person named, each of which also vouches for the host that shows it.
    own: Arc<[CertificateDer<'static>]>,
}

impl Level {
    /// What the configuration asks of a next hop. A pin or a file of authorities, which is among `files`, asks for proof by
    /// itself.
    pub fn of(settings: &HopSettings, files: &dyn Files) -> Result<Level, String> {
        Level::vouched_by(settings, |ca| roots(ca, files))
    }

    /// The same, with authorities that are had from elsewhere: those in a file, or the system's.
    pub fn vouched_by(
        settings: &HopSettings,
        roots: impl FnOnce(Option<&Path>) -> Result<Roots, String>,
    ) -> Result<Level, String> {
        if let Some(pin) = &settings.pin {
            return Level::pinned(pin);
        }
        let unset = if settings.ca.is_some() { TlsLevel::Verified } else { TlsLevel::Opportunistic };
        Ok(match settings.tls.unwrap_or(unset) {
            TlsLevel::Opportunistic => Level::Opportunistic,
            TlsLevel::Required => Level::Required,
            TlsLevel::Verified => Level::Verified(roots(settings.ca.as_deref())?),
        })
    }

    /// The level of a pin: the SHA-256 of a public key in base64.
    pub fn pinned(pin: &str) -> Result<Level, String> {
        let octets = BASE64_STANDARD.decode(pin.trim()).ok();
        octets.and_then(|octets| octets.try_into().ok()).map(Level::Pinned).ok_or_else(|| {
            format!("{pin:?} is no pin: it is to be the SHA-256 of the public key in base64, 44 characters")
        })
    }

    /// Whether mail may go in clear where TLS is not offered or fails.
    pub fn allows_clear(&self) -> bool {
        matches!(self, Level::Opportunistic)
    }

    /// Whether a handshake at this level has proved who it was with.
    pub fn proves_name(&self) -> bool {
        matches!(self, Level::Verified(_) | Level::Pinned(_))
    }

    /// What a handshake at this level has proved, for the log.
    pub fn proof(&self) -> &'static str {
        match self {
            Level::Opportunistic | Level::Required => "unverified",
            Level::Verified(_) => "verified",
            Level::Pinned(_) => "pinned",
        }
    }
}

/// Those in a file, which is among `files`, or else those that this system trusts. An error is in words.
pub fn roots(ca: Option<&Path>, files: &dyn Files) -> Result<Roots, String> {
    match ca {
        Some(ca) => read_roots(ca, files).map_err(|error| error.to_string()),
        None => system_roots(),
    }
}

/// Where systems keep the authorities that they trust.
pub const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/tls/certs",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
];

/// Those that this system trusts. Reads some hundred certificates: to be kept.
pub fn system_roots() -> Result<Roots, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(format!("this system trusts no certificate authority{why}; install ca-certificates"));
    }
    Ok(Roots { store: Arc::new(store), own: Arc::default() })
}

/// Those in a file.
pub fn read_roots(path: &Path, files: &dyn Files) -> Result<Roots, LocatedError> {
    let own = read_chain(path, files)?;
    let mut store = RootCertStore::empty();
    let (_, ignored) = store.add_parsable_certificates(own.iter().cloned());
    if ignored > 0 {
        return Err(LocatedError::of(path, format!("{ignored} of the certificates in it are damaged")));
    }
    Ok(Roots { store: Arc::new(store), own: own.into() })
}

/// What a client speaks TLS with. An error is about the authorities, in words.
pub fn client_config(level: &Level) -> Result<Arc<ClientConfig>, String> {
    let verifier: Arc<dyn ServerCertVerifier> = match level {
        Level::Opportunistic | Level::Required => Arc::new(Anyone),
        Level::Pinned(pin) => Arc::new(Pinned(*pin)),
        Level::Verified(roots) => {
            let built = WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider()).build();
            let signed = built.map_err(|error| format!("the certificate authorities are of no use: {error}"))?;
            Arc::new(Vouched { signed, own: roots.own.clone() })
        }
    };
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes whomever it gets, and does not look at what they sign: what they can't sign rightly no listener can either.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = provider().signature_verification_algorithms.supported_schemes();
        schemes.extend([SignatureScheme::RSA_PKCS1_SHA1, SignatureScheme::ECDSA_SHA1_Legacy]);
        schemes
    }
}

/// Takes one key, whatever the certificate says around it.
#[derive(Debug)]
struct Pinned([u8; 32]);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fields::read(shown).ok_or(CertificateError::BadEncoding)?.pin();
        if found == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongPin(BASE64_STANDARD.encode(found));
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, shown, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, shown, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Takes who proves the name by a certificate that is vouched for.
#[derive(Debug)]
struct Vouched {
    signed: Arc<WebPkiServerVerifier>,
    own: Arc<[CertificateDer<'static>]>,
}

impl Vouched {
    /// A certificate that a person named needs no other signature, but its name and its time.
    fn verify_own(&self, shown: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let fields = Fields::read(shown).ok_or(CertificateError::BadEncoding)?;
        let time = |seconds: i64| {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        };
        let (not_before, not_after) = (time(fields.not_before), time(fields.not_after));
        if now.as_secs() > not_after.as_secs() {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        if now.as_secs() < not_before.as_secs() {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)
    }
}

impl ServerCertVerifier for Vouched {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.own.contains(shown) {
            return self.verify_own(shown, name, now).map(|()| ServerCertVerified::assertion());
        }
        self.signed.verify_server_cert(shown, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
