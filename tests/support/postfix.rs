//! A Postfix of the tests' own, as a next hop that keeps mail in Maildirs, and as a sender that relays to us.
//!
//! Everything it owns is in one temporary folder: configuration, queue, log and mailboxes; nothing is chrooted, and the
//! Postfix of this machine, if there is one, is not touched. It is stopped with the value. Needs root; where that or
//! Postfix can't be had, the test is named in the list of those skipped.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::User;

use super::mailboxes::{self, maildir};
use super::net::Host;
use super::{find, have, is_root};

/// The account that owns the mailboxes: nobody.
pub const MAIL_OWNER: u32 = 65534;

/// What it is to be. The default accepts nothing for itself, and relays what this machine sends by DNS.
#[derive(Default)]
pub struct Options<'a> {
    /// Its name; `mx.far.example` if empty.
    pub hostname: &'a str,
    /// The addresses it has mailboxes for. It takes no other mail for their domains.
    pub mailboxes: &'a [&'a str],
    /// Where it sends all other mail, instead of asking DNS.
    pub relayhost: Option<SocketAddr>,
    /// The host it runs on. There it listens on port 25 of every address; else on a free port of 127.0.0.1.
    pub host: Option<&'a Host>,
    /// More lines for main.cf.
    pub settings: &'a str,
}

/// A running Postfix.
pub struct Postfix {
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Postfix {
    /// Starts it, and waits until it listens.
    pub fn start(test: &str, options: &Options<'_>) -> Option<Postfix> {
        if !have("postfix", test) || !is_root(test) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let address = match options.host {
            Some(host) => SocketAddr::new(IpAddr::V4(host.v4), 25),
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap(),
        };
        let postfix = Postfix { folder, address };
        postfix.write_configuration(options);
        let mut start = postfix.command("postfix", &["start"]);
        if let Some(host) = options.host {
            start = host.around(&start);
        }
        let output = start.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "Postfix did not start: {said}\n{}", postfix.log());
        Some(postfix)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its mailboxes are.
    pub fn mail(&self) -> PathBuf {
        self.path("mail")
    }

    /// The messages in a mailbox, in the order they came; lines end with LF.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        mailboxes::mailbox(&self.path("mail"), address)
    }

    /// Waits until the mailbox has as many messages, and no more.
    pub fn wait_for(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        mailboxes::wait_for(&self.path("mail"), address, count)
    }

    /// Sends `text`, whose lines end with LF, as a program on its host would.
    pub fn send(&self, from: &str, to: &[&str], text: &[u8]) {
        let mut command = Command::new(find("sendmail").expect("comes with Postfix"));
        command.arg("-C").arg(self.configuration()).args(["-i", "-f", from, "--"]).args(to).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// The queue as `postqueue -p` lists it.
    pub fn queue(&self) -> String {
        let output = self.command("postqueue", &["-p"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Tries everything in the queue now.
    pub fn flush(&self) {
        assert!(self.command("postqueue", &["-f"]).status().unwrap().success());
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> PathBuf {
        self.path("etc")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(find(program).expect("comes with Postfix"));
        command.arg("-c").arg(self.configuration()).args(arguments);
        command
    }

    fn write_configuration(&self, options: &Options<'_>) {
        let folder = self.folder.path();
        // Its processes are other accounts' and go through it.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "queue", "state", "mail"] {
            fs::create_dir(self.path(name)).unwrap();
        }
        chown(self.path("mail"), Some(MAIL_OWNER), Some(MAIL_OWNER)).unwrap();
        let account = User::from_name("postfix").unwrap().expect("Postfix has an account");
        chown(self.path("state"), Some(account.uid.as_raw()), None).unwrap();
        let mailboxes: String = options.mailboxes.iter().map(|name| format!("{name} {}/\n", maildir(name))).collect();
        let listen = options.host.map_or_else(|| self.address.to_string(), |_| "25".to_owned());
        let texts =
            [("mailboxes", mailboxes), ("main.cf", main_cf(folder, options)), ("master.cf", master_cf(&listen))];
        for (name, text) in texts {
            let mut file = fs::File::create(self.configuration().join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            // Each of its programs waits for two seconds on a file that was just written, lest it be written still.
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
    }

    fn master(&self) -> Option<u32> {
        fs::read_to_string(self.path("queue/pid/master.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the log of Postfix\n{}", self.log());
        }
        let Some(master) = self.master() else { return };
        let signal = |signal: &str, whom: &str| {
            let _ = Command::new("kill").args([signal, "--", whom]).stderr(Stdio::null()).status();
        };
        signal("-TERM", &master.to_string());
        let begun = Instant::now();
        while is_running(master) && begun.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(5));
        }
        // Whoever of its group is left.
        signal("-KILL", &format!("-{master}"));
    }
}

/// Whether a process is there and not just still to be reaped.
fn is_running(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn main_cf(folder: &Path, options: &Options<'_>) -> String {
    let mut domains: Vec<&str> = options.mailboxes.iter().filter_map(|name| Some(name.split_once('@')?.1)).collect();
    domains.sort_unstable();
    domains.dedup();
    let (root, domains) = (folder.display(), domains.join(" "));
    let hostname = if options.hostname.is_empty() { "mx.far.example" } else { options.hostname };
    let mut text = format!(
        "compatibility_level = 3.6\nqueue_directory = {root}/queue\ndata_directory = {root}/state\n\
         maillog_file = {root}/log\nmaillog_file_prefixes = {root}\nmyhostname = {hostname}\nmyorigin = {hostname}\n\
         mydestination =\nalias_maps =\nalias_database =\nbiff = no\nmynetworks = 127.0.0.0/8\n\
         virtual_mailbox_domains = {domains}\nvirtual_mailbox_base = {root}/mail\n\
         virtual_mailbox_maps = texthash:{root}/etc/mailboxes\nvirtual_uid_maps = static:{MAIL_OWNER}\n\
         virtual_gid_maps = static:{MAIL_OWNER}\nsmtpd_relay_restrictions = permit_mynetworks, \
         reject_unauth_destination\n"
    );
    if options.host.is_none() {
        text += "inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n";
    }
    if let Some(next) = options.relayhost {
        writeln!(text, "relayhost = [{}]:{}", next.ip(), next.port()).unwrap();
    }
    text + options.settings
}

/// Each service of Postfix that takes part, none in a chroot, and smtpd at `listen`.
fn master_cf(listen: &str) -> String {
    let mut text = format!("{listen} inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\n");
    for line in [
        "pickup unix n - n 60 1 pickup",
        "cleanup unix n - n - 0 cleanup",
        "qmgr unix n - n 300 1 qmgr",
        "rewrite unix - - n - - trivial-rewrite",
        "bounce unix - - n - 0 bounce",
        "defer unix - - n - 0 bounce",
        "trace unix - - n - 0 bounce",
        "verify unix - - n - 1 verify",
        "flush unix n - n 1000? 0 flush",
        "proxymap unix - - n - - proxymap",
        "smtp unix - - n - - smtp",
        "relay unix - - n - - smtp",
        "showq unix n - n - - showq",
        "error unix - - n - - error",
        "retry unix - - n - - error",
        "discard unix - - n - - discard",
        "virtual unix - n n - - virtual",
        "anvil unix - - n - 1 anvil",
        "scache unix - - n - 1 scache",
        "tlsmgr unix - - n 1000? 1 tlsmgr",
    ] {
        text.push_str(line);
        text.push('\n');
    }
    text
}
