//! What control groups leave to this process: the least of what its own group and every one above it may have (systemd's
//! MemoryMax= and TasksMax= are kept there).
//!
//! Pure but for the reading, which the caller does. A file that is not there, or says `max`, limits nothing.

use std::path::{Component, Path, PathBuf};

/// Where the groups are.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A thing that is shared out.
#[derive(Clone, Copy, Debug)]
pub struct Controller {
    name: &'static str,
    file: &'static str,
    /// As version 1 calls it.
    old_file: &'static str,
}

/// Octets of memory.
pub const MEMORY: Controller = Controller { name: "memory", file: "memory.max", old_file: "memory.limit_in_bytes" };

/// Processes and threads.
pub const PIDS: Controller = Controller { name: "pids", file: "pids.max", old_file: "pids.max" };

/// The least limit that holds for a process with this `/proc/self/cgroup`; `read` gives the text of a file.
pub fn least(membership: &str, controller: Controller, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = membership.lines().filter_map(|line| place(line, controller)).flat_map(|(root, path, file)| {
        let path = inside(path);
        let folders: Vec<PathBuf> = path.ancestors().map(|folder| root.join(folder).join(file)).collect();
        folders
    });
    files.filter_map(|file| read(&file)?.trim().parse().ok()).min()
}

/// What a line `hierarchy:controllers:path` says of the controller: where its groups are, this one's path, and its file.
fn place(line: &str, controller: Controller) -> Option<(PathBuf, &str, &'static str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let root = Path::new(ROOT);
    if controllers.is_empty() {
        return Some((root.to_owned(), path, controller.file));
    }
    let has = controllers.split(',').any(|name| name == controller.name);
    has.then(|| (root.join(controllers), path, controller.old_file))
}

/// The path below the root of the groups. One that leads out of it is that of a container's inside.
fn inside(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What holds where these files are below [`ROOT`].
    fn of(membership: &str, controller: Controller, tree: &[(&str, &str)]) -> Option<u64> {
        let read = |path: &Path| {
            let name = path.strip_prefix(ROOT).unwrap();
            tree.iter().find(|(file, _)| Path::new(file) == name).map(|(_, text)| (*text).to_owned())
        };
        least(membership, controller, read)
    }

    #[test]
    fn the_least_of_all_groups_above_holds() {
        let own = "0::/system.slice/postrider.service\n";
        let tree = [
            ("memory.max", "max\n"),
            ("system.slice/memory.max", "1000\n"),
            ("system.slice/postrider.service/memory.max", "2000\n"),
            ("system.slice/postrider.service/pids.max", "50\n"),
            ("system.slice/other.service/pids.max", "7\n"),
        ];
        assert_eq!(of(own, MEMORY, &tree), Some(1000));
        assert_eq!(of(own, PIDS, &tree), Some(50));
        assert_eq!(of("0::/\n", MEMORY, &tree), None, "max is no limit");
        assert_eq!(of("0::/\n", MEMORY, &[("memory.max", "300")]), Some(300), "as a container sees it");
        assert_eq!(of("0::/../../far\n", MEMORY, &[("memory.max", "300")]), Some(300));
    }

    #[test]
    fn the_first_version_has_a_tree_for_each_controller() {
        let own = "12:pids:/user.slice/a\n5:cpu,memory:/user.slice\n1:name=systemd:/x\n0::/unified\n";
        let tree = [
            ("pids/user.slice/pids.max", "90\n"),
            ("pids/user.slice/a/pids.max", "max\n"),
            ("cpu,memory/user.slice/memory.limit_in_bytes", "4096\n"),
            ("cpu,memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(of(own, PIDS, &tree), Some(90));
        assert_eq!(of(own, MEMORY, &tree), Some(4096));
    }

    #[test]
    fn what_says_nothing_limits_nothing() {
        for membership in ["", "\n", "0", "0:", "0::", "::", "x:memory", "0::/a\0b"] {
            assert_eq!(of(membership, MEMORY, &[("a/memory.max", "many")]), None, "{membership:?}");
        }
    }
}
