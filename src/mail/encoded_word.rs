//! Reading the encoded words of a header field (RFC 2047), so that a person sees the subject that was meant.
//!
//! Never fails: what is no encoded word, or is in a charset unknown here, stays as it stands. The result may hold any
//! character; who prints it makes it printable.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Senders forget the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text of an unstructured field's value, unfolded. Octets that are no UTF-8 become U+FFFD.
pub fn decoded(value: &[u8]) -> String {
    let value = String::from_utf8_lossy(value);
    let mut text = String::new();
    let mut after_encoded = false;
    for word in value.split_ascii_whitespace() {
        let meant = encoded_word(word);
        // Blanks between two encoded words mean nothing (RFC 2047 §6.2).
        let is_joined = after_encoded && meant.is_some();
        if !text.is_empty() && !is_joined {
            text.push(' ');
        }
        after_encoded = meant.is_some();
        text.push_str(meant.as_deref().unwrap_or(word));
    }
    text
}

/// What `=?charset?encoding?text?=` stands for. A language may follow the charset (RFC 2231 §5).
fn encoded_word(word: &str) -> Option<String> {
    let mut parts = word.strip_prefix("=?")?.strip_suffix("?=")?.split('?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    let octets = match encoding {
        "B" | "b" => BASE64.decode(text).ok()?,
        "Q" | "q" => from_q(text)?,
        _ => return None,
    };
    if parts.next().is_some() {
        return None;
    }
    let charset = charset.split('*').next().unwrap_or_default();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "us-ascii" => Some(String::from_utf8_lossy(&octets).into_owned()),
        // The letters of all three are the same but for a few.
        "iso-8859-1" | "iso-8859-15" | "windows-1252" => Some(octets.iter().copied().map(char::from).collect()),
        _ => None,
    }
}

/// RFC 2047 §4.2.
fn from_q(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut coded = text.bytes();
    while let Some(octet) = coded.next() {
        octets.push(match octet {
            b'_' => b' ',
            b'=' => {
                let mut digit = || char::from(coded.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            _ => octet,
        });
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_words_are_read() {
        for (value, expected) in [
            (" Lunch\r\n on Friday\r\n", "Lunch on Friday"),
            ("=?utf-8?Q?Gr=C3=BC=C3=9Fe_an?= alle", "Grüße an alle"),
            ("=?UTF-8?b?R3LDvMOfZQ?=", "Grüße"),
            ("=?utf-8?q?one?=\r\n =?utf-8?q?two?= three =?utf-8?q?four?=", "onetwo three four"),
            ("=?iso-8859-1*de?Q?Gr=FC=DFe?=", "Grüße"),
            ("=?koi8-r?Q?=F0?=", "=?koi8-r?Q?=F0?="),
            ("=?utf-8?Q?=4?= =?utf-8?Q?=ZZ?= =?utf-8?B?!?=", "=?utf-8?Q?=4?= =?utf-8?Q?=ZZ?= =?utf-8?B?!?="),
            ("=?utf-8?X?a?= =?utf-8?Q?a?b?=", "=?utf-8?X?a?= =?utf-8?Q?a?b?="),
            ("=? ?= =??= =?=", "=? ?= =??= =?="),
            ("Grüße", "Grüße"),
            ("", ""),
        ] {
            assert_eq!(decoded(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(decoded(b"a\xff"), "a\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_input_panics(
            octets in prop::collection::vec(any::<u8>(), 0..60), text in "(=\\?|utf-8|\\?|[QqBb=_ a-f0-9é]){0,20}",
        ) {
            let _ = decoded(&octets);
            let _ = decoded(text.as_bytes());
        }
    }
}
