//! Which servers are asked: the one of the configuration, or those of /etc/resolv.conf (resolv.conf(5)).
//!
//! What the file says is taken as far as it can be read, within our own limits. Without a file or a server in it, this
//! host is asked, as the system's resolver does. Search lists mean nothing: names in mail are absolute.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use resolv_conf::{Config, ScopedIp};

use crate::config::Dns;
use crate::limits;

const PORT: u16 = 53;

/// Reads a file that this process may perhaps not read itself.
pub type ReadFile = Arc<dyn Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync>;

/// The file that names servers.
pub(super) struct SettingsFile {
    pub path: PathBuf,
    pub read: ReadFile,
}

impl fmt::Debug for SettingsFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(out)
    }
}

/// Whom to ask, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// In the order in which they are asked; at least one.
    pub servers: Vec<SocketAddr>,
    /// How often all are asked.
    pub rounds: u32,
    /// How long one is waited for.
    pub wait: Duration,
    /// Whether every server is believed that it checked signatures; else only those on this host.
    pub trust_ad: bool,
}

/// What tells one version of a file from another: time, inode, octets. `None`: it is not there.
pub(super) type Version = Option<(SystemTime, u64, u64)>;

impl Settings {
    /// What the configuration says, and where it names no server what the file says now.
    pub fn of_config(config: &Dns, file: &SettingsFile) -> io::Result<Settings> {
        let settings = config.resolver.map_or_else(|| Settings::read(file), |server| Ok(Settings::fixed(server)))?;
        Ok(Settings { trust_ad: settings.trust_ad || config.trust_ad, ..settings })
    }

    /// What holds where the file can't be read.
    pub fn without_file(config: &Dns) -> Settings {
        Settings { trust_ad: config.trust_ad, ..Settings::of(b"") }
    }

    /// One server.
    pub fn fixed(server: SocketAddr) -> Settings {
        Settings { servers: vec![server], ..Settings::of(b"") }
    }

    /// What the file says now; one that is not there says nothing.
    fn read(file: &SettingsFile) -> io::Result<Settings> {
        let octets = match (file.read)(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        Ok(Settings::of(&octets[..octets.len().min(limits::DNS_SETTINGS_FILE)]))
    }

    /// The settings in the text of a resolv.conf.
    fn of(text: &[u8]) -> Settings {
        let (config, _ignored_errors) = Config::parse_with_errors(text);
        let mut servers: Vec<_> = config.nameservers.iter().filter_map(server).take(limits::DNS_SERVERS).collect();
        if servers.is_empty() {
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        }
        Settings {
            servers,
            rounds: config.attempts.clamp(1, limits::DNS_ROUNDS),
            wait: Duration::from_secs(config.timeout.max(1).into()).min(limits::DNS_TRY),
            trust_ad: config.trust_ad,
        }
    }

    /// Whether this server is believed that it checked signatures: nobody sits between it and us (RFC 6840 §5.8).
    pub fn trusts(&self, server: SocketAddr) -> bool {
        self.trust_ad || server.ip().to_canonical().is_loopback()
    }
}

/// Which version of the file is there now.
pub(super) fn version(path: &Path) -> Version {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.ino(), found.len()))
}

fn server(address: &ScopedIp) -> Option<SocketAddr> {
    match address {
        // The scope is the name of an interface; the system knows its number, and asks nobody for it.
        ScopedIp::V6(_, Some(_)) => (address.to_string().as_str(), PORT).to_socket_addrs().ok()?.next(),
        _ => Some(SocketAddr::new(IpAddr::from(address.clone()), PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> SettingsFile {
        SettingsFile { path: path.to_owned(), read: Arc::new(|path| fs::read(path)) }
    }

    fn servers(text: &str) -> Vec<String> {
        Settings::of(text.as_bytes()).servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn servers_are_taken_in_order_and_no_more_than_three() {
        let text = "search example.org\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%lo\n\
                    nameserver 192.0.2.4\n";
        assert_eq!(servers(text), ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn without_a_server_this_host_is_asked() {
        for text in
            ["", "# nameserver 192.0.2.1\n", "nameserver nonsense\n", "nameserver fe80::1%nonsense\n", "\0\u{ff}"]
        {
            assert_eq!(servers(text), ["127.0.0.1:53"], "{text:?}");
        }
        assert_eq!(Settings::read(&at(Path::new("/nowhere/resolv.conf"))).unwrap(), Settings::of(b""));
    }

    #[test]
    fn what_is_unknown_spoils_nothing_else() {
        let text = "options what:9 timeout:x\nsortlist rubbish\n\u{e9}\nnameserver 192.0.2.1\noptions edns0 trust-ad\n";
        let settings = Settings::of(text.as_bytes());
        assert_eq!(settings.servers, ["192.0.2.1:53".parse().unwrap()]);
        assert!(settings.trust_ad);
    }

    #[test]
    fn patience_is_bounded() {
        let settings = |options: &str| Settings::of(format!("options {options}\n").as_bytes());
        let seconds = Duration::from_secs;
        for (options, rounds, wait) in [
            ("", limits::DNS_ROUNDS, limits::DNS_TRY),
            ("attempts:1 timeout:3", 1, seconds(3)),
            ("attempts:0 timeout:0", 1, seconds(1)),
            ("attempts:4000000000 timeout:4000000000", limits::DNS_ROUNDS, limits::DNS_TRY),
        ] {
            assert_eq!((settings(options).rounds, settings(options).wait), (rounds, wait), "{options}");
        }
    }

    #[test]
    fn only_this_host_and_those_a_person_named_are_trusted() {
        let [here, mapped, far] =
            ["127.0.0.53:53", "[::ffff:127.0.0.1]:53", "192.0.2.1:53"].map(|it| it.parse().unwrap());
        let strict = Settings::of(b"");
        assert!(strict.trusts(here) && strict.trusts(mapped) && !strict.trusts(far));
        assert!(Settings::of(b"options trust-ad").trusts(far));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "nameserver 192.0.2.1\noptions trust-ad\n").unwrap();
        for (resolver, trust_ad, expected) in
            [(Some(far), false, false), (Some(far), true, true), (None, false, true), (Some(here), false, true)]
        {
            let settings = Settings::of_config(&Dns { resolver, trust_ad }, &at(file.path())).unwrap();
            assert_eq!(settings.trusts(resolver.unwrap_or(far)), expected, "{resolver:?} {trust_ad}");
        }
        fs::write(file.path(), "nameserver 192.0.2.1\n").unwrap();
        let believing = Dns { resolver: None, trust_ad: true };
        assert!(Settings::of_config(&believing, &at(file.path())).unwrap().trusts(far));
        assert!(Settings::without_file(&believing).trusts(far));
    }

    #[test]
    fn another_file_is_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        assert_eq!(version(&path), None);
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let first = version(&path);
        assert!(first.is_some() && first == version(&path));
        fs::write(&path, "nameserver 192.0.2.10\n").unwrap();
        assert_ne!(version(&path), first);
    }
}
