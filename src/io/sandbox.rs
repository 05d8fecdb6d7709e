//! The cage of the process that hears strangers: once it has started, it gets at nothing that it does not need.
//!
//! | what | by |
//! | --- | --- |
//! | no file outside a few trees, most of them for reading only; no TCP port to listen on; no signal | Landlock |
//! | no program, no other process, none of the calls that a mail server has no use for | seccomp |
//! | no privilege that a program of the disk could give; no memory in a core dump or a debugger | prctl, a limit |
//!
//! A thread hands its cage down to those it starts, so [`enter`] is for the only thread there is. What this kernel
//! lacks is told and left out; what it has and refuses is an error. What a caged process needs besides, the second one
//! does ([`super::keeper`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What a caged process may still open: whole folders, and files. Those that are not there are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trees {
    /// For reading.
    pub read: Vec<PathBuf>,
    /// For everything but programs, devices and sockets.
    pub write: Vec<PathBuf>,
}

/// What the kernel does of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Whether only the files in [`Trees`] can be opened.
    pub files: bool,
    /// Whether no TCP port can be listened on.
    pub ports: bool,
    /// Whether system calls are filtered.
    pub calls: bool,
}

impl Enforced {
    /// What is not limited.
    pub fn missing(self) -> Enforced {
        Enforced { files: !self.files, ports: !self.ports, calls: !self.calls }
    }

    /// Whether nothing is limited.
    pub fn is_nothing(self) -> bool {
        !(self.files || self.ports || self.calls)
    }
}

impl fmt::Display for Enforced {
    /// What is limited, or `nothing`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("files", self.files), ("ports", self.ports), ("calls", self.calls)];
        let names: Vec<&str> = all.iter().filter(|(_, is_so)| *is_so).map(|(name, _)| *name).collect();
        out.write_str(&if names.is_empty() { "nothing".to_owned() } else { names.join(",") })
    }
}

/// What the libraries of the process read, of any system: the time zone, and the names of clients with what finds them.
const SYSTEM: &[&str] = &[
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/zoneinfo",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/lib/zoneinfo",
    "/usr/share/zoneinfo",
];

/// Which folders and files are open in here, by device and inode; not set outside.
static OPEN: OnceLock<BTreeSet<(u64, u64)>> = OnceLock::new();

/// What to add to the error of a file that the cage keeps this process from, and that a cage made now would not; else
/// nothing.
pub fn mend(path: &Path, error: &io::Error) -> &'static str {
    // The kernel's own word, and no error in whose words this is told already.
    let is_denied = error.raw_os_error() == Some(libc::EACCES);
    let Some(open) = OPEN.get().filter(|_| is_denied) else { return "" };
    // What is to be made is not there yet: its folder is what counts.
    let there = path.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
    if there.ancestors().filter_map(inode).any(|inode| open.contains(&inode)) {
        return "";
    }
    "; the server shut itself in before this was named, or before it was there: restart the server"
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// What this kernel can do of it.
pub fn offered() -> Enforced {
    let hard = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    // Before the second version no file could be renamed from one folder into another, as mail is delivered.
    let files = hard().handle_access(AccessFs::from_all(ABI::V2)).and_then(Ruleset::create).is_ok();
    let ports = files && hard().handle_access(AccessNet::BindTcp).and_then(Ruleset::create).is_ok();
    // Filters are in every kernel of Debian, Fedora or Alpine; words for them are known for some processors.
    Enforced { files, ports, calls: TargetArch::try_from(std::env::consts::ARCH).is_ok() }
}

/// Enters the cage, for good. To be called before the first thread is started.
pub fn enter(trees: &Trees) -> io::Result<Enforced> {
    prctl::set_no_new_privs()?;
    keep_memory()?;
    let offered = offered();
    let files = offered.files && limit_files(trees).map_err(io::Error::other)?;
    let calls = offered.calls && filtered_if_possible(filter_calls())?;
    if files {
        let open = SYSTEM.iter().map(Path::new).chain(trees.read.iter().chain(&trees.write).map(PathBuf::as_path));
        // It is the first: there is no entering twice.
        let _ = OPEN.set(open.filter_map(inode).collect());
    }
    Ok(Enforced { files, ports: files && offered.ports, calls })
}

/// Leaves no memory of this process in a core dump, or to the debugger of another of its account.
pub fn keep_memory() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(prctl::set_dumpable(false)?)
}

/// A kernel without filters, or a cage around this process that lets it have none, is one that lacks them.
fn filtered_if_possible(result: Result<(), seccompiler::Error>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) =>
        {
            Ok(false)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn limit_files(trees: &Trees) -> Result<bool, RulesetError> {
    // What later kernels know besides is denied where they know it.
    let known = ABI::V5;
    // Sockets, FIFOs and links that a person put into drop/ are moved aside, which asks for the right to make them;
    // making them anew is refused as a call.
    let unused = AccessFs::Execute | AccessFs::IoctlDev;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(known))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, reading))?
        .add_rules(path_beneath_rules(&trees.read, reading))?
        .add_rules(path_beneath_rules(&trees.write, AccessFs::from_all(known) & !unused))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Calls that a mail server never makes, and whoever has taken one over would.
const NEVER: &[libc::c_long] = &[
    // Other programs, and looking into processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    // Other ports; those of the configuration listen already.
    libc::SYS_listen,
    // Other accounts and capabilities.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    // Other views of the files of this host.
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // The kernel itself, and the parts of it where the most faults were found.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls in x32's own numbers, for a process that is not of that kind: where the kernel has them, they are a second name for
/// each call of [`NEVER`], with this bit, and for some of them another number besides.
#[cfg(target_arch = "x86_64")]
fn of_x32() -> impl Iterator<Item = libc::c_long> {
    const BIT: libc::c_long = 0x4000_0000;
    // execve, ptrace, process_vm_readv, process_vm_writev, execveat: see arch/x86/entry/syscalls/syscall_64.tbl.
    const OWN: [libc::c_long; 5] = [520, 521, 539, 540, 545];
    let new_process = [libc::SYS_clone, libc::SYS_clone3];
    NEVER.iter().copied().chain(OWN).chain(new_process).map(|call| call | BIT)
}

#[cfg(not(target_arch = "x86_64"))]
fn of_x32() -> impl Iterator<Item = libc::c_long> {
    std::iter::empty()
}

/// Refuses [`NEVER`], and every new process that is no thread of this one.
fn filter_calls() -> Result<(), seccompiler::Error> {
    let is_process = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(libc::CLONE_THREAD.unsigned_abs().into()),
        0,
    )?;
    let mut refused: BTreeMap<libc::c_long, Rules> =
        NEVER.iter().copied().chain(of_x32()).map(|call| (call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_process])?]);
    apply(refused, libc::EPERM)?;
    // What it is to do is not in a register. Without it the C library starts its threads by the older call.
    apply(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}

type Rules = Vec<SeccompRule>;

#[allow(clippy::useless_conversion, reason = "some 32-bit processors have shorter numbers")]
fn apply(refused: BTreeMap<libc::c_long, Rules>, error: i32) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let refused = refused.into_iter().map(|(call, rules)| (call.into(), rules)).collect();
    let program: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, refuse, arch)?.try_into()?;
    seccompiler::apply_filter(&program)
}
