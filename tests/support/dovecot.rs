//! A Dovecot of the tests' own that does nothing but check logins for Postfix.
//!
//! Everything it owns is in one temporary folder, and it is stopped with the value. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{eventually, have, is_root};

/// A running Dovecot.
pub struct DovecotAuth {
    folder: tempfile::TempDir,
    child: Child,
}

impl DovecotAuth {
    /// Knows one user, and offers these mechanisms.
    pub fn start(test: &str, (user, password): (&str, &str), mechanisms: &str) -> Option<DovecotAuth> {
        if !have("dovecot", test) || !is_root(test) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().display();
        let version = Command::new("dovecot").arg("--version").output().unwrap();
        let users = match version.stdout.starts_with(b"2.4") {
            true => format!(
                "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nauth_allow_cleartext = yes\n\
                 passdb passwd-file {{\n passwd_file_path = {root}/users\n}}\n"
            ),
            false => {
                format!("disable_plaintext_auth = no\npassdb {{\n driver = passwd-file\n args = {root}/users\n}}\n")
            }
        };
        let text = format!(
            "{users}base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/log\nssl = no\nprotocols =\n\
             auth_mechanisms = {mechanisms}\nauth_failure_delay = 0\n\
             service auth {{\n unix_listener {root}/socket {{\n  mode = 0666\n }}\n}}\nservice anvil {{\n chroot =\n}}\n"
        );
        fs::write(folder.path().join("users"), format!("{user}:{{PLAIN}}{password}\n")).unwrap();
        fs::write(folder.path().join("dovecot.conf"), text).unwrap();
        let mut command = Command::new("dovecot");
        command.arg("-F").arg("-c").arg(folder.path().join("dovecot.conf")).stdin(Stdio::null());
        let dovecot = DovecotAuth { child: command.spawn().unwrap(), folder };
        eventually("Dovecot checks logins", || dovecot.socket().exists());
        Some(dovecot)
    }

    /// Where Postfix asks.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for DovecotAuth {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Dovecot's log\n{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
