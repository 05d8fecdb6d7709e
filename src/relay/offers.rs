//! What a next hop offers in its reply to EHLO (RFC 5321 §4.1.1.1). A hop that was greeted by HELO offers nothing.

use super::reply::Answer;

/// The extensions that we know how to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// SIZE (RFC 1870): the most octets it takes, [`u64::MAX`] where it names no bound.
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
}

impl Offers {
    /// Reads the lines after the first, each a keyword and its parameters; unknown and unreadable ones are passed over.
    pub(super) fn read(answer: &Answer) -> Offers {
        let mut offers = Offers::default();
        for line in answer.lines().skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default() {
                "SIZE" => offers.size = Some(size(words.next())),
                "8BITMIME" => offers.eight_bit_mime = true,
                "PIPELINING" => offers.pipelining = true,
                "SMTPUTF8" => offers.smtputf8 = true,
                "CHUNKING" => offers.chunking = true,
                "DSN" => offers.dsn = true,
                _ => {}
            }
        }
        offers
    }
}

/// RFC 1870 §4: none and 0 mean that there is no fixed bound; a number too large for us is none either.
fn size(parameter: Option<&str>) -> u64 {
    match parameter.and_then(|digits| digits.parse().ok()) {
        None | Some(0) => u64::MAX,
        Some(bound) => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Collector;
    use super::*;

    fn read(text: &str) -> Offers {
        Offers::read(&Collector::default().feed(text.as_bytes()).unwrap().1.unwrap())
    }

    #[test]
    fn every_keyword_is_read_in_any_case() {
        let all = read(
            "250-mx.example greets you\r\n250-size 1000\r\n250-8BitMime\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n\
             250-DSN\r\n250-AUTH PLAIN\r\n250 ENHANCEDSTATUSCODES\r\n",
        );
        let expected = Offers {
            size: Some(1000),
            eight_bit_mime: true,
            pipelining: true,
            smtputf8: true,
            chunking: true,
            dsn: true,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn the_first_line_is_a_name_and_no_offer() {
        assert_eq!(read("250-DSN\r\n250 \u{1}DSN\r\n"), Offers::default());
    }

    #[test]
    fn a_size_without_a_bound_is_endless() {
        for text in ["SIZE", "SIZE 0", "SIZE x", "SIZE 99999999999999999999999"] {
            assert_eq!(read(&format!("250-x\r\n250 {text}\r\n")).size, Some(u64::MAX), "{text}");
        }
    }
}
