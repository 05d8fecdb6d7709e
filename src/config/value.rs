//! Values of the configuration as a person writes them: names, networks, spans of time, sizes.
//!
//! Each error quotes what was written, and shows how it is written right; `toml` adds the line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::limits;

/// Whatever is written as text.
pub fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

/// As [`from_text`], of a key that may be missing.
pub fn from_text_maybe<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    from_text(deserializer).map(Some)
}

/// A server by its address, on port 53 where none is named.
pub fn server<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let server = text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)));
    server.map(Some).map_err(|_| {
        D::Error::custom(format!("{text:?} is no address; write it like \"127.0.0.1:53\" or \"[::1]:53\""))
    })
}

/// A list of what is written as text.
pub fn from_texts<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let texts: Vec<String> = Vec::deserialize(deserializer)?;
    let read = |text: &String| text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")));
    texts.iter().map(read).collect()
}

/// `192.0.2.0/24`, or a single address.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts: Vec<String> = Vec::deserialize(deserializer)?;
    let read = |text: &String| {
        let single = text.parse::<IpAddr>().map(IpNet::from);
        single.or_else(|_| text.parse()).map_err(|_| {
            D::Error::custom(format!("{text:?} is no network; write it like \"192.0.2.0/24\" or \"2001:db8::/32\""))
        })
    };
    texts.iter().map(read).collect()
}

/// `90s`, `5m`, `3h`, `5d`, at most [`limits::SPAN`].
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];
    let span = scaled(&text, &units).map(Duration::from_secs).ok_or_else(|| {
        D::Error::custom(format!("{text:?} is no span of time; write it like \"90s\", \"5m\", \"3h\" or \"5d\""))
    })?;
    if span > limits::SPAN {
        let days = limits::SPAN.as_secs() / 86400;
        return Err(D::Error::custom(format!("{text:?} is longer than any mail waits; write \"{days}d\" at most")));
    }
    Ok(span)
}

/// `500000`, `64KiB`, `50MiB`, `2GiB`.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Number(octets) => Ok(octets),
        Size::Text(text) => scaled(&text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no size; write it like \"64KiB\", \"50MiB\" or \"2GiB\""))
        }),
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, scale)| text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*scale))
}
