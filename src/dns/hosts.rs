//! Hosts that only this system knows: those of /etc/hosts (hosts(5)), and what its resolver says of a name.
//!
//! The file is read here, because the server shuts itself in: an editor puts another file in the place of the one that
//! the cage lets the system's resolver open. It is asked after DNS, so an error of either is no answer.

use std::net::IpAddr;
use std::path::Path;

use super::settings::ReadFile;
use crate::mail::address::Domain;

/// Where the system keeps the names of hosts.
pub const HOSTS: &str = "/etc/hosts";

/// The addresses of a host; none if nobody here knows it.
pub(super) fn addresses(host: &Domain, read: &ReadFile) -> Vec<IpAddr> {
    let octets = read(Path::new(HOSTS)).unwrap_or_default();
    let listed = listed(&String::from_utf8_lossy(&octets), host.as_str());
    if listed.is_empty() {
        return dns_lookup::lookup_host(host.as_str()).map(Iterator::collect).unwrap_or_default();
    }
    listed
}

/// A line is an address and its names; what is no such line says nothing.
fn listed(text: &str, host: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const TEXT: &[u8] = b"# hosts\n127.0.0.1 localhost\n192.0.2.7\tGateway.lan gateway # the old one: printer\n\n\
                          fe80::1%eth0 gateway\n2001:db8::7 gateway\nnonsense gateway\n\xff gateway";

    #[test]
    fn what_the_systems_resolver_may_not_open_is_read_here() {
        let read: ReadFile = Arc::new(|path| {
            assert_eq!(path, Path::new(HOSTS));
            Ok(TEXT.to_vec())
        });
        let words = |found: Vec<IpAddr>| found.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let found = |host: &str| words(addresses(&host.parse().unwrap(), &read));
        assert_eq!(found("gateway.lan"), ["192.0.2.7"]);
        assert_eq!(found("gateway"), ["192.0.2.7", "2001:db8::7"]);
        for nobody in ["printer", "old", "192.0.2.7", ""] {
            assert!(listed(&String::from_utf8_lossy(TEXT), nobody).is_empty(), "{nobody}");
        }
    }
}
