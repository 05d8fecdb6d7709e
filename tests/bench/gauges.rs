//! What a server costs this machine, as the kernel counts it: flushes and octets of the disk, processor time, system
//! calls, memory.
//!
//! The disk counts for all who write to it, so nothing else should; before each run everything that was written earlier is
//! synced. Processor time and system calls are those of a control group that holds all processes of one server, whenever
//! they begin and end; what the kernel does for them in its own threads is in neither. Memory is PSS: what is shared counts
//! in parts that add up.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::find;

/// The disk below a folder.
#[derive(Clone)]
pub struct Disk {
    folder: PathBuf,
    stat: PathBuf,
}

/// What a disk has done so far, or between two looks.
#[derive(Clone, Copy, Default)]
pub struct Work {
    pub flushes: u64,
    pub octets: u64,
}

impl Disk {
    pub fn of(folder: &Path) -> Disk {
        let device = fs::metadata(folder).unwrap().dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).expect("a folder on a disk");
        // The kernel counts the flushes of a partition at its disk.
        let disk = if node.join("partition").exists() { node.parent().unwrap().to_owned() } else { node };
        Disk { folder: folder.to_owned(), stat: disk.join("stat") }
    }

    /// Its name, as `lsblk` has it.
    pub fn name(&self) -> String {
        self.stat.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Writes out what is not written yet, so that nobody pays for it in the next run.
    pub fn settle(&self) {
        nix::unistd::syncfs(fs::File::open(&self.folder).unwrap()).unwrap();
    }

    /// Fields 7 and 16 of /sys/block/*/stat: sectors of 512 octets written, and flush requests.
    pub fn work(&self) -> Work {
        let text = fs::read_to_string(&self.stat).unwrap();
        let field = |number: usize| text.split_whitespace().nth(number - 1).and_then(|field| field.parse().ok());
        Work { flushes: field(16).unwrap_or(0), octets: field(7).unwrap_or(0u64) * 512 }
    }
}

impl Work {
    pub fn since(self, before: Work) -> Work {
        Work { flushes: self.flushes - before.flushes, octets: self.octets - before.octets }
    }
}

/// All processes of one server.
pub struct Group {
    name: String,
    path: PathBuf,
}

impl Group {
    /// Runs `start`; whatever processes it starts, and theirs, are in the group.
    pub fn of<T>(name: &str, start: impl FnOnce() -> T) -> (Group, T) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
        let root = PathBuf::from(root.split(' ').nth(1).unwrap());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let name = format!("postrider-bench-{}-{name}", std::process::id());
        let group = Group { path: root.join(&name), name };
        fs::create_dir(&group.path).expect("root may make control groups");
        let enter = |path: &Path| fs::write(path.join("cgroup.procs"), "0").unwrap();
        enter(&group.path);
        let started = start();
        enter(&root.join(own));
        (group, started)
    }

    /// Processor time so far.
    pub fn processor(&self) -> Duration {
        let text = fs::read_to_string(self.path.join("cpu.stat")).unwrap();
        let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("counted in any group");
        Duration::from_micros(used.parse().unwrap())
    }

    /// KiB of memory of all its processes.
    pub fn memory(&self) -> f64 {
        let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap();
        processes.lines().filter_map(pss).sum()
    }

    /// Begins to count system calls. `None` where perf is not installed.
    pub fn count_calls(&self) -> Option<Calls> {
        let mut perf = Command::new(find("perf")?);
        perf.args(["stat", "-a", "-x,", "-e", "raw_syscalls:sys_enter", "-G", &self.name, "cat"]);
        perf.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let perf = perf.spawn().ok()?;
        // It says nothing when it has begun.
        std::thread::sleep(Duration::from_millis(300));
        Some(Calls(perf))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last of its processes may still be about to end.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// `None` if it ended meanwhile.
fn pss(process: &str) -> Option<f64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// System calls being counted.
pub struct Calls(Child);

impl Calls {
    /// How many there were.
    pub fn end(mut self) -> Option<f64> {
        // With the end of its input `cat` ends, and perf with it.
        self.0.stdin.take()?.flush().ok()?;
        let output = self.0.wait_with_output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
    }
}
