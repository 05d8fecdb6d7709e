//! What `make install` does: it needs no cargo, puts everything in its place, and `make uninstall` takes it away again.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::have;

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

fn make(target: &str, program: &str, to: &Path) -> Output {
    let mut make = Command::new("make");
    // Root's sudo seldom finds the cargo of whoever has built it.
    make.args([target, "CARGO=false"]).arg(format!("PROGRAM={program}")).arg(format!("DESTDIR={}", to.display()));
    make.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// The files below a folder, by their paths in it.
fn files(folder: &Path) -> Vec<String> {
    let listed = Command::new("find").args([".", "-type", "f"]).current_dir(folder).output().unwrap();
    let mut found: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn what_was_built_is_installed_without_cargo_and_taken_away_again() {
    if !have("make", "what_was_built_is_installed_without_cargo_and_taken_away_again") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = make("install", "target/not/built", folder.path());
    let said = String::from_utf8_lossy(&missing.stdout).into_owned();
    assert!(!missing.status.success() && said.contains("run make first") && files(folder.path()).is_empty(), "{said}");

    assert!(make("install", BINARY, folder.path()).status.success());
    let installed = files(folder.path());
    for file in [
        "sbin/postrider",
        "share/man/man8/postrider.8",
        "share/man/man5/postrider.toml.5",
        "share/examples/postrider/postrider.toml",
        "share/examples/postrider/logrotate.conf",
        "lib/systemd/system/postrider.service",
    ] {
        assert!(installed.contains(&format!("./usr/local/{file}")), "{file}: {installed:?}");
    }
    let program = folder.path().join("usr/local/sbin/postrider");
    assert_eq!(fs::read(program).unwrap(), fs::read(BINARY).unwrap());

    assert!(make("uninstall", BINARY, folder.path()).status.success());
    assert!(files(folder.path()).is_empty());
}
