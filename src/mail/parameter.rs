//! The parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954), REQUIRETLS
//! (RFC 8689) and those of DSN (RFC 3461).
//!
//! The same text stands in the envelope fields of a queue entry and of a dropped file. What is unknown, doubled or
//! malformed is a [`ParameterError`], which knows whether it is 501 or 555.

use std::fmt;

use super::address::Address;
use crate::limits;

/// What is wrong with a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// No such parameter: 555.
    Unknown(String),
    /// It stands there twice, or its value can't be read: 501.
    Malformed(&'static str),
}

impl fmt::Display for ParameterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterError::Unknown(name) => write!(out, "parameter {name} is not known here"),
            ParameterError::Malformed(name) => {
                write!(out, "the value of {name} can't be read, or it stands there twice")
            }
        }
    }
}

/// BODY=
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Seven bits an octet.
    SevenBit,
    /// RFC 6152.
    EightBitMime,
}

/// RET=: how much of the message a report returns (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

/// What MAIL says about the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE=: how many octets the client is about to send.
    pub size: Option<u64>,
    /// BODY=
    pub body: Option<Body>,
    /// SMTPUTF8
    pub smtputf8: bool,
    /// REQUIRETLS
    pub require_tls: bool,
    /// RET=
    pub ret: Option<Ret>,
    /// ENVID=, decoded: printable ASCII.
    pub envid: Option<String>,
    /// AUTH= (RFC 4954 §5): who is said to have submitted it. Nobody is believed, so that no name is kept: `AUTH=<>`.
    pub auth: bool,
}

impl MailParameters {
    /// Reads the parameters after the reverse-path.
    pub fn parse(text: &str) -> Result<MailParameters, ParameterError> {
        let mut found = MailParameters::default();
        for (name, value) in each(text) {
            match name.to_ascii_uppercase().as_str() {
                "SIZE" => set(&mut found.size, "SIZE", value.and_then(decimal))?,
                "BODY" => set(&mut found.body, "BODY", value.and_then(body))?,
                "RET" => set(&mut found.ret, "RET", value.and_then(ret))?,
                "ENVID" => set(&mut found.envid, "ENVID", value.and_then(envid))?,
                "SMTPUTF8" => flag(&mut found.smtputf8, "SMTPUTF8", value)?,
                "AUTH" => flag(&mut found.auth, "AUTH", submitter(value))?,
                "REQUIRETLS" => flag(&mut found.require_tls, "REQUIRETLS", value)?,
                _ => return Err(unknown(name)),
            }
        }
        Ok(found)
    }
}

impl fmt::Display for MailParameters {
    /// Each parameter with a space before it. SIZE has ten digits, so that it can be filled in later.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(size) = self.size {
            write!(out, " SIZE={size:010}")?;
        }
        match self.body {
            Some(Body::SevenBit) => out.write_str(" BODY=7BIT")?,
            Some(Body::EightBitMime) => out.write_str(" BODY=8BITMIME")?,
            None => {}
        }
        if self.smtputf8 {
            out.write_str(" SMTPUTF8")?;
        }
        if self.require_tls {
            out.write_str(" REQUIRETLS")?;
        }
        match self.ret {
            Some(Ret::Full) => out.write_str(" RET=FULL")?,
            Some(Ret::Headers) => out.write_str(" RET=HDRS")?,
            None => {}
        }
        if let Some(envid) = &self.envid {
            write!(out, " ENVID={}", Xtext(envid))?;
        }
        if self.auth { out.write_str(" AUTH=<>") } else { Ok(()) }
    }
}

/// NOTIFY=: when the sender wants a report (RFC 3461 §4.1). All false is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// SUCCESS
    pub success: bool,
    /// FAILURE
    pub failure: bool,
    /// DELAY
    pub delay: bool,
}

/// ORCPT=: the recipient as the sender wrote it (RFC 3461 §4.2, RFC 6533 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8`, or another registered type.
    pub kind: String,
    /// Decoded for every type but `utf-8`, whose encoding is kept as it came.
    pub address: String,
}

impl OriginalRecipient {
    fn is_utf8(&self) -> bool {
        self.kind.eq_ignore_ascii_case("utf-8")
    }
}

/// What RCPT says about a recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// NOTIFY=
    pub notify: Option<Notify>,
    /// ORCPT=
    pub orcpt: Option<OriginalRecipient>,
}

impl RcptParameters {
    /// Whether the sender wants to hear of success.
    pub fn wants_success(&self) -> bool {
        self.notify.is_some_and(|notify| notify.success)
    }

    /// Reads the parameters after the forward-path.
    pub fn parse(text: &str) -> Result<RcptParameters, ParameterError> {
        let mut found = RcptParameters::default();
        for (name, value) in each(text) {
            match name.to_ascii_uppercase().as_str() {
                "NOTIFY" => set(&mut found.notify, "NOTIFY", value.and_then(notify))?,
                "ORCPT" => set(&mut found.orcpt, "ORCPT", value.and_then(orcpt))?,
                _ => return Err(unknown(name)),
            }
        }
        Ok(found)
    }
}

impl fmt::Display for RcptParameters {
    /// Each parameter with a space before it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(notify) = self.notify {
            let named = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
            let wanted: Vec<&str> = named.iter().filter(|(wanted, _)| *wanted).map(|(_, name)| *name).collect();
            let value = if wanted.is_empty() { "NEVER".to_owned() } else { wanted.join(",") };
            write!(out, " NOTIFY={value}")?;
        }
        match &self.orcpt {
            Some(orcpt) if orcpt.is_utf8() => write!(out, " ORCPT={};{}", orcpt.kind, orcpt.address),
            Some(orcpt) => write!(out, " ORCPT={};{}", orcpt.kind, Xtext(&orcpt.address)),
            None => Ok(()),
        }
    }
}

fn each(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (part, None),
    })
}

fn set<T>(place: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), ParameterError> {
    match value {
        Some(value) if place.is_none() => {
            *place = Some(value);
            Ok(())
        }
        _ => Err(ParameterError::Malformed(name)),
    }
}

/// One that takes no value.
fn flag(place: &mut bool, name: &'static str, value: Option<&str>) -> Result<(), ParameterError> {
    let is_first = !std::mem::replace(place, true);
    if is_first && value.is_none() { Ok(()) } else { Err(ParameterError::Malformed(name)) }
}

fn unknown(name: &str) -> ParameterError {
    let shown = name.chars().filter(|letter| letter.is_ascii_graphic()).take(40).collect();
    ParameterError::Unknown(shown)
}

/// RFC 1870 §4: one to twenty digits. More than a u64 holds is more than any limit, and read as the largest.
fn decimal(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn body(text: &str) -> Option<Body> {
    match text.to_ascii_uppercase().as_str() {
        "7BIT" => Some(Body::SevenBit),
        "8BITMIME" => Some(Body::EightBitMime),
        _ => None,
    }
}

fn ret(text: &str) -> Option<Ret> {
    match text.to_ascii_uppercase().as_str() {
        "FULL" => Some(Ret::Full),
        "HDRS" => Some(Ret::Headers),
        _ => None,
    }
}

fn envid(text: &str) -> Option<String> {
    decode_xtext(text).filter(|decoded| !decoded.is_empty() && decoded.len() <= limits::ENVID)
}

/// RFC 4954 §8: `<>` or a mailbox, as xtext. What is neither is given back.
fn submitter(value: Option<&str>) -> Option<&str> {
    let name = value.and_then(decode_xtext);
    let is_one = name.is_some_and(|name| name == "<>" || name.parse::<Address>().is_ok());
    if is_one { None } else { value.or(Some("")) }
}

fn notify(text: &str) -> Option<Notify> {
    if text.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::default());
    }
    let mut found = Notify::default();
    for word in text.split(',') {
        let place = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut found.success,
            "FAILURE" => &mut found.failure,
            "DELAY" => &mut found.delay,
            _ => return None,
        };
        if std::mem::replace(place, true) {
            return None;
        }
    }
    Some(found)
}

fn orcpt(text: &str) -> Option<OriginalRecipient> {
    let (kind, value) = text.split_once(';')?;
    let kind_fits = !kind.is_empty() && kind.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let mut found = OriginalRecipient { kind: kind.to_owned(), address: String::new() };
    found.address = if found.is_utf8() {
        Some(value.to_owned())
            .filter(|value| !value.chars().any(|letter| letter.is_control() || letter.is_whitespace()))?
    } else {
        decode_xtext(value)?
    };
    let fits = kind_fits && !found.address.is_empty() && found.address.len() <= limits::ORCPT;
    fits.then_some(found)
}

/// RFC 3461 §4: what is decoded must be printable too, or it could break a header line later.
fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let meant = match octet {
            b'+' => {
                let mut digit = || match octets.next()? {
                    digit @ b'0'..=b'9' => Some(digit - b'0'),
                    digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
                    _ => None,
                };
                digit()? << 4 | digit()?
            }
            b'!'..=b'~' if octet != b'=' => octet,
            _ => return None,
        };
        if !matches!(meant, b' '..=b'~') {
            return None;
        }
        decoded.push(char::from(meant));
    }
    Some(decoded)
}

struct Xtext<'a>(&'a str);

impl fmt::Display for Xtext<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|octet| match octet {
            b'!'..=b'~' if !matches!(octet, b'+' | b'=') => write!(out, "{}", char::from(octet)),
            _ => write!(out, "+{octet:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_parameter_is_read_in_any_case() {
        let found = MailParameters::parse("size=12 Body=8bitmime SMTPUTF8 requireTLS RET=hdrs ENVID=a+2Bb").unwrap();
        assert_eq!(found.to_string(), " SIZE=0000000012 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=a+2Bb");
        for name in ["<>", "+3C+3E", "ann@example.org", "e+3Dmc2@example.com"] {
            assert_eq!(MailParameters::parse(&format!("auth={name}")).unwrap().to_string(), " AUTH=<>", "{name}");
        }
        let found = RcptParameters::parse("notify=delay,Success ORCPT=rfc822;bob+40x").unwrap();
        assert_eq!(found.to_string(), " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob@x");
        assert_eq!(RcptParameters::parse("NOTIFY=NEVER").unwrap().notify, Some(Notify::default()));
    }

    #[test]
    fn malformed_and_unknown_ones_are_told_apart() {
        let malformed = [
            "SIZE",
            "SIZE=",
            "SIZE=-1",
            "SIZE=1x",
            "SIZE=123456789012345678901",
            "SIZE=1 SIZE=1",
            "BODY=BINARYMIME",
            "RET=ALL",
            "ENVID=",
            "ENVID=+0D+0A",
            "ENVID=+2b",
            "ENVID=a+2",
            "AUTH",
            "AUTH=",
            "AUTH=ann",
            "AUTH=e=mc2@example.com",
            "AUTH=<ann@example.org>",
            "AUTH=a+0D@example.org",
            "AUTH=<> AUTH=<>",
            "SMTPUTF8=1",
            "SMTPUTF8 SMTPUTF8",
            "REQUIRETLS=",
            "REQUIRETLS=YES",
            "REQUIRETLS REQUIRETLS",
        ];
        for text in malformed {
            assert!(matches!(MailParameters::parse(text), Err(ParameterError::Malformed(_))), "{text}");
        }
        for text in
            ["NOTIFY=", "NOTIFY=NEVER,DELAY", "NOTIFY=DELAY,DELAY", "ORCPT=bob", "ORCPT=;x", "ORCPT=rfc822;a+0Ab"]
        {
            assert!(matches!(RcptParameters::parse(text), Err(ParameterError::Malformed(_))), "{text}");
        }
        assert_eq!(MailParameters::parse("X=\u{1}1"), Err(ParameterError::Unknown("X".into())));
        assert_eq!(RcptParameters::parse("SIZE=1"), Err(ParameterError::Unknown("SIZE".into())));
    }

    proptest! {
        #[test]
        fn what_was_printed_is_read_again(
            size in prop::option::of(0..10_000_000_000u64), smtputf8: bool, require_tls: bool, auth: bool,
            envid in prop::option::of("[ -~]{1,100}"),
            notify in prop::option::of(any::<(bool, bool, bool)>()),
            orcpt in prop::option::of(("rfc822|x-local", "[ -~]{1,50}")),
            body in prop::option::of(prop_oneof![Just(Body::SevenBit), Just(Body::EightBitMime)]),
            ret in prop::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]),
        ) {
            let mail = MailParameters { size, body, smtputf8, require_tls, ret, envid, auth };
            prop_assert_eq!(MailParameters::parse(&mail.to_string()), Ok(mail));
            let notify = notify.map(|(success, failure, delay)| Notify { success, failure, delay });
            let orcpt = orcpt.map(|(kind, address)| OriginalRecipient { kind, address });
            let rcpt = RcptParameters { notify, orcpt };
            prop_assert_eq!(RcptParameters::parse(&rcpt.to_string()), Ok(rcpt));
        }
    }
}
