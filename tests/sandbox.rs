//! The cage: what the process that hears strangers can't do any more, seen from inside and on the running server.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use postrider::io::sandbox::{self, Enforced, Trees, enter, offered};
use postrider::io::{clock, durable};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::tls::make_certificate;
use support::{Server, apart, eventually, have, is_root, skip};

const ALL: Enforced = Enforced { files: true, ports: true, calls: true };

/// Whether this kernel has all there is to test.
fn is_offered(test: &str) -> bool {
    if offered() != ALL {
        skip(test, &format!("this kernel limits {} only", offered()));
    }
    offered() == ALL
}

#[test]
fn a_thread_inside_reads_writes_and_starts_nothing_but_what_it_needs() {
    let test = "a_thread_inside_reads_writes_and_starts_nothing_but_what_it_needs";
    if !is_offered(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // There is no way out again.
    apart::run(apart::command("inside", folder.path()).env("TZ", "Asia/Tokyo"));
}

fn denied<T: std::fmt::Debug>(result: std::io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
#[ignore = "the test before runs it in a process of its own"]
fn inside() {
    let folder = apart::folder();
    let path = |name: &str| folder.join(name);
    for name in ["read", "write/tmp", "write/new"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("read/users"), "ann").unwrap();
    fs::write(path("secret"), "not named").unwrap();
    let trees = Trees { read: vec![path("read"), path("gone")], write: vec![path("write")] };
    assert_eq!(enter(&trees).unwrap(), ALL);
    // As a session would be.
    thread::spawn(move || session(&folder)).join().unwrap();
}

fn session(folder: &Path) {
    let path = |name: &str| folder.join(name);
    denied(fs::read("/etc/shadow"));
    denied(fs::read("/etc/passwd"));
    denied(fs::read(path("secret")));
    denied(fs::read_dir("/"));
    denied(fs::write(path("read/users"), "mallory"));
    denied(fs::remove_file(path("read/users")));
    denied(Command::new("/bin/true").status());
    denied(TcpListener::bind("127.0.0.1:0"));
    denied(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(Into::into));
    denied(nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(Into::into));
    let mount = nix::mount::mount(Some("x"), "/mnt", Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>);
    denied(mount.map_err(Into::into));
    denied(nix::unistd::mkfifo(&path("write/fifo"), nix::sys::stat::Mode::S_IRWXU).map_err(Into::into));

    assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    assert!(!nix::sys::prctl::get_dumpable().unwrap(), "nobody of this account looks in");

    assert_eq!(fs::read(path("read/users")).unwrap(), b"ann");
    UdpSocket::bind("127.0.0.1:0").unwrap();
    fs::write(path("write/tmp/1"), "mail").unwrap();
    durable::rename_new(&path("write/tmp/1"), &path("write/new/1"))
        .expect("a rename between folders is how mail is delivered");
    fs::remove_file(path("write/new/1")).unwrap();
    thread::spawn(|| ()).join().unwrap();
    if Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        assert!(clock::rfc3339(Duration::ZERO).ends_with("+09:00"), "the time zone is read again each few minutes");
    }
    dns_lookup::lookup_addr(&[127, 0, 0, 1].into()).expect("/etc/hosts names clients");
    let mend = |name: &str, made: std::io::Result<()>| sandbox::mend(&path(name), &made.unwrap_err());
    let outside = mend("mail/new/1", fs::create_dir(path("mail")));
    assert!(outside.contains("restart the server"), "{outside}");
    assert_eq!(mend("read/users", fs::write(path("read/users"), "")), "", "a cage made now would be no other");
    assert_eq!(mend("gone", fs::read(path("gone")).map(|_| ())), "");
}

/// A value of a file like /proc/PID/status, by its name.
fn value(file: &Path, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn every_thread_of_the_server_is_inside_and_mail_goes_on() {
    let test = "every_thread_of_the_server_is_inside_and_mail_goes_on";
    if !is_offered(test) || !is_root(test) {
        return;
    }
    let server = Server::start("");
    server.logged(&[" sandbox ", "limits=files,ports,calls"]);
    let session = server.smtp();
    let process = PathBuf::from(format!("/proc/{}", server.pid()));
    let threads = || fs::read_dir(process.join("task")).unwrap().map(|thread| thread.unwrap().path().join("status"));
    eventually("the session has a thread", || threads().any(|thread| value(&thread, "Name").starts_with("127.0.0.1")));
    for thread in threads() {
        assert_eq!((value(&thread, "NoNewPrivs"), value(&thread, "Seccomp")), ("1".into(), "2".into()), "{thread:?}");
    }
    let log = server.log();
    let second = log.split(" keeper-started pid=").nth(1).unwrap().split(' ').next().unwrap();
    for process in [process, Path::new("/proc").join(second)] {
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{process:?}");
    }
    drop(session);
    // The rename must not have become a copy.
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    server.logged(&[" delivered ", "how=rename"]);
    // Nor may what was replaced, as editors do it, be out of reach.
    for (name, text) in [("aliases", "team: ann, bob\n"), ("users", &fs::read_to_string(server.path("users")).unwrap())]
    {
        fs::write(server.path("new"), text).unwrap();
        fs::rename(server.path("new"), server.path(name)).unwrap();
    }
    server.logged(&[" reloaded "]);
    server.send(&["team@example.org"], "Subject: two\r\n\r\n");
    server.wait_for("bob@example.org", 1);
}

#[test]
fn check_says_what_this_kernel_limits() {
    let server = Server::with_spool("");
    let mut check = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let ended = check.arg("check").arg("--config").arg(server.path("postrider.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let expected = format!("sandbox: this kernel limits a server that has started: {}", offered());
    assert!(said.contains(&expected), "{said}");
}

/// The only file in a folder whose name ends so.
fn only_file(folder: &Path, end: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.to_string_lossy().ends_with(end))
}

/// Has a message wait in the queue and then delivered, and looks whether it is still the same file.
fn is_delivered_by_rename(server: &Server, mailboxes: &Path, layout: &str) {
    let domain = mailboxes.join("example.org");
    fs::create_dir_all(&domain).unwrap();
    fs::write(domain.join("ann"), "no folder: what is for her waits").unwrap();
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    server.logged(&[" deferred "]);
    let entry = only_file(&server.path("spool/queue"), ".eml").unwrap();
    let inode = entry.metadata().unwrap().ino();
    fs::remove_file(domain.join("ann")).unwrap();
    assert!(Command::new("touch").arg(&entry).status().unwrap().success());
    server.logged(&[" delivered ", "how=rename"]);
    let delivered = only_file(&domain.join("ann/new"), "").unwrap();
    assert_eq!(delivered.metadata().unwrap().ino(), inode, "{layout}");
}

#[test]
fn a_delivery_inside_is_a_rename_wherever_the_mailboxes_are_on_this_disk() {
    for layout in ["in the spool", "beside it", "by a link"] {
        let mut server = Server::prepared("", "");
        let mut mailboxes = server.path("spool/mail");
        if layout != "in the spool" {
            server.configure("users =", "mailboxes = \"mail\"\nusers =");
            mailboxes = server.path("mail");
        }
        if layout == "by a link" {
            fs::create_dir(server.path("elsewhere")).unwrap();
            symlink(server.path("elsewhere"), &mailboxes).unwrap();
        }
        server.run();
        is_delivered_by_rename(&server, &mailboxes, layout);
    }
}

/// The mounts of etc/postrider.service: ProtectSystem=strict and its ReadWritePaths.
const MOUNTS: &str = "set -e
mount --make-rprivate /
mkdir -p \"$1/spool\" \"$1/log\"
mount --bind \"$1/spool\" \"$1/spool\"
mount --bind \"$1/log\" \"$1/log\"
mount -o remount,bind,ro /
! touch \"$1/x\" 2>/dev/null
shift
exec \"$@\"
";

#[test]
fn a_delivery_under_the_mounts_of_the_unit_is_a_rename() {
    let test = "a_delivery_under_the_mounts_of_the_unit_is_a_rename";
    if !is_root(test) || !have("unshare", test) {
        return;
    }
    let mut server = Server::prepared("", "");
    server.configure("mail.log", "log/mail.log");
    symlink(server.path("log/mail.log"), server.path("mail.log")).unwrap();
    let serve = server.command();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", MOUNTS, "sh"]).arg(server.folder.path());
    command.arg(serve.get_program()).args(serve.get_args());
    server.run_as(command);
    is_delivered_by_rename(&server, &server.path("spool/mail"), "the unit");
}

#[test]
fn a_kernel_that_has_less_is_served_on_all_the_same() {
    for (lacks, limits, missing) in
        [("landlock", "limits=calls", "missing=files,ports"), ("all", "limits=nothing", "missing=files,ports,calls")]
    {
        if !is_offered("a_kernel_that_has_less_is_served_on_all_the_same") {
            return;
        }
        let mut server = Server::prepared("", "");
        let mut command = apart::command("on_a_lesser_kernel", server.folder.path());
        command.env("SANDBOX_LACKS", lacks);
        server.run_as(command);
        server.logged(&[" sandbox ", limits]);
        server.logged(&[" WARN ", " sandbox-lacks ", missing, "Landlock"]);
        server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
        server.wait_for("ann@example.org", 1);
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
#[ignore = "the test before runs it in a process of its own, which becomes the server"]
fn on_a_lesser_kernel() {
    let folder = apart::folder();
    let mut refused = vec![nix::libc::SYS_landlock_create_ruleset];
    if std::env::var_os("SANDBOX_LACKS").unwrap() == "all" {
        refused.push(nix::libc::SYS_seccomp);
    }
    let rules = refused.into_iter().map(|call| (call, Vec::new())).collect();
    let action = SeccompAction::Errno(nix::libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let error = command.arg("serve").arg("--config").arg(folder.join("postrider.toml")).exec();
    panic!("{error}");
}

#[test]
fn what_is_named_later_and_lies_outside_asks_for_a_restart() {
    let test = "what_is_named_later_and_lies_outside_asks_for_a_restart";
    if !is_offered(test) || !have("openssl", test) {
        return;
    }
    let mut server = Server::start_with("", "team: ann\n");
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name).display().to_string();
    let outside_lines = |parts: &[&str]| server.logged(&[parts, &["restart"]].concat());

    fs::write(at("list"), "bob\n").unwrap();
    fs::write(server.path("aliases"), format!("team: :include:{}\n", at("list"))).unwrap();
    outside_lines(&[" list-unreadable ", &at("list"), "the server shut itself in"]);

    fs::create_dir(at("bob")).unwrap();
    fs::create_dir_all(server.path("spool/mail/example.org")).unwrap();
    symlink(at("bob"), server.path("spool/mail/example.org/bob")).unwrap();
    server.send(&["bob@example.org"], "Subject: one\r\n\r\n");
    outside_lines(&[" deferred ", "bob@example.org", "the server shut itself in"]);

    make_certificate(outside.path(), "mail.example.org");
    let (certificate, key) = (at("certificate.pem"), at("key.pem"));
    let tls = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n[listen]");
    server.configure("[listen]", &tls);
    server.configure("users =", &format!("mailboxes = \"{}\"\nusers =", at("mail")));
    server.signal("HUP");
    outside_lines(&[" reload-failed ", &certificate, "the server shut itself in"]);
    outside_lines(&[" reload-ignored ", "key=mailboxes"]);

    // And that is all there is to do.
    server.configure(&format!("mailboxes = \"{}\"\n", at("mail")), "");
    assert_eq!(server.stop(), Some(0));
    server.run();
    let entry = only_file(&server.path("spool/queue"), ".eml").unwrap();
    assert!(Command::new("touch").arg(&entry).status().unwrap().success());
    server.wait_for("bob@example.org", 1);
    server.send(&["team@example.org"], "Subject: two\r\n\r\n");
    server.wait_for("bob@example.org", 2);
}
