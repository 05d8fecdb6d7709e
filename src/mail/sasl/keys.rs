//! What is kept of a password for SCRAM-SHA-256, and what both sides compute from it (RFC 5802 §3, RFC 7677).
//!
//! The text form is Dovecot's, `iterations,salt,StoredKey,ServerKey`, the last three in base64. Who steals it can't log in
//! by SCRAM with it, but can try passwords against it; the iterations make each try dear. Comparisons take constant time.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{decoded, encoded};
use crate::limits;

/// Octets that SHA-256 gives.
const SIZE: usize = 32;
/// Octets of a new salt: as many as Dovecot's have, so that those of nobody look like them.
const SALT: usize = 16;

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    salt: Vec<u8>,
    iterations: u32,
    stored: [u8; SIZE],
    server: [u8; SIZE],
}

/// Keys stay out of logs.
impl fmt::Debug for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Keys({} iterations)", self.iterations)
    }
}

impl Keys {
    /// Of a password, with this salt. The work grows with `iterations`.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Keys {
        Salted::new(password, salt, iterations).keys(salt, iterations)
    }

    /// Reads the text form; the error says what is wrong and quotes nothing.
    pub fn parse(text: &str) -> Result<Keys, &'static str> {
        let [iterations, salt, stored, server] = text.split(',').collect::<Vec<_>>()[..] else {
            return Err("it is cut short or mistyped");
        };
        let key = |text| decoded(text).and_then(|octets| <[u8; SIZE]>::try_from(octets).ok());
        let (Some(salt), Some(stored), Some(server)) = (decoded(salt), key(stored), key(server)) else {
            return Err("it is cut short or mistyped");
        };
        if salt.is_empty() || salt.len() > limits::SCRAM_SALT {
            return Err("its salt is out of range");
        }
        let iterations = read_iterations(iterations).ok_or("its iterations are out of range")?;
        Ok(Keys { salt, iterations, stored, server })
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        let Keys { salt, iterations, stored, server } = self;
        format!("{iterations},{},{},{}", encoded(salt), encoded(stored), encoded(server))
    }

    /// Keys of nobody, which no password gives: for a name that has none, always the same under one `secret`, so that
    /// asking twice does not tell that there is no such name.
    pub fn of_nobody(secret: &[u8], name: &str, iterations: u32) -> Keys {
        let draw = |what: &[u8]| hmac(secret, &[what, name.as_bytes()]);
        let salt = draw(b"salt ")[..SALT].to_vec();
        Keys { salt, iterations, stored: draw(b"stored "), server: draw(b"server ") }
    }

    /// Whether they are of this password.
    pub fn verify(&self, password: &[u8]) -> bool {
        Keys::derive(password, &self.salt, self.iterations).stored.ct_eq(&self.stored).into()
    }

    /// How often a check hashes.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    pub(super) fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether who made `proof` over `message` knows the password (RFC 5802 §3).
    pub(super) fn accept(&self, message: &str, proof: &[u8; SIZE]) -> bool {
        let client = xor(hmac(&self.stored, &[message.as_bytes()]), proof);
        let stored: [u8; SIZE] = Sha256::digest(client).into();
        stored.ct_eq(&self.stored).into()
    }

    /// What shows a client that this server has its keys.
    pub(super) fn signature(&self, message: &str) -> [u8; SIZE] {
        hmac(&self.server, &[message.as_bytes()])
    }
}

/// A password with its salt worked in: what a client computes.
pub(super) struct Salted([u8; SIZE]);

impl Salted {
    pub(super) fn new(password: &[u8], salt: &[u8], iterations: u32) -> Salted {
        Salted(pbkdf2::pbkdf2_hmac_array::<Sha256, SIZE>(&prepared(password), salt, iterations))
    }

    pub(super) fn keys(&self, salt: &[u8], iterations: u32) -> Keys {
        let stored = Sha256::digest(self.client_key()).into();
        Keys { salt: salt.to_vec(), iterations, stored, server: hmac(&self.0, &[b"Server Key"]) }
    }

    pub(super) fn proof(&self, stored: &Keys, message: &str) -> [u8; SIZE] {
        xor(hmac(&stored.stored, &[message.as_bytes()]), &self.client_key())
    }

    fn client_key(&self) -> [u8; SIZE] {
        hmac(&self.0, &[b"Client Key"])
    }
}

/// Digits alone, within the bounds that both sides keep.
pub(super) fn read_iterations(text: &str) -> Option<u32> {
    let number = text.parse().ok().filter(|_| text.bytes().all(|octet| octet.is_ascii_digit()))?;
    (limits::SCRAM_ITERATIONS_LEAST..=limits::SCRAM_ITERATIONS_MOST).contains(&number).then_some(number)
}

fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        Some(Cow::Borrowed(_)) | None => Cow::Borrowed(password),
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; SIZE] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn xor(mut one: [u8; SIZE], other: &[u8; SIZE]) -> [u8; SIZE] {
    one.iter_mut().zip(other).for_each(|(one, other)| *one ^= other);
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By `doveadm pw -s SCRAM-SHA-256`.
    const BY_DOVECOT: [(&str, &str); 2] = [
        (
            "4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=",
            "correct horse",
        ),
        (
            "4096,5/PruIhQxr6ZvYh9ZPdrbg==,03D6JKsb/2KicnJSm2pkAhG39PD4ZPmHzqEaJhSbifk=,8XjfNsGVRkHG34BnMDC8vG+RNSla7+V8YdMWkhT6ub8=",
            "pässword",
        ),
    ];

    #[test]
    fn dovecots_keys_verify_and_come_out_the_same() {
        for (text, password) in BY_DOVECOT {
            let keys = Keys::parse(text).unwrap();
            assert!(keys.verify(password.as_bytes()) && !keys.verify(b"correct horsf"));
            assert_eq!(Keys::derive(password.as_bytes(), keys.salt(), 4096), keys);
            assert_eq!(keys.to_text(), text);
        }
    }

    #[test]
    fn passwords_are_prepared_where_they_can_be() {
        let keys = Keys::parse(BY_DOVECOT[1].0).unwrap();
        assert!(keys.verify("pa\u{308}ssword".as_bytes()), "another way to write the same letter");
        // RFC 4013 §3, then what it forbids, what is not assigned, and what is no text.
        let cases: [(&[u8], &[u8]); 6] = [
            ("I\u{ad}X".as_bytes(), b"IX"),
            ("\u{2168}".as_bytes(), b"IX"),
            (b"a\x07", b"a\x07"),
            ("\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
            ("\u{fffff}".as_bytes(), "\u{fffff}".as_bytes()),
            (b"\xff", b"\xff"),
        ];
        for (password, expected) in cases {
            assert_eq!(prepared(password), expected);
        }
    }

    #[test]
    fn what_could_never_verify_is_refused() {
        let with = |iterations: &str, salt: &str| {
            let (_, keys) = BY_DOVECOT[0].0.split_once("==,").unwrap();
            Keys::parse(&format!("{iterations},{salt},{keys}")).map(|_| ())
        };
        assert_eq!(with("4096", "AAAA"), Ok(()));
        assert_eq!(with(&limits::SCRAM_ITERATIONS_MOST.to_string(), "AAAA"), Ok(()));
        for iterations in ["", "x", "+5000", "4095", "1000001", "99999999999", "-5000"] {
            assert!(with(iterations, "AAAA").unwrap_err().contains("iterations"), "{iterations}");
        }
        assert!(with("4096", "").unwrap_err().contains("salt"));
        assert!(with("4096", &"AAAA".repeat(limits::SCRAM_SALT)).unwrap_err().contains("salt"));
        let whole = BY_DOVECOT[0].0;
        for text in ["", "4096", &whole[..whole.len() - 1], &whole[..whole.len() - 4], &format!("{whole},"), "a,b,c,d"]
        {
            assert!(Keys::parse(text).unwrap_err().contains("cut short"), "{text}");
        }
    }

    #[test]
    fn nobodys_keys_are_the_same_for_a_name_and_look_like_others() {
        let of = |secret: &[u8], name| Keys::of_nobody(secret, name, 5000);
        assert_eq!(of(b"secret", "ann"), of(b"secret", "ann"));
        assert_ne!(of(b"secret", "ann").salt, of(b"secret", "bob").salt);
        assert_ne!(of(b"secret", "ann").salt, of(b"other", "ann").salt);
        assert_eq!(of(b"secret", "ann").salt.len(), Keys::parse(BY_DOVECOT[0].0).unwrap().salt.len());
        assert_eq!(of(b"secret", "ann").iterations(), 5000);
    }

    #[test]
    fn keys_are_never_shown() {
        assert_eq!(format!("{:?}", Keys::parse(BY_DOVECOT[0].0).unwrap()), "Keys(4096 iterations)");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(salt in prop::collection::vec(any::<u8>(), 1..64), stored: [u8; 32], server: [u8; 32]) {
            let keys = Keys { salt, iterations: 4096, stored, server };
            prop_assert_eq!(Keys::parse(&keys.to_text()), Ok(keys));
        }

        #[test]
        fn no_text_panics(text in "[0-9]{0,8},?[A-Za-z0-9+/=]{0,50},?\\PC{0,50}", password in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Keys::parse(&text);
            prepared(&password);
        }
    }
}
