//! The messages of a mailbox as one session sees them: numbered, sized, named and marked. Pure: the files are
//! `mailbox`'s.
//!
//! A message is known by its base name, the file name up to the colon that flags follow, so that it stays itself when
//! another reader renames it. Order: by the seconds that the name begins with, then by the name; a session a day later
//! numbers the same way. Memory is one string of all names and 24 octets a message, for mailboxes of a million.

use std::cmp::Ordering;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::limits;

/// Where in the Maildir a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Nobody has seen it.
    New,
    /// A reader has.
    Cur,
}

impl Folder {
    /// The name of the folder.
    pub fn name(self) -> &'static str {
        match self {
            Folder::New => "new",
            Folder::Cur => "cur",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    size: u64,
    length: u8,
    folder: Folder,
    deleted: bool,
    /// Another message would have the same unique-id.
    twin: bool,
}

/// The files of a Maildir in the order they were found.
#[derive(Debug, Default)]
pub struct Found {
    names: Vec<u8>,
    entries: Vec<Entry>,
}

/// The messages of a mailbox. An index is a message number less one.
#[derive(Debug, Default)]
pub struct Listing {
    found: Found,
    left: usize,
    /// Hostile sizes add up to more than an `u64` holds.
    octets: u128,
}

impl Found {
    /// Adds a file. A name too long for a file is none. What was found later of one message holds.
    pub fn add(&mut self, folder: Folder, name: &[u8]) {
        let Ok(length) = u8::try_from(name.len()) else { return };
        let at = self.names.len();
        self.names.extend_from_slice(name);
        self.entries.push(Entry { at, size: 0, length, folder, deleted: false, twin: false });
    }

    /// How many were added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        &self.names[entry.at..entry.at + usize::from(entry.length)]
    }
}

impl Listing {
    /// Numbers what was found. Sizes are those that the names state, until [`Listing::set_size`].
    pub fn new(found: Found) -> Listing {
        let Found { names, mut entries } = found;
        let name = |entry: &Entry| &names[entry.at..entry.at + usize::from(entry.length)];
        entries.sort_by(|a, b| order(base(name(a)), base(name(b))));
        entries.dedup_by(|later, earlier| {
            let same = base(name(later)) == base(name(earlier));
            if same {
                *earlier = *later;
            }
            same
        });
        for at in 1..entries.len() {
            if uid_part(name(&entries[at - 1])) == uid_part(name(&entries[at])) {
                (entries[at - 1].twin, entries[at].twin) = (true, true);
            }
        }
        for entry in &mut entries {
            entry.size = stated_size(name(entry)).unwrap_or_default();
        }
        let mut listing = Listing { found: Found { names, entries }, left: 0, octets: 0 };
        listing.count_anew();
        listing
    }

    /// All messages, deleted or not.
    pub fn indexes(&self) -> Range<usize> {
        0..self.found.entries.len()
    }

    /// Those that are not marked as deleted.
    pub fn left_indexes(&self) -> impl Iterator<Item = usize> {
        self.indexes().filter(|&index| !self.found.entries[index].deleted)
    }

    /// The index of a message by its number, unless it is marked as deleted.
    pub fn index(&self, number: u32) -> Option<usize> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        (!self.found.entries.get(index)?.deleted).then_some(index)
    }

    /// Messages not marked as deleted.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Octets in those.
    pub fn octets(&self) -> u64 {
        u64::try_from(self.octets).unwrap_or(u64::MAX)
    }

    /// The octets of a message as it is sent.
    pub fn size(&self, index: usize) -> u64 {
        self.found.entries[index].size
    }

    /// Whether the size stands in the name.
    pub fn states_size(&self, index: usize) -> bool {
        stated_size(self.file(index).1).is_some()
    }

    /// Sets a size that was measured. [`Listing::retain`] adds them up.
    pub fn set_size(&mut self, index: usize, size: u64) {
        self.found.entries[index].size = size;
    }

    /// Keeps the messages whose index is not in `gone`, which is sorted, and counts.
    pub fn retain(&mut self, gone: &[usize]) {
        let mut index = 0;
        self.found.entries.retain(|_| {
            index += 1;
            gone.binary_search(&(index - 1)).is_err()
        });
        self.count_anew();
    }

    /// The unique-id: the name up to its first comma or colon, or a SHA-256 where that may not stand in an answer
    /// (RFC 1939 §7: 1 to 70 octets of 0x21 to 0x7E) or where two messages would have the same.
    pub fn uid(&self, index: usize) -> String {
        let entry = &self.found.entries[index];
        let name = self.found.name(entry);
        let part = uid_part(name);
        let fits = (1..=limits::POP3_UID).contains(&part.len()) && part.iter().all(u8::is_ascii_graphic);
        if fits && !entry.twin {
            return String::from_utf8_lossy(part).into_owned();
        }
        // Both of two twins, or the one that stays would inherit the name of the one that goes.
        let digest = Sha256::digest(if entry.twin { base(name) } else { part });
        digest.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// Where the file of a message was last seen.
    pub fn file(&self, index: usize) -> (Folder, &[u8]) {
        let entry = &self.found.entries[index];
        (entry.folder, self.found.name(entry))
    }

    /// Takes up the names that the files have now. What is new stays unknown to this session.
    pub fn relocate(&mut self, found: &Found) {
        for new in &found.entries {
            let name = found.name(new);
            let mine = &self.found;
            let place = mine.entries.binary_search_by(|entry| order(base(mine.name(entry)), base(name)));
            let Ok(index) = place else { continue };
            if mine.name(&mine.entries[index]) != name {
                self.found.entries[index].at = self.found.names.len();
                self.found.entries[index].length = new.length;
                self.found.names.extend_from_slice(name);
            }
            self.found.entries[index].folder = new.folder;
        }
    }

    /// Marks a message as deleted that is not yet.
    pub fn delete(&mut self, index: usize) {
        let entry = &mut self.found.entries[index];
        entry.deleted = true;
        // Counting anew would make deleting a large mailbox quadratic.
        self.left -= 1;
        self.octets -= u128::from(entry.size);
    }

    /// Takes all marks back.
    pub fn reset(&mut self) {
        self.found.entries.iter_mut().for_each(|entry| entry.deleted = false);
        self.count_anew();
    }

    /// Those that are marked as deleted.
    pub fn deleted(&self) -> Vec<usize> {
        self.indexes().filter(|&index| self.found.entries[index].deleted).collect()
    }

    fn count_anew(&mut self) {
        let left = self.found.entries.iter().filter(|entry| !entry.deleted);
        (self.left, self.octets) =
            left.fold((0, 0), |(left, octets), entry| (left + 1, octets + u128::from(entry.size)));
    }
}

/// The name without its flags.
fn base(name: &[u8]) -> &[u8] {
    &name[..memchr::memchr(b':', name).unwrap_or(name.len())]
}

fn uid_part(name: &[u8]) -> &[u8] {
    &name[..memchr::memchr2(b',', b':', name).unwrap_or(name.len())]
}

/// By seconds, then by what becomes the unique-id, so that equal ones are neighbours, then by the rest.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    let seconds = |name: &[u8]| {
        let end = name.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(name.len());
        let zeros = name[..end].iter().take_while(|&&octet| octet == b'0').count();
        (end - zeros, zeros..end)
    };
    let ((a_length, a_digits), (b_length, b_digits)) = (seconds(a), seconds(b));
    let by_seconds = a_length.cmp(&b_length).then_with(|| a[a_digits].cmp(&b[b_digits]));
    by_seconds.then_with(|| uid_part(a).cmp(uid_part(b))).then_with(|| a.cmp(b))
}

/// `,W=<n>`: the octets with CR LF line ends, as Dovecot and our own delivery write it. `S=` counts them as stored.
fn stated_size(name: &[u8]) -> Option<u64> {
    let field = base(name).split(|&octet| octet == b',').skip(1).find_map(|field| field.strip_prefix(b"W="))?;
    let text = str::from_utf8(field).ok().filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(Folder, &str)]) -> Found {
        let mut found = Found::default();
        files.iter().for_each(|(folder, name)| found.add(*folder, name.as_bytes()));
        found
    }

    fn listing(names: &[&str]) -> Listing {
        Listing::new(found(&names.iter().map(|name| (Folder::Cur, *name)).collect::<Vec<_>>()))
    }

    fn uids(listing: &Listing) -> Vec<String> {
        listing.indexes().map(|index| listing.uid(index)).collect()
    }

    #[test]
    fn order_is_by_time_then_name_whatever_the_order_on_disk() {
        let mut names = ["10.b", "9.z", "10.a,S=1:2,S", "x", "010.c", "99999999999999999999999.m"];
        for _ in 0..names.len() {
            names.rotate_left(1);
            assert_eq!(uids(&listing(&names)), ["x", "9.z", "010.c", "10.a", "10.b", "99999999999999999999999.m"]);
        }
    }

    #[test]
    fn a_message_seen_twice_counts_once_where_it_was_seen_last() {
        let listing =
            Listing::new(found(&[(Folder::New, "1.a,W=3"), (Folder::New, "2.b"), (Folder::Cur, "1.a,W=3:2,S")]));
        assert_eq!(listing.left(), 2);
        assert_eq!(listing.file(0), (Folder::Cur, &b"1.a,W=3:2,S"[..]));
    }

    #[test]
    fn unique_ids_are_fit_and_unique() {
        let long = "1".repeat(71);
        let names = ["1.a,S=1,W=2:2,S", "2.b c", "3.ä", &long, ":2,S", "4.a,x", "4.a,y"];
        let listing = listing(&names);
        let mut all = uids(&listing);
        assert!(
            all.iter().all(|uid| (1..=70).contains(&uid.len()) && uid.bytes().all(|octet| octet.is_ascii_graphic()))
        );
        assert!(all.contains(&"1.a".to_owned()));
        assert!(all.contains(&format!("{:064x}", Hex(Sha256::digest(b"2.b c").into()))));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), names.len());
    }

    struct Hex([u8; 32]);
    impl std::fmt::LowerHex for Hex {
        fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.iter().try_for_each(|octet| write!(out, "{octet:02x}"))
        }
    }

    #[test]
    fn of_two_twins_the_one_that_stays_takes_no_name_the_other_had() {
        let both = uids(&listing(&["4.a,x", "4.a,y"]));
        let alone = uids(&listing(&["4.a,y"]));
        assert!(!both.contains(&alone[0]));
    }

    #[test]
    fn a_size_is_taken_from_the_name_only_where_it_is_one() {
        for (name, size) in [
            ("1.a,S=10,W=12", Some(12)),
            ("1.a,W=12:2,S", Some(12)),
            ("1.a,W=0", Some(0)),
            ("1.a,S=10", None),
            ("1.a:2,W=12", None),
            ("W=12", None),
            ("1.a,W=", None),
            ("1.a,W=+1", None),
            ("1.a,W=1x", None),
            ("1.a,W=99999999999999999999", None),
        ] {
            assert_eq!(stated_size(name.as_bytes()), size, "{name}");
        }
        assert_eq!(listing(&["1.a,W=18446744073709551615", "2.b,W=5"]).octets(), u64::MAX);
    }

    #[test]
    fn marks_are_counted_and_taken_back() {
        let mut listing = listing(&["1.a,W=1", "2.b,W=20", "3.c,W=300"]);
        assert_eq!((listing.left(), listing.octets()), (3, 321));
        listing.delete(1);
        assert_eq!((listing.left(), listing.octets(), listing.deleted()), (2, 301, vec![1]));
        assert_eq!([0, 1, 2, 3, 4].map(|number| listing.index(number)), [None, Some(0), None, Some(2), None]);
        listing.reset();
        assert_eq!((listing.left(), listing.octets(), listing.deleted()), (3, 321, vec![]));
        listing.set_size(0, 4);
        listing.retain(&[1]);
        assert_eq!((listing.left(), listing.octets()), (2, 304));
    }

    #[test]
    fn renamed_files_are_found_again_and_new_ones_are_not_taken_up() {
        let mut listing = Listing::new(found(&[(Folder::New, "1.a,W=1"), (Folder::New, "3.c,W=1")]));
        listing.relocate(&found(&[(Folder::New, "2.b"), (Folder::Cur, "3.c,W=1:2,RS"), (Folder::Cur, "0.x")]));
        assert_eq!(listing.left(), 2);
        assert_eq!(listing.file(0), (Folder::New, &b"1.a,W=1"[..]));
        assert_eq!(listing.file(1), (Folder::Cur, &b"3.c,W=1:2,RS"[..]));
    }
}
