//! The servers under TLS: nothing that was said in clear is obeyed, a certificate is replaced under load, and who has
//! logged in sends as himself.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::tls::{self, make_certificate, send_segment, shown_certificate};
use support::{PATIENCE, Server, have};

const LISTEN: &str = "submission = [\"127.0.0.1:0\"]\nsubmissions = [\"127.0.0.1:0\"]\npop3s = [\"127.0.0.1:0\"]\n";

/// NUL ann NUL correct horse
const ANN: &str = "AGFubgBjb3JyZWN0IGhvcnNl";

/// A server with all its ports, and more configuration.
fn server(extra: &str) -> Server {
    Server::start(&format!("{LISTEN}{extra}"))
}

/// A socket, of which lines are read as far as they go and no further.
struct Clear {
    reader: BufReader<TcpStream>,
}

impl Clear {
    fn connect(address: SocketAddr) -> Clear {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Clear { reader: BufReader::new(socket) }
    }

    /// Reads up to a line that begins so.
    fn until(&mut self, start: &str) {
        let mut line = String::new();
        while !line.starts_with(start) {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "no {start:?}");
        }
    }

    fn send(&mut self, octets: &[u8]) {
        send_segment(self.reader.get_mut(), octets);
    }

    /// What it has said besides, which is nothing, and its socket.
    fn into_socket(self) -> TcpStream {
        assert!(self.reader.buffer().is_empty(), "more was said in clear: {:?}", self.reader.buffer());
        self.reader.into_inner()
    }
}

/// How commands come behind the one that begins TLS.
#[derive(Clone, Copy, Debug)]
enum Behind {
    OneSegment,
    TwoSegments,
    Pause,
}

/// Says `command`, and `injected` behind it in clear.
fn inject(clear: &mut Clear, (command, injected): (&str, &str), how: Behind) {
    match how {
        Behind::OneSegment => clear.send(format!("{command}\r\n{injected}").as_bytes()),
        Behind::TwoSegments => {
            clear.send(format!("{command}\r\n").as_bytes());
            clear.send(injected.as_bytes());
        }
        Behind::Pause => {
            clear.send(format!("{command}\r\n").as_bytes());
            thread::sleep(Duration::from_millis(300));
            clear.send(injected.as_bytes());
        }
    }
}

#[test]
fn what_is_injected_behind_starttls_is_never_answered() {
    let server = server("");
    let injected = "MAIL FROM:<evil@far.example>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n\r\nevil\r\n.\r\n";
    for port in ["smtp", "submission"] {
        for how in [Behind::OneSegment, Behind::TwoSegments, Behind::Pause] {
            let mut clear = Clear::connect(server.address(port));
            clear.until("220");
            clear.send(b"EHLO evil.example\r\n");
            clear.until("250 ");
            inject(&mut clear, ("STARTTLS", injected), how);
            clear.until("220");
            never_obeyed(&server, clear, how);
        }
    }
    // What comes before it and together with it is answered in clear, and forgotten.
    let mut clear = Clear::connect(server.address("smtp"));
    clear.until("220");
    clear.send(b"EHLO evil.example\r\nMAIL FROM:<evil@far.example>\r\nRSET\r\nSTARTTLS\r\nNOOP\r\n");
    for start in ["250 ", "250 2.1.0", "250 2.0.0", "220"] {
        clear.until(start);
    }
    let mut client = tls::over(clear.into_socket());
    client.ask("MAIL FROM:<ann@example.org>", "503 5.5.1 say EHLO");
    client.ask("QUIT", "221");
    assert!(server.mailbox("ann@example.org").is_empty());
}

/// Under TLS, if it comes about, the session knows of nothing; else it is over.
fn never_obeyed(server: &Server, clear: Clear, how: Behind) {
    if !matches!(how, Behind::OneSegment) {
        is_over(clear, how);
        server.logged(&["tls-failed client=127.0.0.1"]);
        return;
    }
    let mut client = tls::over(clear.into_socket());
    client.ask("DATA", "503 5.5.1 say EHLO");
    let offered = client.ask("EHLO good.example", "250");
    assert!(!offered.contains("STARTTLS"));
    client.ask("RCPT TO:<ann@example.org>", "503 5.5.1 say MAIL");
    client.ask("STARTTLS", "503 5.5.1 this connection is under TLS already");
    client.ask("QUIT", "221");
}

/// The octets of a second segment may be taken for TLS, which they are not, or be dropped; nothing in them is answered.
fn is_over(clear: Clear, how: Behind) {
    let mut reader = clear.reader;
    let mut said = Vec::new();
    // It may be closed already, and the end of what it said a reset.
    let _ = reader.get_ref().shutdown(Shutdown::Write);
    let _ = reader.read_to_end(&mut said);
    assert!(said.is_empty() || said[0] == ALERT, "{how:?}: {:?}", String::from_utf8_lossy(&said));
}

/// The first octet of an alert (RFC 8446 §6).
const ALERT: u8 = 21;

#[test]
fn what_is_injected_behind_stls_is_never_answered() {
    let server = server("");
    for how in [Behind::OneSegment, Behind::TwoSegments, Behind::Pause] {
        let mut clear = Clear::connect(server.pop3_address());
        clear.until("+OK");
        clear.send(b"USER ann\r\n");
        clear.until("+OK");
        inject(&mut clear, ("STLS", "PASS correct horse\r\nSTAT\r\nCAPA\r\n"), how);
        clear.until("+OK begin TLS");
        if !matches!(how, Behind::OneSegment) {
            is_over(clear, how);
            continue;
        }
        let mut client = tls::over(clear.into_socket());
        client.ask("PASS correct horse", "-ERR say USER first");
        client.ask("STLS", "-ERR this connection is under TLS already");
        client.ask("USER ann", "+OK");
        client.ask("PASS correct horse", "+OK 0 messages");
        client.ask("STLS", "-ERR TLS begins before the login");
        client.ask("QUIT", "+OK");
    }
    server.logged(&[" logout client="]);
    assert_eq!(server.log().matches(" login client=").count(), 1, "{}", server.log());
    let login = server.logged(&[" login client="]);
    assert!(login.contains(" mailbox=ann@example.org mechanism=USER tls=\"TLSv1.3 TLS_"), "{login}");
}

#[test]
fn who_has_logged_in_sends_as_himself_and_where_he_likes() {
    let server = server("[submission]\nhide_client = true\n[relay]\nfrom = []\n");
    let mut client = tls::connect(server.address("submissions"));
    assert!(client.reply().starts_with("220"));
    client.ask("EHLO secret.example", "250 AUTH PLAIN LOGIN");
    client.ask("MAIL FROM:<ann@example.org>", "530 5.7.0");
    client.ask("AUTH PLAIN AGFubgB3cm9uZw==", "535 5.7.8");
    client.ask(&format!("AUTH PLAIN {ANN}"), "235 2.7.0");
    client.ask("MAIL FROM:<bob@example.org>", "550 5.7.1 that sender is not one of yours");
    client.ask("MAIL FROM:<ann@example.org>", "250");
    client.ask("RCPT TO:<x@far.example>", "250");
    client.ask("RSET", "250");
    client.ask("MAIL FROM:<ann@example.org>", "250");
    client.ask("RCPT TO:<bob@example.org>", "250");
    client.ask("DATA", "354");
    client.send(b"From: Ann <ann>\r\nSubject: one\r\n\r\nhi\r\n");
    client.ask(".", "250");
    client.ask("QUIT", "221");
    let found = server.wait_for("bob@example.org", 1);
    let text = String::from_utf8_lossy(&found[0]).into_owned();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "hi\r\n");
    assert!(!header.contains("secret.example") && !header.contains("127.0.0.1") && !header.contains("localhost"));
    for part in [
        "\r\nReceived: by mail.example.org with ESMTPSA id ",
        "\r\n\ttls TLS_",
        "\r\nFrom: Ann <ann@example.org>\r\nSubject: one\r\nDate: ",
        "@mail.example.org>",
    ] {
        assert!(header.contains(part), "{part:?} in {header}");
    }
    server.logged(&["authenticated client=127.0.0.1 user=ann@example.org mechanism=PLAIN tls=\"TLSv1.3 TLS_"]);
    server.logged(&["accepted from=<ann@example.org>", "protocol=ESMTPSA"]);
}

#[test]
fn the_port_for_mail_from_anywhere_asks_for_no_login() {
    let server = server("");
    let mut clear = Clear::connect(server.smtp_address());
    clear.until("220");
    clear.send(b"EHLO a.example\r\n");
    clear.until("250 STARTTLS");
    clear.send(b"STARTTLS\r\n");
    clear.until("220");
    let mut client = tls::over(clear.into_socket());
    assert!(!client.ask("EHLO a.example", "250 REQUIRETLS").contains("AUTH"));
    client.ask(&format!("AUTH PLAIN {ANN}"), "500");
    client.ask("MAIL FROM:<x@far.example>", "250");
    client.ask("RCPT TO:<ann@example.org>", "250");
    client.ask("DATA", "354");
    client.send(b"Subject: as it is\r\n\r\nhi\r\n");
    client.ask(".", "250");
    let text = String::from_utf8_lossy(&server.wait_for("ann@example.org", 1)[0]).into_owned();
    assert!(text.contains(" with ESMTPS id ") && !text.contains("\r\nDate:"), "{text}");
}

#[test]
fn a_certificate_is_replaced_under_load_and_no_session_is_dropped() {
    if !have("openssl", "a_certificate_is_replaced_under_load_and_no_session_is_dropped") {
        return;
    }
    let mut server =
        Server::prepared(&format!("{LISTEN}[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n"), "");
    make_certificate(server.folder.path(), "mail.example.org");
    server.run();
    let address = server.address("submissions");
    let first = shown_certificate(address);
    // A session from before, which goes on under what it has agreed on.
    let mut old = tls::connect(address);
    old.reply();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    send_one(address);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let replaced = Instant::now();
        make_certificate(server.folder.path(), "mail.example.org");
        while shown_certificate(address) == first && replaced.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(200));
        }
        // Load goes on under the new one for a while.
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::SeqCst);
    });
    assert_ne!(shown_certificate(address), first);
    assert!(sent.load(Ordering::SeqCst) > 20);
    old.ask("EHLO a.example", "250");
    old.ask("QUIT", "221");
    let log = server.log();
    assert!(!log.contains(" cut-off ") && !log.contains(" certificate-broken "), "{log}");
    assert_eq!(log.matches(" accepted ").count(), sent.load(Ordering::SeqCst));
}

/// One session with one message, all of which must go well.
fn send_one(address: SocketAddr) {
    let mut client = tls::connect(address);
    client.reply();
    client.ask("EHLO a.example", "250");
    client.ask(&format!("AUTH PLAIN {ANN}"), "235");
    client.ask("MAIL FROM:<ann@example.org>", "250");
    client.ask("RCPT TO:<bob@example.org>", "250");
    client.ask("DATA", "354");
    client.send(b"Subject: one\r\n\r\nhi\r\n");
    client.ask(".", "250");
    client.ask("QUIT", "221");
}
