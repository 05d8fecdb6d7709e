//! A small world on loopback: one zone, and hosts at 127.0.0.2, 127.0.0.3 and so on that all take mail at one port, as
//! hosts do at port 25. And a server of ours in a network of its own, where it is port 25.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use super::Server;
use super::hop::{Act, Exchanger};
use super::net::Host;
use super::zone::Zone;

/// The zone and the port. Names and addresses in the records are the test's.
pub struct World {
    pub zone: Zone<'static>,
    pub port: u16,
}

/// The settings of a server in a world: lines for its tables.
#[derive(Default)]
pub struct Settings<'a> {
    /// For `[delivery]`, in the place of attempts that follow one another quickly.
    pub delivery: &'a str,
    /// Whole tables.
    pub tables: &'a str,
    /// The aliases file.
    pub aliases: &'a str,
}

impl World {
    /// `None` where there is no nsd.
    pub fn new(records: &str) -> Option<World> {
        let port = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap().local_addr().unwrap().port();
        Some(World { zone: Zone::start(records)?, port })
    }

    /// The host at 127.0.0.`last`.
    pub fn address(&self, last: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, last), self.port).into()
    }

    /// A listener there.
    pub fn listener(&self, last: u8) -> TcpListener {
        TcpListener::bind(self.address(last)).unwrap()
    }

    /// A fake host there; see [`Exchanger::start`].
    pub fn exchanger<F>(&self, last: u8, offers: &[&str], except: F) -> Exchanger
    where
        F: FnMut(&str) -> Option<Act> + Clone + Send + 'static,
    {
        Exchanger::start(self.listener(last), offers, except)
    }

    /// A server of ours that finds the others in the zone, ready to start.
    pub fn prepared(&self, settings: &Settings<'_>) -> Server {
        let delivery = match settings.delivery {
            "" => "retry_min = \"1s\"\nretry_max = \"1s\"\n",
            lines => lines,
        };
        let extra = format!("[delivery]\nremote_port = {}\n{delivery}{}", self.port, settings.tables);
        let server = Server::prepared(&extra, settings.aliases);
        server.configure("127.0.0.1:9", &self.zone.address().to_string());
        server
    }

    /// The same, started.
    pub fn server(&self, settings: &Settings<'_>) -> Server {
        let mut server = self.prepared(settings);
        server.run();
        server
    }

    /// A server at 127.0.0.`last`, where others find it, ready to start.
    pub fn prepared_at(&self, last: u8, settings: &Settings<'_>) -> Server {
        let server = self.prepared(settings);
        server.configure("smtp = [\"127.0.0.1:0\"]", &format!("smtp = [\"{}\"]", self.address(last)));
        server
    }
}

/// A server on a host of a network, started there with port 25 and the resolver of /etc/resolv.conf, as in life. It is at
/// [`AT_HOME`] for clients on its host.
pub fn server_on(host: &Host, zone: &Zone<'_>, settings: &Settings<'_>) -> Server {
    host.etc("resolv.conf", &format!("nameserver {}\n", zone.address().ip()));
    let extra = format!("[delivery]\n{}{}", settings.delivery, settings.tables);
    let mut server = Server::prepared(&extra, settings.aliases);
    server.configure("resolver = \"127.0.0.1:9\"\n", "");
    server.configure("smtp = [\"127.0.0.1:0\"]", "smtp = [\"0.0.0.0:25\"]");
    server.run_as(host.around(&server.command()));
    server
}

/// See [`server_on`].
pub const AT_HOME: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 25);
