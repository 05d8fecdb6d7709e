//! The servers, each with its mailboxes and its spool in a folder of its own on the measured disk, and each as it makes
//! mail durable by default.
//!
//! Postfix: 100 processes of a kind at most (`default_process_limit`), as it comes; delivery by virtual(8); no chroot; its
//! log a file; `in_flow_delay = 0`, or it would hold clients back. Exim and OpenSMTPD: as many sessions as the bench opens,
//! and as many messages in each. Postrider: as many connections as the bench holds. All else is as it comes.
//!
//! Two figures that look wrong and are theirs: after QUIT Exim waits 200 ms for the client to close first, which smtp-source
//! does not; and OpenSMTPD has five connections wait to be accepted, so that of 20 who come at once some are tried again by
//! their kernel, after a second or three.

use std::any::Any;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::gauges::Group;
use crate::onward::Onward;
use crate::support::next_hop::{Kind, NextHop};
use crate::support::postfix::{Options, Postfix};
use crate::support::{Server, eventually, find, tls};

/// How many mailboxes each has: every run fills one of its own.
pub const MAILBOXES: usize = 2000;

/// A server under measurement.
pub struct Rival {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Where its mailboxes are; smtp-sink has none.
    pub mail: Option<PathBuf>,
    // Before the group, which can only go when it is empty.
    _running: Box<dyn Any>,
    pub group: Group,
}

/// The mailbox of a run.
pub fn mailbox(number: usize) -> String {
    format!("r{number}@example.org")
}

/// Starts those that are installed; names those that are not.
pub fn start_all(onward: &Onward, folder: &Path) -> (Vec<Rival>, Vec<&'static str>) {
    let mut missing = Vec::new();
    let mut rivals = vec![postrider(onward)];
    for (name, rival) in [
        ("Postfix", postfix(onward, folder)),
        ("Exim", other("Exim", Kind::Exim, onward)),
        ("OpenSMTPD", other("OpenSMTPD", Kind::OpenSmtpd, onward)),
        ("smtp-sink", sink()),
    ] {
        match rival {
            Some(rival) => rivals.push(rival),
            None => missing.push(name),
        }
    }
    (rivals, missing)
}

/// A port of 127.0.0.1 that nobody has.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A Postrider with the mailboxes of the bench, ready to start at a known address.
pub fn prepared(onward: &Onward) -> (Server, SocketAddr) {
    let address = free_address();
    let domains = onward.domains().map(|(domain, to)| format!("\"{domain}\" = \"{to}\""));
    let server = Server::prepared(
        &format!(
            "[relay]\ndomains = {{ {} }}\n[limits]\nconnections = 10100\nconnections_per_client = 10100\n",
            domains.join(", ")
        ),
        "",
    );
    server.configure("smtp = [\"127.0.0.1:0\"]", &format!("smtp = [\"{address}\"]"));
    let ann = fs::read_to_string(server.path("users")).unwrap();
    let hash = ann.lines().next().and_then(|line| line.split_once(':')).unwrap().1;
    let users: String = (0..MAILBOXES).map(|number| format!("{}:{hash}\n", mailbox(number))).collect();
    fs::write(server.path("users"), users).unwrap();
    (server, address)
}

/// What it is called in the table.
pub const POSTRIDER: &str = "Postrider";

fn postrider(onward: &Onward) -> Rival {
    let (mut server, address) = prepared(onward);
    let (group, ()) = Group::of(POSTRIDER, || server.run());
    let mail = Some(server.path("spool/mail"));
    Rival { name: POSTRIDER, address, group, mail, _running: Box::new(server) }
}

fn postfix(onward: &Onward, folder: &Path) -> Option<Rival> {
    let mailboxes: Vec<String> = (0..MAILBOXES).map(mailbox).collect();
    let mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
    let routes = onward.domains().map(|(domain, to)| format!("{{ {domain} = smtp:[{}]:{} }}", to.ip(), to.port()));
    let (certificate, key) = certificate(folder);
    let settings = format!(
        "transport_maps = inline:{{ {} }}\nmessage_size_limit = 52428800\nvirtual_mailbox_limit = 0\n\
         in_flow_delay = 0\nsmtpd_tls_security_level = may\nsmtpd_tls_cert_file = {certificate}\n\
         smtpd_tls_key_file = {key}\n",
        routes.join(", ")
    );
    let options = Options { mailboxes: &mailboxes, settings: &settings, ..Options::default() };
    let (group, running) = Group::of("Postfix", || Postfix::start("make bench", &options));
    let running = running?;
    let (address, mail) = (running.address(), Some(running.mail()));
    Some(Rival { name: "Postfix", address, group, mail, _running: Box::new(running) })
}

fn certificate(folder: &Path) -> (String, String) {
    tls::make_certificate(folder, "mail.example.org");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    (path("certificate.pem"), path("key.pem"))
}

fn other(name: &'static str, kind: Kind, onward: &Onward) -> Option<Rival> {
    let mailboxes: Vec<String> = (0..MAILBOXES).map(mailbox).collect();
    let mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
    let domains = onward.domains();
    let (group, running) = Group::of(name, || NextHop::start_relaying("make bench", kind, &mailboxes, &domains, None));
    let running = running?;
    let (address, mail) = (running.address(), Some(running.mail()));
    Some(Rival { name, address, group, mail, _running: Box::new(running) })
}

/// smtp-sink, which stores nothing: the ceiling of the client.
fn sink() -> Option<Rival> {
    let address = free_address();
    let (group, sink) = Group::of("smtp-sink", || Sink::start(address, &[], Stdio::null()));
    Some(Rival { name: "smtp-sink", address, group, mail: None, _running: Box::new(sink?) })
}

/// A running smtp-sink; ended with the value.
pub struct Sink(pub Child);

impl Sink {
    /// For as many sessions as the bench opens.
    pub fn start(address: SocketAddr, switches: &[&str], output: Stdio) -> Option<Sink> {
        let mut command = Command::new(find("smtp-sink")?);
        command.args(["-u", "nobody", "-m", "2000"]).args(switches).arg(address.to_string()).arg("1000");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn().ok()?;
        eventually("smtp-sink listens", || std::net::TcpStream::connect(address).is_ok());
        Some(Sink(child))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
