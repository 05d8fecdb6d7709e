//! A control group whose members may have only so much memory, of either version of control groups.
//!
//! Promises: the group is removed with the value, once its members are gone, and what a killed run left behind is removed
//! by the next. Needs root and a memory controller that may be used: where that can't be had, the test is named in the
//! list of those skipped, with the reason.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use super::{eventually, is_root, skip};

/// What all groups of tests begin with; the process that made them follows.
const PREFIX: &str = "postrider-test-";

/// A group without members.
pub struct MemoryGroup {
    folder: PathBuf,
    /// The file that counts the kills, in which a line `oom_kill N` says how many there were.
    kills: &'static str,
}

impl MemoryGroup {
    /// A group whose members have so many octets together. `None` if this machine does not let us.
    pub fn new(test: &str, octets: u64) -> Option<MemoryGroup> {
        if !is_root(test) {
            return None;
        }
        match MemoryGroup::made(octets) {
            Ok(group) => Some(group),
            Err(why) => {
                skip(test, &format!("no control group with a memory limit: {why}"));
                None
            }
        }
    }

    fn made(octets: u64) -> io::Result<MemoryGroup> {
        let root = Path::new("/sys/fs/cgroup");
        let is_second = root.join("cgroup.controllers").exists();
        let parent = if is_second { root.to_owned() } else { root.join("memory") };
        let (limit, with_swap, kills) = if is_second {
            // Refused where the controller is enabled already, or where the groups are not ours to change.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            ("memory.max", ("memory.swap.max", 0), "memory.events")
        } else {
            ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", octets), "memory.oom_control")
        };
        for old in fs::read_dir(&parent)?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(PREFIX).map(|rest| Path::new("/proc").join(rest));
            if maker.is_some_and(|maker| !maker.exists()) {
                // One that still has members is removed another time.
                let _ = fs::remove_dir(old.path());
            }
        }
        let group = MemoryGroup { folder: parent.join(format!("{PREFIX}{}", process::id())), kills };
        fs::create_dir(&group.folder)?;
        fs::write(group.folder.join(limit), octets.to_string())?;
        // Without an account of swap there is nothing to forbid.
        let (file, most) = with_swap;
        let _ = fs::write(group.folder.join(file), most.to_string());
        Ok(group)
    }

    /// The command that runs `command` as a member.
    pub fn around(&self, command: &Command) -> Command {
        let mut around = Command::new("sh");
        around.args(["-euc", "echo $$ >\"$0\"; exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        around.arg(command.get_program()).args(command.get_args());
        around
    }

    /// How many members were killed because there was not enough.
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.kills)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("kills are counted");
        line.trim().parse().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        eventually("the group has no members", || fs::remove_dir(&self.folder).is_ok());
    }
}
