//! A client under TLS, spoken on line by line, which shows what it was shown, and an authority that signs for the tests.

#[path = "../../src/tls/testing.rs"]
pub mod testing;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use postrider::io::tls::Layer;
use postrider::tls::{Level, client_config};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConnection, ServerConfig};

use super::{Client, PATIENCE};

/// Connects, and begins TLS at once.
pub fn connect(address: SocketAddr) -> Client {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    over(socket)
}

/// Connects, begins TLS by STARTTLS, and says EHLO.
pub fn starttls(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.expect("220");
    client.ask("EHLO client.example", "250");
    client.ask("STARTTLS", "220");
    let mut client = over(client.stream);
    client.ask("EHLO client.example", "250");
    client
}

/// Begins TLS on a connection that has agreed to it. Anyone's certificate is good.
pub fn over(socket: TcpStream) -> Client {
    try_over(socket).expect("a handshake")
}

/// As [`over`], for a connection that may be closed instead.
pub fn try_over(mut socket: TcpStream) -> Option<Client> {
    let config = client_config(&Level::Required).unwrap();
    let mut layer = Layer::new(ClientConnection::new(config, "mail.example.org".try_into().unwrap()).unwrap());
    layer.handshake(&mut socket).ok()?;
    let ends = Tls(Arc::new(Mutex::new((layer, socket.try_clone().unwrap()))));
    Some(Client::over(socket, ends.clone(), ends))
}

/// The two ends of a connection under TLS.
#[derive(Clone)]
struct Tls(Arc<Mutex<(Layer, TcpStream)>>);

impl Read for Tls {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (layer, socket) = &mut *self.0.lock().unwrap();
        layer.read(socket, out)
    }
}

impl Write for Tls {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let (layer, socket) = &mut *self.0.lock().unwrap();
        layer.write(socket, octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the default certificate of the server at `address` is for and when it was made, as openssl says; it is asked for
/// by a new connection.
pub fn shown_certificate(address: SocketAddr) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-showcerts"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = String::new();
    client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    client.wait().unwrap();
    let begin = text.find("-----BEGIN").expect("a certificate is shown");
    let end = text.find("-----END").unwrap();
    text[begin..end].to_owned()
}

/// Makes a certificate of its own with its key for `name`, and puts both there: in one rename each, as certbot does not.
pub fn make_certificate(folder: &Path, name: &str) {
    let (certificate, key) = (folder.join("new-certificate.pem"), folder.join("new-key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::rename(key, folder.join("key.pem")).unwrap();
    std::fs::rename(certificate, folder.join("certificate.pem")).unwrap();
}

/// What shows the certificate that [`make_certificate`] made there.
pub fn server_config(folder: &Path) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(folder.join("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

/// Writes all, and waits until it is on its way as a segment of its own.
pub fn send_segment(socket: &mut TcpStream, octets: &[u8]) {
    socket.set_nodelay(true).unwrap();
    socket.write_all(octets).unwrap();
}
