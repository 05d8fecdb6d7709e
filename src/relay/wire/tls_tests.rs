//! A connection to a next hop that TLS takes over: what stays bounded, what is dropped, and how faults are told apart.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::config;
use crate::tls::{Certificates, DirectFiles, Level};

/// A hop that greets, agrees on TLS, and then does what the test says.
struct Hop {
    wire: Wire,
    thread: JoinHandle<()>,
}

fn connect(listener: &TcpListener, reply: Duration) -> Wire {
    let patience = Patience { connect: Duration::from_secs(10), reply };
    let address = listener.local_addr().unwrap();
    Wire::connect(&Peer { address, name: "mx.example", is_authentic: true, hello: "mail.example.org", patience })
        .unwrap()
}

fn hop(serve: impl FnOnce(Layer, TcpStream) + Send + 'static) -> Hop {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wire = connect(&listener, Duration::from_secs(10));
    let thread = std::thread::spawn(move || {
        let folder = tempfile::tempdir().unwrap();
        let none = config::Tls::default();
        let certificates = Certificates::load(&none, "mx.example", folder.path(), Box::new(DirectFiles)).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let server = rustls::ServerConnection::new(certificates.server_config()).unwrap();
        let mut layer = Layer::new(server);
        if layer.handshake(&mut stream).is_ok() {
            serve(layer, stream);
        }
    });
    Hop { wire, thread }
}

fn upgrade(wire: Wire, level: &Level) -> Result<Wire, Refusal> {
    let security = Security::new("mx.example:587", level.clone()).unwrap();
    wire.upgrade(&security, ServerName::try_from("mx.example").unwrap())
}

fn text(refusal: Refusal) -> String {
    assert_eq!(refusal.stage, Stage::Tls);
    let Outcome::Deferred(cause) = refusal.outcome else { panic!("{refusal:?}") };
    cause.to_string()
}

#[test]
fn a_dialogue_goes_on_under_tls_and_ends_with_close_notify() {
    let Hop { wire, thread } = hop(|mut layer, mut stream| {
        let mut line = [0; 64];
        let count = layer.read(&mut stream, &mut line).unwrap();
        assert_eq!(&line[..count], b"EHLO mail.example.org\r\n");
        layer.write(&mut stream, b"250-mx.example\r\n250 SIZE 1\r\n").unwrap();
        assert_eq!(layer.read(&mut stream, &mut line).unwrap(), 0);
        assert!(layer.has_said_goodbye());
    });
    let mut wire = upgrade(wire, &Level::Opportunistic).unwrap();
    assert_eq!(wire.facts().unwrap().agreed.version, "TLSv1.3");
    let answer = wire.ask(Stage::Hello, "EHLO mail.example.org\r\n").unwrap();
    assert_eq!((answer.code(), answer.lines().count()), (250, 2));
    drop(wire);
    thread.join().unwrap();
}

#[test]
fn tickets_are_nothing_and_words_are_something() {
    let (say, hear) = mpsc::channel::<&[u8]>();
    let Hop { wire, thread } = hop(move |mut layer, mut stream| {
        // The handshake has left a ticket in the client's socket.
        for words in hear {
            layer.write(&mut stream, words).unwrap();
        }
    });
    // Ours asks for no ticket, and some hops give one all the same.
    let mut security = Security::new("mx.example", Level::Required).unwrap();
    security.allow_tickets();
    let mut wire = wire.upgrade(&security, ServerName::try_from("mx.example").unwrap()).unwrap();
    while wire.socket.peek().is_err() {}
    assert!(wire.is_quiet(), "a ticket");
    assert!(wire.is_quiet());
    let long = b"421 good bye\r\n".repeat(1000).leak();
    say.send(long).unwrap();
    while wire.is_quiet() {}
    assert!(wire.has_pending() && !wire.is_quiet());
    assert!(wire.send(Stage::Mail, b"MAIL FROM:<>\r\n").is_err(), "the hop is out of step");
    for _ in 0..1000 {
        assert!(wire.has_pending());
        assert_eq!(wire.reply(Stage::Mail).unwrap().code(), 421);
    }
    assert!(wire.is_quiet());
    drop(say);
    thread.join().unwrap();
    assert!(!wire.is_quiet(), "closed");
}

#[test]
fn the_last_words_of_a_hop_are_heard_under_tls_too() {
    let Hop { wire, thread } = hop(|mut layer, mut stream| {
        layer.write(&mut stream, b"452 4.3.1 full\r\n").unwrap();
        layer.close(&mut stream);
    });
    let mut wire = upgrade(wire, &Level::Opportunistic).unwrap();
    thread.join().unwrap();
    let refusal = wire.last_words(Stage::Message).unwrap();
    let Outcome::Deferred(cause) = refusal.outcome else { panic!() };
    assert_eq!(cause.to_string(), "452 4.3.1 full");
    assert_eq!(wire.last_words(Stage::Message), None);
}

#[test]
fn a_certificate_that_is_refused_is_told_from_a_hop_that_is_gone() {
    let Hop { wire, thread } = hop(|_, _| {});
    let no = upgrade(wire, &Level::pinned(&"A".repeat(43)).unwrap_or(Level::Pinned([0; 32]))).unwrap_err();
    let said = text(no);
    assert!(
        said.starts_with("451 4.7.5 the key of mx.example is not the one that relay.hops.\"mx.example:587\".pin names"),
        "{said}"
    );
    thread.join().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wire = connect(&listener, Duration::from_secs(10));
    drop(listener.accept());
    let no = upgrade(wire, &Level::Opportunistic).unwrap_err();
    assert_eq!(text(no), "451 4.4.2 mx.example [127.0.0.1] closed the connection while we agreed with it on TLS");
}

#[test]
fn a_hop_that_does_not_speak_tls_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wire = connect(&listener, Duration::from_secs(10));
    let mut stream = listener.accept().unwrap().0;
    stream.write_all(b"554 5.7.0 not here\r\n").unwrap();
    let no = upgrade(wire, &Level::Opportunistic).unwrap_err();
    assert_eq!(text(no), "451 4.7.5 what mx.example sends is no TLS");
}

#[test]
fn a_hop_that_trickles_a_handshake_is_waited_for_no_longer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let wire = connect(&listener, Duration::from_millis(200));
    let mut stream = listener.accept().unwrap().0;
    let trickle = std::thread::spawn(move || {
        // A record of 16 KiB, and a handshake message that has no end.
        let mut octets = b"\x16\x03\x03\x40\x00\x02\x00\xff\xff".iter().chain(std::iter::repeat(&0));
        while stream.write_all(&[*octets.next().unwrap()]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let before = Instant::now();
    let no = upgrade(wire, &Level::Opportunistic).unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(5), "{no:?}");
    let said = text(no);
    assert_eq!(said, "451 4.4.2 mx.example [127.0.0.1] took longer than 200ms while we agreed with it on TLS");
    trickle.join().unwrap();
}

#[test]
fn what_was_said_in_clear_behind_the_reply_ends_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wire = connect(&listener, Duration::from_secs(10));
    let mut stream = listener.accept().unwrap().0;
    stream.write_all(b"220 go ahead\r\n250 injected\r\n").unwrap();
    let _ = wire.reply(Stage::Hello).unwrap();
    let no = upgrade(wire, &Level::Opportunistic).unwrap_err();
    assert!(text(no).contains("it spoke before it was asked"));
}
