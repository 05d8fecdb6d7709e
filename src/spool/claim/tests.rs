//! What a disk that fails, and a person who moves files meanwhile, can do to an outcome.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::thread;

use nix::sys::inotify::AddWatchFlags;

use super::*;
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::parameter::MailParameters;
use crate::maillog::Origin;
use crate::spool::{Accepted, StopWriter, Writer};

const ENTRY: &str = "X-Sender: <a@far.example>\r\nX-Receiver: <b@far.example>\r\nX-Receiver: <c@far.example>\r\n\r\n";
const ID: &str = "0TQXGV0000001";
const HALF: &str = "Attempts: 1\n\nTarget: b@far.example\nVia: next-hop\nStatus: delivered\n\n\
                    Target: c@far.example\nVia: next-hop\n";

struct World {
    _folder: tempfile::TempDir,
    spool: Spool,
    writer: Option<Writer>,
    id: QueueId,
}

impl World {
    /// A spool with one entry and, if there is any, its state.
    fn new(state: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("queue");
        fs::create_dir(&queue).unwrap();
        fs::write(queue.join(format!("{ID}.eml")), ENTRY).unwrap();
        if !state.is_empty() {
            fs::write(queue.join(format!("{ID}.state")), state).unwrap();
        }
        let (spool, writer) = Spool::open(folder.path()).unwrap();
        World { _folder: folder, spool, writer: Some(writer), id: ID.parse().unwrap() }
    }

    fn claim(&self) -> io::Result<Option<Claim<'_>>> {
        assert_eq!(self.spool.schedule().claim(Now::read().boot), Some(self.id));
        self.spool.try_open(self.id)
    }

    /// Does `work` while the writer's thread runs.
    fn written(&mut self, work: impl FnOnce(&World)) {
        let writer = self.writer.take().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| writer.run(&self.spool));
            let _stop = StopWriter(&self.spool);
            work(self);
        });
    }

    fn hold(&self) {
        fs::rename(self.spool.folders.eml(self.id), self.held("eml")).unwrap();
        self.spool.gone(self.id);
    }

    fn held(&self, ending: &str) -> PathBuf {
        self.spool.folders.hold.join(format!("{ID}.{ending}"))
    }
}

fn settlement(state: &str) -> Settlement {
    let state = state.parse().unwrap();
    let retry = Duration::from_secs(300);
    Settlement { state, retry, broken_off: None, reports: vec![], report_missing: false }
}

#[test]
fn a_message_is_never_without_the_state_that_says_who_has_it() {
    let world = World::new(&HALF.replace("Attempts: 1", "Attempts: many"));
    // The report of what is wrong can't be written.
    let in_the_way = world.spool.folders.tmp.join(format!("{ID}.eml.report"));
    fs::create_dir(&in_the_way).unwrap();
    assert!(world.claim().is_err());
    assert!(world.spool.folders.state(world.id).exists(), "or it would go to everybody again");
    fs::remove_dir(in_the_way).unwrap();
    assert!(world.spool.try_open(world.id).unwrap().is_none());
    let failed = |ending: &str| world.spool.folders.failed.join(format!("{ID}.{ending}"));
    assert!(failed("eml").exists() && failed("state").exists() && failed("eml.report").exists());
    assert!(!world.spool.folders.state(world.id).exists() && !world.spool.schedule().knows(world.id));
}

#[test]
fn what_is_set_aside_for_its_format_takes_its_state_along() {
    let world = World::new(HALF);
    fs::write(world.spool.folders.eml(world.id), "no envelope").unwrap();
    assert!(world.claim().unwrap().is_none());
    assert!(world.spool.folders.failed.join(format!("{ID}.state")).exists());
}

#[test]
fn an_outcome_that_is_only_in_memory_follows_the_message_to_hold() {
    let world = World::new("");
    let claim = world.claim().unwrap().unwrap();
    // Nothing can be written.
    fs::remove_dir(&world.spool.folders.tmp).unwrap();
    claim.settle(settlement(HALF));
    assert!(world.spool.schedule().slot_mut(world.id).unwrap().unwritten.is_some());
    fs::create_dir(&world.spool.folders.tmp).unwrap();
    world.hold();
    assert!(world.claim().unwrap().is_none(), "what is claimed is written down, and nothing tried");
    let state = fs::read_to_string(world.held("state")).unwrap();
    assert!(state.contains("Status: delivered") && !world.spool.schedule().knows(world.id), "{state}");
}

#[test]
fn an_outcome_that_is_only_in_memory_is_tried_once_more_at_the_end() {
    let mut world = World::new("");
    let claim = world.claim().unwrap().unwrap();
    fs::remove_dir(&world.spool.folders.tmp).unwrap();
    claim.settle(settlement(HALF));
    fs::create_dir(&world.spool.folders.tmp).unwrap();
    world.written(|world| world.spool.write_unwritten());
    assert!(fs::read_to_string(world.spool.folders.state(world.id)).unwrap().contains("Status: delivered"));
}

#[test]
fn the_servers_own_writing_is_no_edit() {
    let mut world = World::new("");
    world.written(|world| {
        let mut claim = world.claim().unwrap().unwrap();
        claim.record(&HALF.parse().unwrap()).unwrap();
        claim.park(limits::PARKED);
        assert!(world.spool.is_own_state(world.id));
        fs::write(world.spool.folders.state(world.id), HALF.replace("Attempts: 1", "Attempts: 0")).unwrap();
        assert!(!world.spool.is_own_state(world.id));
    });
}

#[test]
fn an_edit_during_an_attempt_ends_it_and_is_kept() {
    let mut world = World::new(HALF);
    world.written(|world| {
        let mut claim = world.claim().unwrap().unwrap();
        fs::write(world.spool.folders.state(world.id), HALF.replace("via: next-hop\n", "") + "Status: failed\n")
            .unwrap();
        assert!(claim.record(&HALF.parse().unwrap()).is_err());
        claim.settle(settlement(HALF));
        let state: State = fs::read_to_string(world.spool.folders.state(world.id)).unwrap().parse().unwrap();
        assert!(!state.is_pending(), "the person gave it up");
        assert!(world.spool.folders.eml(world.id).exists(), "and its sender is told at the next attempt");
    });
}

#[test]
fn a_message_moved_during_its_attempt_is_noticed_when_it_ends() {
    let mut world = World::new("");
    world.written(|world| {
        let claim = world.claim().unwrap().unwrap();
        fs::rename(world.spool.folders.eml(world.id), world.held("eml")).unwrap();
        claim.park(limits::PARKED);
        assert!(!world.spool.schedule().knows(world.id));
    });
    let mut world = World::new("");
    world.written(|world| {
        let claim = world.claim().unwrap().unwrap();
        fs::rename(world.spool.folders.eml(world.id), world.held("eml")).unwrap();
        claim.settle(settlement(HALF));
        assert!(world.held("state").exists() && !world.spool.schedule().knows(world.id));
        fs::rename(world.held("eml"), world.spool.folders.eml(world.id)).unwrap();
        world.spool.came(world.id).unwrap();
        assert!(world.spool.folders.state(world.id).exists() && !world.held("state").exists());
    });
}

#[test]
fn a_state_too_long_to_be_read_is_set_aside_and_never_written() {
    let mut world = World::new("");
    let long = format!("Attempts: 1\n{}", "\n".repeat(limits::STATE_FILE as usize));
    fs::write(world.spool.folders.state(world.id), &long).unwrap();
    assert!(world.claim().unwrap().is_none());
    assert!(world.spool.folders.failed.join(format!("{ID}.state")).exists());
    world.written(|world| assert!(world.spool.replace_state(world.id, &long).is_err()));
}

#[test]
fn a_message_that_is_done_leaves_at_once_and_only_as_nobody_changed_it() {
    let world = World::new(HALF);
    let mut claim = world.claim().unwrap().unwrap();
    claim.entry_and_exit().1.take();
    assert!(!world.spool.folders.eml(world.id).exists(), "before anything else is done");
    claim.settle(settlement(&HALF.replace("Via: next-hop\n\n", "Via: next-hop\nStatus: delivered\n\n")));
    assert!(!world.spool.folders.state(world.id).exists() && !world.spool.schedule().knows(world.id));

    for written in [HALF, "no state at all"] {
        let world = World::new("");
        let mut claim = world.claim().unwrap().unwrap();
        fs::write(world.spool.folders.state(world.id), written).unwrap();
        claim.entry_and_exit().1.take();
        assert!(world.spool.folders.eml(world.id).exists(), "someone waits for it");
        assert_eq!(fs::read_dir(&world.spool.folders.tmp).unwrap().count(), 0);
        drop(claim);
        assert!(world.spool.schedule().knows(world.id));
    }

    let world = World::new("");
    let mut claim = world.claim().unwrap().unwrap();
    claim.entry_and_exit().1.take();
    // As where the thread panics.
    drop(claim);
    assert!(!world.spool.schedule().knows(world.id));
}

#[test]
fn what_was_just_written_is_delivered_as_it_would_be_found() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, writer) = Spool::open(folder.path()).unwrap();
    let envelope = || Envelope {
        reverse_path: "<a@far.example>".parse().unwrap(),
        parameters: MailParameters::parse("BODY=8BITMIME ENVID=x").unwrap(),
        recipients: vec![Recipient { address: "b@org.example".parse().unwrap(), parameters: Default::default() }],
    };
    let commit = |mailbox: Option<&Address>| {
        let mut draft = spool.begin(envelope(), mailbox).unwrap();
        draft.write_all(b"A: b\r\n\r\nbody\r\n").unwrap();
        spool.commit(draft, Origin { client: "-".to_owned(), protocol: "SMTP" }).unwrap()
    };
    let mailbox = "box@org.example".parse().unwrap();
    let (quick, slow, touched) = thread::scope(|scope| {
        scope.spawn(|| writer.run(&spool));
        let ids = (commit(Some(&mailbox)), commit(None), commit(Some(&mailbox)));
        (0..limits::HANDED_OVER).for_each(|_| _ = commit(Some(&mailbox)));
        spool.stop_writer();
        ids
    });
    let written = |id| spool.schedule().slot_mut(id).unwrap().written.take();
    let mut written_entry = *written(quick).unwrap();
    let mut found = Entry::open(&spool.folders.eml(quick)).unwrap();
    assert_eq!(written_entry.envelope, found.envelope);
    assert_eq!(written_entry.laid_out_for, found.laid_out_for);
    assert_eq!((written_entry.size, written_entry.links), (found.size, found.links));
    let mut bodies = (Vec::new(), Vec::new());
    written_entry.copy_body(&mut bodies.0).unwrap();
    found.copy_body(&mut bodies.1).unwrap();
    assert_eq!(bodies.0, bodies.1);
    assert!(written(slow).is_none(), "a person may set it aside until a hop is there");
    spool.schedule().touch(touched, Now::read().boot);
    assert!(written(touched).is_none(), "a person may have done something to it");
    let waiting: Vec<QueueId> = spool.schedule().waiting().collect();
    let open = waiting.iter().filter(|id| written(**id).is_some()).count();
    assert!(open > 0 && open < limits::HANDED_OVER, "{open}");
}

#[test]
fn what_a_person_does_to_a_message_before_its_first_attempt_is_minded() {
    let entry = || {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(ENTRY.as_bytes()).unwrap();
        let (reverse_path, parameters) = ("<a@far.example>".parse().unwrap(), MailParameters::default());
        let envelope = Envelope { reverse_path, parameters, recipients: Vec::new() };
        Some(Box::new(Entry::laid_out(file, envelope, "b@org.example".parse().unwrap(), (ENTRY.len() as u64, 0))))
    };
    let state = || OsString::from(format!("{ID}.state"));
    let eml = || OsString::from(format!("{ID}.eml"));
    for (name, what, is_before) in [
        (state(), AddWatchFlags::IN_CLOSE_WRITE, true),
        (state(), AddWatchFlags::IN_MOVED_TO, false),
        (eml(), AddWatchFlags::IN_ATTRIB, true),
        (eml(), AddWatchFlags::IN_ATTRIB, false),
        (eml(), AddWatchFlags::IN_CLOSE_WRITE, false),
    ] {
        let world = World::new("");
        let (spool, id) = (&world.spool, world.id);
        spool.schedule().forget(id);
        spool.schedule().announce(id);
        let notice = || spool.notice(&name, what).unwrap();
        if is_before {
            notice();
        }
        spool.schedule_all([Accepted { id, ahead: Duration::from_secs(10), written: entry() }]);
        if !is_before {
            assert!(spool.schedule().slot_mut(id).unwrap().written.is_some());
            notice();
        }
        assert!(spool.schedule().slot_mut(id).unwrap().written.is_none(), "{name:?} {what:?} {is_before}");
    }
}

#[test]
fn what_was_set_aside_before_its_first_attempt_is_held() {
    let world = World::new("");
    let mut claim = world.claim().unwrap().unwrap();
    let maildir = Maildir::of(world._folder.path(), &"b@org.example".parse().unwrap()).unwrap();
    fs::rename(world.spool.folders.eml(world.id), world.held("eml")).unwrap();
    assert!(matches!(claim.rename_into(&maildir, "mail.org.example"), Ok(Renamed::Gone)));
    drop(claim);
    assert!(!world.spool.schedule().knows(world.id) && !world.held("state").exists());
}

#[test]
fn a_copy_in_hold_is_a_copy_and_no_move() {
    let mut world = World::new(HALF);
    world.written(|world| {
        let claim = world.claim().unwrap().unwrap();
        fs::copy(world.spool.folders.eml(world.id), world.held("eml")).unwrap();
        fs::write(world.held("state"), "Attempts: 7\n").unwrap();
        claim.settle(settlement(&HALF.replace("Attempts: 1", "Attempts: 2")));
        let state = || fs::read_to_string(world.spool.folders.state(world.id)).unwrap();
        assert!(state().starts_with("Attempts: 2") && world.spool.schedule().is_waiting(world.id), "{}", state());
        // Moved away and back, it has its own state and not that of the copy.
        world.spool.schedule().forget(world.id);
        world.spool.came(world.id).unwrap();
        assert!(state().starts_with("Attempts: 2"), "{}", state());
        assert_eq!(fs::read_to_string(world.held("state")).unwrap(), "Attempts: 7\n");
    });
}

#[test]
fn a_state_that_is_being_written_is_waited_for() {
    let mut world = World::new(HALF);
    world.written(|world| {
        let state = world.spool.folders.state(world.id);
        let claim = world.claim().unwrap().unwrap();
        // As a shell begins with `> ID.state`.
        fs::write(&state, "").unwrap();
        claim.settle(settlement(HALF));
        assert!(fs::read_to_string(&state).unwrap().contains("Status: delivered"), "the outcome takes its place");
        fs::write(&state, "\n").unwrap();
        assert!(world.spool.try_open(world.id).is_err(), "or it would go to everybody again");
        fs::write(&state, HALF).unwrap();
        assert!(world.spool.try_open(world.id).unwrap().unwrap().state.is_some());
        // Nobody goes on with it.
        let file = File::create(&state).unwrap();
        file.set_modified(SystemTime::now() - limits::IO_RETRY).unwrap();
        assert!(world.spool.try_open(world.id).unwrap().is_none());
        assert!(world.spool.folders.failed.join(format!("{ID}.eml")).exists());
    });
}

#[test]
fn what_comes_back_may_be_in_a_mailbox_already() {
    let world = World::new("");
    assert!(world.claim().unwrap().unwrap().was_found);
    world.spool.schedule().forget(world.id);
    fs::rename(world.spool.folders.eml(world.id), world.held("eml")).unwrap();
    fs::rename(world.held("eml"), world.spool.folders.eml(world.id)).unwrap();
    world.spool.came(world.id).unwrap();
    assert!(world.claim().unwrap().unwrap().was_found);
}

#[test]
fn a_message_put_back_while_it_is_set_aside_is_seen() {
    for (entry, state) in [("no envelope", ""), (ENTRY, "no state at all\n")] {
        let world = World::new("");
        let (spool, id) = (&world.spool, world.id);
        fs::write(spool.folders.eml(id), entry).unwrap();
        if !state.is_empty() {
            fs::write(spool.folders.state(id), state).unwrap();
        }
        let mended = world._folder.path().join("mended");
        fs::write(&mended, ENTRY).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                // Many a sync lies between this and the last step.
                while !spool.folders.failed.join(format!("{ID}.eml")).exists() {
                    thread::yield_now();
                }
                fs::rename(&mended, spool.folders.eml(id)).unwrap();
                spool.notice(&OsString::from(format!("{ID}.eml")), AddWatchFlags::IN_MOVED_TO).unwrap();
            });
            assert!(world.claim().unwrap().is_none());
        });
        assert!(spool.schedule().is_waiting(id), "{entry} {state}");
    }
}
