//! Exim and OpenSMTPD as next hops that keep mail in Maildirs: each obeys the RFCs in its own way.
//!
//! Debian installs one mail server at a time, so these are unpacked below target/ (tests/programs.sh) and run in mount and
//! process namespaces of their own, with the accounts and folders that they are compiled for. All of it goes with the
//! value. Needs root; where that or the program can't be had, the test is named in the list of those skipped.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::mailboxes::{self, maildir};
use super::net::Host;
use super::postfix::MAIL_OWNER;
use super::{eventually, files, is_root, skip};

/// Whose server it is.
#[derive(Clone, Copy)]
pub enum Kind {
    Exim,
    OpenSmtpd,
}

/// A running server.
pub struct NextHop {
    folder: tempfile::TempDir,
    address: SocketAddr,
    child: Child,
}

impl NextHop {
    /// Starts it with these mailboxes, and waits until it listens: on port 25 of `host`, else on a free port of 127.0.0.1.
    pub fn start(test: &str, kind: Kind, mailboxes: &[&str], host: Option<&Host>) -> Option<NextHop> {
        NextHop::start_relaying(test, kind, mailboxes, &[], host)
    }

    /// As [`NextHop::start`]. Mail for the domains of `onward` goes to the servers there.
    pub fn start_relaying(
        test: &str,
        kind: Kind,
        mailboxes: &[&str],
        onward: &[(&str, SocketAddr)],
        host: Option<&Host>,
    ) -> Option<NextHop> {
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpacked").join(kind.package());
        if !unpacked.exists() {
            skip(test, &format!("{} is not unpacked", kind.package()));
            return None;
        }
        if !is_root(test) {
            return None;
        }
        let addresses = match host {
            Some(host) => {
                let addresses = [IpAddr::V4(host.v4)].into_iter().chain(host.v6.map(IpAddr::V6));
                addresses.map(|address| SocketAddr::new(address, 25)).collect()
            }
            None => vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()],
        };
        let folder = prepared(kind, mailboxes, onward, &addresses);
        let mut start = Command::new("unshare");
        start.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", kind.script(), "sh"]);
        start.arg(folder.path()).arg(&unpacked);
        if let Some(host) = host {
            start = host.around(&start);
        }
        let output = fs::File::create(folder.path().join("output")).unwrap();
        start.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = start.spawn().unwrap();
        let mut hop = NextHop { folder, address: addresses[0], child };
        let listens = || TcpStream::connect(hop.address).is_ok();
        eventually(&format!("{} listens", kind.package()), || {
            host.map_or_else(listens, |host| host.inside(listens)) || hop.child.try_wait().unwrap().is_some()
        });
        assert!(hop.child.try_wait().unwrap().is_none(), "{} did not start:\n{}", kind.package(), hop.log());
        Some(hop)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its mailboxes are.
    pub fn mail(&self) -> PathBuf {
        self.path("mail")
    }

    /// The messages in a mailbox; lines end with LF.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        mailboxes::mailbox(&self.path("mail"), address)
    }

    /// Waits until the mailbox has as many messages, and no more.
    pub fn wait_for(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        mailboxes::wait_for(&self.path("mail"), address, count)
    }

    /// What it said, and what it logged.
    pub fn log(&self) -> String {
        let paths = [self.path("output")].into_iter().chain(files(&self.path("log")));
        paths.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for NextHop {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the log of the next hop\n{}", self.log());
        }
        // With the first process of a namespace all others in it end, and only then does unshare.
        let unshare = self.child.id();
        let first = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
        match first.split_whitespace().next() {
            Some(first) => _ = Command::new("kill").args(["-9", first]).status(),
            None => _ = self.child.kill(),
        }
        let _ = self.child.wait();
    }
}

impl Kind {
    fn package(self) -> &'static str {
        match self {
            Kind::Exim => "exim4-daemon-light",
            Kind::OpenSmtpd => "opensmtpd",
        }
    }

    /// The accounts it can't be without, as /etc/passwd has them.
    fn accounts(self) -> &'static [(&'static str, u32)] {
        match self {
            Kind::Exim => &[("Debian-exim", MAIL_OWNER)],
            Kind::OpenSmtpd => &[("opensmtpd", MAIL_OWNER - 1), ("opensmtpq", MAIL_OWNER - 2)],
        }
    }

    /// Makes the world it is compiled for, and becomes it. `$1` is the folder of the test, `$2` the unpacked package.
    fn script(self) -> &'static str {
        match self {
            Kind::Exim => {
                // It starts itself anew for each delivery, as root and by its own configuration or not at all.
                "mount --bind \"$1/passwd\" /etc/passwd; mount --bind \"$1/group\" /etc/group
                 mount -t tmpfs none /var
                 mkdir -p /var/lib/exim4; cp \"$1/conf\" /var/lib/exim4/config.autogenerated
                 cp \"$2/usr/sbin/exim4\" /var/exim4
                 chown root /var/exim4; chmod 4755 /var/exim4; chmod 644 /var/lib/exim4/config.autogenerated
                 exec /var/exim4 -bdf -q5m"
            }
            Kind::OpenSmtpd => {
                "mount --bind \"$1/passwd\" /etc/passwd; mount --bind \"$1/group\" /etc/group
                 mount --bind \"$2/usr/libexec\" /usr/libexec; mount --bind \"$1/resolv.conf\" /etc/resolv.conf
                 mount -t tmpfs none /var
                 mkdir -p -m 711 /var/spool /var/spool/smtpd /var/run /var/lib /var/lib/opensmtpd /var/lib/opensmtpd/empty
                 chown 0:0 \"$1/spool\"; chmod 711 \"$1/spool\"; mount --bind \"$1/spool\" /var/spool/smtpd
                 exec \"$2/usr/sbin/smtpd\" -d -f \"$1/conf\""
            }
        }
    }

    fn configuration(
        self,
        root: &Path,
        mailboxes: &[&str],
        onward: &[(&str, SocketAddr)],
        addresses: &[SocketAddr],
    ) -> String {
        let mut domains: Vec<&str> = mailboxes.iter().filter_map(|name| Some(name.split_once('@')?.1)).collect();
        domains.sort_unstable();
        domains.dedup();
        let root = root.display();
        match self {
            Kind::Exim => {
                let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                let route = |(domain, to): &(&str, SocketAddr)| format!("{domain} {}::{}", to.ip(), to.port());
                let routes: Vec<String> = onward.iter().map(route).collect();
                let relayed: Vec<&str> = onward.iter().map(|(domain, _)| *domain).collect();
                EXIM.replace("ROOT", &root.to_string())
                    .replace("RELAYED", &relayed.join(" : "))
                    .replace("ROUTES", &routes.join(" ; "))
                    .replace("DOMAINS", &domains.join(" : "))
                    .replace("ADDRESSES", &ips.join(" ; "))
                    .replace("PORT", &addresses[0].port().to_string())
            }
            Kind::OpenSmtpd => {
                let quoted = |text: &str| format!("\"{text}\"");
                let known: Vec<String> =
                    mailboxes.iter().map(|name| format!("{} = \"nobody\"", quoted(name))).collect();
                let ours: Vec<String> = domains.iter().map(|domain| quoted(domain)).collect();
                let mut text =
                    format!("table boxes {{ {} }}\ntable ours {{ {} }}\n", known.join(", "), ours.join(", "));
                for address in addresses {
                    writeln!(text, "listen on {} port {} hostname mx.far.example", address.ip(), address.port())
                        .unwrap();
                }
                for (number, (domain, to)) in onward.iter().enumerate() {
                    writeln!(text, "action onward{number} relay host \"smtp://{to}\"").unwrap();
                    writeln!(text, "match from any for domain {} action onward{number}", quoted(domain)).unwrap();
                }
                text + &format!(
                    "smtp limit max-mails 1000000\n\
                     action keep maildir \"{root}/mail/%{{rcpt.domain}}/%{{rcpt.user}}\" virtual <boxes>\n\
                     match from any for domain <ours> action keep\n"
                )
            }
        }
    }
}

const EXIM: &str = "\
exim_path = /var/exim4
exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = mx.far.example
spool_directory = ROOT/spool
log_file_path = ROOT/log/%slog
pid_file_path = ROOT/pid
daemon_smtp_ports = PORT
local_interfaces = <; ADDRESSES
domainlist ours = DOMAINS
domainlist relayed = RELAYED
smtp_accept_max = 1000
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
acl_smtp_rcpt = rcpt
acl_smtp_data = data
tls_advertise_hosts =
keep_environment =
never_users =
begin acl
rcpt:
  deny ! domains = +ours : +relayed
       message = that domain is not served here
  require verify = recipient
  accept
data:
  accept
begin routers
local:
  driver = accept
  domains = +ours
  condition = ${lookup{$local_part@$domain}lsearch{ROOT/mailboxes}{yes}{no}}
  transport = maildir
onward:
  driver = manualroute
  domains = +relayed
  route_list = <; ROUTES
  self = send
  transport = smtp
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = ROOT/mail/${lookup{$local_part@$domain}lsearch{ROOT/mailboxes}}
  user = Debian-exim
  group = Debian-exim
  return_path_add
smtp:
  driver = smtp
  allow_localhost
begin retry
* * F,2h,15m
";

/// A folder with all that the server reads and writes.
fn prepared(
    kind: Kind,
    mailboxes: &[&str],
    onward: &[(&str, SocketAddr)],
    addresses: &[SocketAddr],
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["spool", "log", "mail"] {
        fs::create_dir(root.join(name)).unwrap();
        chown(root.join(name), Some(MAIL_OWNER), Some(MAIL_OWNER)).unwrap();
    }
    let list: String = mailboxes.iter().map(|name| format!("{name}: {}\n", maildir(name))).collect();
    fs::write(root.join("mailboxes"), list).unwrap();
    let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
    let mut group = fs::read_to_string("/etc/group").unwrap();
    for (name, number) in kind.accounts() {
        writeln!(passwd, "{name}:x:{number}:{number}::/var/lib/opensmtpd/empty:/usr/sbin/nologin").unwrap();
        writeln!(group, "{name}:x:{number}:").unwrap();
    }
    // OpenSMTPD asks for the names of clients; where there is DNS or none, /etc/hosts has all that are.
    fs::write(root.join("resolv.conf"), "lookup file\n").unwrap();
    fs::write(root.join("passwd"), passwd).unwrap();
    fs::write(root.join("group"), group).unwrap();
    fs::write(root.join("conf"), kind.configuration(root, mailboxes, onward, addresses)).unwrap();
    fs::set_permissions(root.join("conf"), fs::Permissions::from_mode(0o600)).unwrap();
    folder
}
