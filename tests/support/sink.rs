//! smtp-sink of Debian's postfix: a real next hop with switches for faults.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::{eventually, files, find};

/// What hops of the tests refuse mail with for good, and the status that has to be reported then.
pub const REFUSAL: (&str, &str) = ("550 5.7.1 not wanted", "5.7.1");

/// Whether a report says that a hop of this host refused the message in these words.
pub fn is_refusal(report: &str, (reply, status): (&str, &str)) -> bool {
    let (status, diagnostic) = (format!("Status: {status}\r\n"), format!("Diagnostic-Code: smtp; {reply}\r\n"));
    let fields = ["Action: failed\r\n", &status, "Remote-MTA: dns; 127.", &diagnostic];
    fields.iter().all(|line| report.contains(line))
        && report.replace("\r\n", " ").contains(&format!(" said:  > {reply}"))
}

/// A running one; killed with the value.
pub struct Sink {
    pub address: SocketAddr,
    child: Child,
    /// What it got, a file for each message.
    dump: tempfile::TempDir,
}

impl Sink {
    /// On a free port, with these switches.
    pub fn start(switches: &[&str]) -> Sink {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Sink::start_at(address, switches)
    }

    /// As [`Sink::start`], at this address.
    pub fn start_at(address: SocketAddr, switches: &[&str]) -> Sink {
        let dump = tempfile::tempdir().unwrap();
        fs::set_permissions(dump.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new(find("smtp-sink").unwrap());
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        command.arg("-d").arg(dump.path().join("message."));
        command.args(switches).arg(address.to_string()).arg("100").stdout(Stdio::null()).stderr(Stdio::null());
        let sink = Sink { address, child: command.spawn().unwrap(), dump };
        eventually("smtp-sink listens", || TcpStream::connect(address).is_ok());
        sink
    }

    /// How many messages it has that hold this line.
    pub fn count(&self, line: &str) -> usize {
        let holds = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap().lines().any(|found| found == line);
        files(self.dump.path()).iter().filter(|path| holds(path)).count()
    }

    /// Ends it; what it got stays.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}
