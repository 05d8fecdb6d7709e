//! Mail for other hosts on its whole way: what arrives there, from whom, in how many sessions.

mod support;

use std::fs;

use support::hop::{Act, Exchanger, say};
use support::next_hop::{Kind, NextHop};
use support::postfix::{Options, Postfix};
use support::world::{Settings, World};
use support::{Server, eventually};

const RECORDS: &str = "far.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.2\n\
                       zoe.example. MX 10 mx.zoe.example.\nmx.zoe.example. A 127.0.0.3";

const MESSAGE: &str = "From: Ann <ann@example.org>\r\nSubject: far away\r\n\r\n..hello\r\n";

const ANN: &str = "<ann@example.org>";

const BOB: &[&str] = &["<bob@far.example>"];

fn never(_: &str) -> Option<Act> {
    None
}

/// Waits until the exchanger has as many messages, and no more.
fn wait_for(exchanger: &Exchanger, count: usize) -> Vec<String> {
    eventually("the exchanger has the messages", || exchanger.messages().len() >= count);
    assert_eq!(exchanger.messages().len(), count);
    exchanger.messages()
}

/// The commands of the envelopes that the exchanger heard, without their parameters.
fn envelopes(exchanger: &Exchanger) -> Vec<String> {
    let is_envelope = |line: &String| line.starts_with("MAIL") || line.starts_with("RCPT");
    let bare = |line: String| line.split_inclusive('>').next().unwrap_or_default().to_owned();
    exchanger.lines().into_iter().filter(is_envelope).map(bare).collect()
}

#[test]
fn mail_reaches_mailboxes_of_real_hosts_found_by_mx() {
    let test = "mail_reaches_mailboxes_of_real_hosts_found_by_mx";
    let Some(mut world) = World::new("far.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.1") else { return };
    let mailboxes = &["bob@far.example", "carol@far.example"];
    let mut send = |port: u16| {
        world.port = port;
        let server = world.server(&Settings::default());
        server.submit(
            "<ann@example.org> BODY=8BITMIME",
            &["<bob@far.example>", "<carol@far.example>", "<gone@far.example>"],
            "Subject: Grüße\r\n\r\n..hello\r\n",
        );
        server.logged(&[" reported to=ann@example.org ", "what=failed"]);
        server.wait_for("ann@example.org", 1);
        server.queue_is_empty();
    };
    let check = |found: Vec<Vec<u8>>| {
        let [message] = found.try_into().unwrap();
        let message = String::from_utf8(message).unwrap();
        assert!(
            message.contains("by mail.example.org")
                && message.contains("Subject: Grüße\n")
                && message.ends_with("\n\n.hello\n"),
            "{message}"
        );
        assert!(!message.contains("X-Sender") && !message.contains("X-Receiver"), "{message}");
    };
    if let Some(postfix) = Postfix::start(test, &Options { mailboxes, ..Options::default() }) {
        send(postfix.address().port());
        mailboxes.iter().for_each(|mailbox| check(postfix.wait_for(mailbox, 1)));
    }
    for kind in [Kind::Exim, Kind::OpenSmtpd] {
        let Some(hop) = NextHop::start(test, kind, mailboxes, None) else { continue };
        send(hop.address().port());
        mailboxes.iter().for_each(|mailbox| check(hop.wait_for(mailbox, 1)));
    }
}

#[test]
fn many_messages_share_few_sessions_that_end_with_quit() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["PIPELINING"], never);
    let mut server = world.server(&Settings::default());
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    (0..100).for_each(|_| _ = client.submit(ANN, BOB, MESSAGE));
    wait_for(&far, 100);
    let connections = far.connections();
    assert!(connections <= 10, "{connections} connections for 100 messages");
    assert_eq!(server.stop(), Some(0));
    let quits = far.lines().iter().filter(|line| *line == "QUIT").count();
    assert_eq!((quits, far.connections()), (connections, connections), "each session took leave");
}

#[test]
fn a_session_that_ended_while_it_was_idle_is_no_failure() {
    let closed = |line: &str| (line == ".").then(|| Act::Gone("250 2.0.0 taken".to_owned()));
    let dismissed = |line: &str| (line == ".").then(|| Act::Last("250 2.0.0 taken\r\n421 4.4.2 idle".to_owned()));
    let mut mails = 0;
    let at_mail = move |line: &str| {
        mails += usize::from(line.starts_with("MAIL"));
        (line.starts_with("MAIL") && mails > 1).then(|| Act::Gone(String::new()))
    };
    let mut mails = 0;
    let said_at_mail = move |line: &str| {
        mails += usize::from(line.starts_with("MAIL"));
        (line.starts_with("MAIL") && mails > 1).then(|| Act::Gone("421 4.4.2 too late".to_owned()))
    };
    let Some(world) = World::new(RECORDS) else { return };
    fn check<F>(world: &World, except: F)
    where
        F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
    {
        let far = world.exchanger(2, &[], except);
        let server = world.server(&Settings::default());
        for count in 1..=5 {
            server.submit(ANN, BOB, MESSAGE);
            wait_for(&far, count);
        }
        server.queue_is_empty();
        assert_eq!(far.connections(), 5);
        eventually("all are logged", || server.log().matches(" delivered ").count() == 5);
        assert!(!server.log().contains(" deferred ") && !server.log().contains(" hop-down "));
    }
    check(&world, closed);
    check(&world, dismissed);
    check(&world, at_mail);
    check(&world, said_at_mail);
}

#[test]
fn a_host_that_says_no_to_everybody_is_done_with_at_once() {
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &[], |line| (line == "CONNECT").then(|| say("554 5.3.2 we take no mail")));
    let mut server = world.prepared(&Settings::default());
    let queue = server.path("spool/queue");
    fs::create_dir_all(&queue).unwrap();
    // They wait for one another; one a second would be more than the patience of the tests.
    for at in 0..150 {
        let entry = "X-Sender: <ann@example.org>\r\nX-Receiver: <bob@far.example> NOTIFY=NEVER\r\n\r\nhello\r\n";
        fs::write(queue.join(format!("0TQXGV00{at:05}.eml")), entry).unwrap();
    }
    server.run();
    server.queue_is_empty();
    eventually("each is logged", || server.log().matches(" failed to=bob@far.example ").count() == 150);
}

#[test]
fn a_smarthost_gets_the_sender_it_takes_and_nobody_else_does() {
    let Some(world) = World::new(RECORDS) else { return };
    let (hub, fixed) = (world.exchanger(2, &[], never), world.exchanger(3, &[], never));
    let tables = format!(
        "[relay]\nsmarthost = \"{}\"\nsmarthost_sender = \"me@provider.example\"\n\
         domains = {{ \"fixed.example\" = \"{}\" }}\n",
        hub.address, fixed.address
    );
    let server = world.server(&Settings { tables: &tables, aliases: "carol: dora@far.example", ..Settings::default() });
    server.submit(ANN, &["<bob@far.example>", "<bob@fixed.example>"], MESSAGE);
    let at_hub = wait_for(&hub, 1);
    let at_fixed = wait_for(&fixed, 1);
    assert_eq!(envelopes(&hub), ["MAIL FROM:<me@provider.example>", "RCPT TO:<bob@far.example>"]);
    for line in ["From: Ann <me@provider.example>\r\n", "Reply-To: Ann <ann@example.org>\r\n", "Subject: far away\r\n"]
    {
        assert!(at_hub[0].contains(line), "{line}{}", at_hub[0]);
    }
    assert!(!at_hub[0].contains("From: Ann <ann@example.org>"), "{}", at_hub[0]);
    assert_eq!(envelopes(&fixed), ["MAIL FROM:<ann@example.org>", "RCPT TO:<bob@fixed.example>"]);
    assert!(at_fixed[0].contains("From: Ann <ann@example.org>\r\n") && !at_fixed[0].contains("Reply-To"));

    let theirs = MESSAGE.replace("Ann <ann@example.org>", "Zoe <zoe@zoe.example>");
    server.submit("<zoe@zoe.example>", &["<carol@example.org>"], &theirs);
    let at_hub = wait_for(&hub, 2);
    assert!(at_hub[1].contains("From: Zoe <zoe@zoe.example>\r\n"), "only local senders are rewritten:\n{}", at_hub[1]);
    let with_reply_to = format!("Reply-To: list@example.org\r\n{MESSAGE}");
    server.submit(ANN, BOB, &with_reply_to);
    let at_hub = wait_for(&hub, 3);
    assert_eq!(at_hub[2].matches("Reply-To: ").count(), 1, "one that was there is kept:\n{}", at_hub[2]);
    assert!(at_hub[2].contains("Reply-To: list@example.org\r\n"));
}

#[test]
fn what_an_alias_sends_on_comes_back_to_its_first_sender() {
    let Some(world) = World::new(RECORDS) else { return };
    let (far, zoe) = (world.exchanger(2, &[], never), world.exchanger(3, &[], never));
    let aliases = "bob: carol@far.example";
    let tables = "[relay]\nsrs_secret = \"a secret of this test\"\n";
    let server = world.server(&Settings { tables, aliases, ..Settings::default() });
    server.submit("<zoe@zoe.example>", &["<bob@example.org>"], MESSAGE);
    wait_for(&far, 1);
    let [mail, rcpt] = envelopes(&far).try_into().unwrap();
    assert_eq!(rcpt, "RCPT TO:<carol@far.example>");
    let rewritten = mail.strip_prefix("MAIL FROM:").unwrap();
    assert!(rewritten.starts_with("<SRS0=") && rewritten.ends_with("=zoe.example=zoe@example.org>"), "{rewritten}");

    server.submit("<>", &[rewritten], "Subject: it failed\r\n\r\nsorry\r\n");
    assert!(wait_for(&zoe, 1)[0].ends_with("Subject: it failed\r\n\r\nsorry\r\n"));
    assert_eq!(envelopes(&zoe), ["MAIL FROM:<>", "RCPT TO:<zoe@zoe.example>"]);
    let mut client = server.smtp();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.ask("MAIL FROM:<>", "250");
    client.ask(&format!("RCPT TO:{}", rewritten.replace("=zoe@", "=eve@")), "550 5.1.1");

    server.submit(ANN, &["<bob@example.org>"], MESSAGE);
    wait_for(&far, 2);
    assert_eq!(envelopes(&far)[2], "MAIL FROM:<ann@example.org>", "a sender of our own needs no other");
    let plain = world.server(&Settings { aliases, ..Settings::default() });
    plain.submit("<zoe@zoe.example>", &["<bob@example.org>"], MESSAGE);
    wait_for(&far, 3);
    assert_eq!(envelopes(&far)[4], "MAIL FROM:<zoe@zoe.example>");
}

#[test]
fn what_fails_behind_an_alias_is_told_to_its_first_sender() {
    let Some(world) = World::new(RECORDS) else { return };
    let _far = world.exchanger(2, &[], |line| line.starts_with("RCPT").then(|| say("550 5.1.1 nobody")));
    let zoe = world.exchanger(3, &[], never);
    let tables = "[relay]\nsrs_secret = \"a secret of this test\"\n";
    let server = world.server(&Settings { tables, aliases: "bob: carol@far.example", ..Settings::default() });
    server.submit("<zoe@zoe.example>", &["<bob@example.org>"], MESSAGE);
    let report = &wait_for(&zoe, 1)[0];
    assert!(report.contains("Final-Recipient: rfc822; carol@far.example\r\n"), "{report}");
    assert_eq!(envelopes(&zoe), ["MAIL FROM:<>", "RCPT TO:<zoe@zoe.example>"]);
    server.queue_is_empty();
}

const EIGHT_BIT: &str = "From: ann@example.org\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                         Content-Transfer-Encoding: 8bit\r\n\r\nstraße\r\n";

/// Sends `message` to a hop that offers `offers`. Returns what it said at MAIL and what arrived, if anything did.
fn through(world: &World, offers: &[&str], tables: &str, message: &str) -> (Server, Option<(String, String)>) {
    let far = world.exchanger(2, offers, never);
    let server = world.server(&Settings { tables, ..Settings::default() });
    server.submit("<ann@example.org> BODY=8BITMIME", BOB, message);
    server.queue_is_empty();
    let mail = far.lines().into_iter().find(|line| line.starts_with("MAIL"));
    let arrived = mail.map(|mail| (mail, far.messages().remove(0)));
    (server, arrived)
}

#[test]
fn eight_bit_text_is_converted_only_where_it_has_to_be_and_may_be() {
    let Some(world) = World::new(RECORDS) else { return };
    let (_, arrived) = through(&world, &["8BITMIME"], "", EIGHT_BIT);
    let (mail, message) = arrived.unwrap();
    assert!(mail.contains(" BODY=8BITMIME") && message.ends_with(EIGHT_BIT), "{mail}\n{message}");

    let (_, arrived) = through(&world, &[], "", EIGHT_BIT);
    let (mail, message) = arrived.unwrap();
    assert!(!mail.contains("BODY=") && message.is_ascii() && message.ends_with("\r\n\r\nstra=C3=9Fe\r\n"), "{message}");

    let (_, arrived) = through(&world, &[], "[relay]\neight_bit = [\"mx:far.example\"]\n", EIGHT_BIT);
    assert!(arrived.unwrap().1.ends_with(EIGHT_BIT), "it takes it as it is");

    let signed = format!("DKIM-Signature: v=1; d=example.org\r\n{EIGHT_BIT}");
    let (server, arrived) = through(&world, &[], "", &signed);
    assert_eq!(arrived, None);
    let report = String::from_utf8(server.wait_for("ann@example.org", 1).remove(0)).unwrap();
    assert!(report.contains("Status: 5.6.3\r\n"), "{report}");
}
