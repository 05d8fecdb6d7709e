//! Hosts of the tests' own: network namespaces on one Ethernet, so that port 25, /etc/resolv.conf and hosts that answer
//! nothing are as in life, and nothing of it is seen outside.
//!
//! Promises: what is made is removed with the [`Net`], processes included, and what a killed run left behind is removed
//! by the next; several test files may run at once. Needs root and iproute2: where that can't be had, the test is named
//! in the list of those skipped.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{panic, process, thread};

use nix::sched::{CloneFlags, setns};

use super::{find, have, is_root, skip};

/// What all namespaces of tests begin with; the process that made them and a number follow.
const PREFIX: &str = "postrider-test-";

/// An Ethernet address that no host has.
const NOBODY: &str = "02:00:00:00:00:01";

/// Hosts that reach one another, and nobody else.
pub struct Net {
    name: String,
    hosts: Vec<Host>,
}

/// One host: a namespace with loopback and one interface.
pub struct Host {
    name: String,
    namespace: String,
    pub v4: Ipv4Addr,
    /// None where this machine has no IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Net {
    /// One network with hosts of these names, each with an empty resolv.conf. `None` if this machine does not let us.
    pub fn new(test: &str, hosts: &[&str]) -> Option<Net> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !have("ip", test) || !is_root(test) {
            return None;
        }
        remove_left_overs();
        let name = format!("{PREFIX}{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut net = Net { name, hosts: Vec::new() };
        let made = net.switch().and_then(|()| hosts.iter().try_for_each(|name| net.add(name)));
        match made {
            Ok(()) => Some(net),
            Err(why) => {
                skip(test, &format!("no network namespaces: {why}"));
                None
            }
        }
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// An address of the network that no host has and that nobody answers for: packets to it vanish.
    pub fn nobody(&self) -> Ipv4Addr {
        let address = Ipv4Addr::new(10, 77, 0, 250);
        self.lose(address.into());
        address
    }

    /// From now on packets to `address` vanish, whichever host sends them, on open connections too.
    pub fn lose(&self, address: IpAddr) {
        for host in self.others(address) {
            ip(&format!("-n {} neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent", host.namespace))
                .unwrap();
        }
    }

    /// Ends [`Net::lose`].
    pub fn find(&self, address: IpAddr) {
        for host in self.others(address) {
            ip(&format!("-n {} neigh del {address} dev eth0", host.namespace)).unwrap();
        }
    }

    fn others(&self, address: IpAddr) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| !host.has(address))
    }

    fn switch_name(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn switch(&self) -> Result<(), String> {
        let switch = self.switch_name();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add switch up type bridge")).map(|_| ())
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        let (number, switch) = (u8::try_from(self.hosts.len() + 1).unwrap(), self.switch_name());
        let mut host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", self.name),
            v4: Ipv4Addr::new(10, 77, 0, number),
            v6: Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())),
        };
        host.etc("resolv.conf", "");
        let namespace = &host.namespace;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {switch} link add port{number} type veth peer name eth0 netns {namespace}"))?;
        ip(&format!("-n {switch} link set port{number} master switch up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} addr add {}/24 dev eth0", host.v4))?;
        host.v6 = host.v6.filter(|v6| ip(&format!("-n {namespace} addr add {v6}/64 dev eth0 nodad")).is_ok());
        self.hosts.push(host);
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(|name| name.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-')));
    }
}

impl Host {
    /// A command that runs on this host, under its own /etc/resolv.conf.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find("ip").expect("was there when the network was made"));
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// The same command on this host. The process has the id that the child is said to have.
    pub fn around(&self, inner: &Command) -> Command {
        let mut command = self.command(inner.get_program().to_str().expect("the tests' programs have plain names"));
        command.args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = inner.get_current_dir() {
            command.current_dir(folder);
        }
        command
    }

    /// What `act` returns on this host: the sockets it makes are this host's, wherever they are used later. Files are
    /// those of the test, /etc/resolv.conf too.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let namespace = File::open(Path::new("/run/netns").join(&self.namespace)).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        };
        // A thread of its own, that nothing else ever runs in.
        let done = thread::scope(|scope| scope.spawn(enter).join());
        done.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// Writes a file that the programs of this host see in /etc: those that run too, if it was there when they began.
    pub fn etc(&self, name: &str, text: &str) {
        let folder = etc_folder().join(&self.namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }

    /// Whether `address` is this host's.
    pub fn has(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.v4) || self.v6.is_some_and(|v6| address == IpAddr::V6(v6))
    }
}

/// Where `ip netns exec` looks for the files it puts over those in /etc.
fn etc_folder() -> PathBuf {
    PathBuf::from("/etc/netns")
}

/// Runs ip, and returns what it printed, or what it complained of.
fn ip(arguments: &str) -> Result<String, String> {
    let mut command = Command::new(find("ip").ok_or("ip is not installed")?);
    let output = command.args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("ip {arguments}: {}", text(&output.stderr)))
    }
}

/// Removes what was made by processes that are gone.
fn remove_left_overs() {
    remove(|name| {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        maker.is_some_and(|maker| !Path::new("/proc").join(maker).exists())
    });
}

/// Removes the namespaces whose name `fits`, with all that runs in them. One that another process removes at the same
/// time is as good.
fn remove(fits: impl Fn(&str) -> bool) {
    let names = |folder: &Path| -> Vec<String> {
        let names = super::files(folder).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        names.filter(|name| fits(name)).collect()
    };
    for name in names(Path::new("/run/netns")) {
        for process in ip(&format!("netns pids {name}")).unwrap_or_default().lines() {
            let _ = Command::new("kill").args(["-9", process]).status();
        }
        let _ = ip(&format!("netns del {name}"));
    }
    for name in names(&etc_folder()) {
        let _ = fs::remove_dir_all(etc_folder().join(name));
    }
}
