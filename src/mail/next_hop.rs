//! The next hop of mail that leaves this host: the name of a place, before DNS is asked about it.
//!
//! ```text
//! smtp.provider.example:587     this host, on this port
//! smtp.provider.example         this host, on the usual port
//! 192.0.2.7:25, [2001:db8::1]   this address
//! mx:provider.example           the mail exchangers of this domain
//! ```
//!
//! Pure: read from the configuration, or made from a recipient's domain. Fails with an [`AddressError`] that says what
//! is wrong in a few words.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::address::{AddressError, Domain, Host};

/// Where mail goes next. Two recipients with the same next hop share its connections and its troubles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// A domain, or an address literal.
    pub host: Host,
    /// Whether the domain's mail exchangers are meant (RFC 5321 §5.1), and not a host of this name.
    pub by_mx: bool,
    /// The port, where it is not the usual one.
    pub port: Option<u16>,
}

impl NextHop {
    /// Where DNS says that mail for `host` goes.
    pub fn of(host: &Host) -> NextHop {
        NextHop { host: host.clone(), by_mx: matches!(host, Host::Domain(_)), port: None }
    }
}

impl FromStr for NextHop {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<NextHop, AddressError> {
        // In any case: else `MX:25` would be port 25 of a host named mx, and printed as what it is not.
        if text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("mx:")) {
            let (domain, port) = with_port(&text[3..])?;
            return Ok(NextHop { host: domain.parse::<Domain>()?.into(), by_mx: true, port });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(NextHop { host: literal(address.ip()), by_mx: false, port: Some(address.port()) });
        }
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = unbracketed.parse::<IpAddr>() {
            return Ok(NextHop { host: literal(address), by_mx: false, port: None });
        }
        let (name, port) = with_port(text)?;
        Ok(NextHop { host: name.parse::<Domain>()?.into(), by_mx: false, port })
    }
}

fn literal(address: IpAddr) -> Host {
    Host::Literal(address.to_canonical())
}

fn with_port(text: &str) -> Result<(&str, Option<u16>), AddressError> {
    let Some((name, port)) = text.split_once(':') else { return Ok((text, None)) };
    let port = port.parse().ok().filter(|port| *port != 0);
    port.map(|port| (name, Some(port))).ok_or(AddressError("a port is a number from 1 to 65535"))
}

impl fmt::Display for NextHop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_mx {
            out.write_str("mx:")?;
        }
        match &self.host {
            Host::Domain(domain) => domain.fmt(out)?,
            Host::Literal(IpAddr::V4(address)) => address.fmt(out)?,
            Host::Literal(IpAddr::V6(address)) => write!(out, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_is_read_again() {
        for (text, printed) in [
            ("smtp.provider.example:587", "smtp.provider.example:587"),
            ("SMTP.provider.example", "smtp.provider.example"),
            ("mx:provider.example", "mx:provider.example"),
            ("mx:provider.example:2525", "mx:provider.example:2525"),
            ("MX:Provider.example", "mx:provider.example"),
            ("192.0.2.7:25", "192.0.2.7:25"),
            ("192.0.2.7", "192.0.2.7"),
            ("[192.0.2.7]", "192.0.2.7"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("[::ffff:192.0.2.7]:25", "192.0.2.7:25"),
        ] {
            let hop: NextHop = text.parse().unwrap();
            assert_eq!(hop.to_string(), printed);
            assert_eq!(printed.parse::<NextHop>().unwrap(), hop);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in
            ["", ":25", "mx:", "Mx:25", "mx:192.0.2.7", "a b", "host:0", "host:99999", "host:smtp", "[x]", "host:1:2"]
        {
            assert!(text.parse::<NextHop>().is_err(), "{text}");
        }
    }
}
