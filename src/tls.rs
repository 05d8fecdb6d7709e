//! TLS: the certificates of this host, kept up to date while it runs, and how much a next hop has to prove.
//!
//! | file | room |
//! | --- | --- |
//! | `files` | how certificates and keys are come by, and how a change is noticed |
//! | `certificate` | one certificate with its key, read or refused in plain words |
//! | `self_signed` | the certificate of a host that was given none |
//! | `certificates` | all of them: which is shown to whom, and when they are read again |
//! | `client` | the four levels of trust in a next hop |
//! | `time` | the time that all of it goes by |
//! | `words` | what went wrong, for a person |
//!
//! TLS 1.2 and 1.3 alone (RFC 8996), with the suites that rustls has: all of them with forward secrecy, none with CBC.

mod certificate;
mod certificates;
mod client;
mod files;
mod self_signed;
#[cfg(test)]
pub(crate) mod testing;
mod time;
mod words;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use certificates::Certificates;
pub use client::{Level, Roots, SYSTEM_ROOTS, client_config, read_roots, roots, system_roots};
pub use files::{DirectFiles, Files, Stamp};
pub use words::{handshake_words, is_lasting, of_tls, words};

/// The cryptography of the whole process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}
