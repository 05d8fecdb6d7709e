//! What a person does by hand, and a disk that fails meanwhile.

use super::*;
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

const ENTRY: &str = "X-Sender: <a@far.example>\r\nX-Receiver: <b@far.example>\r\n\r\n";
const OLD: &str = "0TQXGV0000001";
const NEW: &str = "0TQXGV0000002";

/// A spool with one entry, and its queue.
fn spool() -> (tempfile::TempDir, Spool, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    fs::create_dir(&queue).unwrap();
    fs::write(queue.join(format!("{OLD}.eml")), ENTRY).unwrap();
    let (spool, _writer) = Spool::open(folder.path()).unwrap();
    (folder, spool, queue)
}

/// Another entry for the one that is there, and a file that is none.
fn change_by_hand(queue: &Path) {
    fs::write(queue.join(format!("{NEW}.eml")), ENTRY).unwrap();
    fs::remove_file(queue.join(format!("{OLD}.eml"))).unwrap();
    fs::write(queue.join("notes.txt"), "what is this").unwrap();
}

/// An entry that was moved back from `hold/`, and whose state can't follow as long as there is what is returned.
fn with_stuck_state(queue: &Path, id: &str) -> std::path::PathBuf {
    let in_the_way = queue.join(format!("{id}.state"));
    fs::create_dir_all(queue.with_file_name("hold")).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    fs::write(queue.with_file_name("hold").join(format!("{id}.state")), "Attempts: 1\n").unwrap();
    fs::write(queue.join(format!("{id}.eml")), ENTRY).unwrap();
    in_the_way
}

/// Watches until the entry is known, or for some seconds.
fn watch_until_known(spool: &Spool, id: &str, watch: &Watch, first: impl Fn()) {
    let seconds = Cell::new(0);
    watch.run(spool, || {
        if seconds.replace(seconds.get() + 1) == 0 {
            first();
        }
        if knows(spool, id) || seconds.get() > 5 {
            spool.stop();
        }
    });
}

fn knows(spool: &Spool, id: &str) -> bool {
    spool.schedule().knows(id.parse().unwrap())
}

#[test]
fn what_came_and_went_is_not_looked_for() {
    let file = |name: &str, what| Change::File(name.into(), what);
    let (came, went) = (AddWatchFlags::IN_MOVED_TO, AddWatchFlags::IN_MOVED_FROM);
    let all = vec![file("a", came), file("b", went), file("a", AddWatchFlags::IN_ATTRIB), file("b", came)];
    let kept = |changes: Vec<Change>| {
        let word = |change| match change {
            Change::File(name, what) => format!("{} {}", name.display(), what.bits()),
            Change::Lost => "lost".to_owned(),
        };
        settled(changes).map(word).collect::<Vec<String>>()
    };
    assert_eq!(kept(all).len(), 4, "what came last is there");
    let all = vec![file("a", came), Change::Lost, file("b", came), file("a", went)];
    assert_eq!(kept(all), ["lost", &format!("b {}", came.bits()), &format!("a {}", went.bits())]);
}

#[test]
fn where_events_were_lost_the_folder_tells() {
    let (folder, spool, queue) = spool();
    let mut foreign = Foreign::default();
    change_by_hand(&queue);
    foreign.notice(&spool, Change::Lost);
    assert!(knows(&spool, NEW) && !knows(&spool, OLD));
    foreign.set_aside(&spool, Now::read().boot + limits::FOREIGN_FILE);
    assert!(folder.path().join("failed/notes.txt").exists());
    assert!(foreign.0.is_empty());
}

#[test]
fn begun_again_after_a_panic_it_finds_what_it_missed() {
    let (folder, spool, queue) = spool();
    let watch = Watch::new(&spool).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| watch.run(&spool, || panic!("on purpose")))).is_err());
    change_by_hand(&queue);
    // As if they had been read just before the panic.
    watch.events.next(limits::WATCH);
    let (aside, seconds) = (folder.path().join("failed/notes.txt"), Cell::new(0));
    watch.run(&spool, || {
        seconds.set(seconds.get() + 1);
        if aside.exists() || seconds.get() > 10 {
            spool.stop();
        }
    });
    assert!(aside.exists() && knows(&spool, NEW) && !knows(&spool, OLD));
}

#[test]
fn an_error_of_one_entry_hides_no_other() {
    let (folder, spool, queue) = spool();
    let in_the_way = with_stuck_state(&queue, NEW);
    let third = "0TQXGV0000003";
    fs::write(queue.join(format!("{third}.eml")), ENTRY).unwrap();
    fs::write(queue.join("notes.txt"), "what is this").unwrap();
    fs::remove_file(queue.join(format!("{OLD}.eml"))).unwrap();
    let mut foreign = Foreign::default();
    foreign.notice(&spool, Change::Lost);
    assert!(knows(&spool, third) && !knows(&spool, OLD) && !knows(&spool, NEW));
    foreign.set_aside(&spool, Now::read().boot + limits::FOREIGN_FILE);
    assert!(folder.path().join("failed/notes.txt").exists());
    fs::remove_dir(in_the_way).unwrap();
}

#[test]
fn what_came_and_could_not_be_looked_at_is_looked_at_again() {
    let (_folder, spool, queue) = spool();
    let watch = Watch::new(&spool).unwrap();
    let in_the_way = with_stuck_state(&queue, NEW);
    assert!(spool.came(NEW.parse().unwrap()).is_err() && !knows(&spool, NEW));
    watch_until_known(&spool, NEW, &watch, || fs::remove_dir(&in_the_way).unwrap());
    assert!(knows(&spool, NEW));
    assert!(in_the_way.is_file(), "who has it already is known");
}

#[test]
fn an_error_of_one_entry_keeps_no_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    fs::create_dir(&queue).unwrap();
    let in_the_way = with_stuck_state(&queue, NEW);
    fs::write(queue.join(format!("{OLD}.eml")), ENTRY).unwrap();
    // No message, and no state that could be removed.
    fs::create_dir(queue.join("0TQXGV0000003.state")).unwrap();
    let (spool, _writer) = Spool::open(folder.path()).unwrap();
    assert!(knows(&spool, OLD));
    assert!(!knows(&spool, NEW), "without its state it would go to everybody again");
    let watch = Watch::new(&spool).unwrap();
    watch_until_known(&spool, NEW, &watch, || fs::remove_dir(&in_the_way).unwrap());
    assert!(knows(&spool, NEW) && in_the_way.is_file());
}

#[test]
fn removals_that_could_not_be_synced_are_synced_later_and_no_delivery_waits_for_that() {
    let (folder, spool, queue) = spool();
    spool.note_removal();
    // A sync that takes as long as nobody writes to it, and then fails.
    fs::rename(&queue, folder.path().join("elsewhere")).unwrap();
    nix::unistd::mkfifo(&queue, nix::sys::stat::Mode::S_IRWXU).unwrap();
    thread::scope(|scope| {
        let sync = scope.spawn(|| spool.sync_removals());
        thread::sleep(Duration::from_millis(200));
        assert!(!sync.is_finished());
        let (noted, is_noted) = std::sync::mpsc::channel();
        let (spool, queue) = (&spool, &queue);
        scope.spawn(move || {
            spool.note_removal();
            noted.send(()).unwrap();
        });
        let waited = is_noted.recv_timeout(Duration::from_secs(5));
        fs::File::options().write(true).open(queue).unwrap();
        sync.join().unwrap();
        assert_eq!(waited, Ok(()), "a delivery does not wait");
    });
    assert!(spool.removals_unsynced.load(Ordering::SeqCst));
    fs::remove_file(&queue).unwrap();
    spool.sync_removals();
    assert!(spool.removals_unsynced.load(Ordering::SeqCst), "it failed");
    fs::rename(folder.path().join("elsewhere"), &queue).unwrap();
    spool.sync_removals();
    assert!(!spool.removals_unsynced.load(Ordering::SeqCst));
}

#[test]
fn a_touch_cures_what_came_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _writer) = Spool::open(folder.path()).unwrap();
    let id = "0TQXGV0000001".parse().unwrap();
    spool.touched(id).unwrap();
    assert!(!spool.schedule().knows(id), "it is not there");
    fs::write(spool.folders.eml(id), "X-Sender: <>\nX-Receiver: <a@b.org>\n").unwrap();
    spool.touched(id).unwrap();
    assert_eq!(spool.schedule().claim(Now::read().boot), Some(id));
}
