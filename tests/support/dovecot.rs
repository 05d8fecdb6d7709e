//! A Dovecot of the tests' own that does nothing but check logins for Postfix: by passwords, or by tokens.
//!
//! Everything it owns is in one temporary folder, and it is stopped with the value. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tempfile::TempDir;

use super::{eventually, have, is_root, skip};

/// A running Dovecot.
pub struct DovecotAuth {
    folder: TempDir,
    child: Child,
}

/// By whose word Dovecot lets someone in.
enum Passdb<'a> {
    User(&'a str, &'a str),
    Tokens(&'a Issuer),
}

impl DovecotAuth {
    /// Knows one user, and offers these mechanisms.
    pub fn start(test: &str, (user, password): (&str, &str), mechanisms: &str) -> Option<DovecotAuth> {
        DovecotAuth::start_with(test, &Passdb::User(user, password), mechanisms)
    }

    /// Knows no user, and lets in whom a token of this issuer names.
    pub fn start_with_tokens(test: &str, issuer: &Issuer, mechanisms: &str) -> Option<DovecotAuth> {
        DovecotAuth::start_with(test, &Passdb::Tokens(issuer), mechanisms)
    }

    fn start_with(test: &str, passdb: &Passdb<'_>, mechanisms: &str) -> Option<DovecotAuth> {
        if !have("dovecot", test) || !is_root(test) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().display();
        let version = Command::new("dovecot").arg("--version").output().unwrap();
        let passdb = match (passdb, version.stdout.starts_with(b"2.4")) {
            (Passdb::User(user, password), is_new) => {
                fs::write(folder.path().join("users"), format!("{user}:{{PLAIN}}{password}\n")).unwrap();
                match is_new {
                    true => format!(
                        "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nauth_allow_cleartext = yes\n\
                         passdb passwd-file {{\n passwd_file_path = {root}/users\n}}\n"
                    ),
                    false => format!(
                        "disable_plaintext_auth = no\npassdb {{\n driver = passwd-file\n args = {root}/users\n}}\n"
                    ),
                }
            }
            (Passdb::Tokens(issuer), false) => {
                issuer.is_trusted_in(&folder);
                let text = format!(
                    "introspection_mode = local\nusername_attribute = sub\n\
                     local_validation_key_dict = fs:posix:prefix={root}/keys/\n"
                );
                fs::write(folder.path().join("tokens"), text).unwrap();
                format!("disable_plaintext_auth = no\npassdb {{\n driver = oauth2\n args = {root}/tokens\n}}\n")
            }
            (Passdb::Tokens(_), true) => {
                skip(test, "the settings for tokens are those of Dovecot 2.3");
                return None;
            }
        };
        // Without its penalty, who failed once waits for seconds.
        let text = format!(
            "{passdb}base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/log\nssl = no\nprotocols =\n\
             auth_mechanisms = {mechanisms}\nauth_failure_delay = 0\n\
             service auth {{\n unix_listener {root}/socket {{\n  mode = 0666\n }}\n}}\nservice anvil {{\n chroot =\n \
             unix_listener anvil-auth-penalty {{\n  mode = 0\n }}\n}}\n"
        );
        fs::write(folder.path().join("dovecot.conf"), text).unwrap();
        let child = run(&folder);
        Some(DovecotAuth { child, folder })
    }

    /// Trusts the tokens of this issuer from now on, and no others: it is started again, for it remembers keys.
    pub fn trust(&mut self, issuer: &Issuer) {
        self.stop();
        issuer.is_trusted_in(&self.folder);
        self.child = run(&self.folder);
    }

    fn stop(&mut self) {
        // The process that Postfix asks would go on as long as Postfix does.
        let _ = Command::new("kill").args(["--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }

    /// Where Postfix asks.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for DovecotAuth {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- Dovecot's log\n{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// Starts it, and waits until it checks logins.
fn run(folder: &TempDir) -> Child {
    let socket = folder.path().join("socket");
    let mut command = Command::new("dovecot");
    command.arg("-F").arg("-c").arg(folder.path().join("dovecot.conf")).stdin(Stdio::null());
    let child = command.process_group(0).spawn().unwrap();
    // What it left behind when it was stopped takes no connection.
    eventually("Dovecot checks logins", || UnixStream::connect(&socket).is_ok());
    child
}

/// Who makes tokens (JSON Web Tokens, RFC 7519), known by the name of its key.
pub struct Issuer {
    pub name: &'static str,
    pub key: &'static [u8],
}

impl Issuer {
    fn is_trusted_in(&self, folder: &TempDir) {
        let keys = folder.path().join("keys");
        let _ = fs::remove_dir_all(&keys);
        let keys = keys.join("default/HS256");
        fs::create_dir_all(&keys).unwrap();
        fs::write(keys.join(self.name), STANDARD.encode(self.key)).unwrap();
    }

    /// A token that names this user and is good for an hour.
    pub fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{}"}}"#, self.name);
        let claims = format!(r#"{{"sub":"{user}","iat":{},"exp":{}}}"#, now - 1, now + 3600);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}
