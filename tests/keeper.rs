//! The second process, by the real binary: what it does for the server, and what it does for nobody.

mod support;

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use postrider::io::account;
use postrider::io::keeper::message::{Answer, LONGEST_ANSWER, read_frame, write_frame};
use postrider::io::keeper::{Allowed, Keeper};
use support::{PATIENCE, Server, eventually, have, is_root};

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

fn started(allowed: Allowed) -> Arc<Keeper> {
    let (keeper, answers) = Keeper::start_program(Path::new(BINARY), allowed).unwrap();
    thread::spawn(move || answers.run(|_| {}));
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
        shell("head -c 65536 /dev/zero"),
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
        (4, &["yes", "more than 65536"]),
        (5, &["/no/such/program", "No such file"]),
    ] {
        let error = run(at).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    assert_eq!(run(6).unwrap().len(), 65536);
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

/// Runs a test of this file that is left out else, in a process of its own: giving up root can't be undone.
fn in_another_process(test: &str, folder: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("KEEPER_FOLDER", folder);
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn without_root_it_reads_what_only_root_may_and_runs_as_the_account() {
    let test = "without_root_it_reads_what_only_root_may_and_runs_as_the_account";
    if !is_root(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    in_another_process("as_nobody", folder.path());
}

#[test]
#[ignore = "the test before runs it in a process of its own"]
fn as_nobody() {
    let folder = std::path::PathBuf::from(std::env::var_os("KEEPER_FOLDER").unwrap());
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
    thread::spawn(move || answers.run(|_| {}));
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
    server.kill();
    eventually("the second process has ended", || !lives(&pid));
    server.run();
    let pid = second_process(&server);
    server.signal("TERM");
    eventually("the second process has ended too", || server.exited().is_some() && !lives(&pid));
    assert!(!server.log_since_start().contains("keeper-ended"));
}

#[test]
fn its_end_is_logged_and_the_server_serves_on_with_another() {
    let server = Server::start("");
    let pid = second_process(&server);
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    server.send(&["ann@example.org"], "Subject: one\r\n\r\n");
    assert!(lives(&pid), "signals for the server do not end it");
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    server.logged(&[" ERROR ", " keeper-ended ", "signal: 9", "another is started"]);
    server.send(&["ann@example.org"], "Subject: two\r\n\r\n");
    eventually("there is another", || server.log().matches(" keeper-started ").count() == 2);
    let other = second_process(&server);
    assert!(lives(&other) && other != pid);
    server.wait_for("ann@example.org", 2);
}

#[test]
fn a_server_without_root_says_what_works_no_longer() {
    let test = "a_server_without_root_says_what_works_no_longer";
    if !is_root(test) {
        return;
    }
    let mut server = Server::prepared("", "");
    let nobody = account::find("nobody").unwrap();
    server.configure("hostname =", "run_as = \"nobody\"\nhostname =");
    for name in ["", "postrider.toml", "users", "aliases"] {
        chown(server.path(name), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    }
    server.run();
    let owner = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
    };
    let uid = nobody.uid;
    assert_eq!(owner(&server.pid().to_string()), format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
    let pid = second_process(&server);
    assert_eq!(owner(&pid), "Uid:\t0\t0\t0\t0");
    server.logged(&[" keeper-started ", "account=root"]);
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    server.logged(&[" ERROR ", " keeper-ended ", "restart the server before"]);
    server.logged(&[" keeper-started ", "account=nobody"]);
    assert_eq!(owner(&second_process(&server)), format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
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
