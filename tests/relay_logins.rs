//! Logins at next hops: at real servers by every mechanism that one of them knows, and at fakes for what real ones do not
//! do.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postrider::users;
use support::certificate::Certificate;
use support::dovecot::{DovecotAuth, Issuer};
use support::hop::{Act, say};
use support::postfix::{Options, Postfix};
use support::world::{Settings, World};
use support::{PASSWORD, Server, write_private};

const RECORDS: &str = "smtp.provider.example. A 127.0.0.1\nfake.example. A 127.0.0.2";

const MESSAGE: &str = "From: Ann <ann@example.org>\r\nSubject: far away\r\n\r\nhello\r\n";

const ANN: &str = "<ann@example.org>";

const BOB: &[&str] = &["<bob@far.example>"];

const OLD_ISSUER: Issuer = Issuer { name: "old", key: b"what only the old issuer knows..." };

const NEW_ISSUER: Issuer = Issuer { name: "new", key: b"what only the new issuer knows..." };

/// A smarthost: Postfix that lets only those send whom Dovecot knows.
fn provider(test: &str, certificate: &Certificate, dovecot: &DovecotAuth) -> Option<Postfix> {
    let settings = format!(
        "{}smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\nsmtpd_tls_auth_only = yes\n\
         smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n",
        certificate.settings(),
        dovecot.socket().display()
    );
    let options = Options { mailboxes: &["bob@far.example"], settings: &settings, ..Options::default() };
    Postfix::start(test, &options)
}

/// The tables of a server whose smarthost is at this port; `hop` is what else they say of it.
fn tables(port: u16, hop: &str) -> String {
    format!(
        "[relay]\nsmarthost = \"smtp.provider.example:{port}\"\n\
         [relay.hops.\"smtp.provider.example:{port}\"]\nuser = \"ann\"\n{hop}\n"
    )
}

/// Puts two passwords beside the configuration, where a file that is named later can be read, and returns the file of the
/// wrong one.
fn with_passwords(server: &Server, password: &str, wrong: &str) -> PathBuf {
    write_private(&server.path("password"), password);
    write_private(&server.path("wrong"), wrong);
    server.path("wrong")
}

/// Waits until the smarthost has had this many sessions, so that the next message has one of its own.
fn sessions_over(postfix: &Postfix, count: usize) {
    support::eventually("the session is over", || postfix.log().matches(" disconnect from ").count() == count);
}

#[test]
fn a_smarthost_takes_our_login() {
    let test = "a_smarthost_takes_our_login";
    let Some(certificate) = Certificate::new("smtp.provider.example", test) else { return };
    let Some(world) = World::new(RECORDS) else { return };
    for mechanisms in ["plain", "login", "plain scram-sha-256"] {
        let Some(dovecot) = DovecotAuth::start(test, ("ann", PASSWORD), mechanisms) else { return };
        let Some(postfix) = provider(test, &certificate, &dovecot) else { return };
        let port = postfix.address().port();
        let hop = format!("ca = \"{}\"\npassword_file = \"wrong\"", certificate.file().display());
        let tables = tables(port, &hop);
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        let wrong = with_passwords(&server, &format!("{PASSWORD}\nnot this\n"), "incorrect\n");
        let id = server.submit(ANN, BOB, MESSAGE);
        let line = server.logged(&[&id, " deferred "]);
        let by = mechanisms.rsplit(' ').next().unwrap().to_uppercase();
        for part in [
            format!("451 4.7.8 smtp.provider.example [127.0.0.1] refuses the login of ann by {by}: 535 "),
            format!(r#"; look at relay.hops.\"smtp.provider.example:{port}\": user, and password_file, "#),
            wrong.display().to_string(),
        ] {
            assert!(line.contains(&part), "{part}\n{line}");
        }
        server.configure("\"wrong\"", "\"password\"");
        server.signal("HUP");
        server.logged(&[" reloaded "]);
        assert!(server.logged(&[&id, " delivered "]).contains(" verified\" "));
        let found = String::from_utf8(postfix.wait_for("bob@far.example", 1).remove(0)).unwrap();
        assert!(found.contains(" with ESMTPSA id ") || found.contains("with ESMTPS id"), "{found}");
        assert!(postfix.log().contains(&format!("sasl_method={by}, sasl_username=ann")), "{}", postfix.log());
        for secret in [PASSWORD, "incorrect"] {
            assert!(!server.log().contains(secret), "no secret is in the log");
        }
    }
}

#[test]
fn a_password_comes_from_a_command_too() {
    let test = "a_password_comes_from_a_command_too";
    let Some(certificate) = Certificate::new("smtp.provider.example", test) else { return };
    let Some(world) = World::new(RECORDS) else { return };
    let Some(dovecot) = DovecotAuth::start(test, ("ann", PASSWORD), "plain") else { return };
    let Some(postfix) = provider(test, &certificate, &dovecot) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (asked, secret) = (folder.path().join("asked"), folder.path().join("secret"));
    fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let hop = format!(
        "tls = \"required\"\npassword_command = [\"sh\", \"-c\", \"echo x >> {}; cat {}\"]",
        asked.display(),
        secret.display()
    );
    let tables = tables(postfix.address().port(), &hop);
    let mut server = world.server(&Settings { tables: &tables, ..Settings::default() });
    let times = || fs::read_to_string(&asked).unwrap_or_default().len() / 2;
    for count in 1..=2 {
        let id = server.submit(ANN, BOB, MESSAGE);
        assert!(server.logged(&[&id, " delivered "]).contains(" unverified\" "));
        sessions_over(&postfix, count);
    }
    assert_eq!(times(), 1, "what it printed is used again");
    postfix.wait_for("bob@far.example", 2);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_smarthost_takes_our_token_by_oauthbearer() {
    takes_our_token("a_smarthost_takes_our_token_by_oauthbearer", ("OAUTHBEARER", "invalid_token"));
}

#[test]
fn a_smarthost_takes_our_token_by_xoauth2() {
    takes_our_token("a_smarthost_takes_our_token_by_xoauth2", ("XOAUTH2", "bearer"));
}

/// By this mechanism, and with these words in what Dovecot says of a token that is not good.
fn takes_our_token(test: &str, (mechanism, words): (&str, &str)) {
    let Some(certificate) = Certificate::new("smtp.provider.example", test) else { return };
    let Some(world) = World::new(RECORDS) else { return };
    let offered = mechanism.to_lowercase();
    let Some(mut dovecot) = DovecotAuth::start_with_tokens(test, &OLD_ISSUER, &offered) else { return };
    let Some(postfix) = provider(test, &certificate, &dovecot) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (asked, token) = (folder.path().join("asked"), folder.path().join("token"));
    let times = || fs::read_to_string(&asked).unwrap_or_default().lines().count();
    let hop = format!(
        "ca = \"{}\"\ntoken_command = [\"sh\", \"-c\", \"echo x >> {}; cat {}\"]",
        certificate.file().display(),
        asked.display(),
        token.display()
    );
    write_private(&token, &NEW_ISSUER.token("ann"));
    let server = world.server(&Settings { tables: &tables(postfix.address().port(), &hop), ..Settings::default() });
    let id = server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[&id, " deferred "]);
    let refused = format!("refuses the login of ann by {mechanism}: 535 ");
    assert!(line.contains(&refused) && line.contains(words), "{line}");

    write_private(&token, &OLD_ISSUER.token("ann"));
    assert!(server.logged(&[&id, " delivered "]).contains(" verified\" "));
    let before = times();
    sessions_over(&postfix, before);
    let id = server.submit(ANN, BOB, MESSAGE);
    server.logged(&[&id, " delivered "]);
    assert_eq!(times(), before, "the token is used again");
    sessions_over(&postfix, before + 1);

    // The provider changes its keys, and the token that is at hand is worth nothing all at once.
    dovecot.trust(&NEW_ISSUER);
    write_private(&token, &NEW_ISSUER.token("ann"));
    let id = server.submit(ANN, BOB, MESSAGE);
    server.logged(&[&id, " delivered "]);
    assert_eq!(times(), before + 1, "another one is asked for, once");
    assert!(!server.log().contains(&format!(" {id} deferred ")), "in the same attempt");
    postfix.wait_for("bob@far.example", 3);
    let by = format!("sasl_method={mechanism}, sasl_username=ann");
    assert_eq!(postfix.log().matches(&by).count(), 3, "each was let in by it");
    for issuer in [&OLD_ISSUER, &NEW_ISSUER] {
        let token = issuer.token("ann");
        assert!(!server.log().contains(token.split('.').next().unwrap()), "no token is in the log");
    }
}

#[test]
fn our_own_server_takes_our_login_bound_to_the_connection() {
    let Some(world) = World::new(RECORDS) else { return };
    // Far away, where ann has a login by which she may send as she is known here.
    let mut far = Server::prepared("submission = [\"127.0.0.1:0\"]\n", "");
    far.configure("mail.example.org", "smtp.provider.example");
    far.configure("\"example.org\", \"example.net\"", "\"far.example\"");
    let keys = users::scram(PASSWORD.as_bytes());
    let users = format!("ann@far.example:{keys}::::::postrider_senders=@example.org\nbob@far.example:{keys}\n");
    fs::write(far.path("users"), users).unwrap();
    far.run();

    let own = far.path("spool/tls/self-signed.pem");
    let hop = format!("ca = \"{}\"\npassword_file = \"wrong\"", own.display());
    let tables = tables(far.address("submission").port(), &hop);
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    with_passwords(&server, PASSWORD, "incorrect");
    let id = server.submit(ANN, BOB, MESSAGE);
    let line = server.logged(&[&id, " deferred "]);
    assert!(line.contains(" refuses the login of ann by SCRAM-SHA-256-PLUS: 535 5.7.8 "), "{line}");

    server.configure("\"wrong\"", "\"password\"");
    server.signal("HUP");
    server.logged(&[" reloaded "]);
    assert!(server.logged(&[&id, " delivered "]).contains(" verified\" "));
    far.logged(&[" authenticated ", "user=ann@far.example mechanism=SCRAM-SHA-256-PLUS tls=\"TLSv1.3 "]);
    far.logged(&[" accepted from=<ann@example.org> to=bob@far.example ", " protocol=ESMTPSA"]);
    let found = String::from_utf8(far.wait_for("bob@far.example", 1).remove(0)).unwrap();
    assert!(found.contains("by smtp.provider.example with ESMTPSA id "), "{found}");
}

#[test]
fn a_token_that_grew_old_has_a_successor_in_the_same_attempt() {
    let Some(world) = World::new(RECORDS) else { return };
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let far = world.exchanger(2, &["AUTH OAUTHBEARER"], move |line| match line.split(' ').next() {
        Some("AUTH") => {
            let is_second = count.fetch_add(1, Ordering::SeqCst) == 1;
            Some(support::hop::say(if is_second { "535 5.7.8 it is too old" } else { "235 2.7.0 welcome" }))
        }
        Some(".") => Some(Act::Gone("250 2.0.0 taken".into())),
        _ => None,
    });
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    // Sent in clear, for it is on this host itself.
    let hop = format!("fake.example:{}", world.port);
    let tables = format!(
        "[relay.domains]\n\"far.example\" = \"{hop}\"\n[relay.hops.\"{hop}\"]\ntls = \"opportunistic\"\nuser = \"ann\"\n\
         token_command = [\"sh\", \"-c\", \"echo x >> {0}; wc -l < {0}\"]\n",
        asked.display()
    );
    let server = world.server(&Settings { tables: &tables, ..Settings::default() });
    for (logins_then, asked_then) in [(1, 1), (3, 2)] {
        let id = server.submit(ANN, BOB, MESSAGE);
        server.logged(&[&id, " delivered "]);
        assert_eq!(logins.load(Ordering::SeqCst), logins_then);
        assert_eq!(fs::read_to_string(&asked).unwrap().lines().count(), asked_then);
    }
    assert!(!server.log().contains(" deferred "), "{}", server.log());
    assert_eq!(far.messages().len(), 2);
}

#[test]
fn who_logs_in_vouches_for_no_submitter_and_who_does_not_says_nothing_of_one() {
    let Some(world) = World::new(RECORDS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    write_private(&file, PASSWORD);
    let hop = format!("fake.example:{}", world.port);
    let login = format!("user = \"ann\"\npassword_file = \"{}\"\n", file.display());
    for (login, expected) in [(&*login, "MAIL FROM:<ann@example.org> AUTH=<>"), ("", "MAIL FROM:<ann@example.org>")] {
        let yes = |line: &str| line.starts_with("AUTH").then(|| say("235 2.7.0 you are in"));
        let far = world.exchanger(2, &["AUTH PLAIN"], yes);
        let tables = format!(
            "[relay.domains]\n\"far.example\" = \"{hop}\"\n[relay.hops.\"{hop}\"]\ntls = \"opportunistic\"\n{login}"
        );
        let server = world.server(&Settings { tables: &tables, ..Settings::default() });
        let id = server.submit(ANN, BOB, MESSAGE);
        server.logged(&[&id, " delivered "]);
        let mail = far.lines().into_iter().find(|line| line.starts_with("MAIL"));
        assert_eq!(mail.as_deref(), Some(expected));
    }
}
