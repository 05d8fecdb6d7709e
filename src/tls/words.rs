//! What went wrong in a handshake, for a person, with what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

use crate::io::clock;

/// Names of a certificate that are told.
const NAMES: usize = 5;

/// A key that is not the one that was pinned, by the pin that it has.
#[derive(Debug)]
pub struct WrongPin(pub String);

impl fmt::Display for WrongPin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "its pin is {}", self.0)
    }
}

impl std::error::Error for WrongPin {}

/// The error of TLS in an error of a connection.
pub fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What `host`, a server of the next hop that the configuration calls `hop`, did wrong, or we.
pub fn words(error: &Error, host: &str, hop: &str) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error, host, hop),
        Error::NoCertificatesPresented => format!("{host} shows no certificate"),
        Error::AlertReceived(alert) => format!("{host} ended the handshake: it says {alert:?}"),
        Error::InvalidMessage(_) => format!("what {host} sends is no TLS"),
        Error::PeerIncompatible(why) => {
            format!("{host} has no TLS 1.2 or 1.3 with a cipher that we have ({why:?})")
        }
        error => format!("the handshake with {host} failed: {error}"),
    }
}

/// Whether another handshake would most likely come to the same: what is wrong is who the server is or what it can, and
/// not the hour. A certificate that has expired is soon renewed, and one that is not valid yet tells of our own clock.
pub fn is_lasting(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        Error::InvalidCertificate(error) => {
            !matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
        }
        Error::NoCertificatesPresented | Error::PeerIncompatible(_) => true,
        _ => false,
    }
}

/// Why a client of ours got no TLS.
pub fn handshake_words(error: &io::Error) -> String {
    match (of_tls(error), error.kind()) {
        (Some(error), _) => words(error, "the client", "the client"),
        (None, io::ErrorKind::UnexpectedEof) => "the client closed the connection".to_owned(),
        (None, io::ErrorKind::TimedOut) => "the client took too long".to_owned(),
        (None, _) => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError, host: &str, hop: &str) -> String {
    let own = || {
        format!(
            "if it is your own, name its certificate with relay.hops.\"{hop}\".ca, or its key with \
             relay.hops.\"{hop}\".pin"
        )
    };
    let no_authority = || format!("nobody we trust has signed the certificate of {host}; {}", own());
    match error {
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().filter_map(|name| dns_name(name)).collect();
            match names.len() {
                0 => format!("the certificate of {host} is for no name at all; {}", own()),
                count => {
                    let more = if count > NAMES { format!(" and {} more", count - NAMES) } else { String::new() };
                    let names = names[..count.min(NAMES)].join(", ");
                    format!("the certificate of {host} is for other names: {names}{more}")
                }
            }
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate of {host} expired on {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let date = date(*not_before);
            format!("the certificate of {host} is not valid before {date}; is the clock of this host right?")
        }
        CertificateError::UnknownIssuer => no_authority(),
        // What openssl req -x509 makes: it calls itself an authority, and has signed itself.
        CertificateError::Other(other) if is_own_authority(&*other.0) => no_authority(),
        CertificateError::BadSignature => {
            format!("a signature in the certificate of {host}, or by its key, is wrong; {}", own())
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<WrongPin>() {
            Some(WrongPin(pin)) => {
                format!("the key of {host} is not the one that relay.hops.\"{hop}\".pin names: its pin is {pin}")
            }
            None => format!("the certificate of {host} proves nothing: {}; {}", other.0, own()),
        },
        error => format!("the certificate of {host} proves nothing: {error}"),
    }
}

fn is_own_authority(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// The name in `DnsName("name")`, which is how rustls tells them.
fn dns_name(shown: &str) -> Option<&str> {
    shown.strip_prefix("DnsName(\"")?.strip_suffix("\")")
}

fn date(time: UnixTime) -> String {
    clock::rfc3339(Duration::from_secs(time.as_secs())).chars().take_while(|letter| *letter != 'T').collect()
}
