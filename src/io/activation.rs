//! Listening sockets that whoever started this program has bound already, as systemd.socket(5) does: then no root is
//! needed for ports below 1024.
//!
//! A socket is known by the name it was given (`FileDescriptorName=`), which is that of a protocol, else by its address, else
//! by its port, where the entry is for every address. One that belongs to nothing is an error at start: clients would
//! connect to it, and wait for ever.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

/// The sockets passed in that nobody has taken yet.
#[derive(Default)]
pub struct PassedSockets(Vec<Passed>);

struct Passed {
    name: String,
    address: SocketAddr,
    listener: TcpListener,
}

impl PassedSockets {
    /// Takes what was passed in, if anything was. To be called once, before the first thread is started.
    pub fn take() -> io::Result<PassedSockets> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut found = ListenFd::from_env();
        let mut sockets = Vec::new();
        for at in 0..found.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let Some(listener) = found.take_tcp_listener(at)? else { continue };
            if !SockRef::from(&listener).is_listener()? {
                let text = format!("the socket {name} passed in does not listen; leave out Accept=yes");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            listener.set_nonblocking(false)?;
            sockets.push(Passed { name, address: listener.local_addr()?, listener });
        }
        Ok(PassedSockets(sockets))
    }

    /// The sockets of a protocol that is to listen on `addresses`, and those of the addresses that are still to be bound.
    /// Sockets with the protocol's name are in the place of all of them.
    pub fn of(&mut self, protocol: &str, addresses: &[SocketAddr]) -> (Vec<TcpListener>, Vec<SocketAddr>) {
        let named: Vec<TcpListener> =
            self.0.extract_if(.., |one| one.name == protocol).map(|one| one.listener).collect();
        if !named.is_empty() {
            return (named, Vec::new());
        }
        let mut found = Vec::new();
        let mut unbound = Vec::new();
        for address in addresses {
            let same = self.0.iter().position(|one| one.address == *address);
            // An entry for one address must not become one for all of them.
            let same_port = || self.0.iter().position(|one| covers(*address, one.address));
            match same.or_else(same_port) {
                Some(at) => found.push(self.0.remove(at).listener),
                None => unbound.push(*address),
            }
        }
        (found, unbound)
    }

    /// The first that belongs to no protocol, in words.
    pub fn left_over(&self) -> Option<String> {
        self.0.first().map(|one| format!("{} ({:?})", one.address, one.name))
    }
}

fn covers(entry: SocketAddr, address: SocketAddr) -> bool {
    entry.ip().is_unspecified() && entry.port() == address.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str) -> Passed {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Passed { name: name.into(), address: listener.local_addr().unwrap(), listener }
    }

    fn addresses(sockets: &[TcpListener]) -> Vec<SocketAddr> {
        sockets.iter().map(|socket| socket.local_addr().unwrap()).collect()
    }

    #[test]
    fn a_name_goes_before_an_address_and_an_address_before_a_port() {
        let (named, by_address, by_port) = (passed("smtp"), passed("postrider.socket"), passed("x"));
        let (first, second, third) = (named.address, by_address.address, by_port.address);
        let everywhere: SocketAddr = ([0, 0, 0, 0], third.port()).into();
        let unknown: SocketAddr = ([192, 0, 2, 1], third.port()).into();
        let mut sockets = PassedSockets(vec![named, by_port, by_address]);
        let (found, unbound) = sockets.of("smtp", &[second]);
        assert_eq!((addresses(&found), unbound), (vec![first], vec![]));
        let (found, unbound) = sockets.of("pop3", &[unknown, everywhere, second]);
        assert_eq!((addresses(&found), unbound), (vec![third, second], vec![unknown]));
        assert_eq!(sockets.left_over(), None);
    }

    #[test]
    fn what_belongs_to_nothing_is_told() {
        let one = passed("imap");
        let address = one.address;
        let mut sockets = PassedSockets(vec![one]);
        assert!(sockets.of("smtp", &[]).0.is_empty());
        assert_eq!(sockets.left_over().unwrap(), format!("{address} (\"imap\")"));
    }
}
