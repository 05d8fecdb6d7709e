//! The header of a message: its fields, the addresses in them, and how many hosts it came through (RFC 5322 §2.2, §3.4).
//!
//! Reading fields never fails: what is no field ends the header. Reading addresses is strict, because mail goes where
//! they say: what can't be read is an [`AddressError`]. Nothing here recurses, and nothing grows beyond its input.

use std::str::FromStr;

use super::address::{Address, AddressError, Domain, Host};

/// One field, with where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, without the colon.
    pub name: &'a str,
    /// What follows the colon, with its line ends.
    pub value: &'a [u8],
    /// All of it, with its last line end.
    pub octets: &'a [u8],
    /// The number of its first line.
    pub line: usize,
}

impl Field<'_> {
    /// Whether it has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A header, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// In their order.
    pub fields: Vec<Field<'a>>,
    /// Where the body begins.
    pub body_offset: usize,
    /// How many lines are above the body.
    pub lines: usize,
    /// Whether an empty line ends it, and not a line that is no field, or the end of the text.
    pub ended: bool,
}

impl<'a> Header<'a> {
    /// Takes the header from the front of `text`, of which `lines` lines were read before. Lines end with LF or CR LF.
    pub fn split(text: &'a [u8], lines: usize) -> Header<'a> {
        let mut header = Header { fields: Vec::new(), body_offset: 0, lines, ended: false };
        loop {
            let rest = &text[header.body_offset..];
            let empty = [&b"\n"[..], b"\r\n"].iter().find(|end| rest.starts_with(end)).map(|end| end.len());
            if let Some(length) = empty {
                header.take(length, 1);
                header.ended = true;
                return header;
            }
            let Some(colon) = name_end(rest) else { return header };
            let (length, lines) = field_end(rest);
            let name = rest[..colon].trim_ascii_end();
            let field = Field {
                name: std::str::from_utf8(name).unwrap_or_default(),
                value: &rest[colon + 1..length],
                octets: &rest[..length],
                line: header.lines + 1,
            };
            header.fields.push(field);
            header.take(length, lines);
        }
    }

    fn take(&mut self, length: usize, lines: usize) {
        self.body_offset += length;
        self.lines += lines;
    }

    /// The fields of this name, in their order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().filter(move |field| field.is(name))
    }
}

/// Where the colon of the field at the front of `text` stands. RFC 5322 §4.5 lets blanks precede it.
pub(super) fn name_end(text: &[u8]) -> Option<usize> {
    let colon = text.iter().position(|octet| *octet == b':' || *octet == b'\n')?;
    let name = text[..colon].trim_ascii_end();
    (text[colon] == b':' && !name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(colon)
}

/// How many octets and lines the field at the front of `text` has: lines that begin with a blank belong to it.
fn field_end(text: &[u8]) -> (usize, usize) {
    let mut lines = 0;
    for end in memchr::memchr_iter(b'\n', text) {
        lines += 1;
        if !matches!(text.get(end + 1), Some(b' ' | b'\t')) {
            return (end + 1, lines);
        }
    }
    (text.len(), lines + 1)
}

/// Counts the Received fields of a message that streams past: each host adds one, so many mean a loop.
#[derive(Debug, Default)]
pub struct HopCounter {
    count: usize,
    /// The first octets of the line, as many as tell.
    start: [u8; RECEIVED.len()],
    filled: usize,
    is_body: bool,
}

const RECEIVED: &[u8] = b"received:";

impl HopCounter {
    /// Takes the next octets of the message.
    pub fn feed(&mut self, mut octets: &[u8]) {
        while !self.is_body && !octets.is_empty() {
            let end = memchr::memchr(b'\n', octets);
            let (line, rest) = octets.split_at(end.map_or(octets.len(), |at| at + 1));
            self.start_of_line(line);
            if end.is_some() {
                self.is_body = matches!(&self.start[..self.filled], b"\n" | b"\r\n");
                self.filled = 0;
            }
            octets = rest;
        }
    }

    fn start_of_line(&mut self, octets: &[u8]) {
        let wanted = octets.len().min(RECEIVED.len() - self.filled);
        self.start[self.filled..][..wanted].copy_from_slice(&octets[..wanted]);
        self.filled += wanted;
        if wanted > 0 && self.start.eq_ignore_ascii_case(RECEIVED) && self.filled == RECEIVED.len() {
            self.count += 1;
        }
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// The addresses in the value of a To, Cc, Bcc, From or Sender field (RFC 5322 §3.4, with the old forms of §4.4): comments,
/// display names, groups and routes are read past. A name without a domain is meant at `default_domain`.
pub fn addresses(value: &[u8], default_domain: &Domain) -> Result<Vec<Address>, AddressError> {
    let text = std::str::from_utf8(value).map_err(|_| AddressError("this is not UTF-8"))?;
    let mut tokens = Tokens { text };
    let mut found = Vec::new();
    let mut words = Vec::new();
    let mut is_group = false;
    loop {
        match tokens.next()? {
            Some(Token::Special('<')) => {
                // What stood before is the name of a person.
                words.clear();
                found.push(angle_address(&mut tokens, default_domain)?);
                is_group = match tokens.next()? {
                    Some(Token::Special(',')) => is_group,
                    Some(Token::Special(';')) if is_group => false,
                    None if !is_group => return Ok(found),
                    None => return Err(AddressError("the group has no end")),
                    Some(_) => return Err(AddressError("something follows the address")),
                };
            }
            Some(Token::Special(':')) if !is_group && !words.is_empty() => {
                words.clear();
                is_group = true;
            }
            Some(Token::Special(end @ (',' | ';'))) if end == ',' || is_group => {
                found.extend(plain_address(&mut words, default_domain)?);
                is_group &= end == ',';
            }
            None if is_group => return Err(AddressError("the group has no end")),
            None => {
                found.extend(plain_address(&mut words, default_domain)?);
                return Ok(found);
            }
            Some(Token::Special(letter)) if letter != '@' => {
                return Err(AddressError("the list of addresses is malformed"));
            }
            Some(word) => words.push(word),
        }
    }
}

/// What follows `<`, up to `>`.
fn angle_address(tokens: &mut Tokens<'_>, default_domain: &Domain) -> Result<Address, AddressError> {
    let mut words = Vec::new();
    loop {
        match tokens.next()? {
            Some(Token::Special('>')) => {
                let address = plain_address(&mut words, default_domain)?;
                return address.ok_or(AddressError("the brackets hold no address"));
            }
            // A route stands before a colon, and means nothing any more.
            Some(Token::Special(':')) if words.first() == Some(&Token::Special('@')) => words.clear(),
            Some(Token::Special(',')) if words.first() == Some(&Token::Special('@')) => {}
            Some(Token::Special(letter)) if letter != '@' => return Err(AddressError("the brackets hold no address")),
            Some(word) => words.push(word),
            None => return Err(AddressError("the closing > is missing")),
        }
    }
}

/// Takes the words, which are `local-part@domain` or a name. `None` if there are none.
fn plain_address(words: &mut Vec<Token>, default_domain: &Domain) -> Result<Option<Address>, AddressError> {
    let words = std::mem::take(words);
    if words.is_empty() {
        return Ok(None);
    }
    let mut parts = words.split(|word| *word == Token::Special('@'));
    let local_part = joined(parts.next().unwrap_or_default())?;
    let host = match parts.next() {
        None => Host::Domain(default_domain.clone()),
        Some([Token::Literal(literal)]) => literal.parse()?,
        Some(domain) => Host::from_str(&joined(domain)?)?,
    };
    if parts.next().is_some() {
        return Err(AddressError("an address has one @"));
    }
    Address::new(&local_part, host).map(Some)
}

/// Words with dots between them.
fn joined(words: &[Token]) -> Result<String, AddressError> {
    let mut text = String::new();
    let mut before: Option<&Token> = None;
    for word in words {
        let (Token::Atom(octets) | Token::Quoted(octets)) = word else {
            return Err(AddressError("an address has the form local-part@domain"));
        };
        let dotted = |token: &Token, at_end: bool| matches!(token, Token::Atom(atom) if if at_end { atom.ends_with('.') } else { atom.starts_with('.') });
        if before.is_some_and(|before| !dotted(before, true) && !dotted(word, false)) {
            return Err(AddressError("an address has the form local-part@domain"));
        }
        text.push_str(octets);
        before = Some(word);
    }
    if words.is_empty() {
        return Err(AddressError("an address has the form local-part@domain"));
    }
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// Letters and dots.
    Atom(String),
    /// What quotes held.
    Quoted(String),
    /// With its brackets.
    Literal(String),
    Special(char),
}

struct Tokens<'a> {
    text: &'a str,
}

impl Tokens<'_> {
    fn next(&mut self) -> Result<Option<Token>, AddressError> {
        self.skip_blanks()?;
        let Some(first) = self.text.chars().next() else { return Ok(None) };
        let token = match first {
            '"' => return self.quoted().map(Some),
            '[' => {
                let end = self.text.find(']').ok_or(AddressError("the closing ] is missing"))?;
                return Ok(Some(Token::Literal(self.take(end + 1).to_owned())));
            }
            '<' | '>' | '@' | ',' | ':' | ';' => Token::Special(first),
            '(' | ')' | ']' | '\\' => return Err(AddressError("the list of addresses is malformed")),
            letter if letter.is_control() => return Err(AddressError("the address holds a control character")),
            _ => {
                let ends =
                    |letter: char| letter.is_whitespace() || letter.is_control() || "<>@,:;\"[]()\\".contains(letter);
                let end = self.text.find(ends).unwrap_or(self.text.len());
                return Ok(Some(Token::Atom(self.take(end.max(first.len_utf8())).to_owned())));
            }
        };
        self.take(first.len_utf8());
        Ok(Some(token))
    }

    fn take(&mut self, octets: usize) -> &str {
        let (taken, rest) = self.text.split_at(octets);
        self.text = rest;
        taken
    }

    /// Blanks, line ends, and comments, which may hold comments.
    fn skip_blanks(&mut self) -> Result<(), AddressError> {
        let mut depth = 0_usize;
        let mut letters = self.text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '(' => depth += 1,
                ')' if depth > 0 => depth -= 1,
                '\\' if depth > 0 => drop(letters.next()),
                _ if depth > 0 || matches!(letter, ' ' | '\t' | '\r' | '\n') => {}
                _ => {
                    self.text = &self.text[at..];
                    return Ok(());
                }
            }
        }
        self.text = "";
        if depth > 0 { Err(AddressError("the comment has no end")) } else { Ok(()) }
    }

    fn quoted(&mut self) -> Result<Token, AddressError> {
        let mut content = String::new();
        let mut letters = self.text.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.take(at + 1);
                    return Ok(Token::Quoted(content));
                }
                '\\' => content.extend(letters.next().map(|(_, escaped)| escaped)),
                '\r' | '\n' => {}
                _ => content.push(letter),
            }
        }
        Err(AddressError("the closing quote is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<String>, AddressError> {
        let found = addresses(text.as_bytes(), &"home.example".parse().unwrap())?;
        Ok(found.iter().map(Address::to_string).collect())
    }

    #[test]
    fn addresses_are_read_as_people_and_programs_write_them() {
        for (text, expected) in [
            (" ann@example.org", "ann@example.org"),
            ("", ""),
            (" , ,", ""),
            ("ann", "ann@home.example"),
            ("ann, bob@example.org,", "ann@home.example bob@example.org"),
            ("Ann B. Smith <ann@example.org>, \"Smith, Bob\" <bob@example.org>", "ann@example.org bob@example.org"),
            ("=?utf-8?Q?J=C3=B6rg?= <j@example.org>", "j@example.org"),
            ("Jörg <jörg@bücher.example>", "jörg@xn--bcher-kva.example"),
            ("ann@example.org (Ann (the \\) first))", "ann@example.org"),
            ("(a)ann(b)@(c)example.org(d)", "ann@example.org"),
            (
                "Friends: ann@example.org, Bob <bob@example.org>;, carol",
                "ann@example.org bob@example.org carol@home.example",
            ),
            ("undisclosed-recipients:;", ""),
            ("<@a.example,@b.example:ann@example.org>", "ann@example.org"),
            ("\"b ob\"@example.org", "\"b ob\"@example.org"),
            ("a . \"b\" . c@example . org", "a.b.c@example.org"),
            ("ann@[192.0.2.1]", "ann@[192.0.2.1]"),
            ("ann@example.org,\r\n\tbob@example.org\r\n", "ann@example.org bob@example.org"),
            ("<ann>", "ann@home.example"),
        ] {
            assert_eq!(read(text).map(|found| found.join(" ")).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_may_mean_two_things_is_refused() {
        for text in [
            "ann bob",
            "ann bob@example.org",
            "ann@example.org bob@example.org",
            "ann@",
            "@example.org",
            "a@b@example.org",
            "<ann@example.org",
            "<>",
            "Ann <>",
            "ann@example.org>",
            "<ann@example.org> x",
            "x: y: ann;",
            "x: ann",
            ": ann;",
            "ann;",
            "\"ann",
            "(ann",
            "ann)",
            "ann@[192.0.2.1",
            "ann@[x]",
            "<a, b>",
            "a\\b@example.org",
            "a\0b@example.org",
            "<<ann@example.org>>",
            "ann@exa mple.org",
            "ann <a@example.org> <b@example.org>",
            "x: <ann@example.org>",
        ] {
            assert!(read(text).is_err(), "{text}: {:?}", read(text));
        }
        assert!(addresses(b"\xff@example.org", &"a.org".parse().unwrap()).is_err());
    }

    #[test]
    fn fields_know_their_lines_and_what_ends_them() {
        let text = b"Subject: one\r\n two\r\nTo : ann\nX:\n\nbody: no field\n";
        let header = Header::split(text, 2);
        let shown: Vec<_> = header.fields.iter().map(|field| (field.name, field.line, field.octets.len())).collect();
        assert_eq!(shown, [("Subject", 3, 20), ("To", 5, 9), ("X", 6, 3)]);
        assert_eq!((header.lines, header.ended), (7, true));
        assert_eq!(&text[header.body_offset..], b"body: no field\n");
        for (text, fields, offset) in [
            (&b"hello\nTo: ann\n"[..], 0, 0),
            (b"To: ann\nhello there: x\n", 1, 8),
            (b"To: ann", 1, 7),
            (b" To: x\n", 0, 0),
            (b"", 0, 0),
        ] {
            let header = Header::split(text, 0);
            assert_eq!((header.fields.len(), header.body_offset, header.ended), (fields, offset, false));
        }
    }

    #[test]
    fn hops_are_counted_in_the_header_only() {
        let text = b"Received: a\r\nRECEIVED:b\r\n received: c\r\nX-Received: d\r\nreceived: e\n\r\nReceived: f\r\n";
        for at in 0..text.len() {
            let mut counter = HopCounter::default();
            counter.feed(&text[..at]);
            counter.feed(&text[at..]);
            assert_eq!(counter.count(), 3, "split at {at}");
        }
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(locals in prop::collection::vec("[ -~äß]{1,12}", 0..5)) {
            let domain: Domain = "example.org".parse().unwrap();
            let all: Vec<Address> = locals.iter().map(|local| Address::new(local, domain.clone()).unwrap()).collect();
            let plain: Vec<String> = all.iter().map(Address::to_string).collect();
            let named: Vec<String> = all.iter().map(|address| format!("(x) \"A, b\" <{address}>")).collect();
            prop_assert_eq!(addresses(plain.join(",\r\n ").as_bytes(), &domain), Ok(all.clone()));
            prop_assert_eq!(addresses(named.join(", ").as_bytes(), &domain), Ok(all));
        }

        #[test]
        fn no_input_panics_and_no_octet_is_lost(octets in prop::collection::vec(any::<u8>(), 0..80), text in "[a:@<>,;\"() \\\\\\[\\]\n]{0,40}") {
            let domain: Domain = "example.org".parse().unwrap();
            let _ = addresses(&octets, &domain);
            let _ = addresses(text.as_bytes(), &domain);
            for input in [&octets, text.as_bytes()] {
                let header = Header::split(input, 0);
                let of_fields: usize = header.fields.iter().map(|field| field.octets.len()).sum();
                prop_assert!(header.body_offset - of_fields <= 2);
            }
        }
    }
}
