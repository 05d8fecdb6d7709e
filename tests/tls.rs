//! TLS against OpenSSL: its client speaks with our connections, and our client with servers that show what old hosts show.
//!
//! Where the openssl command is not installed, the tests are named in the list of those skipped.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use postrider::config;
use postrider::io::line::{Line, LineReader};
use postrider::io::stream::{Connections, Pace, Stream};
use postrider::relay::{Patience, Peer, Refusal, Security, Session, Stage};
use postrider::tls::{Certificates, DirectFiles, Level};
use rustls::ServerConfig;

const LONG: Duration = Duration::from_secs(30);

fn has_openssl(test: &str) -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        support::skip(test, "openssl is not installed");
    }
    found
}

/// Serves connections, each of which is told its own lines back in capitals until QUIT. With `starttls` TLS begins after
/// that command; what came behind it in clear is dropped.
fn shout(config: Arc<ServerConfig>, starttls: bool, count: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let all = Connections::new(count, count);
        for _ in 0..count {
            let (socket, peer) = listener.accept().unwrap();
            let stream = Stream::new(all.enter(socket, peer).unwrap(), LONG, Pace::CLIENT).unwrap();
            let _ = serve(stream, &config, starttls);
        }
    });
    address
}

fn serve(mut stream: Stream, config: &ServerConfig, starttls: bool) -> std::io::Result<()> {
    if starttls {
        stream.write_all(b"220 shout\r\n")?;
        let mut reader = LineReader::new(stream);
        loop {
            let is_starttls = matches!(reader.line(100)?, Line::Text(b"STARTTLS"));
            let reply: &[u8] = if is_starttls { b"220 go ahead\r\n" } else { b"250-shout\r\n250 STARTTLS\r\n" };
            reader.get_mut().write_all(reply)?;
            if is_starttls {
                stream = reader.into_inner();
                break;
            }
        }
    }
    let mut reader = LineReader::new(stream.upgrade(config)?);
    loop {
        let Line::Text(line) = reader.line(1000)? else { return Ok(()) };
        let answer = [&line.to_ascii_uppercase(), &b"\r\n"[..]].concat();
        reader.get_mut().write_all(&answer)?;
        if answer == b"QUIT\r\n" {
            return Ok(());
        }
    }
}

fn certificates(spool: &Path) -> Certificates {
    Certificates::load(&config::Tls::default(), "mail.example", spool, Box::new(DirectFiles)).unwrap()
}

fn s_client(address: SocketAddr, more: &[&str], input: &str) -> Output {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-quiet", "-crlf"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    client.wait_with_output().unwrap()
}

#[test]
fn openssl_speaks_with_us_by_either_version_at_once_and_after_starttls() {
    if !has_openssl("openssl_speaks_with_us_by_either_version_at_once_and_after_starttls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = certificates(folder.path());
    let trusted = folder.path().join("tls/self-signed.pem");
    let trusted = ["-CAfile", trusted.to_str().unwrap(), "-verify_return_error", "-verify_hostname", "mail.example"];
    for (starttls, version) in [(false, "-tls1_2"), (false, "-tls1_3"), (true, "-tls1_2"), (true, "-tls1_3")] {
        let address = shout(certificates.server_config(), starttls, 1);
        let mut more = vec![version, "-servername", "mail.example", "-ign_eof"];
        more.extend(trusted);
        if starttls {
            more.extend(["-starttls", "smtp"]);
        }
        let output = s_client(address, &more, "hello\nquit\n");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.ends_with("HELLO\r\nQUIT\r\n"), "{version}: {said} {}", String::from_utf8_lossy(&output.stderr));
        // An end without close_notify would be an error to it.
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn old_versions_and_suites_are_refused() {
    if !has_openssl("old_versions_and_suites_are_refused") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = certificates(folder.path());
    let address = shout(certificates.server_config(), false, 4);
    let weak = ["-cipher", "ALL:@SECLEVEL=0"];
    for old in [&["-tls1"][..], &["-tls1_1"], &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"]] {
        let more: Vec<&str> = if old.len() > 1 { old.to_vec() } else { old.iter().chain(&weak).copied().collect() };
        assert!(!s_client(address, &more, "hello\n").status.success(), "{old:?}");
    }
    assert!(s_client(address, &["-ign_eof"], "quit\n").status.success());
}

#[test]
fn a_session_is_resumed_until_the_certificate_changes() {
    if !has_openssl("a_session_is_resumed_until_the_certificate_changes") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificates = certificates(folder.path());
    let session = folder.path().join("session");
    let session = session.to_str().unwrap();
    let is_resumed = |config: Arc<ServerConfig>, option: &str| {
        let address = shout(config, false, 1);
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &address.to_string(), "-crlf", "-ign_eof", option, session]);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(b"hello\nquit\n").unwrap();
        let output = client.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("Reused, TLSv1.3")
    };
    assert!(!is_resumed(certificates.server_config(), "-sess_out"));
    assert!(is_resumed(certificates.server_config(), "-sess_in"));
    certificates.take_up(&config::Tls::default(), "other.example").unwrap();
    assert!(!is_resumed(certificates.server_config(), "-sess_in"));
}

#[test]
fn a_command_behind_starttls_is_never_answered() {
    let folder = tempfile::tempdir().unwrap();
    let address = shout(certificates(folder.path()).server_config(), true, 1);
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(b"STARTTLS\r\ninjected\r\n").unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut line = String::new();
    for expected in ["220 shout\r\n", "220 go ahead\r\n"] {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

/// An `openssl s_server`, ended with the value.
struct OldHost(Child, SocketAddr);

impl OldHost {
    /// One with the certificate that `make` leaves in `cert.pem`, and its key in `key.pem`.
    fn start(folder: &Path, make: &str) -> OldHost {
        let made = Command::new("sh").args(["-ec", make]).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = Command::new("openssl")
            .args(["s_server", "-accept", &port.port().to_string(), "-cert", "cert.pem", "-key", "key.pem"])
            .args(["-quiet", "-cipher", "ALL:@SECLEVEL=0", "-tls1_2"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        OldHost(server, port)
    }

    /// Opens a session with TLS from the first octet on, in which the host says what it has to.
    fn open(&mut self, level: Level) -> Result<Session, Refusal> {
        let (mut say, mut hear) = (self.0.stdin.take().unwrap(), self.0.stdout.take().unwrap());
        let host = std::thread::spawn(move || {
            say.write_all(b"220 old.example\r\n").unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n") {
                let mut octet = [0];
                if hear.read_exact(&mut octet).is_err() {
                    break;
                }
                heard.push(octet[0]);
            }
            say.write_all(b"250 old.example\r\n").unwrap();
            (say, hear, heard)
        });
        let peer = Peer {
            address: self.1,
            name: "old.example",
            is_authentic: true,
            hello: "mail.example",
            patience: Patience { connect: LONG, reply: LONG },
        };
        let security = Security::new("old.example:465", level).unwrap().implicit(true);
        let deadline = std::time::Instant::now() + LONG;
        let opened = loop {
            match Session::open(&peer, &security) {
                // It does not listen yet. To ask by a connection of its own would take the greeting from this one.
                Err(refusal) if refusal.stage == Stage::Connect && std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => break opened,
            }
        };
        if opened.is_ok() {
            let (_, _, heard) = host.join().unwrap();
            assert_eq!(heard, b"EHLO mail.example\r\n");
        }
        opened
    }
}

impl Drop for OldHost {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_old_host_still_gets_tls_where_it_proves_nothing() {
    if !has_openssl("an_old_host_still_gets_tls_where_it_proves_nothing") {
        return;
    }
    let sign = "openssl x509 -req -in req.pem -signkey key.pem -out cert.pem";
    let request = "openssl req -new -nodes -keyout key.pem -subj /CN=old.example -out req.pem -newkey";
    for (what, make) in [
        ("RSA-1024 and X.509 v1", format!("{request} rsa:1024 && {sign} -days 9 -sha1")),
        ("expired", format!("{request} rsa:2048 && {sign} -days -1 || {sign} -not_after 20200101000000Z")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let session = OldHost::start(folder.path(), &make).open(Level::Opportunistic);
        let session = session.unwrap_or_else(|refusal| panic!("{what}: {refusal:?}"));
        let protection = session.protection().to_string();
        assert!(protection.starts_with("TLSv1.2 ") && protection.ends_with(" unverified"), "{what}: {protection}");
        drop(session);
        let refusal = OldHost::start(folder.path(), "true").open(Level::Pinned([0; 32])).unwrap_err();
        assert_eq!(refusal.stage, Stage::Tls, "{what}: {refusal:?}");
    }
}
