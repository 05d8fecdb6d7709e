//! Whatever the fuzzers found once, and all they begin with, through exactly the checks that libFuzzer runs (`make fuzz`):
//! on every build, with the stable toolchain and without libFuzzer.

#[path = "fuzz/checks/mod.rs"]
mod checks;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use checks::{TARGETS, Target};

/// The inputs that once were too much, with their names: `tests/fuzz/finds/TARGET/NAME`.
fn finds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder().join(target.name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

fn folder() -> PathBuf {
    checks::dialogues::tests().join("fuzz/finds")
}

/// What is wrong with a target's check of these octets, if anything.
fn fault(target: &Target, name: &str, octets: &[u8]) -> Option<String> {
    let checked = catch_unwind(AssertUnwindSafe(|| (target.check)(octets)));
    checked.err().map(|_| format!("{}, {name}: see the panic above", target.name))
}

#[test]
fn what_was_found_once_and_every_seed_hold() {
    let mut faults = Vec::new();
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 5, "{} begins with too little", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            faults.extend(fault(target, &format!("seed {number}"), seed));
            // What is cut off anywhere is what a peer that breaks off sends.
            for end in (0..seed.len()).step_by(1 + seed.len() / 8) {
                faults.extend(fault(target, &format!("seed {number} cut to {end}"), &seed[..end]));
            }
        }
        for (name, octets) in finds(target) {
            faults.extend(fault(target, &name, &octets));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_find_belongs_to_a_target_and_is_replayed() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let folders: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(folders.is_subset(&targets), "{folders:?}");
    assert!(TARGETS.iter().map(|target| finds(target).len()).sum::<usize>() >= 3, "nothing is replayed");
}
