//! The header of a message for a smarthost that takes one sender only: local addresses in From and Sender become that one,
//! and the old From stays as Reply-To, so that answers still find who wrote.
//!
//! Display names, comments, groups, foreign addresses and all other octets stay as they are, folds too. Addresses that
//! can't be read are not local, and stay: the smarthost will say what it thinks of them. So does a field that is longer than
//! [`limits::ADDRESS_FIELD`]. Never fails, and makes no line longer than [`limits::TEXT_LINE`] that was not longer before.

use super::address::{Address, Domain};
use super::header::{self, Field, Header};
use crate::limits;

/// The header with the addresses of From and Sender for which `is_local` holds replaced by `new`; several in one field
/// become one. If no Reply-To stands there, the old From becomes it, names without a domain with theirs. `None` if nothing changes.
///
/// `header` is the header of a message with its line ends, and what follows it is kept. A name without a domain is meant
/// at `default_domain`.
pub fn rewrite_from(
    header: &[u8],
    new: &Address,
    is_local: impl Fn(&Address) -> bool,
    default_domain: &Domain,
) -> Option<Vec<u8>> {
    let fields = Header::split(header, 0).fields;
    let rewriting = Rewriting { new, is_local, default_domain };
    let mut has_reply_to = fields.iter().any(|field| field.is("Reply-To"));
    let mut has_changed = false;
    let mut length = 0;
    let mut out = Vec::with_capacity(header.len() + limits::PATH);
    for field in &fields {
        length += field.octets.len();
        let pieces = if field.is("From") || field.is("Sender") { rewriting.value(field) } else { None };
        let Some(pieces) = pieces else {
            out.extend_from_slice(field.octets);
            continue;
        };
        if field.is("From") && !has_reply_to {
            write_folded(&mut out, b"Reply-To:", &qualified_value(field, default_domain));
            out.extend_from_slice(b"\r\n");
            has_reply_to = true;
        }
        let name = &field.octets[..field.octets.len() - field.value.len()];
        write_folded(&mut out, name, &pieces);
        out.extend_from_slice(without_line_end(field.value).1);
        has_changed = true;
    }
    out.extend_from_slice(&header[length..]);
    has_changed.then_some(out)
}

struct Rewriting<'a, F> {
    new: &'a Address,
    is_local: F,
    default_domain: &'a Domain,
}

impl<F: Fn(&Address) -> bool> Rewriting<'_, F> {
    /// The new value without its line end, in pieces before each of which it may be folded. `None` if it stays as it is.
    fn value(&self, field: &Field<'_>) -> Option<Vec<Vec<u8>>> {
        if field.octets.len() > limits::ADDRESS_FIELD {
            return None;
        }
        let mut out: Vec<Vec<u8>> = Vec::new();
        let (mut has_new, mut has_changed) = (false, false);
        for entry in entries(without_line_end(field.value).0) {
            let address = entry.address(self.default_domain);
            let is_new = address.as_ref() == Some(self.new);
            let becomes_new = is_new || address.as_ref().is_some_and(&self.is_local);
            has_changed |= becomes_new && (has_new || !is_new);
            match () {
                () if becomes_new && has_new => {
                    // What follows a comma is gone, but for the end of a group.
                    if entry.end != Some(b',') {
                        if let Some(last) = out.last_mut() {
                            last.pop_if(|octet| *octet == b',');
                        }
                        out.push(entry.end.into_iter().collect());
                    }
                    continue;
                }
                () if becomes_new && !is_new => out.extend(entry.replaced(self.new)),
                () => out.push(entry.octets.to_vec()),
            }
            has_new |= becomes_new;
            out.last_mut().zip(entry.end).into_iter().for_each(|(last, end)| last.push(end));
        }
        has_changed.then_some(out)
    }
}

/// The field with their domain for names that have none, which mean nothing elsewhere. `None` if nothing changes.
pub fn qualified(field: &Field<'_>, default_domain: &Domain) -> Option<Vec<u8>> {
    if field.octets.len() > limits::ADDRESS_FIELD {
        return None;
    }
    let (value, line_end) = without_line_end(field.value);
    let pieces = qualified_value(field, default_domain);
    if pieces.concat() == value {
        return None;
    }
    let mut out = Vec::with_capacity(field.octets.len() + limits::DOMAIN);
    write_folded(&mut out, &field.octets[..field.octets.len() - field.value.len()], &pieces);
    out.extend_from_slice(line_end);
    Some(out)
}

/// The value without its line end, in pieces before each of which it may be folded.
fn qualified_value(field: &Field<'_>, default_domain: &Domain) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for entry in entries(without_line_end(field.value).0) {
        match entry.address(default_domain) {
            Some(address) if entry.is_bare_name(&address) => out.extend(entry.replaced(&address)),
            _ => out.push(entry.octets.to_vec()),
        }
        out.last_mut().zip(entry.end).into_iter().for_each(|(last, end)| last.push(end));
    }
    out
}

/// What stands between the commas, colons and semicolons of a list of addresses.
struct Entry<'a> {
    octets: &'a [u8],
    /// Where angle brackets stand in it, if they stand there once.
    angle: Option<(usize, usize)>,
    /// Which of the three follows.
    end: Option<u8>,
}

impl Entry<'_> {
    /// Its address, if it is one that can be read.
    fn address(&self, default_domain: &Domain) -> Option<Address> {
        if self.end == Some(b':') {
            return None;
        }
        header::addresses(&self.address_text(), default_domain).ok()?.into_iter().next()
    }

    /// Without the name before the brackets and without comments, which may be in any charset.
    fn address_text(&self) -> Vec<u8> {
        let written = self.angle.map_or(self.octets, |(from, to)| &self.octets[from..to]);
        units(written).map(|unit| if is_comment(unit) { b" " } else { unit }).collect::<Vec<_>>().concat()
    }

    /// Whether `address` stands there without its domain, as a local-part that needs no other quotes, and is no word in
    /// another charset.
    fn is_bare_name(&self, address: &Address) -> bool {
        let text = self.address_text();
        let has = |octet: u8| text.contains(&octet);
        let is_encoded = address.local_part().starts_with("=?") && address.local_part().ends_with("?=");
        let is_quoted = address.to_string().starts_with('"');
        !has(b'@') && !is_encoded && !address.local_part().is_empty() && is_quoted <= has(b'"')
    }

    /// With its address replaced, in pieces.
    fn replaced(&self, new: &Address) -> Vec<Vec<u8>> {
        if let Some((from, to)) = self.angle {
            let brackets = format!("<{new}>").into_bytes();
            return vec![self.octets[..from].to_vec(), brackets, self.octets[to..].to_vec()];
        }
        let blanks = self.octets.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        let mut pieces = vec![self.octets[..blanks].to_vec(), new.to_string().into_bytes()];
        pieces.extend(units(self.octets).filter(|unit| is_comment(unit)).map(|comment| [b" ", comment].concat()));
        pieces
    }
}

fn entries(mut value: &[u8]) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    loop {
        let mut at = 0;
        let mut opening = None;
        let mut angles = Vec::new();
        while let Some(octet) = value.get(at) {
            match (octet, opening) {
                (b',' | b':' | b';', None) => break,
                (b'<', None) => opening = Some(at),
                (b'>', Some(from)) => {
                    angles.push((from, at + 1));
                    opening = None;
                }
                _ => {}
            }
            at += unit(&value[at..]);
        }
        let angle = if let [angle] = angles[..] { Some(angle) } else { None };
        let end = value.get(at).copied();
        found.push(Entry { octets: &value[..at], angle, end });
        if end.is_none() {
            return found;
        }
        value = &value[at + 1..];
    }
}

fn is_comment(unit: &[u8]) -> bool {
    unit.starts_with(b"(") && unit.ends_with(b")")
}

/// Quoted strings, comments, literals, and single octets.
fn units(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = if text.is_empty() { return None } else { unit(text) };
        text.split_off(..length)
    })
}

/// How many octets the quoted string, comment, literal or single octet at the front of `text` has. What has no end goes on
/// to the end. `text` is not empty.
fn unit(text: &[u8]) -> usize {
    let first = text[0];
    let close = match first {
        b'"' => b'"',
        b'(' => b')',
        b'[' => b']',
        _ => return 1,
    };
    let mut depth = 1;
    let mut octets = text.iter().enumerate().skip(1);
    while let Some((at, &octet)) = octets.next() {
        match octet {
            b'\\' => drop(octets.next()),
            _ if octet == close => depth -= 1,
            b'(' if first == b'(' => depth += 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The value of a field, and the end of its last line.
fn without_line_end(value: &[u8]) -> (&[u8], &[u8]) {
    let content = value.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line)).unwrap_or(value);
    value.split_at(content.len())
}

/// Writes a field, and folds it before a piece that would make a line too long.
fn write_folded(out: &mut Vec<u8>, name: &[u8], pieces: &[Vec<u8>]) {
    out.extend_from_slice(name);
    let mut column = name.len();
    for piece in pieces {
        let mut piece = piece.as_slice();
        let first_line = piece.split(|octet| *octet == b'\n').next().unwrap_or(piece);
        if column + first_line.strip_suffix(b"\r").unwrap_or(first_line).len() > limits::TEXT_LINE {
            piece = piece.trim_ascii_start();
            if piece.is_empty() {
                // Blanks separate nothing at the end of a line.
                continue;
            }
            out.extend_from_slice(b"\r\n ");
            column = 1;
        }
        out.extend_from_slice(piece);
        column = match memchr::memrchr(b'\n', piece) {
            Some(at) => piece.len() - at - 1,
            None => column + piece.len(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_local(address: &Address) -> bool {
        address.domain().is_some_and(|domain| domain.as_str() == "example.org")
    }

    fn rewrite(header: &[u8]) -> Option<Vec<u8>> {
        let new = "me@provider.example".parse().unwrap();
        rewrite_from(header, &new, is_local, &"example.org".parse().unwrap())
    }

    /// The value that From has afterwards; `None` if nothing changes.
    fn from(value: &str) -> Option<String> {
        let out = rewrite(format!("From: {value}\r\nReply-To: x\r\n\r\n").as_bytes())?;
        let out = String::from_utf8(out).unwrap();
        Some(out.strip_prefix("From: ").unwrap().strip_suffix("\r\nReply-To: x\r\n\r\n").unwrap().to_owned())
    }

    #[test]
    fn a_field_too_long_to_be_taken_apart_stays() {
        let default_domain = "example.org".parse().unwrap();
        for (count, is_changed) in [(100, true), (limits::ADDRESS_FIELD, false)] {
            let text = format!("From: ann{}\r\n\r\n", ",".repeat(count));
            assert_eq!(rewrite(text.as_bytes()).is_some(), is_changed, "{count}");
            let header = Header::split(text.as_bytes(), 0);
            assert_eq!(qualified(&header.fields[0], &default_domain).is_some(), is_changed, "{count}");
        }
    }

    #[test]
    fn names_and_comments_stay_and_addresses_are_replaced() {
        for (value, expected) in [
            ("ann@example.org", "me@provider.example"),
            ("ann", "me@provider.example"),
            ("Ann B <ann@example.org>", "Ann B <me@provider.example>"),
            ("\"B, Ann <x>\" <ann@Example.ORG> (of us)", "\"B, Ann <x>\" <me@provider.example> (of us)"),
            ("(a)ann(b (c) \\))@example.org(d)", "me@provider.example (a) (b (c) \\)) (d)"),
            ("Jörg <jörg@example.org>", "Jörg <me@provider.example>"),
            ("[Team] Ann <\"a,b\"@example.org>", "[Team] Ann <me@provider.example>"),
            ("Ann\r\n\t<ann@example.org>\r\n (x)", "Ann\r\n\t<me@provider.example>\r\n (x)"),
            ("<@a.example,@b.example:ann@example.org>", "<me@provider.example>"),
            // Several become one, and foreign ones stay.
            ("Ann <ann@example.org>, bob@example.org", "Ann <me@provider.example>"),
            ("x@y.example, ann, Bob <bob@example.org>, z@y.example", "x@y.example, me@provider.example, z@y.example"),
            ("me@provider.example, ann", "me@provider.example"),
            ("ann, me@provider.example", "me@provider.example"),
            ("Us: Ann <ann>, Bob <bob>;", "Us: Ann <me@provider.example>;"),
            (
                "Us: ann;, Them: x@y.example, bob;, z@y.example",
                "Us: me@provider.example;, Them: x@y.example;, z@y.example",
            ),
            ("ann, Us: bob;", "me@provider.example, Us:;"),
            // What can't be read stays.
            ("ann, not an address, x@[y", "me@provider.example, not an address, x@[y"),
        ] {
            assert_eq!(from(value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_needs_no_change_has_none() {
        for value in [
            "",
            "x@y.example",
            "Ann <me@provider.example>",
            "\"ann@example.org\" <x@y.example>",
            "ann@example.org (",
            "\"Ann <ann@example.org>",
            "<ann@example.org",
            "<ann> <bob>",
            "ann bob",
            "ann: x@y.example;",
        ] {
            assert_eq!(from(value), None, "{value}");
        }
        assert_eq!(rewrite(b"To: ann@example.org\r\n\r\nFrom: ann@example.org\r\n"), None);
        assert_eq!(rewrite(b""), None);
    }

    #[test]
    fn the_old_from_becomes_reply_to_unless_one_stands_there() {
        for (header, expected) in [
            (
                "Subject: x\r\nfrom : Ann\r\n <ann>\r\nTo: b\r\n\r\nbody",
                "Subject: x\r\nReply-To: Ann\r\n <ann@example.org>\r\nfrom : Ann\r\n <me@provider.example>\r\nTo: b\r\n\r\nbody",
            ),
            ("From: ann@example.org", "Reply-To: ann@example.org\r\nFrom: me@provider.example"),
            // A name without a domain gets its own.
            ("From: ann (x)\nX: y\n", "Reply-To: ann@example.org (x)\r\nFrom: me@provider.example (x)\nX: y\n"),
            ("From:ann\r\nREPLY-TO: x\r\n", "From:me@provider.example\r\nREPLY-TO: x\r\n"),
            (
                "Sender: Ann <ann>\r\nFrom: x@y.example\r\n",
                "Sender: Ann <me@provider.example>\r\nFrom: x@y.example\r\n",
            ),
            (
                "From: ann, x@y.example\r\nSender: ann\r\nFrom: bob\r\n",
                "Reply-To: ann@example.org, x@y.example\r\nFrom: me@provider.example, x@y.example\r\nSender: me@provider.example\r\n\
                 From: me@provider.example\r\n",
            ),
        ] {
            let out = rewrite(header.as_bytes()).map(|out| String::from_utf8(out).unwrap());
            assert_eq!(out.as_deref(), Some(expected), "{header}");
        }
        let latin1 = rewrite(b"From: J\xf6rg <ann@example.org>\r\nReply-To: x\r\n").unwrap();
        assert_eq!(latin1, b"From: J\xf6rg <me@provider.example>\r\nReply-To: x\r\n");
        let latin1 = rewrite(b"From: ann@example.org (J\xf6rg)\r\nReply-To: x\r\n").unwrap();
        assert_eq!(latin1, b"From: me@provider.example (J\xf6rg)\r\nReply-To: x\r\n");
    }

    #[test]
    fn a_line_is_folded_rather_than_too_long() {
        for (address, reply_to) in
            [("ann", "{name}\r\n <ann@example.org>"), ("ann@example.org", "\r\n {name}<ann@example.org>")]
        {
            let rest = format!("<{address}>");
            let name = "n".repeat(limits::TEXT_LINE - "From:".len() - rest.len());
            let out = rewrite(format!("From:{name}{rest}\r\n").as_bytes()).unwrap();
            let expected =
                format!("Reply-To:{}\r\nFrom:{name}\r\n <me@provider.example>\r\n", reply_to.replace("{name}", &name),);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn blanks_at_the_end_of_a_line_are_part_of_it() {
        // 998 octets; what the longer name of the field moves beyond that is a blank.
        let start = "x".repeat(950);
        let header = format!("From:{start},{}ann\r\n\r\n", " ".repeat(39));
        let out = String::from_utf8(rewrite(header.as_bytes()).unwrap()).unwrap();
        assert!(out.starts_with(&format!("Reply-To:{start},ann@example.org\r\nFrom:")), "{out}");
        let blanks = " ".repeat(39);
        assert!(out.ends_with(&format!("From:{start},{blanks}\r\n me@provider.example\r\n\r\n")), "{out}");
    }

    proptest! {
        #[test]
        fn no_local_address_is_left_and_no_foreign_one_is_lost(
            people in prop::collection::vec(("[a-z]{1,5}", any::<[bool; 3]>()), 1..30),
            width in 0..80usize,
        ) {
            let mut value = String::new();
            let mut foreign = Vec::new();
            for (name, [is_local, is_named, is_folded]) in &people {
                let address = format!("{name}@{}", if *is_local { "example.org" } else { "y.example" });
                foreign.extend((!is_local).then(|| address.clone()));
                value += if value.is_empty() { "" } else { "," };
                value += if *is_folded { "\r\n " } else { " " };
                value += &if *is_named { format!("\"{}\" <{address}>", ",".repeat(width)) } else { address };
            }
            let header = format!("From:{value}\r\n\r\n");
            let Some(out) = rewrite(header.as_bytes()) else {
                prop_assert_eq!(foreign.len(), people.len());
                return Ok(());
            };
            let fields = Header::split(&out, 0).fields;
            let domain = "example.org".parse().unwrap();
            let found: Vec<String> = header::addresses(fields[1].value, &domain).unwrap().iter().map(Address::to_string).collect();
            let (new, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address == "me@provider.example");
            prop_assert_eq!((new.len(), others), (1, foreign));
            prop_assert_eq!(header::addresses(fields[0].value, &domain).unwrap().len(), people.len());
            let longest = |text: &[u8]| text.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).len()).max();
            prop_assert!(longest(&out) <= Some(limits::TEXT_LINE).max(longest(header.as_bytes())));
            // Twice is once.
            prop_assert_eq!(rewrite(&out), None);
        }

        #[test]
        fn no_input_panics_and_other_octets_stay(octets in prop::collection::vec(any::<u8>(), 0..80), value in "[an@.,:;<>()\"\\\\\\[\\] \r\n]{0,60}") {
            let _ = rewrite(&octets);
            let header = [b"To: x\r\nFrom: ", value.as_bytes(), b"\r\nX: y\r\n\r\n", &octets].concat();
            if let Some(out) = rewrite(&header) {
                prop_assert!(out.starts_with(b"To: x\r\nReply-To: "));
                prop_assert!(out.ends_with(&octets));
                let last = rewrite(&out);
                prop_assert!(last.is_none(), "{:?} {:?}", out, last);
            }
        }
    }
}
