//! Each level against hosts that are what they say, and hosts that are not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::super::testing::{Authority, Made};
use super::super::words::{of_tls, words};
use super::*;
use crate::io::tls::Layer;
use crate::tls::DirectFiles;

/// Speaks with a host that shows this certificate under the name `mail.example`: what came of it, in words.
fn meet(level: &Level, made: &Made, version: &'static SupportedProtocolVersion) -> Result<String, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(made.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let signing = provider().key_provider.load_private_key(key).unwrap();
    let shown = Arc::new(rustls::sign::CertifiedKey::new(chain, signing));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let mut layer = Layer::new(ServerConnection::new(Arc::new(config)).unwrap());
        layer.handshake(&mut there)?;
        layer.write(&mut there, b"220 hello\r\n")?;
        layer.close(&mut there);
        std::io::Result::Ok(())
    });
    let name = "mail.example".try_into().unwrap();
    let mut layer = Layer::new(ClientConnection::new(client_config(level).unwrap(), name).unwrap());
    let met = layer.handshake(&mut here).and_then(|()| {
        let mut greeting = [0; 20];
        let count = layer.read(&mut here, &mut greeting)?;
        assert_eq!(&greeting[..count], b"220 hello\r\n");
        Ok(layer.agreed().version.to_owned())
    });
    drop(here);
    let _ = server.join().unwrap();
    met.map_err(|error| words(of_tls(&error).unwrap_or_else(|| panic!("{error}")), "mail.example", "mail.example"))
}

fn roots(pem: &str) -> Level {
    let read = |_: &Path| -> std::io::Result<Vec<u8>> { Ok(pem.as_bytes().to_vec()) };
    Level::Verified(read_roots(Path::new("ca"), &read).unwrap())
}

fn pin_of(made: &Made) -> String {
    let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    BASE64_STANDARD.encode(Fields::read(&der).unwrap().pin())
}

const OWN: &str = "if it is your own, name its certificate with relay.hops.\"mail.example\".ca, or its key with \
                   relay.hops.\"mail.example\".pin";

#[test]
fn who_needs_no_proof_takes_anyone() {
    let strange = [Made::new(&["other.example"], 10), Made::new(&["mail.example"], -10), Made::new(&[], 10)];
    for level in [Level::Opportunistic, Level::Required] {
        for made in &strange {
            assert_eq!(meet(&level, made, &TLS13), Ok("TLSv1.3".into()));
            assert_eq!(meet(&level, made, &TLS12), Ok("TLSv1.2".into()));
        }
    }
}

#[test]
fn a_name_is_proved_by_someone_we_trust() {
    let authority = Authority::new();
    let level = roots(&authority.certificate);
    let good = authority.sign(&["mail.example"], 10);
    assert_eq!(meet(&level, &good, &TLS13), Ok("TLSv1.3".into()));
    assert_eq!(meet(&level, &good, &TLS12), Ok("TLSv1.2".into()));

    let said = |made: Made| meet(&level, &made, &TLS13).unwrap_err();
    assert_eq!(
        said(authority.sign(&["a.example", "b.example"], 10)),
        "the certificate of mail.example is for other names: a.example, b.example"
    );
    let many = ["a.x", "b.x", "c.x", "d.x", "e.x", "f.x", "g.x"];
    assert!(said(authority.sign(&many, 10)).ends_with(": a.x, b.x, c.x, d.x, e.x and 2 more"));
    assert_eq!(said(authority.sign(&[], 10)), format!("the certificate of mail.example is for no name at all; {OWN}"));
    let expired = said(authority.sign(&["mail.example"], -10));
    assert!(expired.starts_with("the certificate of mail.example expired on 20") && expired.len() == 53, "{expired}");
    assert_eq!(
        said(Made::new(&["mail.example"], 10)),
        format!("nobody we trust has signed the certificate of mail.example; {OWN}")
    );
    let stranger = Authority::new().sign(&["mail.example"], 10);
    assert!(said(stranger).starts_with("nobody we trust has signed"));
}

#[test]
fn a_certificate_that_is_named_vouches_for_its_host() {
    let made = Made::new(&["mail.example"], 10);
    assert_eq!(meet(&roots(&made.certificate), &made, &TLS13), Ok("TLSv1.3".into()));
    let other = Made::new(&["other.example"], 10);
    let said = meet(&roots(&other.certificate), &other, &TLS12).unwrap_err();
    assert!(said.ends_with("is for other names: other.example"), "{said}");
    let expired = Made::new(&["mail.example"], -10);
    assert!(meet(&roots(&expired.certificate), &expired, &TLS13).unwrap_err().contains(" expired on "));
    let renewed = Made::new(&["mail.example"], 10);
    let said = meet(&roots(&made.certificate), &renewed, &TLS13).unwrap_err();
    assert_eq!(said, format!("a signature in the certificate of mail.example, or by its key, is wrong; {OWN}"));
}

#[test]
fn a_pin_is_for_one_key_and_asks_for_nothing_else() {
    let made = Made::new(&["other.example"], -10);
    let level = Level::pinned(&pin_of(&made)).unwrap();
    assert_eq!(meet(&level, &made, &TLS13), Ok("TLSv1.3".into()));
    assert_eq!(meet(&level, &made, &TLS12), Ok("TLSv1.2".into()));
    let other = Made::new(&["mail.example"], 10);
    let said = meet(&level, &other, &TLS13).unwrap_err();
    let pin = pin_of(&other);
    assert_eq!(
        said,
        format!("the key of mail.example is not the one that relay.hops.\"mail.example\".pin names: its pin is {pin}")
    );
    for wrong in ["", "abc", "not base64!", "AAAA"] {
        assert!(Level::pinned(wrong).unwrap_err().contains("44 characters"));
    }
}

#[test]
fn a_pin_is_not_enough_without_the_key() {
    let (made, other) = (Made::new(&["mail.example"], 10), Made::new(&["mail.example"], 10));
    let level = Level::pinned(&pin_of(&made)).unwrap();
    let forged = Made { certificate: made.certificate, key: other.key };
    for version in [&TLS13, &TLS12] {
        assert!(meet(&level, &forged, version).unwrap_err().starts_with("a signature in the certificate of "));
    }
}

#[test]
fn the_settings_of_a_hop_say_what_it_has_to_prove() {
    let none = HopSettings::default();
    assert!(matches!(Level::of(&none, &DirectFiles), Ok(Level::Opportunistic)));
    let pinned = HopSettings { pin: Some(BASE64_STANDARD.encode([7; 32])), ..none.clone() };
    assert!(matches!(Level::of(&pinned, &DirectFiles), Ok(Level::Pinned([7, ..]))));
    let required = HopSettings { tls: Some(TlsLevel::Required), ..none.clone() };
    assert!(matches!(Level::of(&required, &DirectFiles), Ok(Level::Required)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, Authority::new().certificate).unwrap();
    let with_ca = HopSettings { ca: Some(path.clone()), ..none };
    assert!(matches!(Level::of(&with_ca, &DirectFiles), Ok(Level::Verified(_))));
    std::fs::write(&path, "").unwrap();
    assert!(Level::of(&with_ca, &DirectFiles).unwrap_err().contains("there is no certificate in it"));
}

/// A certificate that only old software makes, by the openssl command; none where that is not installed.
fn made_by_openssl(line: &str) -> Option<Made> {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{line} && openssl x509 -req -in req.pem -signkey key.pem -days 10 $DIGEST -out cert.pem && cat cert.pem"
    );
    let output = Command::new("sh").arg("-ec").arg(&script).current_dir(&folder).output().ok()?;
    if !output.status.success() {
        assert!(Command::new("openssl").arg("version").output().is_err(), "{output:?}");
        return None;
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    Some(Made { certificate: read("cert.pem"), key: read("key.pem") })
}

#[test]
fn a_certificate_of_the_first_version_still_encrypts() {
    // Without extensions `x509 -req` writes version 1.
    let new =
        "openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /CN=mail.example -out req.pem; DIGEST=-sha1";
    let Some(made) = made_by_openssl(new) else { return };
    let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
    assert_eq!(Fields::read(&der).unwrap().version, 1);
    assert_eq!(meet(&Level::Opportunistic, &made, &TLS12), Ok("TLSv1.2".into()));
    assert_eq!(meet(&Level::Opportunistic, &made, &TLS13), Ok("TLSv1.3".into()));
    let said = meet(&roots(&Authority::new().certificate), &made, &TLS12).unwrap_err();
    assert!(said.starts_with("the certificate of mail.example proves nothing: "), "{said}");
}

#[test]
fn what_is_no_tls_is_told_as_such() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    there.write_all(b"220 mail.example ESMTP\r\n").unwrap();
    let name = "mail.example".try_into().unwrap();
    let mut layer = Layer::new(ClientConnection::new(client_config(&Level::Required).unwrap(), name).unwrap());
    let error = layer.handshake(&mut here).unwrap_err();
    assert_eq!(words(of_tls(&error).unwrap(), "mail.example", "mail.example"), "what mail.example sends is no TLS");
    let _ = there.read(&mut [0; 8]);
}
