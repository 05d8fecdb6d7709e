//! Real programs as peers: what people send with, what they fetch with, and Dovecot on the same mailboxes.
#![allow(clippy::print_stderr)]

mod support;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use postrider::mail::sasl::client::{Login, Setting};
use postrider::mail::sasl::{self, Bindings, Secret};
use postrider::users::{self, Users};
use support::{Client, PASSWORD, Server, eventually, files, have};

const MESSAGE: &str = "From: Sender <sender@far.example>\r\nTo: ann@example.org\r\nSubject: by hand\r\n\r\n\
                       .one dot\r\n..two dots\r\nGrüße\r\n.\r\nthe end\r\n";
/// What stands below the header.
const BODY: &str = ".one dot\r\n..two dots\r\nGrüße\r\n.\r\nthe end\r\n";

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

/// Runs a program with `input`, and demands that it ends well.
fn run(command: &mut Command, input: &str) -> String {
    let Output { status, stdout, stderr } = run_anyhow(command, input);
    assert!(status.success(), "{command:?}: {status}\n{}\n{}", text(&stdout), text(&stderr));
    text(&stdout)
}

fn run_anyhow(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The one message in ann's mailbox, whose body has to be [`BODY`].
fn arrived(server: &Server) -> String {
    let message = text(&server.wait_for("ann@example.org", 1)[0]);
    assert_eq!(message.split_once("\r\n\r\n").unwrap().1, BODY);
    message
}

/// A server with a message that was sent by SMTP.
fn with_mail() -> Server {
    let server = Server::start("");
    // Dots doubled by hand, as the protocol has it.
    server.send(&["ann@example.org"], &MESSAGE.replace("\r\n.", "\r\n.."));
    arrived(&server);
    server
}

fn is_empty(server: &Server) {
    assert!(server.mailbox("ann@example.org").is_empty());
}

#[test]
fn curl_sends_and_fetches() {
    if !have("curl", "curl_sends_and_fetches") {
        return;
    }
    let server = Server::start("");
    let smtp = format!("smtp://{}", server.smtp_address());
    let mut send = Command::new("curl");
    send.args(["-sS", &smtp, "--mail-from", "sender@far.example", "--mail-rcpt", "ann@example.org", "-T", "-"]);
    run(&mut send, MESSAGE);
    let stored = arrived(&server);
    let login = format!("ann@example.org:{PASSWORD}");
    let pop3 = |path: &str, more: &[&str]| {
        let url = format!("pop3://{}/{path}", server.pop3_address());
        run(Command::new("curl").args(["-sS", &url, "-u", &login]).args(more), "")
    };
    assert!(pop3("", &[]).starts_with("1 "));
    assert_eq!(pop3("1", &[]), stored);
    pop3("1", &["-l", "-X", "DELE"]);
    is_empty(&server);
    let url = format!("pop3://{}/1", server.pop3_address());
    let wrong = run_anyhow(Command::new("curl").args(["-sS", &url, "-u", "ann@example.org:wrong"]), "");
    assert_eq!(wrong.status.code(), Some(67), "curl's word for a denied login");
}

#[test]
fn python_sends_and_fetches() {
    if !have("python3", "python_sends_and_fetches") {
        return;
    }
    let server = Server::start("");
    let script = r#"
import smtplib, poplib, sys
smtp, pop3, message = sys.argv[1], sys.argv[2], sys.stdin.buffer.read()
with smtplib.SMTP("127.0.0.1", int(smtp)) as s:
    s.ehlo()
    assert s.has_extn("pipelining") and s.has_extn("8bitmime") and s.has_extn("smtputf8") and s.has_extn("size")
    refused = s.sendmail("sender@far.example", ["ann@example.org", "nobody@example.org"], message, ["BODY=8BITMIME"])
    assert list(refused) == ["nobody@example.org"] and refused["nobody@example.org"][0] == 550, refused
    assert s.verify("ann@example.org")[0] in (250, 252)
    assert s.noop()[0] == 250 and s.rset()[0] == 250
import time
for attempt in range(500):
    p = poplib.POP3("127.0.0.1", int(pop3))
    assert "UIDL" in p.capa()
    p.user("ann@example.org"); p.pass_("correct horse")
    if p.stat()[0]: break
    p.quit(); time.sleep(0.01)
lines = p.retr(1)[1]
assert lines[-5:] == message.split(b"\r\n")[-6:-1], lines
assert len(p.top(1, 1)[1]) == lines.index(b"") + 2
assert p.uidl(1).split()[0] == b"+OK" and p.list()[1] == [b"1 %d" % p.stat()[1]]
p.dele(1); p.rset(); p.dele(1); p.quit()
"#;
    let ports = [server.smtp_address().port().to_string(), server.pop3_address().port().to_string()];
    run(Command::new("python3").args(["-c", script]).args(ports), MESSAGE);
    is_empty(&server);
}

#[test]
fn swaks_sends_with_and_without_pipelining() {
    if !have("swaks", "swaks_sends_with_and_without_pipelining") {
        return;
    }
    let server = Server::start("");
    for more in [&["--pipeline"][..], &[], &["--protocol", "SMTP"]] {
        let address = server.smtp_address().to_string();
        let mut swaks = Command::new("swaks");
        swaks.args(["--server", &address, "--from", "s@far.example", "--to", "ann@example.org,bob@example.org"]);
        run(swaks.args(["--body", "hello"]).args(more), "");
    }
    server.wait_for("ann@example.org", 3);
    server.wait_for("bob@example.org", 3);
}

#[test]
fn msmtp_sends_as_sendmail_does() {
    if !have("msmtp", "msmtp_sends_as_sendmail_does") {
        return;
    }
    let server = Server::start("");
    let port = server.smtp_address().port().to_string();
    let mut msmtp = Command::new("msmtp");
    msmtp.args(["-C", "/dev/null", "--host=127.0.0.1", "--port", &port, "--from=sender@far.example", "-t"]);
    // It reads lines as this system writes them.
    run(&mut msmtp, &MESSAGE.replace("\r\n", "\n"));
    arrived(&server);
}

#[test]
fn mpop_fetches_into_its_own_maildir() {
    if !have("mpop", "mpop_fetches_into_its_own_maildir") {
        return;
    }
    let server = with_mail();
    let own = server.path("fetched");
    ["tmp", "new", "cur"].iter().for_each(|folder| fs::create_dir_all(own.join(folder)).unwrap());
    let settings = format!(
        "account default\nhost 127.0.0.1\nport {}\nauth user\nuser ann@example.org\npassword \"{PASSWORD}\"\ntls off\n\
         keep off\nuidls_file {}\ndelivery maildir {}\nreceived_header off\n",
        server.pop3_address().port(),
        server.path("uidls").display(),
        own.display()
    );
    let path = server.path("mpoprc");
    fs::write(&path, settings).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    run(Command::new("mpop").arg("-C").arg(&path), "");
    let fetched = files(&own.join("new"));
    assert_eq!(fetched.len(), 1);
    let fetched = text(&fs::read(&fetched[0]).unwrap());
    assert_eq!(fetched.split_once("\n\n").unwrap().1, BODY.replace("\r\n", "\n"));
    is_empty(&server);
}

#[test]
fn fetchmail_moves_mail_from_one_owner_to_another() {
    if !have("fetchmail", "fetchmail_moves_mail_from_one_owner_to_another") {
        return;
    }
    let server = with_mail();
    let settings = format!(
        "poll 127.0.0.1 service {} protocol pop3 auth password user \"ann@example.org\" password \"{PASSWORD}\" \
         is \"bob@example.org\" here smtphost 127.0.0.1/{} sslproto \"\"\n",
        server.pop3_address().port(),
        server.smtp_address().port()
    );
    let path = server.path("fetchmailrc");
    fs::write(&path, settings).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut fetchmail = Command::new("fetchmail");
    fetchmail
        .env("FETCHMAILHOME", server.folder.path())
        .env("HOME", server.folder.path())
        .arg("--nodetach")
        .arg("-f")
        .arg(&path);
    fetchmail.args(["--pidfile", &server.path("pid").to_string_lossy(), "--nosyslog", "-v"]);
    run(&mut fetchmail, "");
    let moved = text(&server.wait_for("bob@example.org", 1)[0]);
    assert_eq!(moved.split_once("\r\n\r\n").unwrap().1, BODY);
    is_empty(&server);
}

/// Dovecot's IMAP server with our Maildir and our users file; ended with the value.
struct Dovecot {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Dovecot {
    fn start(server: &Server) -> Dovecot {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = server.folder.path().display();
        let is_24 = run(Command::new("dovecot").arg("--version"), "").starts_with("2.4");
        // The two lines of releases have different words for the same things.
        let words = if is_24 {
            format!(
                "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nmail_driver = maildir\n\
                 mail_path = {root}/spool/mail/%{{user|domain}}/%{{user|username}}\nauth_allow_cleartext = yes\n\
                 passdb passwd-file {{\n passwd_file_path = {root}/users\n}}\n\
                 userdb static {{\n fields {{\n  uid = mail\n  gid = mail\n  home = {root}/home/%{{user}}\n }}\n}}\n"
            )
        } else {
            format!(
                "mail_location = maildir:{root}/spool/mail/%d/%n\ndisable_plaintext_auth = no\n\
                 passdb {{\n driver = passwd-file\n args = {root}/users\n}}\n\
                 userdb {{\n driver = static\n args = uid=mail gid=mail home={root}/home/%u\n}}\n"
            )
        };
        let text = format!(
            "{words}auth_mechanisms = plain login scram-sha-256\nbase_dir = {root}/dovecot\n\
             state_dir = {root}/dovecot-state\nlog_path = {root}/dovecot.log\n\
             ssl = no\nprotocols = imap\nfirst_valid_uid = 1\nfirst_valid_gid = 1\nmail_uid = mail\nmail_gid = mail\n\
             service imap-login {{\n chroot =\n inet_listener imap {{\n  port = {}\n }}\n inet_listener imaps {{\n  port = 0\n }}\n}}\n\
             service anvil {{\n chroot =\n}}\n",
            address.port()
        );
        // Its login process is another account's, and comes through here.
        fs::set_permissions(&server.folder, fs::Permissions::from_mode(0o755)).unwrap();
        let path = server.path("dovecot.conf");
        fs::write(&path, text).unwrap();
        let child = Command::new("dovecot").arg("-F").arg("-c").arg(&path).spawn().unwrap();
        Dovecot { child, address, log: server.path("dovecot.log") }
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Dovecot's log\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Says an IMAP command, and returns all that comes up to its answer.
fn imap(client: &mut Client, command: &str) -> String {
    client.send(format!("a {command}\r\n").as_bytes());
    let mut said = String::new();
    loop {
        let line = client.line();
        assert!(!line.starts_with("* BYE") && (!line.is_empty() || !said.is_empty()), "{command}: {said}{line}");
        said += &line;
        said += "\r\n";
        if line.starts_with("a ") {
            assert!(line.starts_with("a OK"), "{command}: {said}");
            return said;
        }
    }
}

#[test]
fn dovecot_and_pop3_share_mailbox_and_users() {
    let test = "dovecot_and_pop3_share_mailbox_and_users";
    if !have("dovecot", test) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return support::skip(test, "Dovecot is started by root");
    }
    // Dovecot serves no mail as root: both are the account that mail has on this system.
    let mut server = Server::prepared("", "");
    let config = fs::read_to_string(server.path("postrider.toml")).unwrap();
    fs::write(server.path("postrider.toml"), format!("run_as = \"mail\"\n{config}")).unwrap();
    run(Command::new("chown").args(["-R", "mail:mail"]).arg(server.folder.path()), "");
    server.run();
    server.send(&["ann@example.org"], &MESSAGE.replace("\r\n.", "\r\n.."));
    arrived(&server);
    let dovecot = Dovecot::start(&server);
    eventually("Dovecot listens", || std::net::TcpStream::connect(dovecot.address).is_ok());
    let mut client = Client::connect(dovecot.address);
    assert!(client.line().starts_with("* OK"));
    imap(&mut client, &format!("LOGIN ann@example.org \"{PASSWORD}\""));
    assert!(imap(&mut client, "SELECT INBOX").contains("* 1 EXISTS"));
    let stored = text(&fs::read(&maildir_files(&server)[0]).unwrap());
    let fetched = imap(&mut client, "FETCH 1 (BODY[] RFC822.SIZE)");
    assert!(fetched.contains(&stored), "{fetched}");
    assert!(fetched.contains(&format!("RFC822.SIZE {}", stored.len())), "the size in the name is right: {fetched}");
    // Read by IMAP, the file has moved to cur/ under another name: POP3 gives it all the same, also to a session that
    // was open before.
    let mut pop3 = server.pop3();
    pop3.log_in("ann@example.org");
    let uid = pop3.ask("UIDL 1", "+OK 1 ");
    imap(&mut client, "STORE 1 +FLAGS (\\Seen \\Flagged)");
    pop3.ask("RETR 1", "+OK");
    assert_eq!(text(&pop3.octets_to_dot()), stored);
    assert_eq!(pop3.ask("UIDL 1", "+OK"), uid);
    server.send(&["ann@example.org"], "Subject: two\r\n\r\nx\r\n");
    eventually("IMAP sees the second", || imap(&mut client, "NOOP").contains("2 EXISTS"));
    pop3.ask("DELE 1", "+OK");
    pop3.ask("QUIT", "+OK");
    eventually("IMAP sees it go", || imap(&mut client, "NOOP").contains("EXPUNGE"));
    assert_eq!(maildir_files(&server).len(), 1);
}

#[test]
fn dovecot_takes_our_users_file_and_our_scram() {
    let test = "dovecot_takes_our_users_file_and_our_scram";
    if !have("dovecot", test) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return support::skip(test, "Dovecot is started by root");
    }
    let server = Server::prepared("", "");
    let entry = users::scram(PASSWORD.as_bytes());
    let line = format!("ann@example.org:{entry}::::::postrider_senders=info@example.org,@shop.example\n");
    fs::write(server.path("users"), &line).unwrap();
    Users::parse(&server.path("users"), &line).unwrap();
    run(Command::new("chown").args(["-R", "mail:mail"]).arg(server.folder.path()), "");
    let dovecot = Dovecot::start(&server);
    eventually("Dovecot listens", || std::net::TcpStream::connect(dovecot.address).is_ok());
    let mut client = Client::connect(dovecot.address);
    client.line();
    imap(&mut client, &format!("LOGIN ann@example.org \"{PASSWORD}\""));
    assert!(authenticate(&dovecot, PASSWORD).starts_with("a OK"));
    assert!(authenticate(&dovecot, "wrong").starts_with("a NO"));
}

/// Logs in by SCRAM, and returns what Dovecot says in the end; a yes was proved.
fn authenticate(dovecot: &Dovecot, password: &str) -> String {
    let mut connection = Client::connect(dovecot.address);
    connection.line();
    let login = Login::Password { name: "ann@example.org".into(), password: Secret(password.into()) };
    let (bindings, server) = (Bindings::default(), ("localhost".to_owned(), 143));
    let setting = Setting { protected: true, bindings, nonce: "fyko+d2lbbFgONRv9qkxdawL".into(), server };
    let start = sasl::client::begin("PLAIN SCRAM-SHA-256", login, setting).unwrap();
    connection.send(format!("a AUTHENTICATE {}\r\n", start.mechanism).as_bytes());
    let (mut initial, mut exchange) = (start.initial, start.exchange);
    loop {
        let said = connection.line();
        let Some(challenge) = said.strip_prefix("+") else {
            assert!(!said.starts_with("a OK") || exchange.accepted(None).is_ok());
            return said;
        };
        let line = match initial.take() {
            Some(initial) => initial,
            None => {
                let (line, next) = exchange.respond(challenge.trim()).unwrap();
                exchange = next;
                line
            }
        };
        connection.send(format!("{line}\r\n").as_bytes());
    }
}

fn maildir_files(server: &Server) -> Vec<PathBuf> {
    ["new", "cur"].iter().flat_map(|folder| files(&server.path("spool/mail/example.org/ann").join(folder))).collect()
}
