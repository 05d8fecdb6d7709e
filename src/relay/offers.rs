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
    /// REQUIRETLS (RFC 8689). In a [`Session`](super::Session) only where it may be used: under TLS, with a server that
    /// has proved a name which is authentic.
    pub require_tls: bool,
    /// AUTH (RFC 4954), by which this host has logged in there.
    pub logged_in: bool,
}

/// All that a reply to EHLO says: the extensions for mail, and what comes before any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    /// The extensions.
    pub offers: Offers,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// The mechanisms of AUTH (RFC 4954), with blanks between them.
    pub mechanisms: String,
}

impl Hello {
    /// Reads the lines after the first, each a keyword and its parameters; unknown and unreadable ones are passed over.
    pub fn read(answer: &Answer) -> Hello {
        let mut hello = Hello::default();
        for line in answer.lines().skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            // AUTH=LOGIN is how it was written before RFC 2554.
            let (keyword, parameters) = line.split_once([' ', '=']).unwrap_or((&line, ""));
            let offers = &mut hello.offers;
            match keyword.trim_end() {
                "SIZE" => offers.size = Some(size(parameters.split_ascii_whitespace().next())),
                "8BITMIME" => offers.eight_bit_mime = true,
                "PIPELINING" => offers.pipelining = true,
                "SMTPUTF8" => offers.smtputf8 = true,
                "CHUNKING" => offers.chunking = true,
                "DSN" => offers.dsn = true,
                "REQUIRETLS" => offers.require_tls = true,
                "STARTTLS" => hello.starttls = true,
                "AUTH" => hello.mechanisms = format!("{} {parameters}", hello.mechanisms),
                _ => {}
            }
        }
        hello
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

    fn hello(text: &str) -> Hello {
        Hello::read(&Collector::default().feed(text.as_bytes()).unwrap().1.unwrap())
    }

    fn read(text: &str) -> Offers {
        hello(text).offers
    }

    #[test]
    fn what_comes_before_mail_is_read() {
        let found = hello("250-x\r\n250-starttls\r\n250-AUTH Plain LOGIN\r\n250 AUTH=LOGIN\r\n");
        assert!(found.starttls);
        assert_eq!(found.mechanisms.split_whitespace().collect::<Vec<_>>(), ["PLAIN", "LOGIN", "LOGIN"]);
        assert_eq!(hello("250-x\r\n250 STARTTLSX\r\n"), Hello::default());
    }

    #[test]
    fn every_keyword_is_read_in_any_case() {
        let all = read(
            "250-mx.example greets you\r\n250-size 1000\r\n250-8BitMime\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n\
             250-DSN\r\n250-RequireTls\r\n250-AUTH PLAIN\r\n250 ENHANCEDSTATUSCODES\r\n",
        );
        let expected = Offers {
            size: Some(1000),
            eight_bit_mime: true,
            pipelining: true,
            smtputf8: true,
            chunking: true,
            dsn: true,
            require_tls: true,
            logged_in: false,
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
