//! The four messages of SCRAM (RFC 5802 §7), read and written.
//!
//! Reading is strict: attributes in their order, one comma between them, extensions only where they may stand, and none
//! that are mandatory (`m=`). Each error is a few words on what is wrong; none quotes what came.

use super::{decoded, encoded, is_name, keys};
use crate::limits;

/// What a client says about channel binding (the gs2-header's first part).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// `n`: it can't.
    Unable,
    /// `y`: it can, and thinks that the server can't.
    Unasked,
    /// `p=`: it does, by this type.
    Bound(String),
}

/// `gs2-header client-first-message-bare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFirst {
    pub flag: Flag,
    pub authzid: String,
    pub name: String,
    pub nonce: String,
    /// The octets up to the bare message, and the bare message.
    pub header: String,
    pub bare: String,
}

impl ClientFirst {
    pub fn read(text: &str) -> Result<ClientFirst, &'static str> {
        let mut parts = text.splitn(3, ',');
        let (flag, authzid) = (parts.next().unwrap_or_default(), parts.next().ok_or("the header is cut short")?);
        let bare = parts.next().ok_or("the header is cut short")?;
        let flag = match flag {
            "n" => Flag::Unable,
            "y" => Flag::Unasked,
            _ => Flag::Bound(flag.strip_prefix("p=").ok_or("the header begins with none of n, y and p")?.to_owned()),
        };
        let authzid = match authzid {
            "" => String::new(),
            _ => authzid.strip_prefix("a=").and_then(read_name).ok_or("the authorization identity is none")?,
        };
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|part| part.strip_prefix("n=")).ok_or("the name is missing")?;
        let name = read_name(name).ok_or("the name is none")?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or("the nonce is missing")?;
        let nonce = check_nonce(nonce)?.to_owned();
        attributes.try_for_each(check_extension)?;
        let header = text[..text.len() - bare.len()].to_owned();
        Ok(ClientFirst { flag, authzid, name, nonce, header, bare: bare.to_owned() })
    }

    /// The message of a client that logs in as himself.
    pub fn new(flag: Flag, name: &str, nonce: &str) -> ClientFirst {
        let header = match &flag {
            Flag::Unable => "n,,".to_owned(),
            Flag::Unasked => "y,,".to_owned(),
            Flag::Bound(kind) => format!("p={kind},,"),
        };
        let bare = format!("n={},r={nonce}", name.replace('=', "=3D").replace(',', "=2C"));
        ClientFirst { flag, authzid: String::new(), name: name.to_owned(), nonce: nonce.to_owned(), header, bare }
    }
}

/// `r=nonce,s=salt,i=iterations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerFirst {
    pub nonce: String,
    pub salt: Vec<u8>,
    pub iterations: u32,
}

impl ServerFirst {
    pub fn read(text: &str) -> Result<ServerFirst, &'static str> {
        let mut parts = text.split(',');
        let mut attribute = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let nonce = check_nonce(attribute("r=").ok_or("the nonce is missing")?)?.to_owned();
        let salt = attribute("s=").and_then(decoded).ok_or("the salt is missing")?;
        if salt.is_empty() || salt.len() > limits::SCRAM_SALT {
            return Err("the salt is out of range");
        }
        let iterations = attribute("i=").ok_or("the iterations are missing")?;
        let iterations = keys::read_iterations(iterations).ok_or("the iterations are out of range")?;
        parts.try_for_each(check_extension)?;
        Ok(ServerFirst { nonce, salt, iterations })
    }

    pub fn write(&self) -> String {
        format!("r={},s={},i={}", self.nonce, encoded(&self.salt), self.iterations)
    }
}

/// `c=binding,r=nonce,p=proof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFinal {
    pub binding: Vec<u8>,
    pub nonce: String,
    pub proof: [u8; 32],
    /// All before the proof.
    pub without_proof: String,
}

impl ClientFinal {
    pub fn read(text: &str) -> Result<ClientFinal, &'static str> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or("the proof is missing")?;
        let proof = decoded(proof).and_then(|proof| proof.try_into().ok()).ok_or("the proof is none")?;
        let mut parts = without_proof.split(',');
        let mut attribute = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
        let binding = attribute("c=").and_then(decoded).ok_or("the channel binding is missing")?;
        let nonce = check_nonce(attribute("r=").ok_or("the nonce is missing")?)?.to_owned();
        parts.try_for_each(check_extension)?;
        Ok(ClientFinal { binding, nonce, proof, without_proof: without_proof.to_owned() })
    }
}

/// The octets that `c=` holds: the gs2-header, and what binds the channel.
pub(super) fn binding_input(header: &str, binding: &[u8]) -> Vec<u8> {
    [header.as_bytes(), binding].concat()
}

/// What both sides sign.
pub(super) fn auth_message(client_first: &str, server_first: &str, without_proof: &str) -> String {
    format!("{client_first},{server_first},{without_proof}")
}

/// Decodes `=2C` and `=3D`, the only forms in which a comma and an equals sign may stand in a name.
fn read_name(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (letter, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        name.push(letter);
        name.push_str(rest);
    }
    is_name(&name).then_some(name)
}

/// RFC 5802 §7: printable, and no comma, which ends it.
fn check_nonce(nonce: &str) -> Result<&str, &'static str> {
    let fits =
        !nonce.is_empty() && nonce.len() <= limits::SCRAM_NONCE && nonce.bytes().all(|octet| octet.is_ascii_graphic());
    if fits { Ok(nonce) } else { Err("the nonce is none") }
}

fn check_extension(part: &str) -> Result<(), &'static str> {
    match part.as_bytes() {
        [b'm', b'=', ..] => Err("it wants an extension that is not known here"),
        [letter, b'=', ..] if letter.is_ascii_alphabetic() => Ok(()),
        _ => Err("something follows that is no extension"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_first_message_is_read_with_its_header() {
        let first = ClientFirst::read("p=tls-exporter,a=ann,n=a=2Cn=3Dn,r=abc!,x=y").unwrap();
        assert_eq!((first.flag, &*first.authzid, &*first.name), (Flag::Bound("tls-exporter".into()), "ann", "a,n=n"));
        assert_eq!((&*first.nonce, &*first.header), ("abc!", "p=tls-exporter,a=ann,"));
        assert_eq!(first.bare, "n=a=2Cn=3Dn,r=abc!,x=y");
        let new = ClientFirst::new(Flag::Unasked, "a,n=n", "abc");
        assert_eq!(new.header.clone() + &new.bare, "y,,n=a=2Cn=3Dn,r=abc");
    }

    #[test]
    fn what_is_no_first_message_is_refused() {
        for (text, why) in [
            ("", "cut short"),
            ("n", "cut short"),
            ("n,", "cut short"),
            ("n,n=ann,r=x", "authorization"),
            ("N,,n=ann,r=x", "none of"),
            ("p,,n=ann,r=x", "none of"),
            ("n,a=,n=ann,r=x", "authorization"),
            ("n,a=a=2c,n=ann,r=x", "authorization"),
            ("n,,m=x,n=ann,r=x", "name is missing"),
            ("n,,n=,r=x", "name is none"),
            ("n,,n=a=b,r=x", "name is none"),
            ("n,,n=a\0b,r=x", "name is none"),
            ("n,,n=ann", "nonce is missing"),
            ("n,,n=ann,r=", "nonce is none"),
            ("n,,n=ann,r=a b", "nonce is none"),
            ("n,,n=ann,r=x,", "no extension"),
            ("n,,n=ann,r=x,m=1", "not known"),
        ] {
            let error = ClientFirst::read(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let long = format!("n,,n=ann,r={}", "x".repeat(limits::SCRAM_NONCE + 1));
        assert!(ClientFirst::read(&long).is_err());
    }

    #[test]
    fn what_is_no_other_message_is_refused() {
        assert!(ServerFirst::read("r=x,s=AAAA,i=4096,x=y").is_ok());
        for (text, why) in [
            ("e=other-error", "nonce is missing"),
            ("m=x,r=x,s=AAAA,i=4096", "nonce is missing"),
            ("r=x,i=4096", "salt is missing"),
            ("r=x,s=A,i=4096", "salt is missing"),
            ("r=x,s=,i=4096", "salt is out"),
            ("r=x,s=AAAA", "iterations are missing"),
            ("r=x,s=AAAA,i=1", "iterations are out"),
            ("r=x,s=AAAA,i=4000000000", "iterations are out"),
            ("r=x,s=AAAA,i=4096,m=x", "not known"),
        ] {
            assert!(ServerFirst::read(text).unwrap_err().contains(why), "{text}");
        }
        let proof = encoded([0; 32]);
        assert!(ClientFinal::read(&format!("c=biws,r=x,p={proof}")).is_ok());
        for (text, why) in [
            ("c=biws,r=x", "proof is missing"),
            ("c=biws,r=x,p=AAAA", "proof is none"),
            (&format!("c=!,r=x,p={proof}"), "binding"),
            (&format!("r=x,p={proof}"), "binding"),
            (&format!("c=biws,p={proof}"), "nonce"),
            (&format!("c=biws,r=x,m=,p={proof}"), "not known"),
            (&format!("c=biws,r=x,p={proof},x=y"), "proof is none"),
        ] {
            assert!(ClientFinal::read(text).unwrap_err().contains(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_read_as_it_was_written(name in "[^\\x00-\\x1f\\x7f-\\x9f]{1,40}", nonce in "[!-+\\--~]{1,40}") {
            let first = ClientFirst::new(Flag::Unable, &name, &nonce);
            prop_assert_eq!(ClientFirst::read(&(first.header.clone() + &first.bare)), Ok(first));
        }

        #[test]
        fn no_text_panics(text in "[nyp](=\\PC{0,5})?,(a=)?\\PC{0,8},(n=)?\\PC{0,8},?(r=)?\\PC{0,8}|[cr]=[A-Za-z+/=]{0,9},?[rs]=\\PC{0,9},?[ip]=\\PC{0,50}") {
            let _ = (ClientFirst::read(&text), ServerFirst::read(&text), ClientFinal::read(&text));
        }
    }
}
