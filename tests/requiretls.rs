//! REQUIRETLS (RFC 8689): a message whose sender asks for it goes on to a host that has proved itself and knows it, or
//! comes back; and so do the reports on it.

mod support;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustls::ServerConfig;
use support::hop::{Act, Exchanger, say, secure};
use support::tls::{self, make_certificate, server_config};
use support::world::{Settings, World};
use support::{Server, eventually, have};

/// Two domains with an exchanger in common, and hosts that the configuration names.
const RECORDS: &str = "far.example. MX 10 mx.far.example.\n\
                       near.example. MX 10 mx.near.example.\nnear.example. MX 20 mx.far.example.\n\
                       mx.far.example. A 127.0.0.2\nmx.near.example. A 127.0.0.3\nhub.example. A 127.0.0.4";

/// What its header says is about what others ask for, and REQUIRETLS goes before it (RFC 8689 §4.1).
const MESSAGE: &str = "From: Ann <ann@example.org>\r\nSubject: far away\r\nTLS-Required: No\r\n\r\na secret\r\n";

const ANN: &str = "<ann@example.org>";

const REQUIRED: &str = "<ann@example.org> REQUIRETLS";

const BOB: &[&str] = &["<bob@far.example>"];

/// Makes the certificates of these hosts, each in a folder of its name, where openssl can be had.
fn certificates(names: &[&str]) -> Option<tempfile::TempDir> {
    if !have("openssl", thread::current().name().unwrap_or("a test of REQUIRETLS")) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        fs::create_dir(folder.path().join(name)).unwrap();
        make_certificate(&folder.path().join(name), name);
    }
    Some(folder)
}

/// A host of that name at 127.0.0.`last`, which offers these under TLS and STARTTLS, and REQUIRETLS too, in clear.
fn host(world: &World, last: u8, config: &Arc<ServerConfig>, offers: &[&str]) -> Exchanger {
    world.exchanger(last, &["STARTTLS", "REQUIRETLS"], secure(config, offers))
}

/// Submits under TLS.
fn submit(server: &Server, mail: &str, rcpts: &[&str], message: &str) -> String {
    tls::starttls(server.smtp_address()).submit(mail, rcpts, message)
}

/// `hop` for far.example, which is spoken with as these settings say and has this certificate.
fn tables(hop: &str, settings: &str, ca: &Path) -> String {
    format!(
        "[relay.domains]\n\"far.example\" = \"{hop}\"\n[relay.hops.\"{hop}\"]\n{settings}ca = \"{}\"\n",
        ca.join("certificate.pem").display()
    )
}

/// The commands that begin a transaction.
fn mails(exchanger: &Exchanger) -> Vec<String> {
    exchanger.lines().into_iter().filter(|line| line.starts_with("MAIL")).collect()
}

#[test]
fn who_has_proved_nothing_or_does_not_know_it_gets_none() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example", "other.example"]) else { return };
    let of = |name: &str| folder.path().join(name);
    let config = server_config(&of("mx.far.example"));
    let hop = format!("mx.far.example:{}", world.port);
    let clear = || world.exchanger(2, &["REQUIRETLS"], |_| None);
    let knows_it = || host(&world, 2, &config, &["REQUIRETLS"]);
    let knows_it_not = || host(&world, 2, &config, &["DSN"]);
    type Open<'a> = &'a dyn Fn() -> Exchanger;
    let cases: [(Open<'_>, &str, &str, &str); 3] = [
        (&clear, "mx.far.example", "550 5.7.10 mx.far.example [127.0.0.2] offers no STARTTLS", "tls=none"),
        (&knows_it, "other.example", "550 5.7.10 nobody we trust has signed the certificate of mx.far.", " unverified"),
        (&knows_it_not, "mx.far.example", "550 5.7.30 mx.far.example [127.0.0.2] does not offer REQUIRETLS", "unverif"),
    ];
    for (open, ca, words, ordinary) in cases {
        let far = open();
        let tables = tables(&hop, "tls = \"opportunistic\"\n", &of(ca));
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        // Its session waits for another message, and has proved nothing.
        let id = submit(&server, ANN, BOB, MESSAGE);
        assert!(server.logged(&[&id, " delivered "]).contains(ordinary), "{}", server.log());
        let id = submit(&server, REQUIRED, BOB, MESSAGE);
        let line = server.logged(&[&id, " failed "]);
        assert!(line.contains(words) && line.contains("(the sender asked for REQUIRETLS)"), "{line}");
        assert_eq!(mails(&far).len(), 1, "{words}: {:?}", far.lines());
        let is_quit = words.contains("offers no STARTTLS");
        eventually("it hears QUIT", || !is_quit || far.lines().last().is_some_and(|line| line == "QUIT"));
        server.queue_is_empty();
        let [report] = server.mailbox("ann@example.org").try_into().unwrap();
        let report = String::from_utf8(report).unwrap();
        let envelope = report.lines().find(|line| line.starts_with("X-Sender: <>")).unwrap();
        assert!(envelope.ends_with(" REQUIRETLS"), "{envelope}");
        assert!(report.contains(&format!("Status: {}", &words[4..10])), "{report}");
        assert!(report.contains("Subject: far away") && !report.contains("a secret"), "{report}");
        // The hop is as good as ever for other mail.
        let id = submit(&server, ANN, BOB, MESSAGE);
        server.logged(&[&id, " delivered "]);
        assert!(!server.log().contains(" hop-down "));
    }
}

#[test]
fn who_has_proved_itself_and_knows_it_gets_it() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example"]) else { return };
    let ca = folder.path().join("mx.far.example");
    let far = host(&world, 2, &server_config(&ca), &["REQUIRETLS", "DSN"]);
    let hop = format!("mx.far.example:{}", world.port);
    let aliases = "team: bob@far.example\nowner-team: ann\ninfo: bob@far.example\n";
    let tables = tables(&hop, "tls = \"opportunistic\"\n", &ca);
    let server = world.server(&Settings { tables: &tables, aliases, ..Settings::default() });
    let id = submit(&server, ANN, BOB, MESSAGE);
    assert!(server.logged(&[&id, " delivered "]).contains(" unverified"));
    for rcpt in ["<bob@far.example>", "<team@example.org>", "<info@example.org>"] {
        let id = submit(&server, &format!("{REQUIRED} RET=FULL"), &[rcpt], MESSAGE);
        assert!(server.logged(&[&id, " delivered "]).contains(" verified"), "{rcpt}: {}", server.log());
    }
    // Put there by hand, or by another host's queue.
    let text = format!("X-Sender: <ann@example.org> REQUIRETLS\nX-Receiver: <bob@far.example>\n{MESSAGE}");
    fs::write(server.path("spool/.letter"), text).unwrap();
    fs::rename(server.path("spool/.letter"), server.path("spool/drop/letter")).unwrap();
    eventually("the dropped one is there", || far.messages().len() == 5);
    let mails = mails(&far);
    assert!(!mails[0].contains("REQUIRETLS"), "{mails:?}");
    assert!(mails[1..].iter().all(|line| line.contains(" REQUIRETLS")), "{mails:?}");
    assert!(mails[2].starts_with("MAIL FROM:<owner-team@example.org> REQUIRETLS"), "the list's too: {mails:?}");
    assert_eq!(far.connections(), 2, "one session for each kind of message");
}

#[test]
fn what_may_be_otherwise_tomorrow_is_tried_again_and_is_no_trouble_of_others() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example"]) else { return };
    let refuses = |line: &str| line.starts_with("STARTTLS").then(|| say("454 4.7.0 not today"));
    let leaves = |line: &str| line.starts_with("STARTTLS").then(|| Act::Gone("220 go ahead".into()));
    fn check<F>(world: &World, ca: &Path, except: F, words: &str)
    where
        F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
    {
        let far = world.exchanger(2, &["STARTTLS"], except);
        let hop = format!("mx.far.example:{}", world.port);
        let tables = tables(&hop, "tls = \"opportunistic\"\n", ca);
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        let id = submit(&server, REQUIRED, BOB, MESSAGE);
        let line = server.logged(&[&id, " deferred "]);
        assert!(line.contains(words) && line.contains("(the sender asked for REQUIRETLS)"), "{line}");
        let ordinary = submit(&server, ANN, BOB, MESSAGE);
        server.logged(&[&ordinary, " delivered ", " tls=none "]);
        assert!(!server.log().contains(" hop-down "), "{}", server.log());
        assert_eq!(mails(&far).len(), 1, "it is tried again, and nothing of it is said");
        let quits = || far.lines().iter().filter(|line| *line == "QUIT").count();
        eventually("it hears QUIT", || !words.contains("refuses it") || quits() >= 2);
        drop(far);
        // The hop has mended its TLS.
        let _far = host(world, 2, &server_config(ca), &["REQUIRETLS"]);
        server.logged(&[&id, " delivered ", " verified"]);
    }
    let ca = folder.path().join("mx.far.example");
    check(&world, &ca, refuses, "451 4.7.4 mx.far.example [127.0.0.2] offers STARTTLS and refuses it: 454 4.7.0 not");
    check(&world, &ca, leaves, "closed the connection while we agreed with it on TLS");
}

/// A resolver before `server` that says of all its answers that it has checked their signatures.
fn validating(server: SocketAddr) -> SocketAddr {
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    thread::spawn(move || {
        let mut octets = [0; 4096];
        while let Ok((count, client)) = ours.recv_from(&mut octets) {
            let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
            theirs.send_to(&octets[..count], server).unwrap();
            let (count, _) = theirs.recv_from(&mut octets).unwrap();
            octets[3] |= 0x20;
            ours.send_to(&octets[..count], client).unwrap();
        }
    });
    address
}

#[test]
fn exchangers_are_believed_where_signatures_vouch_for_them() {
    let Some(world) = World::new(RECORDS) else { return };
    let names = ["mx.far.example", "mx.near.example"];
    let Some(folder) = certificates(&names) else { return };
    let of = |name: &str| folder.path().join(name);
    let far = host(&world, 2, &server_config(&of(names[0])), &["REQUIRETLS"]);
    let near = host(&world, 3, &server_config(&of(names[1])), &["DSN"]);
    let both = names.map(|name| fs::read_to_string(of(name).join("certificate.pem")).unwrap()).concat();
    fs::write(of("both.pem"), both).unwrap();
    let tables = ["far", "near"].map(|name| {
        format!("[relay.hops.\"mx:{name}.example\"]\ntls = \"verified\"\nca = \"{}\"\n", of("both.pem").display())
    });
    let tables = tables.concat();
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    // Of a session that is proved, but by a name that nobody vouches for, no use is made either.
    submit(&server, ANN, BOB, MESSAGE);
    server.logged(&[" delivered ", " verified"]);
    let id = submit(&server, REQUIRED, BOB, MESSAGE);
    let line = server.logged(&[&id, " failed "]);
    assert!(line.contains("550 5.7.10 DNS names mx.far.example to take this mail, and no signature"), "{line}");
    assert_eq!((far.connections(), mails(&far).len()), (1, 1));
    let told = postrider(&server, &["route", "bob@far.example"]);
    assert!(told.contains("  with REQUIRETLS: it would fail: 550 5.7.10 DNS names mx.far.example "), "{told}");

    let resolver = validating(world.zone.address());
    server.configure(&world.zone.address().to_string(), &resolver.to_string());
    server.signal("HUP");
    server.logged(&[" reloaded "]);
    // Where the first exchanger does not know it, the second gets it in the same attempt.
    for rcpt in ["<bob@far.example>", "<bob@near.example>"] {
        let id = submit(&server, REQUIRED, &[rcpt], MESSAGE);
        let line = server.logged(&[&id, " delivered "]);
        assert!(line.contains("mx.far.example [127.0.0.2]") && line.contains(" verified"), "{line}");
    }
    assert!(!server.log().contains(" deferred "));
    assert!(mails(&far)[1..].iter().all(|line| line.ends_with(" REQUIRETLS")), "{:?}", far.lines());
    assert_eq!((near.connections(), mails(&near).len()), (1, 0));
    let told = postrider(&server, &["route", "bob@far.example"]);
    assert!(told.contains("  with REQUIRETLS: under TLS, with a certificate that ca vouches for, to a host"), "{told}");
}

/// What a verb of the command prints.
fn postrider(server: &Server, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(words).arg("--config").arg(server.path("postrider.toml"));
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn two_of_ours_pass_it_on_to_the_mailbox() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example"]) else { return };
    let ca = folder.path().join("mx.far.example");
    let (certificate, key) = (ca.join("certificate.pem"), ca.join("key.pem"));
    let tls = format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display());
    let mut second = world.prepared_at(2, &Settings { tables: &tls, ..Settings::default() });
    second.configure("hostname = \"mail.example.org\"", "hostname = \"mx.far.example\"");
    second.configure("[\"example.org\", \"example.net\"]", "[\"far.example\"]");
    let users = fs::read_to_string(second.path("users")).unwrap();
    fs::write(second.path("users"), users.replace("example.org", "far.example")).unwrap();
    second.run();
    let hop = format!("mx.far.example:{}", world.port);
    let mut first = world.server(&Settings { tables: &tables(&hop, "", &ca), ..Settings::default() });
    let id = submit(&first, REQUIRED, BOB, MESSAGE);
    assert!(first.logged(&[&id, " delivered "]).contains(" verified"));
    let [found] = second.wait_for("bob@far.example", 1).try_into().unwrap();
    let found = String::from_utf8(found).unwrap();
    let envelope = found.lines().find(|line| line.starts_with("X-Sender: <ann@example.org>")).unwrap();
    assert!(envelope.ends_with(" REQUIRETLS") && found.contains("\r\nTLS-Required: No\r\n"), "{found}");

    // What waits for the second keeps it over a restart of the first, and is told to who looks at the queue.
    second.stop();
    let id = submit(&first, REQUIRED, BOB, MESSAGE);
    first.logged(&[&id, " deferred "]);
    first.stop();
    let shown = postrider(&first, &["queue", "show", &id]);
    assert!(shown.contains(" REQUIRETLS\n"), "{shown}");
    let shown = postrider(&first, &["queue", "show", &id, "--json"]);
    assert!(shown.contains("\"require_tls\":true"), "{shown}");
    second.run();
    first.run();
    second.wait_for("bob@far.example", 2);
    assert!(first.logged(&[&id, " delivered "]).contains(" verified"));
}

#[test]
fn a_report_is_as_protected_as_can_be_and_never_lost_for_it() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example", "hub.example"]) else { return };
    let of = |name: &str| folder.path().join(name);
    let nobody = |line: &str| line.starts_with("RCPT").then(|| say("550 5.1.1 nobody here is called so"));
    let mut under_tls = secure(&server_config(&of("hub.example")), &["REQUIRETLS"]);
    let _hub = world.exchanger(4, &["STARTTLS"], move |line| under_tls(line).or_else(|| nobody(line)));
    let (far, hub) = (format!("mx.far.example:{}", world.port), format!("hub.example:{}", world.port));
    let config = server_config(&of("mx.far.example"));
    let both: &[&str] = &["REQUIRETLS", "DSN"];
    // In the last case it is this host that could not know a proof from any other.
    for (offers, authority, waived) in [
        (Some(both), "certificate.pem", None),
        (Some(&["DSN"]), "certificate.pem", Some("550 5.7.30 ")),
        (None, "certificate.pem", Some("550 5.7.10 ")),
        (Some(both), "none.pem", Some("451 4.3.5 ")),
    ] {
        let tables = format!(
            "[relay.domains]\n\"hub.example\" = \"{hub}\"\n\"far.example\" = \"{far}\"\n\
             [relay.hops.\"{hub}\"]\nca = \"{}\"\n[relay.hops.\"{far}\"]\ntls = \"opportunistic\"\nca = \"{}\"\n",
            of("hub.example").join("certificate.pem").display(),
            of("mx.far.example").join(authority).display(),
        );
        let sender = match offers {
            Some(offers) => host(&world, 2, &config, offers),
            None => world.exchanger(2, &[], |_| None),
        };
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        let message = MESSAGE.replace("ann@example.org", "sue@far.example");
        submit(&server, "<sue@far.example> REQUIRETLS RET=FULL", &["<gone@hub.example>"], &message);
        server.logged(&[" failed to=gone@hub.example ", "550 5.1.1 nobody"]);
        server.logged(&[" delivered to=sue@far.example "]);
        server.queue_is_empty();
        let [report] = sender.messages().try_into().unwrap();
        assert!(report.contains("Status: 5.1.1") && report.contains("Subject: far away"), "{report}");
        assert!(!report.contains("a secret"), "RET=FULL is not for such a message: {report}");
        let [mail] = mails(&sender).try_into().unwrap();
        assert!(mail.starts_with("MAIL FROM:<>") && mail.contains(" REQUIRETLS") == waived.is_none(), "{mail}");
        let line = waived.map(|code| format!(" requiretls-waived hop={far} reply=\"{code}"));
        let is_logged = server.log().contains(line.as_deref().unwrap_or(" requiretls-waived "));
        assert_eq!(is_logged, line.is_some(), "{}", server.log());
    }
}

#[test]
fn what_waits_for_tls_in_vain_comes_back_for_want_of_it() {
    let Some(world) = World::new(RECORDS) else { return };
    let Some(folder) = certificates(&["mx.far.example"]) else { return };
    let refuses = |line: &str| line.starts_with("STARTTLS").then(|| say("454 4.7.0 not today"));
    let far = world.exchanger(2, &["STARTTLS"], refuses);
    let hop = format!("mx.far.example:{}", world.port);
    let tables = tables(&hop, "tls = \"opportunistic\"\n", &folder.path().join("mx.far.example"));
    let delivery = "retry_min = \"1s\"\nretry_max = \"1s\"\nwarn_after = \"1s\"\ngive_up = \"2s\"\n";
    let server = world.server(&Settings { tables: &tables, delivery, ..Settings::default() });
    let id = submit(&server, &format!("{REQUIRED} RET=HDRS"), &["<bob@far.example> NOTIFY=FAILURE"], MESSAGE);
    let line = server.logged(&[&id, " failed "]);
    assert!(line.contains("reply=\"550 5.7.10 given up: mx.far.example [127.0.0.2] offers STARTTLS and"), "{line}");
    server.queue_is_empty();
    let [report] = server.mailbox("ann@example.org").try_into().unwrap();
    let report = String::from_utf8(report).unwrap();
    assert!(report.contains("Status: 5.7.10\r\n") && report.contains("454 4.7.0 not today"), "{report}");
    assert!(mails(&far).is_empty());
}
