//! Mail to other hosts under TLS: real ones that do it well, and fakes that do it badly.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use support::certificate::Certificate;
use support::have;
use support::hop::Act;
use support::postfix::{Options, Postfix};
use support::world::{Settings, World};

const RECORDS: &str = "far.example. MX 10 mx.far.example.\nmx.far.example. A 127.0.0.1\n\
                       fake.example. A 127.0.0.2";

const MESSAGE: &str = "From: Ann <ann@example.org>\r\nSubject: far away\r\n\r\nhello\r\n";

const ANN: &str = "<ann@example.org>";

const BOB: &[&str] = &["<bob@far.example>"];

/// Postfix as `bob@far.example`'s host, with TLS.
fn far(test: &str, certificate: &Certificate) -> Option<Postfix> {
    let settings = certificate.settings();
    Postfix::start(test, &Options { mailboxes: &["bob@far.example"], settings: &settings, ..Options::default() })
}

#[test]
fn tls_is_taken_where_it_is_offered() {
    let test = "tls_is_taken_where_it_is_offered";
    let Some(certificate) = Certificate::new("someone.else.example", test) else { return };
    let Some(mut world) = World::new(RECORDS) else { return };
    let Some(postfix) = far(test, &certificate) else { return };
    world.port = postfix.address().port();
    let server = world.server(&Settings::default());
    let id = server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[&id, " delivered to=bob@far.example "]);
    assert!(line.contains("how=\"mx.far.example [127.0.0.1]\" tls=\"TLSv1.3 TLS_"), "{line}");
    assert!(line.contains(" unverified\" waited="), "{line}");
    let found = String::from_utf8(postfix.wait_for("bob@far.example", 1).remove(0)).unwrap();
    assert!(found.contains("(using TLSv1.3 ") && found.contains(" with ESMTPS id "), "{found}");
    // Again in the same session.
    let id = server.submit(ANN, BOB, MESSAGE);
    assert!(server.logged(&[&id, " delivered "]).contains("tls=\"TLSv1.3 "));
    server.submit(ANN, &["<bob@example.org>"], MESSAGE);
    assert!(!server.logged(&["delivered to=bob@example.org"]).contains("tls="), "a mailbox here needs none");
}

#[test]
fn a_host_is_who_it_is_by_authority_or_by_key() {
    let test = "a_host_is_who_it_is_by_authority_or_by_key";
    let Some(certificate) = Certificate::new("mx.far.example", test) else { return };
    let Some(mut world) = World::new(RECORDS) else { return };
    let Some(postfix) = far(test, &certificate) else { return };
    world.port = postfix.address().port();
    let tables = "[relay.hops.\"mx:far.example\"]\ntls = \"verified\"\n";
    let server = world.server(&Settings { tables, ..Settings::default() });
    server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[" deferred to=bob@far.example "]);
    assert!(line.contains("451 4.7.5 nobody we trust has signed the certificate of mx.far.example; "), "{line}");
    assert!(line.contains(r#"name its certificate with relay.hops.\"mx:far.example\".ca"#), "{line}");
    assert!(postfix.mailbox("bob@far.example").is_empty());

    // Beside the configuration, where a file that is named later can be read.
    std::fs::copy(certificate.file(), server.path("ca.pem")).unwrap();
    let ca = "ca = \"ca.pem\"\n";
    server.configure("tls = \"verified\"\n", ca);
    server.signal("HUP");
    server.logged(&[" reloaded "]);
    assert!(server.logged(&[" delivered to=bob@far.example "]).contains(" verified\" "));
    postfix.wait_for("bob@far.example", 1);

    // The session that waits was opened by other settings, and is not used.
    let wrong = Certificate::new("mx.far.example", test).unwrap().pin();
    server.configure(ca, &format!("pin = \"{wrong}\"\n"));
    server.signal("HUP");
    support::eventually("it has reloaded twice", || server.log().matches(" reloaded ").count() >= 2);
    let id = server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[&id, " deferred "]);
    assert!(line.contains(&format!("its pin is {}", certificate.pin())), "{line}");
    server.configure(&wrong, &certificate.pin());
    server.signal("HUP");
    support::eventually("it has reloaded thrice", || server.log().matches(" reloaded ").count() >= 3);
    assert!(server.logged(&[&id, " delivered "]).contains(" pinned\" "));
}

#[test]
fn an_offer_that_was_taken_out_is_noticed_where_tls_is_asked_for() {
    let Some(world) = World::new(RECORDS) else { return };
    let far = world.exchanger(2, &["PIPELINING", "AUTH PLAIN"], |_| None);
    let hop = format!("fake.example:{}", world.port);
    for (settings, words) in [
        ("tls = \"verified\"", "451 4.7.4 fake.example [127.0.0.2] offers no STARTTLS"),
        ("tls = \"required\"", "451 4.7.4 fake.example [127.0.0.2] offers no STARTTLS"),
        ("user = \"ann\"\npassword_command = [\"echo\", \"secret\"]", "offers no STARTTLS"),
    ] {
        let tables = format!("[relay.domains]\n\"far.example\" = \"{hop}\"\n[relay.hops.\"{hop}\"]\n{settings}\n");
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        server.submit(ANN, BOB, MESSAGE);
        let line = server.logged(&[" deferred to=bob@far.example "]);
        assert!(line.contains(words) && line.contains(&format!(r#"relay.hops.\"{hop}\""#)), "{settings}: {line}");
    }
    let said = far.lines();
    assert!(!said.iter().any(|line| line.starts_with("MAIL") || line.starts_with("AUTH")), "{said:?}");
    let tables = format!("[relay.domains]\n\"far.example\" = \"{hop}\"\n");
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    let id = server.submit(ANN, BOB, MESSAGE);
    assert!(server.logged(&[&id, " delivered "]).contains(" tls=none "));
    assert!(!server.log().contains(" in-clear "), "nothing went wrong");
}

#[test]
fn tls_that_fails_is_done_without_where_it_may_be() {
    let Some(world) = World::new(RECORDS) else { return };
    let refuses = |line: &str| line.starts_with("STARTTLS").then(|| support::hop::say("454 4.7.0 not today"));
    let leaves = |line: &str| line.starts_with("STARTTLS").then(|| Act::Gone("220 go ahead".into()));
    let injected = |line: &str| line.starts_with("STARTTLS").then(|| Act::Last("220 go ahead\r\n250 injected".into()));
    fn check<F>(world: &World, except: F, words: &str)
    where
        F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
    {
        let far = world.exchanger(2, &["STARTTLS"], except);
        let hop = format!("fake.example:{}", world.port);
        let to = format!("[relay.domains]\n\"far.example\" = \"{hop}\"\n");
        let server = world.server(&Settings { tables: &to, ..Settings::default() });
        let id = server.submit(ANN, BOB, MESSAGE);
        assert!(server.logged(&[&id, " delivered "]).contains(" tls=none "));
        let line = server.logged(&[&id, " in-clear host=\"fake.example [127.0.0.2]\" reply="]);
        assert!(line.contains(words), "{line}");
        assert_eq!((far.connections(), far.messages().len()), (2, 1));
        drop(server);
        let strict = format!("{to}[relay.hops.\"{hop}\"]\ntls = \"required\"\n");
        let server = world.server(&Settings { tables: &strict, ..Settings::default() });
        server.submit(ANN, BOB, MESSAGE);
        let line = server.logged(&[" deferred "]);
        assert!(line.contains(words), "{line}");
        assert_eq!(far.messages().len(), 1, "nothing went in clear");
    }
    check(&world, refuses, "451 4.7.4 fake.example [127.0.0.2] offers STARTTLS and refuses it: 454 4.7.0 not today");
    check(&world, leaves, "closed the connection while we agreed with it on TLS");
    check(&world, injected, "451 4.5.0 fake.example [127.0.0.2] broke the protocol");
}

#[test]
fn noise_in_the_place_of_a_handshake_is_followed_by_clear_text() {
    let Some(world) = World::new(RECORDS) else { return };
    let (real, noise) = (TcpListener::bind("127.0.0.1:0").unwrap(), world.listener(2));
    let inner = support::hop::Exchanger::start(real, &["STARTTLS"], |_| None);
    let target = inner.address;
    std::thread::spawn(move || {
        let (mut first, _) = noise.accept().unwrap();
        first.write_all(b"220 a\r\n").unwrap();
        let mut buffer = [0; 4096];
        assert!(first.read(&mut buffer).unwrap() > 0);
        first.write_all(b"250-a\r\n250 STARTTLS\r\n").unwrap();
        assert!(first.read(&mut buffer).unwrap() > 0);
        first.write_all(b"220 go ahead\r\n").unwrap();
        assert!(first.read(&mut buffer).unwrap() > 0);
        first.write_all(b"this is no TLS at all, and never was\r\n").unwrap();
        let (mut second, _) = noise.accept().unwrap();
        let mut there = std::net::TcpStream::connect(target).unwrap();
        let (mut back, mut forth) = (there.try_clone().unwrap(), second.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        let _ = std::io::copy(&mut second, &mut there);
    });
    let tables = format!("[relay.domains]\n\"far.example\" = \"fake.example:{}\"\n", world.port);
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    let id = server.submit(ANN, BOB, MESSAGE);
    assert!(server.logged(&[&id, " in-clear "]).contains("451 4.7.5 what fake.example sends is no TLS"));
    server.logged(&[&id, " delivered ", " tls=none "]);
    assert_eq!(inner.messages().len(), 1);
}

/// A server with what only old hosts have: TLS 1.2 with a certificate of the first version, expired, for a key of 1024 bits.
const OLD_HOST: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers("ALL:@SECLEVEL=0")
context.load_cert_chain("cert.pem", "key.pem")
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    file = connection.makefile("rwb", 0)
    file.write(b"220 old\r\n")
    while True:
        line = file.readline()
        word = line.split(b" ")[0].strip()
        if word == b"STARTTLS":
            file.write(b"220 go ahead\r\n")
            try:
                file = context.wrap_socket(connection, server_side=True).makefile("rwb", 0)
            except OSError:
                break
        elif word == b"EHLO":
            file.write(b"250-old\r\n250 STARTTLS\r\n")
        elif word == b"DATA":
            file.write(b"354 go on\r\n")
            while file.readline() not in (b".\r\n", b""):
                pass
            file.write(b"250 taken\r\n")
        elif line:
            file.write(b"250 ok\r\n")
        if word in (b"QUIT", b""):
            break
"#;

#[test]
fn an_old_host_still_gets_tls() {
    let test = "an_old_host_still_gets_tls";
    if !have("openssl", test) || !have("python3", test) {
        return;
    }
    let Some(world) = World::new(RECORDS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let request = "openssl req -new -nodes -newkey rsa:1024 -keyout key.pem -subj /CN=old.example -out req.pem";
    let sign = "openssl x509 -req -in req.pem -signkey key.pem -out cert.pem -sha1";
    let make = format!("{request}; {sign} -days -1 || {sign} -not_after 20200101000000Z");
    let made = Command::new("sh").args(["-ec", &make]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let address = world.address(2);
    let mut command = Command::new("python3");
    command.args(["-c", OLD_HOST, &address.ip().to_string(), &address.port().to_string()]).current_dir(folder.path());
    let mut old = command.spawn().unwrap();
    support::eventually("the old host listens", || std::net::TcpStream::connect(address).is_ok());
    let tables = format!("[relay.domains]\n\"far.example\" = \"fake.example:{}\"\n", world.port);
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    let id = server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[&id, " delivered "]);
    old.kill().unwrap();
    old.wait().unwrap();
    assert!(line.contains("tls=\"TLSv1.2 TLS_ECDHE_RSA_") && line.contains(" unverified\""), "{line}");
}
