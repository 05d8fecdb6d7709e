//! Real clients of mail under TLS, each over STARTTLS or STLS and with TLS from the first octet on: they log in, send to the
//! submission port, and fetch what was sent.

mod support;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use postrider::mail::sasl::client::{Login, Setting};
use postrider::mail::sasl::{self, Bindings, Secret};
use postrider::users;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use support::postfix::{Options, Postfix};
use support::tls;
use support::tls::testing::{Authority, Made};
use support::{PASSWORD, Server, eventually, files, have, skip, write_private};

const MESSAGE: &str =
    "From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: under TLS\r\n\r\n.one dot\r\nthe end\r\n";
const BODY: &str = ".one dot\r\nthe end\r\n";

/// In clear at first, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Upgraded,
    Implicit,
}

const BOTH: [Tls; 2] = [Tls::Upgraded, Tls::Implicit];

impl Tls {
    fn submission(self) -> &'static str {
        if self == Tls::Upgraded { "submission" } else { "submissions" }
    }

    fn pop3(self) -> &'static str {
        if self == Tls::Upgraded { "pop3" } else { "pop3s" }
    }
}

/// A server that lets nobody log in in clear, and shows the certificate that it made itself.
fn server() -> Server {
    Server::start(
        "submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\npop3s = [\"127.0.0.1:0\"]\n\
         [pop3]\ncleartext = []\n",
    )
}

fn port(server: &Server, protocol: &str) -> String {
    server.address(protocol).port().to_string()
}

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

/// Runs a program with `input`, and demands that it ends well.
fn run(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert!(status.success(), "{command:?}: {status}\n{}\n{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// Bob has `count` messages, of which the last came under TLS from ann, who was logged in.
fn arrived(server: &Server, count: usize) {
    let found = server.wait_for("bob@example.org", count);
    let message = text(found.last().unwrap());
    assert_eq!(message.split_once("\r\n\r\n").unwrap().1, BODY);
    for part in [" with ESMTPSA id ", "\r\n\ttls TLS_", "\r\nDate: ", "\r\nMessage-ID: "] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
}

/// Puts a message into bob's mailbox by the port for mail from anywhere.
fn send_to_bob(server: &Server) {
    server.send(&["bob@example.org"], &MESSAGE.replace("\r\n.", "\r\n.."));
    server.queue_is_empty();
}

/// A file that only its owner may read, as programs want those with passwords.
fn private(server: &Server, name: &str, content: &str) -> PathBuf {
    let path = server.path(name);
    write_private(&path, content);
    path
}

#[test]
fn curl() {
    if !have("curl", "curl over TLS") {
        return;
    }
    let server = server();
    for (round, tls) in BOTH.into_iter().enumerate() {
        let scheme = if tls == Tls::Upgraded { ["smtp", "pop3"] } else { ["smtps", "pop3s"] };
        // The certificate is the server's own, and proves the name that it is for.
        let own = server.path("spool/tls/self-signed.pem");
        let curl = |scheme: &str, protocol: &str, path: &str| {
            let (port, mut curl) = (port(&server, protocol), Command::new("curl"));
            curl.args(["-sS", "--ssl-reqd", "--resolve", &format!("mail.example.org:{port}:127.0.0.1"), "--cacert"]);
            curl.arg(&own).arg(format!("{scheme}://mail.example.org:{port}/{path}"));
            curl
        };
        let mut send = curl(scheme[0], tls.submission(), "a.example");
        send.args(["-u", &format!("ann:{PASSWORD}"), "--mail-from", "ann@example.org"]);
        run(send.args(["--mail-rcpt", "bob@example.org", "-T", "-"]), MESSAGE);
        arrived(&server, 1);
        let mut fetch = curl(scheme[1], tls.pop3(), "1");
        let fetched = run(fetch.args(["-u", &format!("bob:{PASSWORD}")]), "");
        assert!(fetched.ends_with(BODY), "{round}: {fetched}");
        let mut delete = curl(scheme[1], tls.pop3(), "1");
        run(delete.args(["-u", &format!("bob:{PASSWORD}"), "-l", "-X", "DELE"]), "");
    }
}

#[test]
fn python() {
    if !have("python3", "smtplib and poplib over TLS") {
        return;
    }
    let server = server();
    let script = r#"
import smtplib, poplib, ssl, sys, time
submission, submissions, pop3, pop3s = map(int, sys.argv[1:5])
message = sys.stdin.buffer.read()
trust = ssl.create_default_context(cafile=sys.argv[5])
trust.check_hostname = False
for implicit in (False, True):
    s = smtplib.SMTP_SSL("127.0.0.1", submissions, context=trust) if implicit else smtplib.SMTP("127.0.0.1", submission)
    if not implicit:
        s.ehlo()
        assert not s.has_extn("auth")
        assert s.docmd("AUTH", "PLAIN")[0] == 538 and s.docmd("MAIL", "FROM:<ann@example.org>")[0] == 530
        s.starttls(context=trust)
    s.ehlo()
    assert s.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"] and not s.has_extn("starttls")
    try: s.login("ann", "wrong"); sys.exit("a wrong password was right")
    except smtplib.SMTPAuthenticationError as error: assert error.smtp_code == 535
    s.login("ANN@example.org", "correct horse")
    try: s.sendmail("bob@example.org", ["bob@example.org"], message); sys.exit("ann is not bob")
    except smtplib.SMTPSenderRefused as error: assert error.smtp_code == 550
    s.sendmail("ann@example.org", ["bob@example.org"], message)
    s.quit()
    for attempt in range(500):
        p = poplib.POP3_SSL("127.0.0.1", pop3s, context=trust) if implicit else poplib.POP3("127.0.0.1", pop3)
        if not implicit:
            assert "STLS" in p.capa() and "USER" not in p.capa()
            p.stls(context=trust)
        assert "STLS" not in p.capa() and p.capa()["SASL"] == ["PLAIN", "LOGIN"]
        p.user("bob"); p.pass_("correct horse")
        if p.stat()[0]: break
        p.quit(); time.sleep(0.01)
    assert p.retr(1)[1][-2:] == [b".one dot", b"the end"]
    p.dele(1); p.quit()
"#;
    let ports = ["submission", "submissions", "pop3", "pop3s"].map(|protocol| port(&server, protocol));
    let own = server.path("spool/tls/self-signed.pem");
    run(Command::new("python3").args(["-c", script]).args(ports).arg(own), MESSAGE);
    assert!(server.mailbox("bob@example.org").is_empty());
}

#[test]
fn swaks() {
    if !have("swaks", "swaks over TLS") {
        return;
    }
    let support = Command::new("swaks").arg("--support").output().unwrap();
    if !text(&support.stdout).contains("=== TLS supported") {
        return skip("swaks over TLS", "swaks has no TLS without Net::SSLeay");
    }
    let server = server();
    for (round, tls) in BOTH.into_iter().enumerate() {
        for (each, mechanism) in ["PLAIN", "LOGIN"].into_iter().enumerate() {
            let how = if tls == Tls::Upgraded { "-tls" } else { "--tlsc" };
            let mut swaks = Command::new("swaks");
            swaks.args(["--server", "127.0.0.1", "--port", &port(&server, tls.submission()), how]);
            swaks.args(["--auth", mechanism, "--auth-user", "ann", "--auth-password", PASSWORD]);
            swaks.args(["--from", "ann@example.org", "--to", "bob@example.org", "--data", "-"]);
            // It ends the last line itself.
            run(&mut swaks, MESSAGE.trim_end());
            arrived(&server, 2 * round + each + 1);
        }
    }
}

#[test]
fn msmtp() {
    if !have("msmtp", "msmtp over TLS") {
        return;
    }
    let server = server();
    for (round, tls) in BOTH.into_iter().enumerate() {
        let settings = format!(
            "account default\nhost 127.0.0.1\nport {}\nauth on\nuser ann\npassword \"{PASSWORD}\"\nfrom ann@example.org\n\
             tls on\ntls_starttls {}\ntls_certcheck off\n",
            port(&server, tls.submission()),
            if tls == Tls::Upgraded { "on" } else { "off" }
        );
        let path = private(&server, "msmtprc", &settings);
        run(Command::new("msmtp").arg("-C").arg(path).arg("-t"), &MESSAGE.replace("\r\n", "\n"));
        arrived(&server, round + 1);
    }
}

#[test]
fn mpop() {
    if !have("mpop", "mpop over TLS") {
        return;
    }
    let server = server();
    let own = server.path("fetched");
    ["tmp", "new", "cur"].iter().for_each(|folder| fs::create_dir_all(own.join(folder)).unwrap());
    for (round, (tls, auth)) in BOTH.into_iter().zip(["plain", "user"]).enumerate() {
        send_to_bob(&server);
        let settings = format!(
            "account default\nhost 127.0.0.1\nport {}\nauth {auth}\nuser bob\npassword \"{PASSWORD}\"\nkeep off\n\
             tls on\ntls_starttls {}\ntls_certcheck off\nuidls_file {}\ndelivery maildir {}\nreceived_header off\n",
            port(&server, tls.pop3()),
            if tls == Tls::Upgraded { "on" } else { "off" },
            server.path("uidls").display(),
            own.display()
        );
        run(Command::new("mpop").arg("-C").arg(private(&server, "mpoprc", &settings)), "");
        assert_eq!(files(&own.join("new")).len(), round + 1);
        assert!(server.mailbox("bob@example.org").is_empty());
    }
}

#[test]
fn fetchmail() {
    if !have("fetchmail", "fetchmail over TLS") {
        return;
    }
    let server = server();
    for (round, tls) in BOTH.into_iter().enumerate() {
        send_to_bob(&server);
        // What is asked for is TLS, by STLS or at once; the certificate is nobody's.
        let ssl = if tls == Tls::Upgraded { "sslproto \"TLS1.2+\"" } else { "ssl" };
        let settings = format!(
            "poll 127.0.0.1 service {} protocol pop3 auth password user \"bob\" password \"{PASSWORD}\" \
             is \"ann@example.org\" here smtphost 127.0.0.1/{} {ssl} no sslcertck\n",
            port(&server, tls.pop3()),
            port(&server, "smtp"),
        );
        let mut fetchmail = Command::new("fetchmail");
        fetchmail.env("FETCHMAILHOME", server.folder.path()).env("HOME", server.folder.path());
        fetchmail.args(["--nodetach", "--nosyslog", "-v", "--pidfile"]).arg(server.path("pid"));
        run(fetchmail.arg("-f").arg(private(&server, "fetchmailrc", &settings)), "");
        server.wait_for("ann@example.org", round + 1);
        assert!(server.mailbox("bob@example.org").is_empty());
    }
}

/// What Postfix sends to the port for mail from anywhere, with these settings.
fn postfix_sends(test: &str, server: &Server, settings: &str) -> Option<Postfix> {
    let settings = format!("smtp_tls_loglevel = 1\n{settings}");
    let options = Options { relayhost: Some(server.smtp_address()), settings: &settings, ..Options::default() };
    let postfix = Postfix::start(test, &options)?;
    postfix.send("ann@far.example", &["bob@example.org"], MESSAGE.replace("\r\n", "\n").as_bytes());
    Some(postfix)
}

#[test]
fn postfix() {
    let test = "Postfix as a client under TLS";
    let authority = Authority::new();
    let Made { certificate, key } = authority.sign(&["mail.example.org"], 90);
    let mut server = Server::prepared("[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n", "");
    fs::write(server.path("certificate.pem"), certificate).unwrap();
    write_private(&server.path("key.pem"), &key);
    fs::write(server.path("authority.pem"), &authority.certificate).unwrap();
    server.run();
    let named = |level: &str, name: &str| {
        let authority = server.path("authority.pem");
        format!(
            "smtp_tls_security_level = {level}\nsmtp_tls_CAfile = {}\nsmtp_tls_{level}_cert_match = {name}\n",
            authority.display()
        )
    };
    for (round, (settings, words)) in [
        ("smtp_tls_security_level = encrypt\n".to_owned(), "Untrusted"),
        ("smtp_tls_security_level = encrypt\nsmtp_tls_mandatory_protocols = <=TLSv1.2\n".to_owned(), "Untrusted"),
        (named("verify", "mail.example.org"), "Verified"),
        (named("secure", "mail.example.org"), "Verified"),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(postfix) = postfix_sends(test, &server, &settings) else { return };
        let message = text(server.wait_for("bob@example.org", round + 1).last().unwrap());
        let version = if settings.contains("TLSv1.2") { ("TLSv1.2", "TLS_ECDHE_") } else { ("TLSv1.3", "TLS_AES_") };
        for part in ["by mail.example.org with ESMTPS id ", &format!("\r\n\ttls {}", version.1)] {
            assert!(message.contains(part), "{part:?} in {message}");
        }
        let agreed = format!("{words} TLS connection established to 127.0.0.1[127.0.0.1]:");
        let log = postfix.log();
        assert!(log.lines().any(|line| line.contains(&agreed) && line.contains(version.0)), "{log}");
    }
    assert_eq!(server.log().matches(" client=127.0.0.1 protocol=ESMTPS").count(), 4, "{}", server.log());
    // One who wants another name gets nothing rid.
    let postfix = postfix_sends(test, &server, &named("secure", "other.example.org")).unwrap();
    eventually("Postfix keeps it", || postfix.log().contains("Server certificate not verified"));
    assert_eq!(server.mailbox("bob@example.org").len(), 4);
}

/// A server all of whose users have a password that is kept for SCRAM.
fn server_with_scram() -> Server {
    let server = Server::prepared(
        "submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\npop3s = [\"127.0.0.1:0\"]\n",
        "",
    );
    let entry = users::scram(PASSWORD.as_bytes());
    fs::write(server.path("users"), format!("ann@example.org:{entry}\nbob@example.org:{entry}\n")).unwrap();
    server
}

#[test]
fn msmtp_and_mpop_by_scram() {
    if !have("msmtp", "msmtp by SCRAM") || !have("mpop", "mpop by SCRAM") {
        return;
    }
    let mut server = server_with_scram();
    server.run();
    let settings = |protocol: &str, user: &str| {
        format!(
            "account default\nhost 127.0.0.1\nport {}\nauth scram-sha-256\nuser {user}\npassword \"{PASSWORD}\"\n\
             tls on\ntls_starttls on\ntls_certcheck off\n",
            port(&server, protocol)
        )
    };
    let send = private(&server, "msmtprc", &(settings("submission", "ann") + "from ann@example.org\n"));
    run(Command::new("msmtp").arg("-C").arg(send).arg("-t"), &MESSAGE.replace("\r\n", "\n"));
    arrived(&server, 1);
    server.logged(&["authenticated", "mechanism=SCRAM-SHA-256 tls="]);
    let mbox = server.path("mbox");
    let more = format!("delivery mbox {}\nuidls_file {}\n", mbox.display(), server.path("uidls").display());
    run(Command::new("mpop").arg("-C").arg(private(&server, "mpoprc", &(settings("pop3", "bob") + &more))), "");
    assert!(fs::read_to_string(mbox).unwrap().contains("the end"));
}

/// What gsasl said, and what it was answered, until it had nothing more to say.
fn gsasl(server: &Server, arguments: &[&str]) -> String {
    let mut gsasl = Command::new("gsasl");
    gsasl.args(["--smtp", &format!("--connect=127.0.0.1:{}", port(server, "submission")), "--authentication-id=ann"]);
    // The certificate is nobody's: the proof that goes both ways stands for it.
    run(gsasl.arg("--x509-ca-file=").args(arguments), "")
}

#[test]
fn gsasl_by_scram_bound_to_the_connection() {
    if !have("gsasl", "gsasl by SCRAM") {
        return;
    }
    let mut server = server_with_scram();
    // It finds STARTTLS only if another line follows in the reply to EHLO, as that with AUTH does.
    let path = server.path("postrider.toml");
    let settings = fs::read_to_string(&path).unwrap() + "[submission]\ncleartext = [\"127.0.0.0/8\"]\n";
    fs::write(path, settings).unwrap();
    server.run();
    let right = format!("--password={PASSWORD}");
    let said = gsasl(&server, &[&right]);
    assert!(said.contains("235 2.7.0"), "{said}");
    server.logged(&["authenticated", "mechanism=SCRAM-SHA-256-PLUS tls=\"TLSv1.3 "]);
    // It would bind this one by tls-unique, which isn't to be had here. Where nothing to bind by is offered it fails by
    // itself (libgsasl 2.2.0 finds its own first message invalid), unless it is told not to.
    let said = gsasl(&server, &[&right, "--priority=NORMAL:-VERS-TLS1.3", "--no-cb"]);
    assert!(said.contains("235 2.7.0") && !said.contains("PLUS"), "{said}");
    server.logged(&["authenticated", "mechanism=SCRAM-SHA-256 tls=\"TLSv1.2 "]);
}

/// Logs ann in by SCRAM-SHA-256-PLUS, bound to `certificate`. The last reply.
fn bound_to(server: &Server, certificate: &CertificateDer<'_>) -> String {
    let mut client = tls::connect(server.address("submissions"));
    client.reply();
    client.ask("EHLO a.example", "250 AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    let end_point = Some(Sha256::digest(certificate).to_vec());
    let setting = Setting {
        protected: true,
        bindings: Bindings { exporter: None, server_end_point: end_point },
        nonce: "fyko+d2lbbFgONRv9qkxdawL".into(),
        server: ("mail.example.org".to_owned(), 465),
    };
    let login = Login::Password { name: "ann".into(), password: Secret(PASSWORD.into()) };
    let start = sasl::client::begin("SCRAM-SHA-256-PLUS", login, setting).unwrap();
    client.send(format!("AUTH {} {}\r\n", start.mechanism, start.initial.unwrap()).as_bytes());
    let mut exchange = start.exchange;
    loop {
        let reply = client.reply();
        let Some(challenge) = reply.strip_prefix("334 ") else {
            assert!(!reply.starts_with("235") || exchange.accepted(None).is_ok(), "the server has proved itself too");
            return reply;
        };
        let (line, next) = exchange.respond(challenge).unwrap();
        exchange = next;
        client.send(format!("{line}\r\n").as_bytes());
    }
}

#[test]
fn a_login_can_be_bound_to_the_certificate_and_is_good_for_no_other() {
    let mut server = server_with_scram();
    server.run();
    let own = CertificateDer::from_pem_file(server.path("spool/tls/self-signed.pem")).unwrap();
    assert!(bound_to(&server, &own).starts_with("235 "));
    server.logged(&["authenticated", "mechanism=SCRAM-SHA-256-PLUS tls="]);
    // As who stands between both would have it, with a certificate of his own.
    assert!(bound_to(&server, &CertificateDer::from(b"another".to_vec())).starts_with("535 "));
}

#[test]
fn openssl() {
    if !have("openssl", "openssl s_client") {
        return;
    }
    let server = server();
    send_to_bob(&server);
    for tls in BOTH {
        for (protocol, starttls, say, answer) in [
            (
                tls.submission(),
                "smtp",
                "EHLO a.example\r\nAUTH PLAIN AGFubgBjb3JyZWN0IGhvcnNl\r\nQUIT\r\n",
                "235 2.7.0",
            ),
            (tls.pop3(), "pop3", "AUTH PLAIN AGJvYgBjb3JyZWN0IGhvcnNl\r\nQUIT\r\n", "+OK 1 messages"),
        ] {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-connect", &server.address(protocol).to_string(), "-ign_eof", "-nocommands"]);
            client.args(["-verify_return_error", "-verify_hostname", "mail.example.org", "-CAfile"]);
            client.arg(server.path("spool/tls/self-signed.pem"));
            if tls == Tls::Upgraded {
                client.args(["-starttls", starttls]);
            }
            let said = run(&mut client, say);
            assert!(said.contains("Verify return code: 0 (ok)") && said.contains(answer), "{said}");
        }
    }
}
