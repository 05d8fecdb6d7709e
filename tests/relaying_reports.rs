//! What senders are told of mail for other hosts: every kind of report as the server really makes it, read by another
//! program, and who gets which.

mod support;

use std::collections::BTreeMap;

use support::hop::{Act, say};
use support::report::read_report;
use support::world::{Settings, World};
use support::{Server, eventually};

const MESSAGE: &str = "Subject: far away\r\nFrom: ann@example.org\r\n\r\nhello\r\n";

const RECORDS: &str = "far.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.2";

/// A host where nobody is called gone, and late has no time.
fn particular(line: &str) -> Option<Act> {
    let refused = [("RCPT TO:<gone", "550 5.1.1 nobody here is called so"), ("RCPT TO:<late", "451 4.2.1 not now")];
    refused.iter().find(|(start, _)| line.starts_with(start)).map(|(_, reply)| say(*reply))
}

/// Attempts that follow one another quickly; the sender is told after a second, and again after some more.
const HASTE: &str = "retry_min = \"1s\"\nretry_max = \"1s\"\nwarn_after = \"1s\"\ngive_up = \"4s\"\n";

fn text(message: &[u8]) -> String {
    String::from_utf8(message.to_vec()).unwrap()
}

/// The only report in a mailbox, once there is nothing more to come.
fn only_report(server: &Server, address: &str) -> String {
    server.queue_is_empty();
    let [report] = server.mailbox(address).try_into().expect("one report");
    text(&report)
}

/// The values of a field, wherever it stands.
fn values<'r>(report: &'r str, field: &str) -> Vec<&'r str> {
    report.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(": ")).collect()
}

/// Which actions were reported to ann, by the ENVID of the message.
fn actions(server: &Server) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for report in server.mailbox("ann@example.org") {
        let report = text(&report);
        let [envid] = values(&report, "Original-Envelope-Id")[..] else { panic!("{report}") };
        let actions = values(&report, "Action").into_iter().map(str::to_owned);
        found.entry(envid.to_owned()).or_default().extend(actions);
    }
    found.values_mut().for_each(|actions| actions.sort());
    found
}

#[test]
fn every_kind_that_the_server_makes_is_read_by_another_program() {
    let test = "every_kind_that_the_server_makes_is_read_by_another_program";
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &[], particular);
    let aliases = "both: bob, carol@far.example";
    let server = world.server(&Settings { delivery: HASTE, aliases, ..Settings::default() });
    for (recipient, final_recipient, action, status, code) in [
        ("gone@far.example", "gone@far.example", "failed", "5.1.1", "smtp; 550 5.1.1 nobody here is called so"),
        ("carol@far.example", "carol@far.example", "relayed", "2.0.0", "smtp; 250 2.0.0 taken"),
        ("bob+x@example.org", "bob@example.org", "delivered", "2.0.0", "x-postrider; 250 2.0.0 "),
        ("both@example.org", "both@example.org", "expanded", "2.0.0", "x-postrider; 250 2.0.0 "),
        ("late@far.example", "late@far.example", "delayed", "4.2.1", "smtp; 451 4.2.1 not now"),
    ] {
        let rcpt = format!("<{recipient}> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;first@example.net");
        let id = server.submit(&format!("<ann@example.org> ENVID={action}"), &[&rcpt], MESSAGE);
        server.logged(&[&format!(" {id} reported to=ann@example.org"), &format!("what={action}")]);
        let report = server.logged(&[&format!(" {id} reported "), &format!("what={action}")]);
        let report = report.split("report=").nth(1).unwrap().split(' ').next().unwrap();
        server.logged(&[&format!(" {report} delivered to=ann@example.org")]);
        let mailbox = server.mailbox("ann@example.org");
        let made = mailbox.iter().find(|message| text(message).contains(&format!("\r\n\tid {report};"))).unwrap();
        let Some(found) = read_report(made, test) else { return };
        for expected in [
            format!("0.Original-Envelope-Id = {action}"),
            "0.Reporting-MTA = dns; mail.example.org".to_owned(),
            "1.Original-Recipient = rfc822; first@example.net".to_owned(),
            format!("1.Final-Recipient = rfc822; {final_recipient}"),
            format!("1.Action = {action}"),
            format!("1.Status = {status}"),
        ] {
            assert!(found.lines().any(|line| line == expected), "{expected} is not in\n{found}");
        }
        assert!(found.contains(&format!("1.Diagnostic-Code = {code}")), "{code} is not in\n{found}");
    }
}

#[test]
fn what_the_sender_asked_to_be_told_is_told_and_nothing_else() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["PIPELINING"], particular);
    let server = world.server(&Settings { delivery: HASTE, ..Settings::default() });
    let cases: [(&str, &str, &[&str]); 14] = [
        ("", "gone", &["failed"]),
        ("NEVER", "gone", &[]),
        ("SUCCESS", "gone", &[]),
        ("DELAY", "gone", &[]),
        ("FAILURE", "gone", &["failed"]),
        ("", "good", &[]),
        ("NEVER", "good", &[]),
        ("FAILURE,DELAY", "good", &[]),
        ("SUCCESS", "good", &["relayed"]),
        ("", "late", &["delayed", "failed"]),
        ("NEVER", "late", &[]),
        ("SUCCESS", "late", &[]),
        ("DELAY", "late", &["delayed"]),
        ("FAILURE", "late", &["failed"]),
    ];
    let mut expected = BTreeMap::new();
    for (notify, who, actions) in cases {
        let envid = format!("{who}-{}", notify.replace(',', "-"));
        let notify = if notify.is_empty() { String::new() } else { format!(" NOTIFY={notify}") };
        let rcpt = format!("<{who}@far.example>{notify}");
        server.submit(&format!("<ann@example.org> ENVID={envid}"), &[&rcpt], MESSAGE);
        if !actions.is_empty() {
            expected.insert(envid, actions.iter().map(|action| (*action).to_owned()).collect());
        }
    }
    server.queue_is_empty();
    assert_eq!(actions(&server), expected);
    let lines = far.lines();
    let asks = |line: &&String| ["NOTIFY", "ORCPT", "ENVID", "RET="].iter().any(|word| line.contains(word));
    assert_eq!(lines.iter().find(asks), None, "nothing of it is said to a hop that does not know it");
}

#[test]
fn a_hop_that_reports_itself_is_told_what_was_asked() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["DSN"], particular);
    let server = world.server(&Settings { aliases: "bob: carol@far.example", ..Settings::default() });
    let rcpts = [
        "<dora@far.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;d+2Bx@example.net",
        "<eve@far.example> NOTIFY=NEVER",
        "<bob@example.org> NOTIFY=SUCCESS",
        "<fay@far.example>",
    ];
    server.submit("<ann@example.org> RET=HDRS ENVID=QQ+2B1", &rcpts, MESSAGE);
    server.queue_is_empty();
    let lines = far.lines();
    for line in [
        "MAIL FROM:<ann@example.org> RET=HDRS ENVID=QQ+2B1",
        "RCPT TO:<dora@far.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;d+2Bx@example.net",
        "RCPT TO:<eve@far.example> NOTIFY=NEVER",
        "RCPT TO:<carol@far.example> NOTIFY=SUCCESS",
        "RCPT TO:<fay@far.example>",
    ] {
        assert!(lines.iter().any(|said| said.starts_with(line)), "{line}\n{lines:#?}");
    }
    assert!(server.mailbox("ann@example.org").is_empty(), "the hop reports, not we");
}

#[test]
fn as_much_of_the_message_comes_back_as_was_asked_for() {
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &["DSN"], particular);
    for (ret, kind, has_body) in [
        ("", "message/rfc822", true),
        (" RET=FULL", "message/rfc822", true),
        (" RET=HDRS", "text/rfc822-headers", false),
    ] {
        let server = world.server(&Settings::default());
        server.submit(&format!("<ann@example.org>{ret}"), &["<gone@far.example>"], MESSAGE);
        let report = only_report(&server, "ann@example.org");
        assert!(report.contains(&format!("Content-Type: {kind}")), "{report}");
        assert_eq!(report.contains("\r\n\r\nhello\r\n"), has_body, "{report}");
    }
}

#[test]
fn a_thousand_failures_are_told_at_once() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["PIPELINING"], particular);
    let server = world.server(&Settings::default());
    let rcpts: Vec<String> = (0..1000).map(|at| format!("<gone{at}@far.example>")).collect();
    server.submit("<ann@example.org>", &rcpts.iter().map(String::as_str).collect::<Vec<_>>(), MESSAGE);
    let report = only_report(&server, "ann@example.org");
    let mut told = values(&report, "Final-Recipient");
    told.sort_unstable();
    told.dedup();
    assert_eq!((told.len(), values(&report, "Status").len()), (1000, 1000));
    assert!(far.messages().iter().all(String::is_empty), "nobody was accepted, and no message was sent");
    let read = read_report(report.as_bytes(), "a_thousand_failures_are_told_at_once");
    assert!(read.is_none_or(|found| found.matches(".Action = failed").count() == 1000));
}

#[test]
fn a_report_is_never_reported_on_and_the_postmaster_hears_once() {
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &[], particular);
    let server = world.server(&Settings { delivery: HASTE, ..Settings::default() });
    server.submit("<>", &["<gone@far.example>", "<late@far.example> NOTIFY=SUCCESS,DELAY,FAILURE"], MESSAGE);
    server.submit("<>", &["<carol@far.example> NOTIFY=SUCCESS"], MESSAGE);
    server.queue_is_empty();
    let told: Vec<String> = server.mailbox("postmaster@example.org").iter().map(|report| text(report)).collect();
    assert_eq!(told.iter().flat_map(|report| values(report, "Action")).collect::<Vec<_>>(), ["failed", "failed"]);
    for who in ["gone", "late"] {
        let about = told.iter().filter(|report| report.contains(&format!("rfc822; {who}@far.example"))).count();
        assert_eq!(about, 1, "{who}");
    }
    // The log is written out once a second; a report on a report would be there too by then.
    eventually("the log is whole", || server.log().matches(" to=postmaster@example.org how=rename").count() == 2);
    assert_eq!(server.log().matches(" reported ").count(), 2);
}

#[test]
fn what_fails_on_a_list_is_for_its_owner_and_the_sender_hears_of_the_list() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &[], particular);
    let aliases = "team: gone@far.example, carol@far.example\nowner-team: bob";
    let server = world.server(&Settings { aliases, ..Settings::default() });
    server.submit("<ann@example.org> ENVID=E1", &["<team@example.org> NOTIFY=SUCCESS,FAILURE"], MESSAGE);
    let to_owner = only_report(&server, "bob@example.org");
    assert_eq!(values(&to_owner, "Final-Recipient"), ["rfc822; gone@far.example"]);
    assert_eq!(values(&to_owner, "Action"), ["failed"]);
    let to_sender = only_report(&server, "ann@example.org");
    assert_eq!(values(&to_sender, "Final-Recipient"), ["rfc822; team@example.org"]);
    // RFC 3461 §5.2.7.3: it has come where it was sent.
    assert_eq!(values(&to_sender, "Action"), ["delivered"]);
    assert!(!to_sender.contains("far.example"), "who is on the list is no business of the sender's:\n{to_sender}");
    let lines = far.lines();
    assert!(lines.iter().any(|line| line.starts_with("MAIL FROM:<owner-team@example.org>")), "{lines:#?}");
}

#[test]
fn letters_that_a_hop_can_not_take_are_told_once() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["8BITMIME"], particular);
    let server = world.server(&Settings::default());
    server.submit("<ann@example.org> SMTPUTF8", &["<jörg@far.example>"], MESSAGE);
    let report = only_report(&server, "ann@example.org");
    assert_eq!(values(&report, "Status"), ["5.6.7"]);
    let read = read_report(report.as_bytes(), "letters_that_a_hop_can_not_take_are_told_once");
    let expected = "1.Final-Recipient = utf-8; j\\x{F6}rg@far.example";
    assert!(read.as_ref().is_none_or(|found| found.contains(expected)), "{read:?}");
    assert!(!far.lines().iter().any(|line| line.starts_with("MAIL")));
}

#[test]
fn two_servers_that_forward_to_each_other_stop_with_one_report() {
    let records = "example.org. MX 10 mail.example.org.\nmail.example.org. A 127.0.0.2\n\
                   other.example. MX 10 mail.other.example.\nmail.other.example. A 127.0.0.3";
    for hops in [10, 50] {
        let Some(world) = World::new(records) else { return };
        let tables = format!("[limits]\nhops = {hops}\n");
        let settings = |aliases| Settings { tables: &tables, aliases, ..Settings::default() };
        let mut near = world.prepared_at(2, &settings("loop: loop@other.example"));
        near.run();
        let mut other = world.prepared_at(3, &settings("loop: loop@example.org"));
        other.configure("mail.example.org", "mail.other.example");
        other.configure("[\"example.org\", \"example.net\"]", "[\"other.example\"]");
        other.run();
        near.submit("<ann@example.org>", &["<loop@example.org>"], MESSAGE);
        let report = text(&near.wait_for("ann@example.org", 1)[0]);
        near.queue_is_empty();
        other.queue_is_empty();
        assert_eq!(near.mailbox("ann@example.org").len(), 1);
        assert_eq!((values(&report, "Action"), values(&report, "Status")), (vec!["failed"], vec!["5.4.6"]), "{report}");
        near.logged(&[" delivered to=ann@example.org "]);
        other.stop();
        let reported = [&near, &other].map(|server| server.log().matches(" reported ").count());
        assert_eq!(reported[0] + reported[1], 1);
        let accepted = [&near, &other].map(|server| server.log().matches("to=loop@").count());
        assert!(accepted[0] + accepted[1] >= hops, "{accepted:?}");
        assert!(near.mailbox("postmaster@example.org").is_empty());
    }
}
