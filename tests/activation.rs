//! Started by systemd, or by whoever does as it does: its units, sockets passed in, and what it is told.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use support::{PATIENCE, Server, eventually, have};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

#[test]
fn the_units_have_no_mistake() {
    if !have("systemd-analyze", "the_units_have_no_mistake") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for unit in ["postrider.service", "postrider.socket"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etc").join(unit)).unwrap();
        fs::write(folder.path().join(unit), text.replace("/usr/local/sbin/postrider", BINARY)).unwrap();
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["--man=no", "verify", "./postrider.service", "./postrider.socket"]).current_dir(folder.path());
    let ended = analyze.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && !said.contains("postrider."), "{said}");
}

/// What systemd does: binds, and hands the sockets over from number 3 on.
const ACTIVATE: &str = "
import os, socket, sys
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(('127.0.0.1', 0))
    one.listen()
numbers = [os.dup(os.dup(os.dup(one.fileno()))) for one in sockets]
for at, number in enumerate(numbers):
    os.dup2(number, 30 + at)
for at in range(2):
    os.dup2(30 + at, 3 + at, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES=sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
";

fn activated(server: &Server, names: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, names]).arg(BINARY).arg("serve").arg("--config").arg(server.path("postrider.toml"));
    command
}

#[test]
fn sockets_that_are_passed_in_are_used_in_the_place_of_those_named() {
    if !have("python3", "sockets_that_are_passed_in_are_used_in_the_place_of_those_named") {
        return;
    }
    let mut server = Server::prepared("", "");
    // Nobody but root may listen there, and nobody has this address.
    server.configure("smtp = [\"127.0.0.1:0\"]", "smtp = [\"192.0.2.1:25\"]");
    let command = activated(&server, "pop3:smtp");
    server.run_as(command);
    server.smtp().expect("220");
    server.pop3().expect("+OK");
    let reach = |address: SocketAddr| TcpStream::connect(address).is_ok();
    assert!(reach(server.smtp_address()) && reach(server.pop3_address()));
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    server.wait_for("ann@example.org", 1);
    assert_eq!(server.stop(), Some(0));

    let ended = activated(&server, "pop3:imap").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    server.configure("smtp = [\"192.0.2.1:25\"]", "smtp = []");
    let ended = activated(&server, "pop3:imap").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        ended.status.code() == Some(78) && said.contains("\"imap\"") && said.contains("FileDescriptorName"),
        "{said}"
    );
}

#[test]
fn who_started_it_hears_how_it_is() {
    let mut server = Server::prepared("", "");
    let socket = UnixDatagram::bind(server.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut octets = [0; 512];
        let count = socket.recv(&mut octets).unwrap();
        String::from_utf8(octets[..count].to_vec()).unwrap()
    };
    let mut command = server.command();
    command.env("NOTIFY_SOCKET", server.path("notify"));
    server.run_as(command);
    assert_eq!(hear(), "READY=1\n");
    server.signal("HUP");
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hear(), "READY=1\n");
    server.signal("TERM");
    assert_eq!(hear(), "STOPPING=1\n");
    eventually("it has stopped", || server.exited().is_some());
}
