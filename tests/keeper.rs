//! The second process, by the real binary: what it does for the server, and what it does for nobody.

mod support;

use std::fs;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use postrider::io::account;
use postrider::io::keeper::message::{Answer, LONGEST_ANSWER, read_frame, write_frame};
use postrider::io::keeper::{Allowed, Keeper};
use postrider::io::secrets::Secrets;
use support::hop::{Exchanger, say};
use support::tls::{make_certificate, shown_certificate};
use support::{PATIENCE, Server, apart, eventually, have, is_root};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

fn started(allowed: Allowed) -> Arc<Keeper> {
    let (keeper, answers) = Keeper::start_program(Path::new(BINARY), allowed).unwrap();
    thread::spawn(move || answers.run());
    keeper
}

/// A server that is in a stranger's hands: it says what it likes.
struct Stranger {
    child: Child,
    line: UnixStream,
}

impl Stranger {
    fn meets(allowed: &Allowed) -> Stranger {
        let (line, theirs) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(BINARY).arg("keeper").stdin(OwnedFd::from(theirs)).spawn().unwrap();
        let stranger = Stranger { child, line };
        write_frame(&stranger.line, &allowed.print().unwrap()).unwrap();
        assert_eq!(stranger.hear().unwrap().id, 0);
        stranger
    }

    fn hear(&self) -> Option<Answer> {
        read_frame(&self.line, LONGEST_ANSWER).unwrap().map(|frame| Answer::parse(&frame).unwrap())
    }

    fn ask(&self, request: &str) -> Option<io::Result<Vec<u8>>> {
        write_frame(&self.line, request.as_bytes()).unwrap();
        self.hear().map(|answer| answer.result)
    }

    fn ends(mut self) {
        assert!(self.line.read(&mut [0]).is_ok_and(|count| count == 0));
        assert!(self.child.wait().unwrap().success());
    }
}

fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_stranger_gets_what_was_named_at_start_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("live/a.example")).unwrap();
    fs::write(path("live/a.example/privkey.pem"), "inner key").unwrap();
    fs::write(path("live/privkey.pem"), "not named").unwrap();
    fs::write(path("key"), "named key").unwrap();
    let allowed = Allowed {
        run_as: None,
        files: vec![path("key")],
        folders: vec![path("live")],
        commands: vec![words(&["echo", "named", "$HOME; *"])],
    };
    let stranger = Stranger::meets(&allowed);
    let gets = |request: &str| String::from_utf8(stranger.ask(request).unwrap().unwrap()).unwrap();
    assert_eq!(gets("1 read 0"), "named key");
    assert_eq!(gets("2 below 0 privkey.pem a.example"), "inner key");
    assert_eq!(gets("3 run 0"), "named $HOME; *\n");
    assert_eq!(gets("3 account 0"), "root");
    assert_eq!(gets("3 account 4294967294"), "", "nobody has this number");
    for request in ["4 read 1", "5 run 1", "6 list 1", "7 below 1 privkey.pem a.example", "8 read 18446744073709551615"]
    {
        let error = stranger.ask(request).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{request}");
    }
    for request in [
        "9 below 0 privkey.pem .",
        "9 below 0 privkey.pem ..",
        "9 below 0 ../key a.example",
        "9 below 0 privkey.pem a/../a",
        "9 read /etc/shadow",
        "9 run 0 more",
        "9 run id",
        "9 write 0",
        "file\0/etc/shadow",
        "\u{0}",
        "",
    ] {
        let stranger = Stranger::meets(&allowed);
        assert!(stranger.ask(request).is_none(), "{request:?}");
        stranger.ends();
    }
    let stranger = Stranger::meets(&allowed);
    io::Write::write_all(&mut &stranger.line, &[0xff; 4]).unwrap();
    stranger.ends();
}

#[test]
fn it_is_no_verb_for_people() {
    for arguments in [&["keeper"][..], &["keeper", "exec"], &["keeper", "x", "y", "z"]] {
        let ended = Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ended.status.code(), Some(64), "{arguments:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("the server, which starts it by itself"));
    }
}

#[test]
fn a_command_has_a_clean_environment_and_its_failure_is_told() {
    let shell = |script: &str| words(&["sh", "-c", script]);
    let commands = [
        words(&["env"]),
        shell("cat; pwd"),
        shell("echo one >&2; echo why >&2; exit 3"),
        shell("kill -9 $$"),
        words(&["yes"]),
        words(&["/no/such/program"]),
        shell("head -c 16384 /dev/zero"),
    ];
    let keeper = started(Allowed { commands: commands.to_vec(), ..Allowed::default() });
    let run = |at: usize| keeper.run(&commands[at]).map(|output| String::from_utf8(output).unwrap());
    let environment = run(0).unwrap();
    let mut names: Vec<&str> = environment.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "USER"]);
    assert_eq!(run(1).unwrap(), "/\n");
    for (at, parts) in [
        (2, &["sh", "ended with 3", "one\nwhy"][..]),
        (3, &["killed by signal 9"]),
        (4, &["yes", "more than 16384"]),
        (5, &["/no/such/program", "No such file"]),
    ] {
        let error = run(at).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    assert_eq!(run(6).unwrap().len(), 16384);
    let error = keeper.run(&words(&["env", "x"])).unwrap_err();
    assert!(error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains("restart"), "{error}");
}

/// Takes as long as a command may.
#[test]
fn a_slow_command_is_killed_with_all_it_started_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let (slow, quick) = (words(&["sh", "-c", &script]), words(&["echo", "quick"]));
    let keeper = started(Allowed { commands: vec![slow.clone(), quick.clone()], ..Allowed::default() });
    let begin = Instant::now();
    let waiting = thread::spawn({
        let keeper = keeper.clone();
        move || keeper.run(&slow)
    });
    eventually("the slow one runs", || fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    assert_eq!(keeper.run(&quick).unwrap(), b"quick\n");
    assert!(begin.elapsed() < Duration::from_secs(25) && !waiting.is_finished());
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let inner = fs::read_to_string(&pid).unwrap();
    eventually("what it started is gone", || !lives(inner.trim()));
}

#[test]
fn what_runs_ends_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let command = words(&["sh", "-c", &format!("sleep 1000 & echo $! > {}; wait", pid.display())]);
    let mut stranger = Stranger::meets(&Allowed { commands: vec![command], ..Allowed::default() });
    write_frame(&stranger.line, b"1 run 0").unwrap();
    eventually("it runs", || fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    drop(stranger.line);
    assert!(stranger.child.wait().unwrap().success());
    let inner = fs::read_to_string(&pid).unwrap();
    eventually("what it started is gone", || !lives(inner.trim()));
}

#[test]
fn without_root_it_reads_what_only_root_may_and_runs_as_the_account() {
    let test = "without_root_it_reads_what_only_root_may_and_runs_as_the_account";
    if !is_root(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    apart::run(&mut apart::command("as_nobody", folder.path()));
}

#[test]
#[ignore = "the test before runs it in a process of its own"]
fn as_nobody() {
    let folder = apart::folder();
    let path = |name: &str| folder.join(name);
    let secret = |name: &str| {
        fs::write(path(name), "secret").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let nobody = account::find("nobody").unwrap();
    fs::create_dir_all(path("live/a.example")).unwrap();
    fs::create_dir(path("own")).unwrap();
    fs::create_dir_all(path("open/b.example")).unwrap();
    fs::write(path("open/b.example/fullchain.pem"), "").unwrap();
    let names = ["key", "other", "live/a.example/privkey.pem", "live/a.example/fullchain.pem", "own/key"];
    names.into_iter().for_each(secret);
    for closed in ["live", "open/b.example"] {
        fs::set_permissions(path(closed), fs::Permissions::from_mode(0o700)).unwrap();
    }
    chown(path("own"), Some(nobody.uid.as_raw()), None).unwrap();
    let command = words(&["sh", "-c", "id -u; id -g; id -G; grep ^CapPrm /proc/self/status; echo $HOME"]);
    let (keeper, answers) = Keeper::start_program(
        Path::new(BINARY),
        Allowed {
            run_as: Some("nobody".to_owned()),
            files: vec![path("key"), path("own/key"), path("gone")],
            folders: vec![path("live"), path("open")],
            commands: vec![command.clone()],
        },
    )
    .unwrap();
    let pid = answers.pid().to_string();
    thread::spawn(move || answers.run());
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4)]).unwrap();
    account::become_account("nobody").unwrap();

    assert_eq!(fs::read(path("key")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(keeper.read(&path("key")).unwrap(), b"secret");
    assert_eq!(keeper.list(&path("live")).unwrap(), ["a.example"]);
    assert_eq!(keeper.list(&path("open")).unwrap(), ["b.example"]);
    assert_eq!(keeper.read(&path("live/a.example/privkey.pem")).unwrap(), b"secret");
    assert_eq!(keeper.read(&path("other")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(keeper.read(&path("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);

    // What is the account's own could be a link to anything by now.
    fs::rename(path("own/key"), path("own/old")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", path("own/key")).unwrap();
    let error = keeper.read(&path("own/key")).unwrap_err();
    assert!(error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains("chown root"), "{error}");

    let groups = String::from_utf8(keeper.run(&command).unwrap()).unwrap();
    let (uid, gid) = (nobody.uid, nobody.gid);
    let expected = format!("{uid}\n{gid}\n{gid}\nCapPrm:\t0000000000000000\n{}\n", nobody.dir.display());
    assert_eq!(groups, expected);

    assert!(nix::unistd::seteuid(nix::unistd::ROOT).is_err() && nix::unistd::setuid(nix::unistd::ROOT).is_err());
    assert_eq!(nix::unistd::getgroups().unwrap(), [gid]);
    let mut kill = Command::new("kill");
    assert!(!kill.args(["-9", &pid]).stderr(Stdio::null()).status().unwrap().success(), "it is out of reach");
}

/// One that greets as it should, says what is no answer, and ends once nobody hears it.
const NONSENSE: &str = "#!/usr/bin/env python3
import os, struct
def read(count):
    return b''.join(iter(lambda: os.read(0, 1), b'')) if count is None else b''.join(os.read(0, 1) for _ in range(count))
def say(text):
    os.write(0, struct.pack('>I', len(text)) + text)
read(struct.unpack('>I', read(4))[0])
say(b'0 done\\n')
say(b'nonsense')
read(None)
os._exit(7)
";

#[test]
fn one_of_root_that_says_nonsense_is_given_up() {
    let test = "one_of_root_that_says_nonsense_is_given_up";
    if !is_root(test) || !have("python3", test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nonsense"), NONSENSE).unwrap();
    fs::set_permissions(folder.path().join("nonsense"), fs::Permissions::from_mode(0o755)).unwrap();
    apart::run(&mut apart::command("hears_nonsense", folder.path()));
}

#[test]
#[ignore = "the test before runs it in a process of its own"]
fn hears_nonsense() {
    let folder = apart::folder();
    let (_keeper, answers) = Keeper::start_program(&folder.join("nonsense"), Allowed::default()).unwrap();
    account::become_account("nobody").unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || tell.send(answers.run()).unwrap());
    let status = told.recv_timeout(PATIENCE).unwrap();
    assert!(status.contains('7'), "{status}");
}

#[test]
fn an_account_with_a_way_back_is_refused() {
    let test = "an_account_with_a_way_back_is_refused";
    if !is_root(test) || !have("setpriv", test) {
        return;
    }
    let exec = |bits: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(bits).arg(BINARY).args(["keeper", "exec", "--", "nobody", "id", "-u"]);
        command.output().unwrap()
    };
    assert!(exec(&[]).status.success());
    let ended = exec(&["--securebits", "+no_setuid_fixup"]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(71) && said.contains("could still become root again"), "{said}");
}

/// The process id of the one that was started last.
fn second_process(server: &Server) -> String {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains(" keeper-started ")).unwrap();
    line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn it_ends_with_a_server_that_is_killed_and_with_one_that_stops() {
    let mut server = Server::start("");
    let pid = second_process(&server);
    assert!(lives(&pid) && pid != server.pid().to_string());
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "postrider\n");
    server.kill();
    eventually("the second process has ended", || !lives(&pid));
    server.run();
    let pid = second_process(&server);
    server.signal("TERM");
    eventually("the second process has ended too", || server.exited().is_some() && !lives(&pid));
    assert!(!server.log_since_start().contains("keeper-ended"));
}

#[test]
fn its_end_is_logged_and_the_server_serves_on() {
    let mut server = Server::start("");
    let pid = second_process(&server);
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    assert!(lives(&pid), "signals for the server do not end it");
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    server.logged(&[" ERROR ", " keeper-ended ", "signal: 9", "restart the server"]);
    server.send(&["ann@example.org"], "Subject: two\r\n\r\n");
    server.wait_for("ann@example.org", 2);
    assert_eq!(server.stop(), Some(0));
}

/// A server that gives up root for nobody, who owns its folder; nothing else.
fn run_as_nobody(extra: &str) -> Server {
    let mut server = Server::prepared(extra, "");
    let nobody = account::find("nobody").unwrap();
    server.configure("hostname =", "run_as = \"nobody\"\nhostname =");
    for name in ["", "postrider.toml", "users", "aliases"] {
        chown(server.path(name), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    }
    server.run();
    server
}

#[test]
fn a_server_without_root_shows_renewed_keys_and_says_secrets_that_only_root_may_read() {
    let test = "a_server_without_root_shows_renewed_keys_and_says_secrets_that_only_root_may_read";
    if !is_root(test) || !have("openssl", test) {
        return;
    }
    let of_root = tempfile::tempdir().unwrap();
    let path = |name: &str| of_root.path().join(name);
    make_certificate(of_root.path(), "mail.example.org");
    fs::write(path("password"), "for root alone\n").unwrap();
    fs::set_permissions(path("password"), fs::Permissions::from_mode(0o600)).unwrap();
    let offers = &["AUTH PLAIN"][..];
    let login = |line: &str| line.starts_with("AUTH").then(|| say("235 2.7.0 welcome"));
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, two) = (Exchanger::start(listen(), offers, login), Exchanger::start(listen(), offers, login));
    let server = run_as_nobody(&format!(
        "submissions = [\"127.0.0.1:0\"]\n[tls]\ncertificate = \"{0}/certificate.pem\"\nkey = \"{0}/key.pem\"\n\
         [relay.domains]\n\"one.example\" = \"{1}\"\n\"two.example\" = \"{2}\"\n\
         [relay.hops.\"{1}\"]\ntls = \"opportunistic\"\nuser = \"ann\"\npassword_file = \"{0}/password\"\n\
         [relay.hops.\"{2}\"]\ntls = \"opportunistic\"\nuser = \"ann\"\npassword_command = [\"id\", \"-un\"]\n",
        of_root.path().display(),
        one.address,
        two.address
    ));
    let first = shown_certificate(server.address("submissions"));
    make_certificate(of_root.path(), "mail.example.org");
    eventually("the other is shown", || shown_certificate(server.address("submissions")) != first);
    server.send(&["x@one.example", "x@two.example"], "Subject: one\r\n\r\n");
    for (hop, secret) in [(&one, "for root alone"), (&two, "nobody")] {
        let login = format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0ann\0{secret}")));
        eventually("the hop has the mail", || hop.messages().len() == 1);
        assert!(hop.lines().contains(&login), "{:?}", hop.lines());
    }
}

#[test]
fn only_the_second_process_stays_root() {
    let test = "only_the_second_process_stays_root";
    if !is_root(test) {
        return;
    }
    let server = run_as_nobody("");
    let owner = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
    };
    let uid = account::find("nobody").unwrap().uid;
    assert_eq!(owner(&server.pid().to_string()), format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(owner(&second_process(&server)), "Uid:\t0\t0\t0\t0");
    server.logged(&[" keeper-started ", "account=root"]);
}

#[test]
fn check_says_what_root_will_do_and_what_it_will_not() {
    let test = "check_says_what_root_will_do_and_what_it_will_not";
    if !is_root(test) {
        return;
    }
    let tables = "[tls]\nkey = \"key\"\ncertificates = \"live\"\n\
                  [relay.hops.\"a.example\"]\npassword_file = \"own/password\"\ntoken_command = [\"id\"]\n";
    let server = Server::with_spool(tables);
    let path = |name: &str| server.path(name);
    let nobody = account::find("nobody").unwrap().uid.as_raw();
    server.configure("hostname =", "run_as = \"nobody\"\nhostname =");
    fs::set_permissions(server.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(path("live/a.example")).unwrap();
    fs::create_dir(path("own")).unwrap();
    for name in ["key", "live/a.example/fullchain.pem", "live/a.example/privkey.pem", "own/password"] {
        fs::write(path(name), "secret").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    chown(path("own"), Some(nobody), None).unwrap();
    chown(path("postrider.toml"), Some(nobody), None).unwrap();
    let check = || {
        let ended = Command::new(BINARY).arg("check").arg("--config").arg(path("postrider.toml")).output().unwrap();
        String::from_utf8(ended.stdout).unwrap()
    };
    let said = check();
    let line = |start: &str, name: &str, part: &str| {
        let found = |line: &str| line.starts_with(start) && line.contains(name) && line.contains(part);
        assert!(said.lines().any(found), "{start} {name} {part}\n{said}");
    };
    line("ok: run_as", "becomes nobody", "second process stays root");
    line("ok: tls.key", "/key", "the second process does, as root");
    line("ok: tls.certificates", "live/a.example/privkey.pem", "the second process does, as root");
    line("error: relay.hops", "own", "chown root");
    line("ok: relay.hops", "token_command", "can be run, as nobody");
    line("warning: ", "postrider.toml", "chown root");
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(check().contains("chmod o-rwx"));
}
