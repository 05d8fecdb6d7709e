//! How many connections this machine can hold, and how many passwords it can check at once (P8): derived once at start
//! from memory, processes and descriptors.

use std::fs;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::cgroup;
use crate::config::Limits;
use crate::io::stream::Connections;
use crate::limits;

/// What this machine has for us.
#[derive(Debug)]
pub struct Machine {
    memory: u64,
    threads: u64,
    descriptors: u64,
}

impl Machine {
    /// What can't be read is not what is short. Takes as many descriptors as there may be.
    pub fn read() -> Machine {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of_groups = |controller| cgroup::least(&groups, controller, |path| fs::read_to_string(path).ok());
        let of_account = getrlimit(Resource::RLIMIT_NPROC).ok().map(|(soft, _)| soft);
        let of_machine = first_number("/proc/sys/kernel/threads-max");
        let least = |limits: &[Option<u64>]| limits.iter().flatten().copied().min().unwrap_or(u64::MAX);
        Machine {
            memory: least(&[memory_total(), of_groups(cgroup::MEMORY)]),
            threads: least(&[of_account, of_machine, of_groups(cgroup::PIDS)]),
            descriptors: raise_descriptors(),
        }
    }

    /// Room for the connections of SMTP and of POP3.
    pub fn room(&self, settings: &Limits) -> (Arc<Connections>, Arc<Connections>) {
        let smtp = settings.connections.unwrap_or_else(|| self.connections() * 4 / 5);
        let pop3 = settings.pop3_connections.unwrap_or(smtp / 4).max(1);
        // No client can keep all others out.
        let all_but_a_tenth = |most: usize| (most - most.div_ceil(10)).max(1);
        let per_client = settings.connections_per_client.unwrap_or(all_but_a_tenth(smtp));
        (Connections::new(smtp, per_client), Connections::new(pop3, all_but_a_tenth(pop3)))
    }

    /// KiB of memory that all checks of passwords may take together.
    pub fn login_memory(&self) -> u64 {
        self.memory / limits::LOGIN_MEMORY_PART / 1024
    }

    /// How many delivery threads there are where so many are wanted. Two at least: one slow host must not hold up the rest.
    pub fn delivery_threads(&self, wanted: usize) -> usize {
        let by_memory = self.memory / limits::DELIVERY_MEMORY_PART / limits::DELIVERY_MEMORY;
        wanted.min(usize::try_from(by_memory.max(2)).unwrap_or(usize::MAX))
    }

    /// Octets that all large envelopes may take together.
    pub fn envelope_memory(&self) -> usize {
        usize::try_from(self.memory / limits::ENVELOPE_MEMORY_PART).unwrap_or(usize::MAX)
    }

    fn connections(&self) -> usize {
        let by_memory = self.memory / limits::CONNECTION_MEMORY_PART / limits::CONNECTION_MEMORY;
        let by_threads = self.threads / 2;
        let by_descriptors = self.descriptors.saturating_sub(limits::RESERVED_DESCRIPTORS) / 2;
        let least = by_memory.min(by_threads).min(by_descriptors).clamp(10, limits::CONNECTIONS_MOST);
        usize::try_from(least).unwrap_or(usize::MAX)
    }
}

/// Takes as many descriptors as this account may have.
fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

fn first_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_thing_decides() {
        let machine = |memory, threads, descriptors| Machine { memory, threads, descriptors }.connections();
        assert_eq!(machine(512 << 20, u64::MAX, u64::MAX), 512);
        assert_eq!(machine(u64::MAX, 600, u64::MAX), 300);
        assert_eq!(machine(u64::MAX, u64::MAX, 1024), 448);
        assert_eq!(machine(0, 0, 0), 10);
        assert_eq!(machine(u64::MAX, u64::MAX, u64::MAX), 20_000);
    }

    #[test]
    fn of_a_small_memory_nothing_takes_too_much() {
        let machine = |memory| Machine { memory, threads: u64::MAX, descriptors: u64::MAX };
        let small = machine(64 << 20);
        assert_eq!((small.connections(), small.delivery_threads(16), small.envelope_memory()), (64, 4, 2 << 20));
        // One check of argon2's default costs, and no second.
        assert!((19 * 1024..38 * 1024).contains(&small.login_memory()));
        assert_eq!((machine(0).delivery_threads(16), machine(256 << 20).delivery_threads(16)), (2, 16));
        assert_eq!(machine(u64::MAX).delivery_threads(1), 1);
    }
}
