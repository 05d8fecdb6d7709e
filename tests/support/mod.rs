//! What the tests share: the real binary in a folder of its own, and a client that speaks line by line.
#![allow(dead_code, missing_docs, clippy::print_stderr)]

pub mod account;
pub mod apart;
pub mod certificate;
pub mod clock;
pub mod dovecot;
pub mod ended;
pub mod hop;
pub mod mailboxes;
pub mod memory_group;
pub mod net;
pub mod next_hop;
pub mod parcel;
pub mod postfix;
pub mod report;
pub mod sink;
pub mod street;
pub mod tls;
pub mod world;
pub mod zone;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The longest any test waits for what must come: an hour on a good machine is no worse than a second here.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const PASSWORD: &str = "correct horse";

/// A configuration for tests: our own domain, ports that the system chooses.
pub const CONFIG: &str = r#"
hostname = "mail.example.org"
local_domains = ["example.org", "example.net"]
spool = "spool"
users = "users"
aliases = "aliases"
log = "mail.log"
"#;

/// Where a test's server listens unless it says otherwise. Nobody answers its questions for other hosts: such mail waits.
pub const LISTEN: &str =
    "[dns]\nresolver = \"127.0.0.1:9\"\n[listen]\nsmtp = [\"127.0.0.1:0\"]\npop3 = [\"127.0.0.1:0\"]\n";

/// A server in a folder; killed and removed with the value.
pub struct Server {
    pub folder: tempfile::TempDir,
    child: Option<Child>,
    /// Octets of the log before the last start.
    log_before: usize,
}

impl Server {
    /// Starts with the usual users ann and bob, no aliases, and `extra` lines of configuration.
    pub fn start(extra: &str) -> Server {
        Server::start_with(extra, "")
    }

    /// Starts with aliases too. `extra` begins with keys of `[listen]`, and may open other tables.
    pub fn start_with(extra: &str, aliases: &str) -> Server {
        let mut server = Server::prepared(extra, aliases);
        server.run();
        server
    }

    /// Everything in place, and not started.
    pub fn prepared(extra: &str, aliases: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("postrider.toml"), format!("{CONFIG}{LISTEN}{extra}")).unwrap();
        fs::write(folder.path().join("aliases"), aliases).unwrap();
        // bcrypt at its cheapest: tests log in often.
        let hash = "{BLF-CRYPT}$2y$04$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K";
        fs::write(folder.path().join("users"), format!("ann@example.org:{hash}\nbob@example.org:{hash}\n")).unwrap();
        Server { folder, child: None, log_before: 0 }
    }

    /// As [`Server::prepared`], with the folders of the spool made.
    pub fn with_spool(extra: &str) -> Server {
        let server = Server::prepared(extra, "");
        for folder in ["tmp", "queue", "hold", "failed", "drop"] {
            fs::create_dir_all(server.path("spool").join(folder)).unwrap();
        }
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts `new` in the place of `old` in its configuration.
    pub fn configure(&self, old: &str, new: &str) {
        let path = self.path("postrider.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{old} is not in the configuration");
        fs::write(path, text.replace(old, new)).unwrap();
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.arg("serve").arg("--config").arg(self.path("postrider.toml"));
        command
    }

    /// Starts it and waits until it listens.
    pub fn run(&mut self) {
        let command = self.command();
        self.run_as(command);
    }

    /// Starts it by this command and waits until it listens.
    pub fn run_as(&mut self, mut command: Command) {
        self.log_before = self.log().len();
        self.child = Some(command.stdin(Stdio::null()).spawn().unwrap());
        eventually("the server listens", || {
            self.log_since_start().matches(" listening ").count() >= 2 || self.exited().is_some()
        });
    }

    /// The exit status, once it has exited.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// KiB of memory that is its own.
    pub fn memory(&self) -> usize {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Pss_Anon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap().success());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        eventually("the server stops", || self.exited().is_some());
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub fn log(&self) -> String {
        fs::read(self.path("mail.log")).map(|octets| String::from_utf8_lossy(&octets).into_owned()).unwrap_or_default()
    }

    pub fn log_since_start(&self) -> String {
        self.log()[self.log_before..].to_owned()
    }

    /// Waits for a line of the log that holds all of `parts`, and returns it.
    pub fn logged(&self, parts: &[&str]) -> String {
        let mut found = None;
        eventually(&format!("the log says {parts:?}"), || {
            let log = self.log();
            found = log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// Where it listens for a protocol, as the log names it.
    pub fn address(&self, protocol: &str) -> SocketAddr {
        let words = format!(" listening protocol={protocol} ");
        eventually(&format!("it listens for {protocol}"), || self.log_since_start().contains(&words));
        let log = self.log_since_start();
        let line = log.lines().find(|line| line.contains(&words)).unwrap();
        line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    pub fn smtp_address(&self) -> SocketAddr {
        self.address("smtp")
    }

    pub fn pop3_address(&self) -> SocketAddr {
        self.address("pop3")
    }

    /// A connection whose greeting is still to be read.
    pub fn smtp(&self) -> Client {
        Client::connect(self.smtp_address())
    }

    pub fn pop3(&self) -> Client {
        Client::connect(self.pop3_address())
    }

    /// Sends a message by SMTP and demands its 250. Returns the queue id.
    pub fn send(&self, to: &[&str], message: &str) -> String {
        let mut client = self.smtp();
        client.expect("220");
        client.ask("EHLO client.example", "250");
        client.ask("MAIL FROM:<sender@far.example>", "250");
        to.iter().for_each(|to| _ = client.ask(&format!("RCPT TO:<{to}>"), "250"));
        client.ask("DATA", "354");
        client.send(message.as_bytes());
        let reply = client.ask(".", "250");
        reply.rsplit(' ').next().unwrap().to_owned()
    }

    /// As [`Server::send`], with all that stands after `MAIL FROM:` and each `RCPT TO:`.
    pub fn submit(&self, mail: &str, rcpts: &[&str], message: &str) -> String {
        let mut client = self.smtp();
        client.expect("220");
        client.ask("EHLO client.example", "250");
        client.submit(mail, rcpts, message)
    }

    /// Waits until nothing is left to deliver.
    pub fn queue_is_empty(&self) {
        eventually("the queue is empty", || files(&self.path("spool/queue")).is_empty());
    }

    /// The messages in a mailbox's `new/`, in order.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        mailboxes::mailbox(&self.path("spool/mail"), address)
    }

    /// Waits until the mailbox has as many messages.
    pub fn wait_for(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        mailboxes::wait_for(&self.path("spool/mail"), address, count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- the server's log\n{log}");
        } else {
            assert!(!log.contains(" panicked "), "a panic is a defect:\n{log}");
        }
    }
}

/// The paths in a folder; none if it is not there.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// Writes a file that only its owner may read, as programs want those with passwords.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until `holds`, and fails the test if it never does.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One connection, spoken on line by line; under TLS if [`tls`] made it.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::clear(TcpStream::connect(address).unwrap())
    }

    /// As [`Client::connect`], from one of the addresses of this host.
    pub fn connect_from(own: Ipv4Addr, address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Client::clear(socket.into())
    }

    fn clear(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        Client::over(stream, reader, writer)
    }

    /// Reads and writes by these what goes over `stream`.
    pub fn over(stream: TcpStream, reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Client {
        Client { stream, reader: BufReader::new(Box::new(reader)), writer: Box::new(writer) }
    }

    pub fn send(&mut self, octets: &[u8]) {
        self.writer.write_all(octets).unwrap();
    }

    /// Whether the server has closed, or says nothing more.
    pub fn is_over(&mut self) -> bool {
        self.reader.fill_buf().map_or(true, <[u8]>::is_empty)
    }

    /// The next line without its CR LF; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        // A reset is an end too.
        let _ = self.reader.read_until(b'\n', &mut line);
        let text = String::from_utf8_lossy(&line).into_owned();
        assert!(text.is_empty() || text.ends_with("\r\n"), "a line without CR LF: {text:?}");
        text.trim_end_matches("\r\n").to_owned()
    }

    /// An SMTP reply of one or more lines; the last is returned.
    pub fn reply(&mut self) -> String {
        loop {
            let line = self.line();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    /// Reads a reply that begins with `code`.
    pub fn expect(&mut self, code: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(code), "expected {code}, got {reply:?}");
        reply
    }

    /// Sends a line and reads its reply, which begins with `code`.
    pub fn ask(&mut self, line: &str, code: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert!(reply.starts_with(code), "{line:?}: expected {code}, got {reply:?}");
        reply
    }

    /// One transaction of a session that is open and greeted; returns the queue id.
    pub fn submit(&mut self, mail: &str, rcpts: &[&str], message: &str) -> String {
        self.ask(&format!("MAIL FROM:{mail}"), "250");
        rcpts.iter().for_each(|rcpt| _ = self.ask(&format!("RCPT TO:{rcpt}"), "250"));
        self.ask("DATA", "354");
        self.send(message.as_bytes());
        self.ask(".", "250").rsplit(' ').next().unwrap().to_owned()
    }

    /// What follows a POP3 answer of several lines: up to the line with a dot, and without the dots that were added.
    pub fn octets_to_dot(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        loop {
            let mut line = Vec::new();
            self.reader.read_until(b'\n', &mut line).unwrap();
            assert!(line.ends_with(b"\r\n"), "a line without CR LF: {:?}", String::from_utf8_lossy(&line));
            match line.strip_prefix(b".") {
                Some(b"\r\n") => return octets,
                Some(rest) => octets.extend_from_slice(rest),
                None => octets.extend_from_slice(&line),
            }
        }
    }

    /// Logs in to POP3.
    pub fn log_in(&mut self, name: &str) {
        self.expect("+OK");
        self.ask(&format!("USER {name}"), "+OK");
        self.ask(&format!("PASS {PASSWORD}"), "+OK");
    }

    /// Everything until the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Where a program of this machine is. Those for administrators count, though not every account's PATH has them.
pub fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

/// Whether this machine has a program. If not, the test that needs it is named in the list that `make test` prints.
pub fn have(program: &str, test: &str) -> bool {
    let found = find(program).is_some();
    if !found {
        skip(test, &format!("{program} is not installed"));
    }
    found
}

/// Whether this is root. If not, the test that needs it is named in the list that `make test` prints.
pub fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip(test, "only root may");
    }
    is_root
}

/// Names a test that can't run here: in the list that `make test` prints, else on the standard error.
pub fn skip(test: &str, why: &str) {
    let line = format!("skipped: {test}: {why}\n");
    match std::env::var_os("SKIPPED_TESTS") {
        // One write, so that tests side by side do not mix their lines.
        Some(list) => {
            let mut list = fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
            list.write_all(line.as_bytes()).unwrap();
        }
        None => eprint!("{line}"),
    }
}
