//! A real DNS server on a port of 127.0.0.1, or at port 53 of a host of the tests' own, with the records that a test gives
//! it.
//!
//! It is authoritative for everything, so that any name may stand in the records and none of them leaves this machine.
//! What has no TTL of its own holds for no time at all: a test that changes or stops the server sees that at once.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::net::Host;
use super::{eventually, find, have};

const START: &str =
    "$ORIGIN .\n$TTL 0\n. SOA ns.test. admin.test. 1 3600 600 86400 0\n. NS ns.test.\nns.test. A 127.0.0.1\n";

/// An nsd in a folder; killed and removed with the value.
pub struct Zone<'h> {
    folder: tempfile::TempDir,
    address: SocketAddr,
    host: Option<&'h Host>,
    server: Option<Child>,
}

impl Zone<'_> {
    /// Serves these lines of a zone file, as `example. MX 10 mail.example.`; `None` where there is no nsd.
    pub fn start(records: &str) -> Option<Zone<'static>> {
        Zone::start_at(free_address(), None, records)
    }

    /// As [`Zone::start`], where the hosts of a network look for it.
    pub fn start_on<'h>(host: &'h Host, records: &str) -> Option<Zone<'h>> {
        Zone::start_at(SocketAddr::new(host.v4.into(), 53), Some(host), records)
    }

    fn start_at<'h>(address: SocketAddr, host: Option<&'h Host>, records: &str) -> Option<Zone<'h>> {
        if !have("nsd", thread::current().name().unwrap_or("a test of the DNS")) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut zone = Zone { folder, address, host, server: None };
        fs::write(zone.folder.path().join("zone"), format!("{START}{records}\n")).unwrap();
        let checked = program("nsd-checkzone").args([".", "zone"]).current_dir(&zone.folder).output().unwrap();
        assert!(checked.status.success(), "the zone is wrong: {}", text(&checked));
        // Another process may take the port before the server does.
        for _ in 0..10 {
            if zone.run() {
                return Some(zone);
            }
            zone.address = if host.is_none() { free_address() } else { address };
        }
        panic!("nsd does not start:\n{}", zone.log());
    }

    /// Where it answers, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nobody answers there any more.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // Asked, it waits for its children; they are in its group, which is killed where it takes too long.
        let id = server.id();
        let _ = Command::new("kill").args(["-TERM", &id.to_string()]).status();
        let begun = Instant::now();
        while server.try_wait().is_ok_and(|status| status.is_none()) && begun.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{id}")]).stderr(Stdio::null()).status();
        let _ = server.wait();
    }

    /// The same records at the same address again.
    pub fn start_again(&mut self) {
        self.stop();
        eventually("nsd has its port again", || self.run());
    }

    /// Whether it listens now; it does not where its port is taken.
    fn run(&mut self) -> bool {
        let folder = self.folder.path();
        fs::write(folder.join("nsd.conf"), configuration(folder, self.address)).unwrap();
        let mut command = program("nsd");
        command.args(["-d", "-c"]).arg(folder.join("nsd.conf"));
        if let Some(host) = self.host {
            command = host.around(&command);
        }
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let mut exited = false;
        eventually("nsd listens", || {
            exited = server.try_wait().unwrap().is_some();
            let listens = || TcpStream::connect(self.address).is_ok();
            exited || self.host.map_or_else(listens, |host| host.inside(listens))
        });
        self.server = Some(server);
        if exited {
            self.stop();
        }
        !exited
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Zone<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_address() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

fn configuration(folder: &Path, address: SocketAddr) -> String {
    let (folder, ip, port) = (folder.display(), address.ip(), address.port());
    format!(
        "server:\n  ip-address: {ip}@{port}\n  server-count: 1\n  rrl-ratelimit: 0\n  username: \"\"\n  chroot: \"\"\n  database: \"\"\n  \
         zonesdir: \"{folder}\"\n  logfile: \"{folder}/log\"\n  pidfile: \"{folder}/pid\"\n  xfrdir: \"{folder}\"\n  \
         xfrdfile: \"{folder}/xfrd\"\n  zonelistfile: \"{folder}/list\"\n  cookie-secret-file: \"{folder}/cookies\"\n\
         remote-control:\n  control-enable: no\nzone:\n  name: \".\"\n  zonefile: \"zone\"\n"
    )
}

fn program(name: &str) -> Command {
    Command::new(find(name).expect("comes with nsd"))
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat()
}
