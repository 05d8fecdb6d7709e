//! A server that runs as an account of its own, where the test is root: what root may, it may not.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use super::{Server, files, have, is_root};

/// What runs a program as this account.
pub fn run_as(account: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={account}"), format!("--regid={account}"), "--clear-groups".to_owned()]);
    command
}

/// Whether this test can do so. If not, it is named in the list that `make test` prints.
pub fn can_run_as(test: &str) -> bool {
    is_root(test) && have("setpriv", test)
}

/// The command that starts `server`, after the words of `command`, as this account: it owns the folder, and has a copy of
/// the program there.
pub fn start_as(server: &Server, account: u32, mut command: Command) -> Command {
    let program = server.path("postrider");
    fs::copy(env!("CARGO_BIN_EXE_postrider"), &program).unwrap();
    files(server.folder.path()).iter().for_each(|path| chown(path, Some(account), Some(account)).unwrap());
    chown(server.folder.path(), Some(account), Some(account)).unwrap();
    command.arg(program).arg("serve").arg("--config").arg(server.path("postrider.toml"));
    command
}
