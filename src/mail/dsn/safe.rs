//! Foreign words made safe for a report: no line of their own, no control over how the rest is shown, never too long.
//!
//! Each word that others chose (replies, names of hosts, addresses, a subject) goes through here, whatever was checked
//! before. Never fails.

use std::net::IpAddr;

use crate::limits;
use crate::mail::address::Address;
use crate::mail::letters::is_misleading;

/// Letters in a line where blanks allow it (RFC 5322 §2.1.1).
pub const WIDTH: usize = 78;

/// Octets after which a word without blanks is broken: longer than any address, and far enough below
/// [`limits::TEXT_LINE`] for what stands before it.
const WORD: usize = 600;

/// `text` in one line of printable letters, cut to `most` octets. Its blanks stay as they are.
pub fn printable(text: &str, most: usize) -> String {
    let mut kept = String::new();
    for letter in text.chars().map(|letter| if is_misleading(letter) { '?' } else { letter }) {
        if kept.len() + letter.len_utf8() > most {
            kept.push_str("...");
            break;
        }
        kept.push(letter);
    }
    kept
}

/// As [`printable`], in ASCII: other letters as RFC 6533 §3 embeds them.
pub fn ascii(text: &str, most: usize) -> String {
    printable(text, most)
        .chars()
        .map(|letter| if letter.is_ascii() { letter.to_string() } else { embedded(letter) })
        .collect()
}

/// The name of a host and its address in brackets, and nothing that could be more: no comment, no sentence.
pub fn host(text: &str) -> String {
    let safe = |word: &str| -> String {
        let signs = if word.starts_with('[') { ".-_[]:" } else { ".-_" };
        let kept = |letter: char| if letter.is_ascii_alphanumeric() || signs.contains(letter) { letter } else { '?' };
        word.chars().take(limits::DOMAIN).map(kept).collect()
    };
    let mut words = text.split_whitespace();
    let name = safe(words.next().unwrap_or("?"));
    match words.next().filter(|word| is_literal(word)) {
        Some(literal) => format!("{name} {}", safe(literal)),
        None => name,
    }
}

fn is_literal(word: &str) -> bool {
    let inner = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = inner.map(|inner| inner.strip_prefix("IPv6:").unwrap_or(inner));
    address.is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

/// An address for a person, or for a field of the header. Only letters that deceive the eye are replaced.
pub fn address(address: &Address) -> String {
    printable(&address.to_string(), limits::TEXT_LINE)
}

/// An address that is not ASCII, in ASCII: `j\x{F6}rg@example.org` (RFC 6533 §3, utf-8-addr-xtext).
pub fn utf8_address(address: &Address) -> String {
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '\\' | '+' | '=');
    address
        .to_string()
        .chars()
        .map(|letter| if plain(letter) { letter.to_string() } else { embedded(letter) })
        .collect()
}

fn embedded(letter: char) -> String {
    format!("\\x{{{:02X}}}", u32::from(letter))
}

/// A field with its CR LF, folded before blanks, so that unfolding gives `value` again. `value` must be printable.
pub fn field(name: &str, value: &str) -> String {
    let mut text = format!("{name}:");
    let mut length = text.len();
    let mut blanks = " ".to_owned();
    for word in value.trim().split(' ') {
        if word.is_empty() {
            blanks.push(' ');
            continue;
        }
        for (at, part) in parts(word).enumerate() {
            let folds = at > 0 || length + blanks.len() + part.len() > WIDTH;
            if folds && length > name.len() + 1 {
                text.push_str("\r\n");
                length = 0;
            }
            text.push_str(&blanks);
            text.push_str(part);
            length += blanks.len() + part.len();
            blanks = " ".to_owned();
        }
    }
    text.push_str("\r\n");
    text
}

/// `text` as lines, each after `first` or `next` and with CR LF, broken at blanks.
pub fn wrapped(text: &str, first: &str, next: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for part in text.split_whitespace().flat_map(parts) {
        if !is_empty && line.chars().count() + 1 + part.chars().count() > WIDTH - 4 {
            lines.push_str(line.trim_end());
            lines.push_str("\r\n");
            line = next.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(part);
        is_empty = false;
    }
    lines.push_str(line.trim_end());
    lines.push_str("\r\n");
    lines
}

/// A word in pieces of at most [`WORD`] octets: nearly always one.
fn parts(mut word: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = word.split_at(word.floor_char_boundary(WORD));
        word = rest;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
pub fn breaks_a_line(letter: char) -> bool {
    matches!(letter, '\r' | '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_breaks_lines_or_misleads_the_eye_is_replaced() {
        assert_eq!(printable("a\r\nb\tc\u{85}d\u{2028}e\u{202e}f", 100), "a??b?c?d?e?f");
        for letter in ['\0', '\u{1b}', '\u{7f}', '\u{61c}', '\u{200b}', '\u{200f}', '\u{2029}', '\u{2066}', '\u{feff}']
        {
            assert_eq!(printable(&format!("a{letter}b"), 10), "a?b", "{letter:?}");
        }
        assert_eq!(printable("grüße", 3), "gr...");
        assert_eq!(printable("grüße", 4), "grü...");
        assert_eq!(ascii("ü €\r", 100), "\\x{FC} \\x{20AC}?");
    }

    #[test]
    fn a_host_is_a_name_and_nothing_more() {
        assert_eq!(host("mx.example.net [IPv6:2001:db8::1]"), "mx.example.net [IPv6:2001:db8::1]");
        assert_eq!(host("mx(x)\0.ä=< [x y"), "mx?x??.???");
        assert_eq!(host("mx [Action: failed]"), "mx");
        assert_eq!(host("mx: says:\r\nBcc: x"), "mx?");
        assert_eq!(host(" "), "?");
    }

    #[test]
    fn addresses_are_embedded_as_rfc_6533_says() {
        for (text, expected) in [
            ("jörg@example.org", "j\\x{F6}rg@example.org"),
            ("\"j ö+=\\\\rg\"@example.org", "\"j\\x{20}\\x{F6}\\x{2B}\\x{3D}\\x{5C}\\x{5C}rg\"@example.org"),
            ("😀@example.org", "\\x{1F600}@example.org"),
        ] {
            assert_eq!(utf8_address(&text.parse().unwrap()), expected);
        }
    }

    #[test]
    fn fields_are_folded_before_blanks() {
        let words = "word ".repeat(30);
        let folded = field("Name", &words);
        assert!(folded.lines().all(|line| line.len() <= WIDTH), "{folded}");
        assert_eq!(folded.replace("\r\n", ""), format!("Name: {}", words.trim()));
        assert_eq!(field("Name", &"x".repeat(200)), format!("Name: {}\r\n", "x".repeat(200)));
        assert_eq!(field("Name", ""), "Name:\r\n");
    }

    #[test]
    fn words_are_wrapped_and_each_line_is_marked() {
        assert_eq!(wrapped("a b", "> ", "> "), "> a b\r\n");
        let text = wrapped(&"word ".repeat(30), "", "> ");
        assert!(text.lines().skip(1).all(|line| line.starts_with("> word") && line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 30);
        assert_eq!(wrapped("", "> ", "> "), ">\r\n");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_line_of_its_own_or_one_too_long(
            text in "\\PC*|(\r|\n|[ -~]|é|€){0,3000}", width in 1usize..3000,
        ) {
            for safe in [printable(&text, width), ascii(&text, width.min(500))] {
                prop_assert!(!safe.chars().any(char::is_control));
                let folded = field("Diagnostic-Code", &safe.split_whitespace().collect::<Vec<_>>().join(" "));
                for line in folded.strip_suffix("\r\n").unwrap().split("\r\n").skip(1) {
                    prop_assert!(line.starts_with(' ') && !line.trim().is_empty());
                }
                for line in folded.lines().chain(wrapped(&safe, "> ", "> ").lines()) {
                    prop_assert!(line.len() <= limits::TEXT_LINE, "{}", line.len());
                }
            }
        }

        #[test]
        fn blanks_survive_folding(text in "[!-~]( {0,3}[!-~]{1,30}){0,20}") {
            prop_assert_eq!(field("N", &text).replace("\r\n", ""), format!("N: {text}"));
        }
    }
}
