//! `make bench`: what Postrider costs and how fast it is, beside the servers that people would pick instead.
//!
//! # Method
//!
//! One run, one disk, one client, the same messages. Every server keeps its mail in a folder of its own on the same
//! filesystem and makes it durable as it does by default ([`rivals`] names each setting that is not a default). They take
//! turns: each figure is measured once of each server, then once again of each, so that what else the machine does meets
//! all of them alike; the table gives the median, the least and the most, and the median of the ratios of each turn.
//!
//! smtp-source sends; smtp-sink, which stores nothing, shows how fast it can ([`senders`], [`flow`]). What a message costs is
//! counted by the kernel ([`gauges`]).
//!
//! **Nothing is deleted while it runs.** ext4 does not reuse an inode that was freed in the last minutes and searches past
//! all of them, so that deletions of one run would slow the next; all folders are removed at the very end. For the same
//! reason each server's folder is put into a part of the disk of its own (`chattr +T`): what one deletes, as Postfix, Exim
//! and OpenSMTPD do with each message of their queues, slows itself and nobody else.
//!
//! It needs root, for Postfix, and a disk: a folder in memory has no flushes to count. Servers that are not installed are
//! left out and named.
//!
//! | | |
//! | --- | --- |
//! | `make bench BENCH=quick` | the rows of the floors, two short turns: less than five minutes |
//! | `make bench` | all, three turns: less than half an hour |
//! | `make bench BENCH=full` | every size with every number of sessions, and a million queued messages |
//! | `make bench BENCH=hold` | nothing: it says where the servers are, and waits for the end of its input, for perf and strace |
//!
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod backlog;
mod day;
mod fetch;
mod figures;
mod flow;
mod gauges;
mod memory;
mod onward;
mod rivals;
mod senders;

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use figures::Figures;
use gauges::Disk;
use onward::Onward;
use rivals::Rival;
use senders::Load;

/// How much is measured.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    Quick,
    Whole,
    Full,
}

/// How often and how long.
struct Scale {
    extent: Extent,
    rounds: usize,
    /// About how long one run of one server is to last.
    run: Duration,
}

/// All that the measurements share.
pub struct Bench {
    scale: Scale,
    disk: Disk,
    onward: Onward,
    rivals: Vec<Rival>,
    figures: Figures,
    mailboxes_used: usize,
    /// Servers that are done, whose folders are to be removed at the very end.
    kept: Vec<support::Server>,
}

impl Bench {
    /// A mailbox that no run has had.
    fn next_mailbox(&mut self) -> String {
        self.mailboxes_used += 1;
        assert!(self.mailboxes_used < rivals::MAILBOXES);
        rivals::mailbox(self.mailboxes_used)
    }

    /// Row by row. What leaves the disk or a queue fuller comes last.
    fn measure(&mut self) {
        let extent = self.scale.extent;
        let load = |sessions, kept, size| Load { sessions, kept, size };
        self.part(Bench::memory_at_start);
        for (sessions, sizes) in loads(extent) {
            for &size in sizes {
                for kept in [true, false] {
                    let with_costs = sessions <= 20 && kept && size == 4096;
                    self.part(|bench| bench.local(load(sessions, kept, size), with_costs));
                }
            }
        }
        self.part(|bench| bench.waits(20));
        self.part(|bench| bench.waits(1));
        self.part(|bench| bench.relay(load(20, true, 4096)));
        self.part(|bench| bench.calls(load(1, true, 4096)));
        self.part(|bench| bench.calls(load(20, true, 4096)));
        self.part(|bench| bench.idle(1000));
        self.part(|bench| bench.idle(10_000));
        self.part(Bench::idle_under_tls);
        self.part(Bench::fetch);
        if extent != Extent::Quick {
            self.part(Bench::day);
            self.part(|bench| bench.disturbed(load(20, true, 4096)));
        }
        self.part(|bench| bench.backlog(100_000));
        if extent == Extent::Full {
            self.part(|bench| bench.backlog(1_000_000));
        }
    }

    /// Measures, and says on the way what it came to. What can't be measured is left out.
    fn part(&mut self, measure: impl FnOnce(&mut Bench)) {
        let (begun, before) = (Instant::now(), self.figures.rows());
        if panic::catch_unwind(AssertUnwindSafe(|| measure(self))).is_err() {
            eprintln!("the rest of this is left out");
        }
        eprintln!("{}\n({:.0} s)", self.figures.from(before), begun.elapsed().as_secs_f64());
    }
}

/// How many sessions send messages of which sizes.
fn loads(extent: Extent) -> Vec<(usize, &'static [usize])> {
    const ALL: &[usize] = &[4 << 10, 1 << 10, 100 << 10, 10 << 20];
    const ONE: &[usize] = &[4 << 10];
    match extent {
        Extent::Quick => vec![(1, ONE), (20, ONE)],
        Extent::Whole => vec![(1, ONE), (20, ALL), (100, ONE), (500, ONE)],
        Extent::Full => vec![(1, ALL), (20, ALL), (100, ALL), (500, ALL)],
    }
}

fn main() {
    // `cargo test --benches` and the like run it with other words: it is asked for by `make bench` alone.
    let Some(extent) = std::env::var_os("BENCH") else {
        return eprintln!("run it with `make bench`");
    };
    let scale = match extent.to_str() {
        Some("quick") => Scale { extent: Extent::Quick, rounds: 2, run: Duration::from_secs(1) },
        Some("full") => Scale { extent: Extent::Full, rounds: 3, run: Duration::from_secs(2) },
        _ => Scale { extent: Extent::Whole, rounds: 3, run: Duration::from_secs(2) },
    };
    let folder = folder();
    let disk = Disk::of(&folder);
    let onward = Onward::start();
    let (rivals, missing) = rivals::start_all(&onward, &folder);
    if extent == "hold" {
        rivals.iter().for_each(|rival| eprintln!("{} {} {:?}", rival.name, rival.address, rival.mail));
        eprintln!("{:?}", onward.domains());
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return;
    }
    let mut names: Vec<&'static str> = rivals.iter().map(|rival| rival.name).collect();
    names.insert(names.len() - usize::from(names.contains(&"smtp-sink")), "Dovecot");
    let mut bench =
        Bench { scale, disk, onward, rivals, figures: Figures::of(&names), mailboxes_used: 0, kept: Vec::new() };
    bench.measure();
    println!("{}", bench.figures.markdown());
    println!("{}", circumstances(&bench.disk, &folder));
    missing.iter().for_each(|name| println!("not installed, and left out: {name}"));
}

/// Where all of it goes: the folder for temporary files, which `make bench` sets and removes at the very end.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir();
    // Where there is no such flag the folders stand closer to each other, and that is all.
    let _ = Command::new("chattr").arg("+T").arg(&folder).output();
    folder
}

/// When and on what this was measured.
fn circumstances(disk: &Disk, folder: &Path) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let kind = said("df", &["--output=fstype", folder.to_str().unwrap()]).replace("Type", "");
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, Linux {}, {processors} processors, {} on {}",
        said("date", &["+%Y-%m-%d"]),
        said("uname", &["-r"]),
        kind.trim(),
        disk.name()
    )
}
