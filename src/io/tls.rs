//! TLS over a connection that bounds its own waits: what is read and written goes through here, and no thread of its own.
//!
//! A [`Layer`] has no socket: each call is given the one below, whose timeouts and deadlines stay as they are. Its errors
//! are those of the socket, `UnexpectedEof` where the peer leaves the handshake, and `ConnectionAborted` with a
//! [`rustls::Error`] inside where it breaks the rules of TLS; it is told so by an alert. The end of the input is an end,
//! whether the peer said close_notify or not: what ends early is known from the protocols above.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
};

use super::x509;
use crate::limits;

/// One side of a TLS connection.
pub struct Layer {
    connection: Connection,
    /// Octets that were decrypted and not read yet.
    ready: usize,
}

/// What two hosts agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, as IANA names it.
    pub cipher: &'static str,
}

/// What a TLS connection is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Version and cipher suite.
    pub agreed: Agreed,
    /// The name that the client asked for (RFC 6066 §3).
    pub name: Option<String>,
    /// The channel binding of the certificate that it got (RFC 5929 §4).
    pub server_end_point: Option<Vec<u8>>,
    /// The channel binding of RFC 9266. None with TLS 1.2, which has it only with an extension that can't be seen here.
    pub exporter: Option<[u8; 32]>,
}

impl fmt::Display for Agreed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.version, self.cipher)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Layer").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// The server's side, after its handshake over `socket`.
pub fn accept(config: &ServerConfig, socket: &mut (impl Read + Write)) -> io::Result<(Layer, TlsFacts)> {
    let chosen = Arc::new(Chosen { of: config.cert_resolver.clone(), key: Mutex::default() });
    let mut config = config.clone();
    config.cert_resolver = chosen.clone();
    let mut layer = Layer::new(ServerConnection::new(Arc::new(config)).map_err(broken)?);
    layer.handshake(socket)?;
    let key = chosen.key.lock().unwrap_or_else(PoisonError::into_inner).take();
    let server_end_point = key.and_then(|key| x509::server_end_point(key.cert.first()?));
    let name = match &layer.connection {
        Connection::Server(server) => server.server_name().map(str::to_owned),
        Connection::Client(_) => None,
    };
    let facts = TlsFacts { agreed: layer.agreed(), name, server_end_point, exporter: layer.exporter() };
    Ok((layer, facts))
}

/// The client's side, after its handshake over `socket` with a server of this name.
pub fn connect(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: &mut (impl Read + Write),
) -> io::Result<(Layer, TlsFacts)> {
    let asked = name.to_str().into_owned();
    let mut layer = Layer::new(ClientConnection::new(config, name).map_err(broken)?);
    layer.handshake(socket)?;
    let shown = layer.connection.peer_certificates().and_then(|chain| chain.first());
    let server_end_point = shown.and_then(|certificate| x509::server_end_point(certificate));
    let facts = TlsFacts { agreed: layer.agreed(), name: Some(asked), server_end_point, exporter: layer.exporter() };
    Ok((layer, facts))
}

/// Remembers which certificate a client got.
#[derive(Debug)]
struct Chosen {
    of: Arc<dyn ResolvesServerCert>,
    key: Mutex<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.of.resolve(hello);
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&key);
        key
    }
}

impl Layer {
    /// Before the handshake.
    pub fn new(connection: impl Into<Connection>) -> Layer {
        Layer { connection: connection.into(), ready: 0 }
    }

    /// Agrees with the peer, which may send no more than [`limits::TLS_HANDSHAKE`] octets for it.
    pub fn handshake(&mut self, socket: &mut (impl Read + Write)) -> io::Result<()> {
        let mut read = 0;
        loop {
            self.flush(socket)?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            if read > limits::TLS_HANDSHAKE {
                return Err(broken(rustls::Error::General("a handshake without an end".to_owned())));
            }
            match self.receive(socket)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
            if let Err(error) = self.decrypt() {
                // The alert that says why; the peer may be gone.
                let _ = self.flush(socket);
                return Err(error);
            }
        }
    }

    /// What both sides agreed on.
    pub fn agreed(&self) -> Agreed {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let cipher = self.connection.negotiated_cipher_suite().and_then(|suite| match suite.suite() {
            // rustls has names of its own for these.
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some("TLS_AES_128_GCM_SHA256"),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some("TLS_AES_256_GCM_SHA384"),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some("TLS_CHACHA20_POLY1305_SHA256"),
            suite => suite.as_str(),
        });
        Agreed { version, cipher: cipher.unwrap_or("unknown") }
    }

    pub(super) fn exporter(&self) -> Option<[u8; 32]> {
        if self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        // RFC 9266 §2: 32 octets, and a context that is there and empty.
        self.connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
    }

    /// Reads; zero is the end.
    pub fn read(&mut self, socket: &mut (impl Read + Write), out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(out) {
                Ok(count) => {
                    self.ready -= count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            self.flush(socket)?;
            if self.receive(socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = self.decrypt() {
                let _ = self.flush(socket);
                return Err(error);
            }
        }
    }

    /// Writes what fits, and waits until the socket has it.
    pub fn write(&mut self, socket: &mut impl Write, octets: &[u8]) -> io::Result<usize> {
        let count = self.connection.writer().write(octets)?;
        self.flush(socket)?;
        Ok(count)
    }

    /// How many octets wait to be read without asking the socket.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// How many octets of the peer's can be read, zero at the end, with a socket that does not wait: its `WouldBlock` says
    /// that there are none now, though there may have been records without any, such as tickets.
    pub fn peek(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        while self.ready == 0 && self.receive(socket)? > 0 {
            self.decrypt()?;
        }
        Ok(self.ready)
    }

    /// Whether the peer has said close_notify.
    #[cfg(test)]
    pub fn has_said_goodbye(&mut self) -> bool {
        self.connection.process_new_packets().is_ok_and(|state| state.peer_has_closed())
    }

    /// Says close_notify (RFC 8446 §6.1), as far as `socket` takes it at once.
    pub fn close(&mut self, socket: &mut impl Write) {
        self.connection.send_close_notify();
        // A peer that is gone, or reads nothing, misses nothing.
        let _ = self.connection.write_tls(socket);
    }

    fn receive(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        self.connection.read_tls(socket).map_err(|error| match error.kind() {
            // No socket's error: the peer's message is larger than any may be.
            io::ErrorKind::InvalidData => broken(rustls::Error::General(error.to_string())),
            _ => error,
        })
    }

    fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn decrypt(&mut self) -> io::Result<()> {
        let state = self.connection.process_new_packets().map_err(broken)?;
        self.ready = state.plaintext_bytes_to_read();
        Ok(())
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error)
}
