//! A hundred thousand files thrown into drop/ at once, with all that is no file among them: mail goes on within 10 s, by
//! SMTP and by files dropped later, while they are worked off.
#![allow(clippy::print_stdout)]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Server, files};

const FLOOD: usize = 100_000;

/// What is promised to good mail.
const GOES_ON: Duration = Duration::from_secs(10);

/// How often it is tried, one after the other.
const ROUNDS: usize = 10;

/// How many of each kind of what is no message are among the flood.
const ODD: usize = 50;

fn letter(to: &str) -> String {
    format!("From: Bob <bob@example.org>\nTo: {to}\nSubject: x\n\nx\n")
}

/// Makes the flood beside the folder: half of it can be sent, half can't.
fn prepare(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let (good, bad) = (letter("bob@example.org"), "Subject: to nobody\n\nx\n");
    for number in 0..FLOOD {
        let text = if number.is_multiple_of(2) { &good } else { bad };
        fs::write(folder.join(format!("m{number}")), text).unwrap();
    }
    let fifos: Vec<PathBuf> = (0..ODD).map(|number| folder.join(format!("fifo{number}"))).collect();
    assert!(Command::new("mkfifo").args(fifos).status().unwrap().success());
    for number in 0..ODD {
        symlink("/dev/zero", folder.join(format!("link{number}"))).unwrap();
        let giant = File::create(folder.join(format!("giant{number}"))).unwrap();
        // A quarter of them has a good header, and is a message as long as the limit but for its octets.
        giant.set_len(if number.is_multiple_of(4) { 50 << 20 } else { 1 << 40 }).unwrap();
        fs::hard_link(folder.join("m0"), folder.join(format!("hard{number}"))).unwrap();
    }
}

/// Appends to files in the folder, a little each time, until it is over.
fn grow(folder: &Path, over: &AtomicBool) {
    let mut growing: Vec<File> =
        (0..ODD).map(|number| File::create(folder.join(format!("growing{number}"))).unwrap()).collect();
    while !over.load(Ordering::Relaxed) {
        growing.iter_mut().for_each(|file| file.write_all(letter("bob@example.org").as_bytes()).unwrap());
        thread::sleep(Duration::from_millis(100));
    }
}

/// Ends the growing, come what may.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long it takes until ann has one message more.
fn until_it_is_there(server: &Server, send: impl FnOnce()) -> Duration {
    let before = server.mailbox("ann@example.org").len();
    let begun = Instant::now();
    send();
    support::eventually("it is in the mailbox", || server.mailbox("ann@example.org").len() > before);
    begun.elapsed()
}

#[test]
fn a_hundred_thousand_files_thrown_into_the_folder_hold_up_nobody() {
    let server = Server::start("");
    let (many, drop) = (server.path("many"), server.path("spool/drop"));
    prepare(&many);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| grow(&drop, &over));
        let _over = Over(&over);
        for path in files(&many) {
            fs::rename(&path, drop.join(path.file_name().unwrap())).unwrap();
        }
        // Of so many at once the kernel forgets some, and one dropped at this very moment may wait for 10 s like a file that
        // is written in place.
        thread::sleep(Duration::from_secs(3));
        let mut slowest = [Duration::ZERO; 2];
        for round in 0..ROUNDS {
            println!("round {round}");
            let by_smtp = until_it_is_there(&server, || _ = server.send(&["ann@example.org"], "Subject: x\r\n\r\n"));
            let dropped = until_it_is_there(&server, || {
                let outside = server.path("outside");
                fs::write(&outside, letter("ann@example.org")).unwrap();
                fs::rename(outside, drop.join(format!("good{round}"))).unwrap();
            });
            slowest = [slowest[0].max(by_smtp), slowest[1].max(dropped)];
            thread::sleep(Duration::from_secs(1));
        }
        let is_left = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with('m') && !name.contains('.')
        };
        let left = files(&drop).into_iter().filter(is_left).count();
        println!("slowest: by SMTP {:?}, dropped {:?}; {left} of {FLOOD} files left", slowest[0], slowest[1]);
        assert!(left > 0, "they were measured after the flood, not in it");
        assert!(left < FLOOD, "none was taken");
        assert!(slowest.iter().all(|slowest| *slowest < GOES_ON), "{slowest:?}");
    });
}
