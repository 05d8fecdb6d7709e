//! A wall clock that a test sets, of a server alone: clock.c, preloaded. Needs a C compiler.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Server;

/// One server's clock.
pub struct Clock {
    folder: tempfile::TempDir,
    offset: File,
    seconds: i64,
}

impl Clock {
    /// A clock that is right.
    pub fn new() -> Clock {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
        let library = folder.path().join("clock.so");
        let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
        assert!(built.unwrap().success());
        let offset = File::create(folder.path().join("offset")).unwrap();
        let mut clock = Clock { folder, offset, seconds: 0 };
        clock.set(0);
        clock
    }

    /// From now on it is off by so many seconds.
    pub fn set(&mut self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
        self.seconds = seconds;
    }

    /// The server under this clock; see [`Server::run`].
    pub fn run(&self, server: &mut Server) {
        let mut command = server.command();
        command.env("LD_PRELOAD", self.path("clock.so")).env("CLOCK_OFFSET", self.path("offset"));
        server.run_as(command);
    }

    /// Gives a file that the server has written the time that it would have of this clock. Filesystems know none before 1970
    /// that all of them keep.
    pub fn stamp(&self, file: &Path) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let shown = now.as_secs().saturating_add_signed(self.seconds);
        let file = File::options().append(true).open(file).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(shown)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// So many seconds off, it shows the last day of 1969.
pub fn to_1969() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    -(now as i64) - 12 * 3600
}
