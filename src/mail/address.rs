//! Mailbox addresses and the paths of MAIL and RCPT (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! Parsing takes what real clients send (dots anywhere in a local-part, a path without brackets) and gives one normal
//! form: the local-part without its quotes, the domain in lower-case A-labels. Printing is strict. Source routes are
//! read and dropped (RFC 5321 appendix C). Fails with an [`AddressError`] that says what is wrong in a few words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use unicode_normalization::UnicodeNormalization;

use crate::limits;

/// Why something is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressError(pub &'static str);

impl fmt::Display for AddressError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for AddressError {}

/// A domain name in lower-case ASCII (A-labels), at most 255 octets, without a final dot. A clone
/// shares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// The name in ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Domain, AddressError> {
        let name = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| AddressError("this is no international domain name"))?
        };
        if name.is_empty() {
            return Err(AddressError("the domain is missing"));
        }
        if name.len() > limits::DOMAIN {
            return Err(AddressError("the domain is too long"));
        }
        let label_fits = |label: &str| {
            let octets = label.as_bytes();
            !octets.is_empty()
                && octets.len() <= 63
                && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
                && octets[0] != b'-'
                && octets[octets.len() - 1] != b'-'
        };
        if !name.split('.').all(label_fits) {
            return Err(AddressError("the domain is not made of letters, digits, hyphens and dots"));
        }
        // Otherwise an address literal without its brackets would be looked up as a name.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit())) {
            return Err(AddressError("an IP address belongs in brackets"));
        }
        Ok(Domain(name.into()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What stands after the @.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    Literal(IpAddr),
}

impl From<Domain> for Host {
    fn from(domain: Domain) -> Host {
        Host::Domain(domain)
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Host, AddressError> {
        let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            return text.parse().map(Host::Domain);
        };
        let tagged = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map(|_| &inner[5..]);
        let address = match tagged {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        address.map(Host::Literal).ok_or(AddressError("the brackets hold no IP address"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Domain(domain) => domain.fmt(out),
            Host::Literal(IpAddr::V4(address)) => write!(out, "[{address}]"),
            Host::Literal(IpAddr::V6(address)) => write!(out, "[IPv6:{address}]"),
        }
    }
}

/// A mailbox address. Two addresses are equal when their domains are, and their local-parts octet for octet.
/// A clone shares both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local_part: Arc<str>,
    host: Host,
}

impl Address {
    /// The address of `local_part` (without quotes) at `host`.
    pub fn new(local_part: &str, host: impl Into<Host>) -> Result<Address, AddressError> {
        if local_part.len() > limits::LOCAL_PART {
            return Err(AddressError("the local-part is too long"));
        }
        if local_part.chars().any(char::is_control) {
            return Err(AddressError("the local-part holds a control character"));
        }
        Ok(Address { local_part: local_part.into(), host: host.into() })
    }

    /// The part before the @, without quotes.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// The part after the @.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain, unless a literal stands there.
    pub fn domain(&self) -> Option<&Domain> {
        match &self.host {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        }
    }

    /// Whether it can be sent without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local_part.is_ascii()
    }

    /// The form under which local names are looked up: see [`folded`]. A few letters take more octets there; where that
    /// would be too many for an address, nobody can have that name, and it is left as it is.
    pub fn folded(&self) -> Address {
        let folded = folded(&self.local_part);
        if folded == *self.local_part || folded.len() > limits::LOCAL_PART {
            return self.clone();
        }
        Address { local_part: folded.into(), host: self.host.clone() }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `local-part@host` and nothing before or after it.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        match read_address(text)? {
            (address, "") => Ok(address),
            _ => Err(AddressError("something follows the address")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_dot_string = self.local_part.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
        if is_dot_string {
            return write!(out, "{}@{}", self.local_part, self.host);
        }
        out.write_str("\"")?;
        for letter in self.local_part.chars() {
            if matches!(letter, '"' | '\\') {
                out.write_str("\\")?;
            }
            write!(out, "{letter}")?;
        }
        write!(out, "\"@{}", self.host)
    }
}

/// All in lower case, each letter with its marks in one piece where there is such a one (Unicode's NFC, as RFC 6532
/// §3.1 wants it): what looks the same is the same.
pub fn folded(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase().nfc().collect() }
}

/// Where failures are reported to: an address, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReversePath {
    /// `<>`: the message is itself a report, and nothing is reported about it.
    Null,
    /// The sender.
    Address(Address),
}

impl ReversePath {
    /// Reads the argument of `MAIL FROM:` up to its parameters, which are returned.
    pub fn read(text: &str) -> Result<(ReversePath, &str), AddressError> {
        if let Some(rest) = text.strip_prefix("<>") {
            return Ok((ReversePath::Null, after_path(rest)?));
        }
        let (address, rest) = read_path(text)?;
        Ok((ReversePath::Address(address), rest))
    }

    /// The address, unless it is null.
    pub fn address(&self) -> Option<&Address> {
        match self {
            ReversePath::Null => None,
            ReversePath::Address(address) => Some(address),
        }
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<ReversePath, AddressError> {
        match ReversePath::read(text)? {
            (path, "") => Ok(path),
            _ => Err(AddressError("something follows the address")),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => out.write_str("<>"),
            ReversePath::Address(address) => write!(out, "<{address}>"),
        }
    }
}

/// The argument of RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, in any case (RFC 5321 §4.1.1.3).
    Postmaster,
    /// A recipient.
    Address(Address),
}

impl ForwardPath {
    /// Reads the argument of `RCPT TO:` up to its parameters, which are returned.
    pub fn read(text: &str) -> Result<(ForwardPath, &str), AddressError> {
        let bare = text.get(..12).filter(|start| start.eq_ignore_ascii_case("<postmaster>"));
        if bare.is_some() {
            return Ok((ForwardPath::Postmaster, after_path(&text[12..])?));
        }
        let (address, rest) = read_path(text)?;
        Ok((ForwardPath::Address(address), rest))
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => out.write_str("postmaster"),
            ForwardPath::Address(address) => address.fmt(out),
        }
    }
}

/// Reads `<[@route:]address>`, or the address alone, as old devices send it.
fn read_path(text: &str) -> Result<(Address, &str), AddressError> {
    let Some(inner) = text.strip_prefix('<') else {
        let (address, rest) = read_address(text)?;
        return Ok((address, after_path(rest)?));
    };
    let (address, rest) = read_address(skip_source_route(inner)?)?;
    let rest = rest.strip_prefix('>').ok_or(AddressError("the closing > is missing"))?;
    if text.len() - rest.len() > limits::PATH {
        return Err(AddressError("the path is too long"));
    }
    Ok((address, after_path(rest)?))
}

fn after_path(rest: &str) -> Result<&str, AddressError> {
    match rest.strip_prefix(' ') {
        Some(parameters) => Ok(parameters.trim_matches(' ')),
        None if rest.is_empty() => Ok(rest),
        None => Err(AddressError("something follows the address")),
    }
}

fn skip_source_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, rest) = text.split_once(':').ok_or(AddressError("the source route has no end"))?;
    for hop in route.split(',') {
        let host = hop.strip_prefix('@').ok_or(AddressError("the source route is malformed"))?;
        host.parse::<Host>().map_err(|_| AddressError("the source route is malformed"))?;
    }
    Ok(rest)
}

/// Reads an address from the front of `text` and returns what follows it.
fn read_address(text: &str) -> Result<(Address, &str), AddressError> {
    let (local_part, rest) = match text.strip_prefix('"') {
        Some(quoted) => read_quoted(quoted)?,
        None => {
            let end = text.find(|letter| letter != '.' && !is_atext(letter)).unwrap_or(text.len());
            if end == 0 {
                return Err(AddressError("the local-part is missing"));
            }
            (text[..end].to_owned(), &text[end..])
        }
    };
    if local_part.len() > limits::LOCAL_PART {
        return Err(AddressError("the local-part is too long"));
    }
    let rest = rest.strip_prefix('@').ok_or(AddressError("an address has the form local-part@domain"))?;
    let end = match rest.strip_prefix('[') {
        Some(literal) => literal.find(']').map(|at| at + 2),
        None => rest.find(['>', '<', ' ', '@', ',', ':', ';', '"', '\\']),
    };
    let end = end.unwrap_or(rest.len());
    Ok((Address { local_part: local_part.into(), host: rest[..end].parse()? }, &rest[end..]))
}

/// Reads a Quoted-string (RFC 5321 §4.1.2) whose first quote was taken already.
fn read_quoted(text: &str) -> Result<(String, &str), AddressError> {
    let mut content = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        let kept = match letter {
            '"' => return Ok((content, &text[at + 1..])),
            '\\' => letters.next().map(|(_, escaped)| escaped).filter(char::is_ascii),
            other => Some(other),
        };
        match kept.filter(|letter| !letter.is_control()) {
            Some(letter) => content.push(letter),
            None => return Err(AddressError("the quoted local-part holds a character it may not")),
        }
    }
    Err(AddressError("the closing quote is missing"))
}

/// RFC 5322 §3.2.3, with the letters RFC 6531 adds.
fn is_atext(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(letter)
        || (!letter.is_ascii() && !letter.is_control() && !letter.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<String, AddressError> {
        ForwardPath::read(text).map(|(path, rest)| match path {
            ForwardPath::Postmaster => format!("postmaster|{rest}"),
            ForwardPath::Address(address) => format!("{}|{}|{rest}", address.local_part(), address.host()),
        })
    }

    #[test]
    fn paths_are_read_as_clients_send_them() {
        for (text, expected) in [
            ("<bob@Example.ORG>", "bob|example.org|"),
            ("<bob@example.org> NOTIFY=NEVER", "bob|example.org|NOTIFY=NEVER"),
            ("bob@example.org", "bob|example.org|"),
            ("<\"b o\\\"b\"@example.org>", "b o\"b|example.org|"),
            ("<\"user@far\"@local.org>", "user@far|local.org|"),
            ("<user%far@local.org>", "user%far|local.org|"),
            ("<@a.org,@b.org:bob@example.org>", "bob|example.org|"),
            ("<bob@[192.0.2.7]>", "bob|[192.0.2.7]|"),
            ("<bob@[IPv6:2001:db8::1]>", "bob|[IPv6:2001:db8::1]|"),
            ("<a..b.@example.org>", "a..b.|example.org|"),
            ("<bob@bücher.example>", "bob|xn--bcher-kva.example|"),
            ("<jörg@example.org>", "jörg|example.org|"),
            ("<PostMaster>", "postmaster|"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "",
            "<",
            "<>",
            "<bob>",
            "<bob@>",
            "<@example.org>",
            "<bob@example.org",
            "<bob@example.org>x",
            "<b ob@x.org>",
            "<bob@-x.org>",
            "<bob@x..org>",
            "<bob@x.org.>",
            "<bob@192.0.2.7>",
            "<bob@[300.0.0.1]>",
            "<bob@[x]>",
            "<\"bob@x.org>",
            "<\"b\0ob\"@x.org>",
            "<@x.org bob@y.org>",
            "<bob@x.org@y.org>",
            "<b\u{7f}b@x.org>",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&format!("<{}@x.org>", "a".repeat(limits::LOCAL_PART + 1))).is_err());
        assert!(read(&format!("<a@{}org>", "abcdefg.".repeat(32))).is_err());
    }

    #[test]
    fn the_null_path_is_a_reverse_path_only() {
        assert_eq!(ReversePath::read("<> SIZE=1"), Ok((ReversePath::Null, "SIZE=1")));
        assert!(ReversePath::read("<postmaster>").is_err());
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(local in "[ -~äß.]{0,20}", host in "([a-z0-9]{1,5}\\.){0,3}[a-z]{2,5}|\\[1\\.2\\.3\\.4\\]|\\[IPv6:::1\\]") {
            let address = Address { local_part: local.into(), host: host.parse().unwrap() };
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address.clone()));
            let path = ReversePath::Address(address);
            prop_assert_eq!(path.to_string().parse::<ReversePath>(), Ok(path));
        }

        #[test]
        fn what_is_folded_stays_so_however_it_was_written(text in "\\PC{0,20}|[a-zäİΣſ\u{300}-\u{36f}]{0,20}") {
            let once = folded(&text);
            prop_assert_eq!(folded(&once), once.clone());
            prop_assert_eq!(folded(&text.nfd().collect::<String>()), once);
        }

        #[test]
        fn no_input_panics(text in "\\PC{0,40}|[<>@\\[\\]\":,. a-z\\\\]{0,30}") {
            let _ = (ForwardPath::read(&text), ReversePath::read(&text), text.parse::<Address>());
        }
    }
}
