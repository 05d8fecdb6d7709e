//! The sockets that clients connect to: bound here while this process may still be root, or passed in by who started it.
//!
//! One that can't be had, and one passed in that nothing listens on, keep the server from starting, with the mend.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::{StartError, unavailable};
use crate::config::Config;
use crate::io::activation::PassedSockets;
use crate::io::listener;
use crate::pop3::connection::Port as Pop3;
use crate::smtpd::connection::Port as Smtp;

/// The sockets of all protocols, bound before privileges are given up.
pub struct Ports(pub Vec<(Purpose, TcpListener)>);

/// What a socket is for.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// SMTP, from other hosts or for submission.
    Smtp(Smtp),
    /// Mail for its owner.
    Pop3(Pop3),
}

impl Purpose {
    /// As the configuration and the log name it.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Smtp(port) => port.name(),
            Purpose::Pop3(port) => port.name(),
        }
    }
}

impl Ports {
    /// Those of `[listen]`. To be called once, before the first thread is started.
    pub fn bind(config: &Config) -> Result<Ports, StartError> {
        let listen = &config.listen;
        let passed = PassedSockets::take();
        let mut passed =
            passed.map_err(|error| unavailable("take the sockets passed in", &error, "see systemd.socket(5)"))?;
        let (mut ports, mut to_bind) = (Vec::new(), Vec::new());
        for (purpose, addresses) in [
            (Purpose::Smtp(Smtp::Smtp), &listen.smtp),
            (Purpose::Smtp(Smtp::Submission), &listen.submission),
            (Purpose::Smtp(Smtp::Submissions), &listen.submissions),
            (Purpose::Pop3(Pop3::Pop3), &listen.pop3),
            (Purpose::Pop3(Pop3::Pop3s), &listen.pop3s),
        ] {
            let (sockets, unbound) = passed.of(purpose.name(), addresses);
            ports.extend(sockets.into_iter().map(|socket| (purpose, socket)));
            to_bind.extend(unbound.into_iter().map(|address| (purpose, address)));
        }
        // First, since it may be what keeps an address from being bound.
        if let Some(socket) = passed.left_over() {
            let mend = "name it with FileDescriptorName=, or give its address to a key of [listen]";
            return Err(StartError::Wrong(format!("nothing listens on {socket}, which was passed in; {mend}")));
        }
        for (purpose, address) in to_bind {
            ports.push((purpose, bind(address)?));
        }
        Ok(Ports(ports))
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    listener::bind(address).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => "another server has it: stop that one, or set [listen]",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root: start as root with run_as set, or set [listen]"
            }
            _ => "set [listen] in the configuration",
        };
        unavailable(format!("listen on {address}"), &error, mend)
    })
}
