//! Who is told what, how often, and what counts.

use super::*;
use crate::aliases::Aliases;
use crate::config::Config;
use crate::spool::{Spool, StopWriter};
use std::fs;
use std::path::Path;
use std::thread;

fn site() -> Site {
    Site {
        config: Config::parse("hostname = \"example.org\"", Path::new("")).unwrap(),
        users: ["ann@example.org"].iter().map(|user| user.parse().unwrap()).collect(),
        aliases: Aliases::parse(Path::new("/aliases"), "").unwrap(),
    }
}

fn envelope(sender: &str, recipients: &[(&str, &str)]) -> Envelope {
    let recipient = |(address, parameters): &(&str, &str)| Recipient {
        address: address.parse().unwrap(),
        parameters: RcptParameters::parse(parameters).unwrap(),
    };
    Envelope {
        reverse_path: sender.parse().unwrap(),
        parameters: MailParameters::default(),
        recipients: recipients.iter().map(recipient).collect(),
    }
}

fn target(address: &str, status: Status, envelope: &Envelope) -> Target {
    let recipient = envelope.recipients[0].address.clone();
    let target = Target::new(address.parse().unwrap(), Via::NextHop, recipient, envelope.reverse_path.clone());
    Target { status, ..target }
}

/// Who is told what, and what is left untold.
fn told(state: &mut State, envelope: &Envelope, late: bool) -> (Vec<String>, Vec<Told>) {
    let due = due(state, envelope, late, &site());
    let shown = due.iter().map(|due| format!("{} {}", due.to, actions(due))).collect();
    (shown, state.targets.iter().map(|target| target.told).collect())
}

#[test]
fn each_sender_hears_what_it_asked_for() {
    use Status::{Delivered, Failed, Pending};
    for (notify, status, late, expected) in [
        ("", Failed, false, Some("failed")),
        ("NOTIFY=FAILURE", Failed, false, Some("failed")),
        ("NOTIFY=NEVER", Failed, false, None),
        ("NOTIFY=SUCCESS", Failed, false, None),
        ("", Pending, true, Some("delayed")),
        ("", Pending, false, None),
        ("NOTIFY=FAILURE", Pending, true, None),
        ("NOTIFY=DELAY", Pending, true, Some("delayed")),
        ("", Delivered, false, None),
        ("NOTIFY=SUCCESS", Delivered, false, Some("relayed")),
    ] {
        let envelope = envelope("<s@far.example>", &[("x@b.example", notify)]);
        let mut state = State::of(vec![target("x@b.example", status, &envelope)]);
        let (found, untold) = told(&mut state, &envelope, late);
        let expected: Vec<String> = expected.iter().map(|what| format!("s@far.example {what}")).collect();
        assert_eq!(found, expected, "{notify} {status:?} late={late}");
        let settled = match status {
            _ if !expected.is_empty() => Told::Nothing,
            Pending if late => Told::Late,
            Pending => Told::Nothing,
            _ => Told::End,
        };
        assert_eq!(untold, [settled], "{notify} {status:?} late={late}");
    }
}

#[test]
fn nothing_is_told_twice() {
    let envelope = envelope("<s@far.example>", &[("x@b.example", "NOTIFY=SUCCESS,FAILURE,DELAY")]);
    for (status, before) in [(Status::Failed, Told::End), (Status::Delivered, Told::End), (Status::Pending, Told::Late)]
    {
        let mut state = State::of(vec![Target { told: before, ..target("x@b.example", status, &envelope) }]);
        assert_eq!(told(&mut state, &envelope, true), (vec![], vec![before]));
    }
    let mut late = State::of(vec![Target { told: Told::Late, ..target("x@b.example", Status::Failed, &envelope) }]);
    assert_eq!(told(&mut late, &envelope, true).0, ["s@far.example failed"]);
}

#[test]
fn a_message_without_a_sender_is_for_the_postmaster_and_one_to_the_postmaster_for_nobody() {
    let report = envelope("<>", &[("x@b.example", "")]);
    let mut state = State::of(vec![target("x@b.example", Status::Failed, &report)]);
    assert_eq!(told(&mut state, &report, true).0, ["postmaster@example.org failed"]);
    let mut late = State::of(vec![target("x@b.example", Status::Pending, &report)]);
    assert_eq!(told(&mut late, &report, true), (vec![], vec![Told::Late]));
    let double = envelope("<>", &[("postmaster@example.org", "")]);
    let mut state = State::of(vec![target("ann@example.org", Status::Failed, &double)]);
    assert_eq!(told(&mut state, &double, true), (vec![], vec![Told::Nothing]));
    assert!(state.is_untold());
}

#[test]
fn success_of_several_is_told_once_and_failure_of_a_list_to_its_owner() {
    let envelope = envelope("<s@far.example>", &[("all@example.org", "NOTIFY=SUCCESS")]);
    let both = || {
        vec![target("x@b.example", Status::Delivered, &envelope), target("y@b.example", Status::Delivered, &envelope)]
    };
    let mut state = State::of(both());
    assert_eq!(told(&mut state, &envelope, false).0, ["s@far.example expanded"]);
    assert_eq!(state.targets[1].told, Told::End);
    let owner: ReversePath = "<owner-all@example.org>".parse().unwrap();
    let mut list = State::of(both());
    list.targets.iter_mut().for_each(|target| target.reverse_path = owner.clone());
    list.targets[1].status = Status::Failed;
    assert_eq!(told(&mut list, &envelope, false).0, ["s@far.example delivered", "owner-all@example.org failed"]);
}

#[test]
fn a_report_that_was_not_made_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    fs::create_dir(&queue).unwrap();
    let entry = "X-Sender: <s@far.example>\r\nX-Receiver: <x@b.example>\r\n\r\nA: b\r\n\r\n";
    fs::write(queue.join("0TQXGV0000001.eml"), entry).unwrap();
    let (spool, writer) = Spool::open(folder.path()).unwrap();
    let mut site = site();
    site.config.limits.reports = 1;
    let storm = Storm::default();
    let envelope = envelope("<s@far.example>", &[("x@b.example", "")]);
    let queued = |claim: &mut Claim<'_>| {
        let mut state = State::of(vec![target("x@b.example", Status::Failed, &envelope)]);
        let due = due(&mut state, &envelope, false, &site);
        assert_eq!(due.len(), 1);
        let queued = super::queue(claim, &mut state, due, (&site, &storm));
        (queued.committed.len(), queued.is_missing, state.targets[0].told)
    };
    thread::scope(|scope| {
        scope.spawn(|| writer.run(&spool));
        // Also where something is not as expected.
        let _end = StopWriter(&spool);
        let mut claim = spool.claim_due().unwrap();
        let draft = spool.folders().tmp.join("0TQXGV0000001.state");
        fs::create_dir(&draft).unwrap();
        assert_eq!(queued(&mut claim), (0, true, Told::Nothing), "the state can't be written");
        fs::remove_dir(&draft).unwrap();
        // The message can't be copied.
        fs::File::options().write(true).open(queue.join("0TQXGV0000001.eml")).unwrap().set_len(60).unwrap();
        assert_eq!(queued(&mut claim), (0, true, Told::Nothing), "the report can't be written");
        fs::write(queue.join("0TQXGV0000001.eml"), entry).unwrap();
        let (committed, is_missing, told) = queued(&mut claim);
        assert_eq!((committed, is_missing, told), (1, false, Told::End));
        assert_eq!(queued(&mut claim), (0, false, Told::Nothing), "there was one within the hour");
    });
}
