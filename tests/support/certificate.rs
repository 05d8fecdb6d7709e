//! A certificate that a host of the tests has signed itself, for Postfix to show. Needs openssl.

use std::path::PathBuf;
use std::process::Command;

use super::have;
use super::tls::make_certificate;

/// A certificate with its key, in a folder of its own.
pub struct Certificate(tempfile::TempDir);

impl Certificate {
    /// For this name.
    pub fn new(name: &str, test: &str) -> Option<Certificate> {
        if !have("openssl", test) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        make_certificate(folder.path(), name);
        Some(Certificate(folder))
    }

    /// The certificate, in PEM.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    /// The lines by which Postfix shows it.
    pub fn settings(&self) -> String {
        format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_received_header = yes\nsmtpd_tls_cert_file = {}\n\
             smtpd_tls_key_file = {}\n",
            self.file().display(),
            self.0.path().join("key.pem").display()
        )
    }

    /// The SHA-256 of its key, in base64.
    pub fn pin(&self) -> String {
        let line = "openssl x509 -in certificate.pem -noout -pubkey | openssl pkey -pubin -outform der \
                    | openssl dgst -sha256 -binary | openssl base64";
        let output = Command::new("sh").args(["-c", line]).current_dir(self.0.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}
