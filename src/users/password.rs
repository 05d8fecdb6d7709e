//! One stored password: which schemes are taken, how one is checked, and how a new one is made.
//!
//! Taken are `{ARGON2ID}`, `{ARGON2I}`, `{SHA512-CRYPT}`, `{SHA256-CRYPT}`, `{BLF-CRYPT}`, `{SCRAM-SHA-256}`, and
//! `{CRYPT}` or no scheme at all where the hash itself says which (that is Dovecot's rule too). A hash is checked for its
//! form when it is read, so that [`Password::verify`] fails only for a wrong password.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use sha_crypt::ShaCrypt;
use subtle::ConstantTimeEq;

use crate::limits;
use crate::mail::sasl::Keys;

/// A salt and a result that were drawn by lot: nobody knows a password that gives it.
const OF_NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$PBOuBiiHRAKkWKZJDGIJ8A$VwcfLUOqFbrK65uJQRck58EnpGHUhf9O4N34FN1NeHU";

/// A hash with its salt and costs, in the form of crypt(3), or of Dovecot for SCRAM.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    kind: Kind,
    crypt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Argon2,
    Bcrypt,
    ShaCrypt,
    Scram,
}

/// Hashes stay out of logs.
impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Password({:?})", self.kind)
    }
}

impl Password {
    /// Reads `{SCHEME}hash`; the error says what is wrong, and never quotes the hash.
    pub fn parse(field: &str) -> Result<Password, String> {
        let (scheme, crypt) = match field.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((scheme, crypt)) => (scheme.to_ascii_uppercase(), crypt),
            None => ("CRYPT".to_owned(), field),
        };
        if crypt.is_empty() {
            return Err("the password is missing".to_owned());
        }
        let kind = if scheme == "SCRAM-SHA-256" { Some(Kind::Scram) } else { kind_of(crypt) };
        let fits = match scheme.as_str() {
            "ARGON2ID" => crypt.starts_with("$argon2id$"),
            "ARGON2I" => crypt.starts_with("$argon2i$"),
            "SHA512-CRYPT" => crypt.starts_with("$6$"),
            "SHA256-CRYPT" => crypt.starts_with("$5$"),
            "BLF-CRYPT" => kind == Some(Kind::Bcrypt),
            "CRYPT" => kind.is_some(),
            "SCRAM-SHA-256" => true,
            _ => return Err(format!("the password scheme {{{scheme}}} is not known here")),
        };
        let Some(kind) = kind.filter(|_| fits) else {
            return Err(format!("this is no {{{scheme}}} password"));
        };
        check_form(kind, crypt).map_err(|why| format!("this is no whole {{{scheme}}} password: {why}"))?;
        Ok(Password { kind, crypt: crypt.to_owned() })
    }

    /// One that no password matches.
    pub fn of_nobody() -> Password {
        Password { kind: Kind::Argon2, crypt: OF_NOBODY.to_owned() }
    }

    /// Whether it was made from `password`.
    pub fn verify(&self, password: &[u8]) -> bool {
        #[cfg(test)]
        count::one(self.cost());
        match self.kind {
            Kind::Scram => self.scram_keys().is_some_and(|keys| keys.verify(password)),
            Kind::Argon2 => verify_argon2(password, &self.crypt).unwrap_or(false),
            Kind::ShaCrypt => ShaCrypt::default().verify_password(password, self.crypt.as_str()).is_ok(),
            Kind::Bcrypt => bcrypt::verify(password, &self.crypt).unwrap_or(false),
        }
    }

    /// KiB of memory that [`Password::verify`] takes. Where it is not the memory that makes a check dear, next to none.
    pub fn memory(&self) -> u64 {
        let hash = (self.kind == Kind::Argon2).then(|| PasswordHash::new(&self.crypt).ok()).flatten();
        hash.and_then(|hash| Params::try_from(&hash).ok()).map_or(0, |params| params.m_cost().into())
    }

    /// The keys for SCRAM, of an entry that has some.
    pub fn scram_keys(&self) -> Option<Keys> {
        Keys::parse(&self.crypt).ok().filter(|_| self.kind == Kind::Scram)
    }

    /// The part that says how much work a check is: all before the salt.
    pub fn cost(&self) -> &str {
        if self.kind == Kind::Scram {
            return self.crypt.split_inclusive(',').next().unwrap_or_default();
        }
        let has = |start: &str| self.crypt.split('$').nth(2).is_some_and(|field| field.starts_with(start));
        let fields = match self.kind {
            Kind::Argon2 => 2 + usize::from(has("v=")),
            Kind::Bcrypt => 2,
            Kind::ShaCrypt => 1 + usize::from(has("rounds=")),
            Kind::Scram => 0,
        };
        let end = self.crypt.match_indices('$').nth(fields);
        // The `$` after the costs belongs to them, or `$2y$1` would be the cost of `$2y$10` too.
        end.map_or("", |(at, _)| &self.crypt[..=at])
    }
}

/// `{ARGON2ID}` and the hash of a password, with argon2's default costs (19 MiB, two passes) and a random salt.
pub fn hash(password: &[u8]) -> String {
    let hash = Argon2::default().hash_password(password).expect("the kernel has random octets");
    format!("{{ARGON2ID}}{hash}")
}

/// `{SCRAM-SHA-256}` and the keys of a password, with a random salt: for those who want to log in by SCRAM.
pub fn scram(password: &[u8]) -> String {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("the kernel has random octets");
    format!("{{SCRAM-SHA-256}}{}", Keys::derive(password, &salt, limits::SCRAM_ITERATIONS).to_text())
}

/// `None` for what is no whole hash.
fn verify_argon2(password: &[u8], crypt: &str) -> Option<bool> {
    let hash = PasswordHash::new(crypt).ok()?;
    let (salt, known) = (hash.salt?, hash.hash?);
    let params = Params::try_from(&hash).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let mut memory = Vec::with_capacity(params.block_count().max(limits::MAPPED_BLOCKS));
    memory.resize(params.block_count(), Block::new());
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let mut found = vec![0; known.as_ref().len()];
    let argon2 = Argon2::new(algorithm, version, params);
    argon2.hash_password_into_with_memory(password, &salt, &mut found, &mut memory).ok()?;
    Some(found.ct_eq(known.as_ref()).into())
}

fn kind_of(crypt: &str) -> Option<Kind> {
    [
        ("$argon2", Kind::Argon2),
        ("$2a$", Kind::Bcrypt),
        ("$2b$", Kind::Bcrypt),
        ("$2y$", Kind::Bcrypt),
        ("$5$", Kind::ShaCrypt),
        ("$6$", Kind::ShaCrypt),
    ]
    .into_iter()
    .find_map(|(start, kind)| crypt.starts_with(start).then_some(kind))
}

/// Whether a check could succeed, and would end in bounded time and memory.
fn check_form(kind: Kind, crypt: &str) -> Result<(), &'static str> {
    match kind {
        Kind::Scram => Keys::parse(crypt).map(|_| ()),
        Kind::Argon2 => {
            let hash = PasswordHash::new(crypt).map_err(|_| "it is cut short or mistyped")?;
            let params = Params::try_from(&hash).map_err(|_| "its costs are out of range")?;
            let whole = hash.salt.is_some() && hash.hash.is_some();
            match () {
                () if !whole => Err("it is cut short"),
                () if params.m_cost() > limits::PASSWORD_MEMORY_KIB => Err("a check would take over 1 GiB of memory"),
                () => Ok(()),
            }
        }
        Kind::Bcrypt => {
            let parts: bcrypt::HashParts = crypt.parse().map_err(|_| "it is cut short or mistyped")?;
            if (4..=limits::BCRYPT_COST).contains(&parts.get_cost()) { Ok(()) } else { Err("its cost is out of range") }
        }
        Kind::ShaCrypt => {
            let (length, fields) = (if crypt.starts_with("$5$") { 43 } else { 86 }, crypt.split('$').skip(2));
            let mut fields = fields.peekable();
            let rounds = fields.next_if(|field| field.starts_with("rounds="));
            if rounds.is_some_and(|rounds| !rounds_fit(rounds)) {
                return Err("its rounds are out of range");
            }
            let [_salt, result] = fields.collect::<Vec<_>>()[..] else { return Err("it is cut short or mistyped") };
            let is_crypt64 = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'/');
            let whole = result.len() == length && result.bytes().all(is_crypt64);
            if whole { Ok(()) } else { Err("it is cut short or mistyped") }
        }
    }
}

fn rounds_fit(field: &str) -> bool {
    let rounds = field.strip_prefix("rounds=").and_then(|number| number.parse().ok());
    rounds.is_some_and(|rounds| sha_crypt::Params::new(rounds).is_ok() && rounds <= limits::SHA_CRYPT_ROUNDS)
}

/// What was checked, in this thread: so that tests compare work, not time.
#[cfg(test)]
pub mod count {
    use std::cell::RefCell;

    thread_local!(static COSTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

    pub(super) fn one(cost: &str) {
        COSTS.with_borrow_mut(|costs| costs.push(cost.to_owned()));
    }

    /// The costs of all checks since it was last asked.
    pub fn take() -> Vec<String> {
        COSTS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `doveadm pw -s SCHEME`, the first of each pair with the password `correct horse`.
    const BY_DOVECOT: [(&str, &str); 9] = [
        (
            "{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=",
            "correct horse",
        ),
        (
            "{SHA512-CRYPT}$6$sonMqz/A7vtF5ZMb$kJKqN/hxSp8suQ/LDd48i0hsAyH2f9xeVrXCBvJc5YXlQEbgpwiQQfE2QilCfoXp1pBlCEFs70dVtNSWE2bCr.",
            "correct horse",
        ),
        (
            "{SHA512-CRYPT}$6$rounds=1000$puIxURy2R1gQPeVj$ZdxBiDTX69TEUNcGKrkuUuGI3H.Q0/FwciQTIW6TgqJvg6thaDrHFzI81se/AxM4ifMzjX4gBPC0yG4LHhkCp0",
            "correct horse",
        ),
        ("{SHA256-CRYPT}$5$5f5j1vUcZsiJaorf$wjyctsrlPTCGePV61NV7KNjax3Zuey9lY7dwleychy4", "correct horse"),
        ("{BLF-CRYPT}$2y$05$xsrQ1OZpLaAyD9mH8qIU0.XgdBqPrnctCnHba5Zz9tiUDIRMAAssS", "correct horse"),
        ("{BLF-CRYPT}$2y$05$WvitnIGwZoLVB1hcAQ2DTukNYmGkbawWMu7/0W.ElyONaM7cb4RB.", "pässword 🔑"),
        ("{CRYPT}$2y$05$dbf29bTgvlplKhv5gcPux.QAn01IfxsFQI./Xhm/RQddkUEdh2S9G", "correct horse"),
        ("$2y$05$5QjTN7jAqZX51TqYZzMQ.Oa1uFKyDxm7tlMsAq1fGSjFD8JZVQKeW", "correct horse"),
        (
            "{argon2id}$argon2id$v=19$m=65536,t=3,p=1$Qg0yzeDcQruM14lRJnPJpw$IZF2OG6wm8mwLrea3fbb8YJ+6PTJZCAI8/XjJgu5jRQ",
            "correct horse",
        ),
    ];

    #[test]
    fn dovecots_hashes_verify() {
        for (field, password) in BY_DOVECOT {
            let stored = Password::parse(field).unwrap();
            assert!(stored.verify(password.as_bytes()), "{field}");
            assert!(!stored.verify(b"correct horsf"), "{field}");
        }
    }

    #[test]
    fn a_new_hash_verifies_and_has_its_own_salt() {
        let (one, two) = (hash(b"secret"), hash(b"secret"));
        assert!(one.starts_with("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert!(Password::parse(&one).unwrap().verify(b"secret"));
        assert!(!Password::parse(&one).unwrap().verify(b"Secret"));
        assert_eq!(Password::parse(&one).unwrap().scram_keys(), None);
    }

    #[test]
    fn new_scram_keys_verify_and_have_their_own_salt() {
        let (one, two) = (scram(b"secret"), scram(b"secret"));
        assert!(one.starts_with("{SCRAM-SHA-256}100000,"), "{one}");
        assert_ne!(one, two);
        let stored = Password::parse(&one).unwrap();
        assert!(stored.verify(b"secret") && !stored.verify(b"Secret"));
        assert!(stored.scram_keys().unwrap().verify(b"secret"));
        assert_eq!(stored.cost(), "100000,");
    }

    #[test]
    fn what_could_never_verify_is_refused_when_read() {
        for (field, why) in [
            ("", "missing"),
            ("{CRYPT}", "missing"),
            ("{PLAIN}secret", "not known"),
            ("{SCRAM-SHA-1}4096,x,x,x", "not known"),
            ("{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4", "cut short"),
            ("{SCRAM-SHA-256}$6$salt$x", "cut short"),
            ("4096,lgHqjYryQ5SFIjD4XvwRuA==,x,x", "no {CRYPT} password"),
            ("{SHA512-CRYPT}$5$salt$x", "no {SHA512-CRYPT} password"),
            ("{CRYPT}abcdefghijklm", "no {CRYPT} password"),
            ("plain", "no {CRYPT} password"),
            ("{SHA512-CRYPT}$6$salt$short", "cut short"),
            ("{SHA512-CRYPT}$6$rounds=10$salt$x", "rounds"),
            ("{BLF-CRYPT}$2y$05$xsrQ1OZpLaAyD9mH8qIU0", "cut short"),
            ("{BLF-CRYPT}$2y$31$xsrQ1OZpLaAyD9mH8qIU0.XgdBqPrnctCnHba5Zz9tiUDIRMAAssS", "cost"),
            ("{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$Qg0yzeDcQruM14lRJnPJpw", "cut short"),
            (
                "{ARGON2ID}$argon2id$v=19$m=4000000,t=3,p=1$Qg0yzeDcQruM14lRJnPJpw$IZF2OG6wm8mwLrea3fbb8YJ+6PTJZCAI8/XjJgu5jRQ",
                "1 GiB",
            ),
        ] {
            let error = Password::parse(field).unwrap_err();
            assert!(error.contains(why), "{field}: {error}");
        }
    }

    #[test]
    fn the_cost_is_all_before_the_salt() {
        let costs = BY_DOVECOT.map(|(field, _)| Password::parse(field).unwrap().cost().to_owned());
        assert_eq!(
            costs,
            [
                "4096,",
                "$6$",
                "$6$rounds=1000$",
                "$5$",
                "$2y$05$",
                "$2y$05$",
                "$2y$05$",
                "$2y$05$",
                "$argon2id$v=19$m=65536,t=3,p=1$"
            ]
        );
    }

    #[test]
    fn the_hash_of_nobody_is_whole() {
        assert!(Password::parse(OF_NOBODY).is_ok());
    }
}
