//! One libFuzzer program for all targets: `FUZZ` names the one to run, and `FUZZ_SEEDS` a folder to write its seeds into.
//!
//! A single program, because building the server with libFuzzer's instrumentation takes longer than anything else here.
#![no_main]

mod checks;

use std::sync::LazyLock;

use checks::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ").expect("FUZZ names the target");
    checks::TARGETS.iter().find(|target| target.name == name).expect("FUZZ names a target of checks/mod.rs")
});

fn write_seeds() {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    std::fs::create_dir_all(&folder).expect("the folder for seeds can be made");
    for (number, seed) in (TARGET.seeds)().iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
        std::fs::write(path, seed).expect("a seed can be written");
    }
}

libfuzzer_sys::fuzz_target!(init: write_seeds(), |octets: &[u8]| {
    (TARGET.check)(octets);
});
