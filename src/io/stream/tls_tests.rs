//! A client's connection that TLS takes over: the same bounds, the same ends, and nothing that blocks.

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const PACE: Pace = Pace { standstill: LONG, whole: LONG, rate: 1 << 20 };

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's configuration, and the certificate in it.
fn server() -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["mail.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    (Arc::new(config), certificate)
}

/// Takes any certificate.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(version: &'static SupportedProtocolVersion) -> Layer {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting));
    let config = Arc::new(builder.with_no_client_auth());
    Layer::new(ClientConnection::new(config, "mail.example".try_into().unwrap()).unwrap())
}

struct Pair {
    all: Arc<Connections>,
    socket: TcpStream,
    stream: Stream,
}

fn pair(timeout: Duration) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let all = Connections::new(1, 1);
    let stream = Stream::new(all.enter(accepted, peer).unwrap(), timeout, PACE).unwrap();
    Pair { all, socket, stream }
}

/// A client that agrees on TLS in a thread of its own, and comes back with it.
fn agree(mut socket: TcpStream, version: &'static SupportedProtocolVersion) -> JoinHandle<(Layer, TcpStream)> {
    std::thread::spawn(move || {
        let mut layer = client(version);
        layer.handshake(&mut socket).unwrap();
        (layer, socket)
    })
}

#[test]
fn both_sides_read_what_the_other_wrote_and_the_end_is_said() {
    let (config, certificate) = server();
    for (version, name) in [(&rustls::version::TLS13, "TLSv1.3"), (&rustls::version::TLS12, "TLSv1.2")] {
        let Pair { socket, stream, .. } = pair(LONG);
        let thread = agree(socket, version);
        let mut stream = stream.upgrade(&config).unwrap();
        let (mut layer, mut socket) = thread.join().unwrap();
        layer.write(&mut socket, b"EHLO a\r\n").unwrap();
        let mut line = [0; 64];
        assert_eq!(stream.read(&mut line).unwrap(), 8);
        stream.write_all(b"250 b\r\n").unwrap();
        assert_eq!(layer.read(&mut socket, &mut line).unwrap(), 7);

        let facts = stream.tls().unwrap().clone();
        assert_eq!((facts.agreed.version, facts.name.as_deref()), (name, Some("mail.example")));
        assert!(facts.agreed.cipher.starts_with("TLS"), "{}", facts.agreed);
        assert_eq!(facts.server_end_point, super::super::x509::server_end_point(&certificate));
        assert_eq!(facts.exporter.is_some(), name == "TLSv1.3");
        assert_eq!(facts.exporter, layer.exporter(), "both sides have the same");

        drop(stream);
        assert_eq!(layer.read(&mut socket, &mut line).unwrap(), 0);
        assert!(layer.peek(&mut socket).unwrap() == 0 && layer.has_said_goodbye(), "close_notify");
    }
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    let (config, _) = server();
    let Pair { socket, stream, .. } = pair(LONG);
    let thread = agree(socket, &rustls::version::TLS13);
    let mut stream = stream.upgrade(&config).unwrap();
    let (mut layer, mut socket) = thread.join().unwrap();
    layer.write(&mut socket, b"QU").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut line = [0; 64];
    assert_eq!(stream.read(&mut line).unwrap(), 2);
    assert_eq!(stream.read(&mut line).unwrap(), 0);
}

#[test]
fn a_silent_client_costs_one_timeout_and_a_slow_one_the_deadline() {
    let (config, _) = server();
    let Pair { socket: _socket, stream, .. } = pair(Duration::from_millis(30));
    assert_eq!(stream.upgrade(&config).unwrap_err().kind(), io::ErrorKind::TimedOut);

    let Pair { mut socket, mut stream, .. } = pair(LONG);
    let trickle = std::thread::spawn(move || {
        let mut octets = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff".iter().chain(std::iter::repeat(&0));
        while socket.write_all(&[*octets.next().unwrap()]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    stream.set_deadline(Duration::from_millis(100));
    let before = Instant::now();
    assert_eq!(stream.upgrade(&config).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(before.elapsed() < Duration::from_secs(5));
    trickle.join().unwrap();
}

#[test]
fn a_handshake_without_an_end_is_cut_off() {
    let (config, _) = server();
    let Pair { mut socket, stream, .. } = pair(LONG);
    let flood = std::thread::spawn(move || {
        // A ClientHello of 64 KiB, in records of 16.
        let mut record = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff".to_vec();
        record.resize(5 + 0x4000, 0);
        let mut sent = 0;
        while socket.write_all(&record).is_ok() && sent < 100 {
            record[5..9].fill(0);
            sent += 1;
        }
        sent
    });
    let error = stream.upgrade(&config).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    assert!(error.get_ref().unwrap().is::<rustls::Error>());
    flood.join().unwrap();
}

#[test]
fn clear_text_in_place_of_a_handshake_is_no_tls() {
    let (config, _) = server();
    let Pair { mut socket, stream, .. } = pair(LONG);
    socket.write_all(b"EHLO in clear\r\n").unwrap();
    assert!(stream.upgrade(&config).unwrap_err().get_ref().unwrap().is::<rustls::Error>());
}

#[test]
fn a_shutdown_wakes_a_client_under_tls_that_waits_and_one_in_its_handshake() {
    let (config, _) = server();
    let Pair { all, socket, stream } = pair(LONG);
    let thread = agree(socket, &rustls::version::TLS13);
    let mut stream = stream.upgrade(&config).unwrap();
    let (mut layer, mut socket) = thread.join().unwrap();
    let (tell, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        stream.set_waiting(true);
        tell.send(()).unwrap();
        let count = stream.read(&mut [0; 8]).unwrap();
        stream.write_all(b"421 closing\r\n").unwrap();
        count
    });
    told.recv().unwrap();
    std::thread::sleep(Duration::from_millis(30));
    all.close_idle();
    assert_eq!(reader.join().unwrap(), 0);
    let mut line = [0; 64];
    assert_eq!(layer.read(&mut socket, &mut line).unwrap(), 13);

    let Pair { all, socket: _socket, stream } = pair(LONG);
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        all.close_idle();
    });
    assert_eq!(stream.upgrade(&config).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    closer.join().unwrap();
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
    let (config, _) = server();
    let Pair { socket, stream, .. } = pair(LONG);
    let thread = agree(socket, &rustls::version::TLS13);
    let mut stream = stream.upgrade(&config).unwrap();
    let _client = thread.join().unwrap();
    stream.socket.pace.standstill = Duration::from_millis(20);
    let block = [b'x'; 32 * 1024];
    while stream.write(&block).is_ok() {}
    let before = Instant::now();
    drop(stream);
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_handshake_fits_into_half_the_stack_of_a_connection() {
    let (config, _) = server();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let Pair { socket, stream, .. } = pair(LONG);
        let thread = agree(socket, version);
        let config = config.clone();
        let small = std::thread::Builder::new().stack_size(limits::CONNECTION_STACK / 2);
        let upgraded = small.spawn(move || stream.upgrade(&config).is_ok()).unwrap();
        assert!(upgraded.join().unwrap());
        thread.join().unwrap();
    }
}
