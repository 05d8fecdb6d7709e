//! Whose mailboxes are here: the users file, one `user@domain:{SCHEME}hash` a line, as Dovecot's passwd-file has it.
//!
//! ```text
//! # a comment
//! ann@example.org:{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$...
//! bob@example.org:{SHA512-CRYPT}$6$...:1001:1001::/home/bob      further fields are Dovecot's, and kept
//! eve@example.org:{ARGON2ID}$...::::::postrider_senders=info@example.org,@shop.example
//! ```
//!
//! Of the extra fields at the end of a line, separated by spaces, one is ours: `postrider_senders`, the addresses and
//! `@domains` that the user may send as besides his own. Dovecot takes it for a field of its passdb, and leaves it alone.
//!
//! Names are found in any case. A user's mailbox is a folder of that name, so a name that is no safe folder name is an
//! error here and need not be looked for elsewhere. A password of someone who is not here takes as long to refuse as one
//! of most who are, so that the time tells nobody which names exist. What is wrong is a [`LocatedError`] with the mend.

pub mod edit;
pub mod password;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use crate::config::SenderGrant;
use crate::io::table::{self, LocatedError};
use crate::limits;
use crate::mail::address::Address;
use crate::mail::sasl::Keys;
use password::Password;
pub use password::{hash, scram};

/// The extra field that names other senders.
const SENDERS: &str = "postrider_senders=";
/// The place of the extra fields after the name: password, uid, gid, gecos, home and shell go before.
const EXTRA: usize = 6;

/// The users and their passwords.
#[derive(Clone, Debug)]
pub struct Users {
    entries: BTreeMap<Address, User>,
    stand_in: Password,
    /// Looked at for each offer, so not counted each time.
    scram_iterations: Option<u32>,
}

#[derive(Clone, Debug)]
struct User {
    password: Password,
    senders: Vec<SenderGrant>,
}

impl Users {
    /// Reads the users file. One that is not there is an empty one.
    pub fn load(path: &Path) -> Result<Users, LocatedError> {
        let text = table::read(path, limits::TABLE_FILE)?.unwrap_or_default();
        Users::parse(path, &text)
    }

    /// Reads the text of a users file; the first thing that is wrong is the error.
    pub fn parse(path: &Path, text: &str) -> Result<Users, LocatedError> {
        let (users, errors) = Users::read(path, text);
        errors.into_iter().next().map_or(Ok(users), Err)
    }

    /// Reads the text of a users file, and says everything that is wrong with it.
    pub fn read(path: &Path, text: &str) -> (Users, Vec<LocatedError>) {
        let mut entries = BTreeMap::new();
        let mut errors = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if let Some(what) = read_line(line, &mut entries) {
                errors.push(LocatedError::at(path, at + 1, what));
            }
        }
        let stand_in = commonest(entries.values().map(|user: &User| &user.password));
        let scram = |user: &User| user.password.scram_keys().is_some();
        let all = !entries.is_empty() && entries.values().all(scram);
        let scram_iterations = stand_in.scram_keys().filter(|_| all).map(|keys| keys.iterations());
        (Users { entries, stand_in, scram_iterations }, errors)
    }

    /// Whether this is a user.
    pub fn contains(&self, address: &Address) -> bool {
        self.entries.contains_key(&address.folded())
    }

    /// Whether this is a user with this password.
    pub fn verify(&self, address: &Address, password: &[u8]) -> bool {
        if password.len() > limits::CREDENTIAL {
            return false;
        }
        let (kept, known) = self.password(address);
        kept.verify(password) && known
    }

    /// KiB of memory that [`Users::verify`] takes.
    pub fn check_memory(&self, address: &Address) -> u64 {
        self.password(address).0.memory()
    }

    /// What a password of this name is held against, and whether it is a user's.
    fn password(&self, address: &Address) -> (&Password, bool) {
        let known = self.entries.get(&address.folded()).map(|user| &user.password);
        (known.unwrap_or(&self.stand_in), known.is_some())
    }

    /// What SCRAM needs to know of a user; `None` also for one whose password is kept otherwise.
    pub fn scram_keys(&self, address: &Address) -> Option<Keys> {
        self.entries.get(&address.folded())?.password.scram_keys()
    }

    /// How often most users' keys hash, if every user has such keys: only then may SCRAM be offered.
    pub fn scram_iterations(&self) -> Option<u32> {
        self.scram_iterations
    }

    /// Whether the file lets a user send as this address: his own, or one of his `postrider_senders`.
    pub fn may_send_as(&self, user: &Address, sender: &Address) -> bool {
        let known = self.entries.get(&user.folded());
        known.is_some_and(|known| {
            sender.folded() == user.folded() || known.senders.iter().any(|grant| grant.covers(sender))
        })
    }

    /// Every user, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.entries.keys()
    }
}

impl Default for Users {
    fn default() -> Users {
        Users::from_iter([])
    }
}

/// Users who can't log in: for those who only need to know whose mailboxes are here.
impl FromIterator<Address> for Users {
    fn from_iter<I: IntoIterator<Item = Address>>(addresses: I) -> Users {
        let user = || User { password: Password::of_nobody(), senders: Vec::new() };
        let entries = addresses.into_iter().map(|address| (address.folded(), user())).collect();
        Users { entries, stand_in: Password::of_nobody(), scram_iterations: None }
    }
}

/// Cuts a line into the name and the rest; `None` for one without a user.
fn split(line: &str) -> Option<(&str, Option<&str>)> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() || line.trim_start().starts_with('#') {
        return None;
    }
    Some(line.split_once(':').map_or((line, None), |(name, rest)| (name, Some(rest))))
}

/// Takes one line up, or says what is wrong with it.
fn read_line(line: &str, entries: &mut BTreeMap<Address, User>) -> Option<String> {
    let (name, rest) = split(line)?;
    let Some(rest) = rest else {
        return Some("this is no user; write it like ann@example.org:{ARGON2ID}hash, or use postrider user add".into());
    };
    let address = match name.parse::<Address>() {
        Ok(address) => address.folded(),
        Err(error) => return Some(format!("{name}: {error}; a user's name is a whole address, like ann@example.org")),
    };
    if let Err(why) = check_name(&address) {
        return Some(format!("{name}: {why}; give the mailbox another name"));
    }
    let field = rest.split(':').next().unwrap_or_default();
    let password = match Password::parse(field) {
        Ok(password) => password,
        Err(why) => return Some(format!("{name}: {why}; set another with postrider user passwd {name}")),
    };
    let senders = match read_senders(rest) {
        Ok(senders) => senders,
        Err(why) => return Some(format!("{name}: {why}; write postrider_senders=info@example.org,@shop.example")),
    };
    match entries.entry(address) {
        Entry::Occupied(_) => Some(format!("{name} stands in this file twice; remove one of the lines")),
        Entry::Vacant(place) => {
            place.insert(User { password, senders });
            None
        }
    }
}

/// Reads the other senders out of all that follows the name.
fn read_senders(rest: &str) -> Result<Vec<SenderGrant>, String> {
    let extra = rest.splitn(EXTRA + 1, ':').nth(EXTRA).unwrap_or_default();
    let ours = extra.split_ascii_whitespace().filter_map(|field| field.strip_prefix(SENDERS));
    let read = |text: &str| text.parse().map_err(|error| format!("{text:?} is no sender: {error}"));
    ours.flat_map(|list| list.split(',')).map(read).collect()
}

/// Whether an address can be a user's: its local-part becomes the name of a folder and the first field of a line.
pub fn check_name(address: &Address) -> Result<(), &'static str> {
    let folded = address.folded();
    let name = folded.local_part();
    let wrong = if address.domain().is_none() {
        "a mailbox can't stand at an IP address"
    } else if name.is_empty() {
        "the name before the @ is empty"
    } else if name.len() > limits::USER_NAME {
        "the name before the @ is longer than 64 octets"
    } else if name.starts_with(['.', '#']) {
        "the name before the @ begins with a dot or a #"
    } else if name.chars().any(|letter| letter.is_control() || matches!(letter, '/' | ':')) {
        "the name before the @ holds a slash, a colon or a control character"
    } else {
        return Ok(());
    };
    Err(wrong)
}

/// A password that costs as much to check as most of these do.
fn commonest<'p>(passwords: impl Iterator<Item = &'p Password>) -> Password {
    let mut kinds: BTreeMap<&str, (usize, &Password)> = BTreeMap::new();
    for password in passwords {
        kinds.entry(password.cost()).or_insert((0, password)).0 += 1;
    }
    let most = kinds.into_values().max_by_key(|(count, _)| *count);
    most.map_or_else(Password::of_nobody, |(_, password)| password.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLF: &str = "{BLF-CRYPT}$2y$05$xsrQ1OZpLaAyD9mH8qIU0.XgdBqPrnctCnHba5Zz9tiUDIRMAAssS";
    const SCRAM: &str = "{SCRAM-SHA-256}4096,lgHqjYryQ5SFIjD4XvwRuA==,8xjx7VI4BmINyQCzosPEEkj+Ior6lzJywyxBXcfKk0U=,du77hf5JLTn7uGtuaKAw8vUtb1rKC/wYivLXO48Acms=";
    const SHA: &str = "{SHA512-CRYPT}$6$rounds=1000$puIxURy2R1gQPeVj$ZdxBiDTX69TEUNcGKrkuUuGI3H.Q0/FwciQTIW6TgqJvg6thaDrHFzI81se/AxM4ifMzjX4gBPC0yG4LHhkCp0";

    fn parse(text: &str) -> Result<Users, LocatedError> {
        Users::parse(Path::new("/etc/users"), text)
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_passwd_file_is_read_with_comments_and_further_fields() {
        let users =
            parse(&format!("# all\n\n  # indented\nAnn@Example.org:{BLF}\r\nbob@example.org:{SHA}:1:2::/home/bob\n"))
                .unwrap();
        let all: Vec<String> = users.addresses().map(Address::to_string).collect();
        assert_eq!(all, ["ann@example.org", "bob@example.org"]);
        for (login, password, is) in [
            ("ann@example.org", "correct horse", true),
            ("ANN@example.ORG", "correct horse", true),
            ("bob@example.org", "correct horse", true),
            ("ann@example.org", "correct horsf", false),
            ("ann@example.org", "", false),
            ("carol@example.org", "correct horse", false),
        ] {
            assert_eq!(users.verify(&address(login), password.as_bytes()), is, "{login} {password}");
        }
        assert!(users.contains(&address("ANN@example.org")) && !users.contains(&address("carol@example.org")));
        assert!(!users.verify(&address("ann@example.org"), &[b'x'; limits::CREDENTIAL + 1]));
    }

    #[test]
    fn other_senders_stand_among_the_extra_fields() {
        let users = parse(&format!(
            "ann@x.org:{BLF}::::::userdb_mail=maildir:~/m postrider_senders=info@x.org,@shop.example\n\
             bob@x.org:{BLF}:::postrider_senders=info@x.org\ncarol@x.org:{BLF}\n"
        ))
        .unwrap();
        for (user, sender, may) in [
            ("ann@x.org", "ANN@x.org", true),
            ("Ann@x.org", "Info@X.org", true),
            ("ann@x.org", "anyone@shop.example", true),
            ("ann@x.org", "anyone@a.shop.example", false),
            ("ann@x.org", "bob@x.org", false),
            ("bob@x.org", "info@x.org", false),
            ("carol@x.org", "carol@x.org", true),
            ("nobody@x.org", "nobody@x.org", false),
        ] {
            assert_eq!(users.may_send_as(&address(user), &address(sender)), may, "{user} as {sender}");
        }
    }

    #[test]
    fn scram_is_for_all_or_for_none() {
        let text = format!("a@x.org:{SCRAM}\n");
        let users = parse(&text).unwrap();
        assert_eq!(users.scram_iterations(), Some(4096));
        assert!(users.verify(&address("a@x.org"), b"correct horse"), "and by its password too");
        assert_eq!(users.scram_keys(&address("A@x.org")).unwrap().iterations(), 4096);
        assert!(users.scram_keys(&address("b@x.org")).is_none());
        let mixed = parse(&format!("{text}b@x.org:{BLF}\n")).unwrap();
        assert_eq!(mixed.scram_iterations(), None);
        assert!(mixed.scram_keys(&address("b@x.org")).is_none());
        assert_eq!(Users::default().scram_iterations(), None);
    }

    #[test]
    fn each_error_names_line_and_mend() {
        for (text, line, what) in [
            ("ann@example.org".to_owned(), 1, "write it like"),
            (format!("\nann:{BLF}"), 2, "a whole address"),
            (format!("ann@[192.0.2.1]:{BLF}"), 1, "IP address"),
            (format!("\"a/b\"@example.org:{BLF}"), 1, "a slash"),
            (format!("\"..\"@example.org:{BLF}"), 1, "a dot"),
            (format!(".ann@example.org:{BLF}"), 1, "a dot"),
            (format!("\"\"@example.org:{BLF}"), 1, "empty"),
            (format!("{}@example.org:{BLF}", "a".repeat(65)), 1, "64 octets"),
            (format!("# x\nann@example.org:{BLF}\nANN@example.org:{BLF}"), 3, "twice"),
            ("ann@example.org:".to_owned(), 1, "user passwd"),
            ("ann@example.org:{MD5}x".to_owned(), 1, "MD5"),
            (format!("ann@example.org:{BLF}::::::postrider_senders=info"), 1, "\"info\" is no sender"),
            (format!("ann@example.org:{BLF}::::::postrider_senders="), 1, "is no sender"),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.line, Some(line), "{text}");
            assert!(error.what.contains(what), "{text}\n{error}");
        }
    }

    #[test]
    fn all_errors_are_told_and_the_rest_is_read() {
        let (users, errors) = Users::read(Path::new("users"), &format!("x\nann@example.org:{BLF}\ny\n"));
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [Some(1), Some(3)]);
        assert!(users.contains(&address("ann@example.org")));
    }

    #[test]
    fn strangers_cost_what_most_users_cost() {
        let users = parse(&format!("a@x.org:{BLF}\nb@x.org:{SHA}\nc@x.org:{SHA}\n")).unwrap();
        assert_eq!(users.stand_in.cost(), "$6$rounds=1000$");
        assert!(!users.verify(&address("z@x.org"), b"correct horse"), "the stand-in lets nobody in");
        assert!(Users::default().stand_in.cost().starts_with("$argon2id$v=19$m=19456,"));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_one() {
        assert_eq!(Users::load(Path::new("/nowhere/users")).unwrap().addresses().count(), 0);
    }
}
