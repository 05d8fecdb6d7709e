//! Tests that can't be undone, such as giving up root: each in a process of its own, which another test starts. There it is
//! marked `#[ignore]`, so that nobody else runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "TEST_APART_FOLDER";

/// What runs the ignored test `test` of the same file apart; it finds `folder` by [`folder`].
pub fn command(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

/// Runs it, and fails with its words if it does.
pub fn run(command: &mut Command) {
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

/// The folder of the test that runs apart.
pub fn folder() -> PathBuf {
    std::env::var_os(FOLDER).unwrap().into()
}
