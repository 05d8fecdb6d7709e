//! The command as a person meets it: the real binary, its output, its messages and its exit codes.

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::ended::Ended;
use support::skip;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_postrider");

/// A folder with a configuration that `check` has nothing to say against.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Host {
        Host::with("")
    }

    /// With more in the configuration, before its tables.
    fn with(more: &str) -> Host {
        let host = Host { folder: tempfile::tempdir().unwrap() };
        let text = format!(
            "hostname = \"mail.example.org\"\nlocal_domains = [\"example.org\", \"example.net\"]\n\
             spool = \"spool\"\nusers = \"users\"\naliases = \"aliases\"\nlog = \"mail.log\"\n\
             postmaster = \"ann@example.org\"\n{more}\n\
             [listen]\nsmtp = [\"127.0.0.1:0\"]\npop3 = [\"127.0.0.1:0\"]\n"
        );
        fs::write(host.path("postrider.toml"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        self.path("postrider.toml").display().to_string()
    }

    fn run(&self, words: &[&str]) -> Ended {
        self.run_with(words, "")
    }

    fn run_with(&self, words: &[&str], input: &str) -> Ended {
        let config = self.config();
        run(&[words, &["--config", &config]].concat(), input)
    }

    fn add(&self, address: &str, password: &str) {
        self.run_with(&["user", "add", address], &format!("{password}\n")).is(0);
    }

    fn users(&self) -> String {
        fs::read_to_string(self.path("users")).unwrap()
    }
}

fn run(words: &[&str], input: &str) -> Ended {
    let mut command = Command::new(BINARY);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A verb that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

#[test]
fn help_and_version_are_answered_everywhere() {
    for words in [&["--help"][..], &["-h"], &["serve", "--help"], &["check", "--help"], &["--help", "user"]] {
        let ended = run(words, "").is(0).says("usage: postrider");
        assert!(ended.err.is_empty(), "{ended:#?}");
    }
    run(&["user", "--help"], "").is(0).says("user passwd ADDRESS").says_not("check");
    run(&["--version"], "").is(0).says(env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_wrong_command_line_is_64_and_says_how_it_goes() {
    for (words, what) in [
        (&[][..], "name a verb"),
        (&["fly"], "no verb fly"),
        (&["--bogus"], "bogus"),
        (&["check", "--config"], "config"),
        (&["check", "now"], "takes no now"),
        (&["serve", "now"], "takes no now"),
        (&["serve", "--offline"], "--offline"),
        (&["user"], "needs one of"),
        (&["user", "add"], "address is missing"),
        (&["user", "passwd"], "address is missing"),
        (&["user", "remove"], "address is missing"),
        (&["user", "list", "all"], "too many: all"),
        (&["user", "add", "a@example.org", "secret"], "too many: secret"),
        (&["user", "greet"], "can't greet"),
    ] {
        run(words, "").fails(64, what).fails(64, "usage: postrider");
    }
}

#[test]
fn octets_that_are_no_text_are_a_wrong_command_line() {
    use std::os::unix::ffi::OsStrExt;
    let word = std::ffi::OsStr::from_bytes(b"\xff");
    Ended::from(Command::new(BINARY).arg(word).output().unwrap()).is(64);
}

#[test]
fn the_configuration_is_named_before_or_after_the_verb() {
    let host = Host::new();
    run(&["--config", &host.config(), "user", "list"], "").is(0);
    run(&["user", "--config", &host.config(), "list"], "").is(0);
    run(&["user", "list", &format!("--config={}", host.config())], "").is(0);
}

#[test]
fn a_configuration_that_cannot_be_read_is_told() {
    run(&["user", "list", "--config", "/nowhere/x.toml"], "").fails(78, "/nowhere/x.toml").fails(78, "--config");
    run(&["check", "--config", "/nowhere/x.toml"], "").is(78).says("error: /nowhere/x.toml");
    let host = Host::with("hostnam = \"x\"");
    host.run(&["user", "list"]).fails(78, "line 8");
    host.run(&["check"]).is(78).says("error: ").says("line 8");
}

#[test]
fn a_user_is_added_changed_and_removed() {
    let host = Host::new();
    fs::write(host.path("users"), "# people\r\n").unwrap();
    host.run_with(&["user", "add", "Ann@Example.org"], "one two\n").is(0).says("added ann@example.org");
    host.add("bob@example.net", "secret");
    host.run(&["user", "list"]).is(0).says("ann@example.org\nbob@example.net\n");
    let before = host.users();
    host.run_with(&["user", "passwd", "ann@example.org"], "three\n").is(0).says("ann@example.org");
    let after = host.users();
    assert_ne!(before, after);
    let others =
        |text: &str| text.lines().filter(|line| !line.starts_with("ann")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&before), others(&after));
    fs::create_dir_all(host.path("spool/mail/example.org/ann")).unwrap();
    host.run(&["user", "remove", "ann@example.org"]).is(0).says("spool/mail/example.org/ann");
    host.run(&["user", "remove", "bob@example.net"]).is(0).says("no mail");
    assert_eq!(host.users(), "# people\r\n");
    assert!(host.path("spool/mail/example.org/ann").is_dir(), "the mail stays");
}

#[test]
fn the_first_line_of_input_is_the_password_whatever_its_end() {
    let host = Host::new();
    for (name, input) in [("a", "secret\n"), ("b", "secret"), ("c", "secret\r\n"), ("d", "secret\nmore\n")] {
        host.run_with(&["user", "add", &format!("{name}@example.org")], input).is(0);
    }
    let users = postrider::users::Users::load(&host.path("users")).unwrap();
    for address in users.addresses() {
        assert!(users.verify(address, b"secret"), "{address}");
    }
    assert_eq!(users.addresses().count(), 4);
}

#[test]
fn a_new_users_file_is_private_and_an_old_one_keeps_its_mode() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    assert_eq!(fs::metadata(host.path("users")).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(host.path("users"), fs::Permissions::from_mode(0o640)).unwrap();
    host.add("bob@example.org", "secret");
    assert_eq!(fs::metadata(host.path("users")).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn each_wrong_input_of_user_has_its_message_and_code() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    let before = host.users();
    let long = "x".repeat(513);
    for (words, input, code, what) in [
        (["add", "ann"], "x\n", 65, "ann@example.org"),
        (["add", "ann@far.example"], "x\n", 65, "local_domains has example.org, example.net"),
        (["add", "ann@[192.0.2.1]"], "x\n", 65, "local_domains"),
        (["add", "\"a/b\"@example.org"], "x\n", 65, "slash"),
        (["add", ".ann@example.org"], "x\n", 65, "dot"),
        (["add", "ANN@example.org"], "x\n", 65, "user already"),
        (["add", "new@example.org"], "", 66, "standard input"),
        (["add", "new@example.org"], "\n", 65, "empty"),
        (["add", "new@example.org"], "a\tb\n", 65, "control"),
        (["add", "new@example.org"], long.as_str(), 65, "512"),
        (["passwd", "ann@example.org"], "\n", 65, "empty"),
        (["passwd", "new@example.org"], "x\n", 67, "no user"),
        (["remove", "new@example.org"], "", 67, "no user"),
        (["remove", "new"], "", 65, "new@example.org"),
    ] {
        host.run_with(&["user", words[0], words[1]], input).fails(code, what);
    }
    assert_eq!(host.users(), before);
}

#[test]
fn a_users_file_that_is_wrong_is_not_touched_but_can_be_mended() {
    let host = Host::new();
    let text = "# x\nann@example.org:{MD5}x:1:2\n";
    fs::write(host.path("users"), text).unwrap();
    host.run(&["user", "list"]).fails(78, "users:2: ann@example.org");
    host.run_with(&["user", "add", "bob@example.org"], "x\n").fails(78, "users:2: ");
    assert_eq!(host.users(), text);
    host.run_with(&["user", "passwd", "ann@example.org"], "x\n").is(0);
    assert!(host.users().ends_with(":1:2\n"));
    host.run(&["user", "list"]).is(0).says("ann@example.org\n");
}

#[test]
fn a_folder_that_is_not_there_can_hold_no_users() {
    let host = Host::new();
    let text = fs::read_to_string(host.path("postrider.toml")).unwrap().replace("\"users\"", "\"gone/users\"");
    fs::write(host.path("postrider.toml"), text).unwrap();
    host.run_with(&["user", "add", "ann@example.org"], "x\n").fails(73, "gone");
}

#[test]
fn a_reader_who_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    for words in [&["user", "list"][..], &["check"], &["--help"]] {
        let config = host.config();
        let words = [words, &["--config", &config]].concat();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let gone = Command::new(BINARY).args(&words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let ended = Ended::from(gone).is(0);
        assert!(ended.err.is_empty(), "{ended:#?}");
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(BINARY).args(&words).stdout(full).stderr(Stdio::piped()).output().unwrap();
        Ended::from(output).fails(74, "standard output");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    Ended::from(Command::new(BINARY).arg("fly").stderr(full).output().unwrap()).is(64);
    let command = format!("'{BINARY}' user list --config '{}' <&- >&- 2>&-", host.config());
    Ended::from(Command::new("sh").args(["-c", &command]).output().unwrap()).is(0);
}

#[test]
fn a_password_typed_at_a_terminal_is_not_shown() {
    let host = Host::new();
    let users = |password: &[u8]| {
        let users = postrider::users::Users::load(&host.path("users")).unwrap();
        users.verify(&"ann@example.org".parse().unwrap(), password)
    };
    let (ended, shown) = typed(&host, "add", &["right\n", "wrong\n"]);
    ended.fails(65, "New password").err.contains("differ").then_some(()).unwrap();
    assert!(!shown.contains("right"), "{shown}");
    assert!(!host.path("users").exists());
    typed(&host, "add", &["right\n", "right\n"]).0.is(0);
    assert!(users(b"right"));
    let (ended, _) = typed(&host, "passwd", &["ri\x03"]);
    assert!(ended.is(65).err.contains("interrupted"));
    assert!(users(b"right"));
}

/// Runs `user VERB ann@example.org` at a terminal, types a line after each prompt, and returns what the terminal showed.
fn typed(host: &Host, verb: &str, lines: &[&str]) -> (Ended, String) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut person = fs::File::from(terminal.master);
    let slave = terminal.slave;
    let mut command = Command::new(BINARY);
    command.args(["user", verb, "ann@example.org", "--config", &host.config()]);
    command.stdin(slave.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut err = child.stderr.take().unwrap();
    let mut seen = String::new();
    for line in lines {
        while !seen.ends_with(": ") {
            let mut octet = [0];
            assert_eq!(err.read(&mut octet).unwrap(), 1, "no prompt after {seen:?}");
            seen.push(octet[0].into());
        }
        person.write_all(line.as_bytes()).unwrap();
        seen.push('|');
    }
    err.read_to_string(&mut seen).unwrap();
    let output = child.wait_with_output().unwrap();
    let echoes = nix::sys::termios::tcgetattr(&slave).unwrap().local_flags;
    assert!(echoes.contains(nix::sys::termios::LocalFlags::ECHO), "the terminal is left as it was");
    // The command holds one end too.
    drop((slave, command));
    let mut shown = Vec::new();
    // A terminal that nobody holds any more ends with EIO.
    let _ = person.read_to_end(&mut shown);
    let err = format!("postrider: {seen}");
    let ended = Ended { code: output.status.code(), out: String::from_utf8(output.stdout).unwrap(), err };
    (ended, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn dovecot_takes_our_hashes() {
    let host = Host::new();
    host.add("ann@example.org", "correct horse");
    let password = "correct horse\n";
    host.run_with(&["user", "--scram", "add", "bob@example.org"], password).is(0);
    host.run_with(&["user", "add", "carol@example.org"], password).is(0);
    host.run_with(&["user", "passwd", "carol@example.org", "--scram"], password).is(0);
    for (line, scheme) in host.users().lines().zip(["{ARGON2ID}", "{SCRAM-SHA-256}100000,", "{SCRAM-SHA-256}100000,"]) {
        let hash = line.split_once(':').unwrap().1;
        assert!(hash.starts_with(scheme), "{line}");
        let doveadm = |password: &str| Command::new("doveadm").args(["pw", "-t", hash, "-p", password]).output();
        let Ok(right) = doveadm("correct horse") else { return skip("dovecot_takes_our_hashes", "no doveadm") };
        assert!(right.status.success(), "{right:?}");
        assert!(!doveadm("wrong horse").unwrap().status.success());
    }
    host.run(&["user", "remove", "ann@example.org", "--scram"]).fails(64, "only user add and user passwd know --scram");
    host.run(&["check", "--scram"]).fails(64, "only user knows --scram");
}

#[test]
fn check_is_content_with_a_good_host() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    fs::write(host.path("aliases"), "info: ann\n").unwrap();
    let ended =
        host.run(&["check"]).is(0).says("ok: listen.smtp").says("users: 1").says("aliases: 1").says_not("error:");
    assert!(ended.out.lines().all(|line| line.starts_with("ok: ") || line.contains("run_as")), "{ended:#?}");
    let made: Vec<_> = fs::read_dir(host.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made.len(), 3, "a check makes nothing: {made:?}");
    host.run(&["check", "--offline"]).is(0).says("users: 1").says_not("listen").says_not("spool");
}

#[test]
fn check_says_all_that_is_wrong_at_once() {
    let host = Host::new();
    fs::write(host.path("users"), "bad\nann@example.org:{MD5}x\nbob@far.example:{X}y\n").unwrap();
    fs::write(host.path("list"), "ann\na b@c\n").unwrap();
    fs::write(host.path("aliases"), "bad\nx: |prog\nt: :include:list\ng: :include:nowhere\nlost: carol\n").unwrap();
    fs::write(host.path("spool"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = fs::read_to_string(host.path("postrider.toml")).unwrap();
    let text = text.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1);
    let text = text.replace("mail.log", "logs/mail.log").replacen("127.0.0.1:0", "192.0.2.1:110", 1);
    let more = "[drop.senders]\nno-such-login = [\"@example.org\"]\n[tls]\ncertificate = \"none.pem\"\n";
    fs::write(host.path("postrider.toml"), text + more).unwrap();
    let mut ended = host.run(&["check"]).is(78);
    for words in [
        "users:1: ",
        "users:2: ",
        "users:3: ",
        "aliases:1: ",
        "aliases:2: ",
        "list:2: ",
        "nowhere: ",
        "lost leads nowhere at carol@example.org",
        "none.pem: ",
        "spool: ",
        "is no folder",
        "log: the folder",
        "ss -ltnp",
        "no such address",
        "drop.senders names no-such-login",
    ] {
        ended = ended.says(words);
    }
}

#[test]
fn check_warns_of_what_works_and_is_dangerous() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    fs::set_permissions(host.path("users"), fs::Permissions::from_mode(0o646)).unwrap();
    let text = fs::read_to_string(host.path("postrider.toml")).unwrap();
    let text = text.replacen("127.0.0.1:0", "0.0.0.0:0", 1) + "[relay]\nfrom = [\"198.51.100.0/24\"]\n";
    fs::write(host.path("postrider.toml"), &text).unwrap();
    host.run(&["check"]).is(0).says("chmod o-r").says("chmod o-w").says("warning: relay.from has 198.51.100.0/24");
    fs::write(host.path("postrider.toml"), text.replace("198.51.100.0/24", "0.0.0.0/0")).unwrap();
    host.run(&["check"]).is(78).says("error: relay.from has 0.0.0.0/0").says("open relay");
}

#[test]
fn check_looks_where_mail_for_other_hosts_goes() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    fs::write(host.path("aliases"), "info: x@far.example\n").unwrap();
    let text = fs::read_to_string(host.path("postrider.toml")).unwrap();
    let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = text.replacen("127.0.0.1:0", &own.to_string(), 1);
    let of = |text: &str, more: &str| {
        fs::write(host.path("postrider.toml"), format!("{text}{more}\n")).unwrap();
        host.run(&["check"])
    };
    of(&listen, &format!("[relay]\nsmarthost = \"{own}\"")).is(78).says("error: relay.smarthost: ").says("itself");
    of(&listen, "[relay]\nsmarthost = \"192.0.2.7:587\"").is(0).says("ok: relay.smarthost: 192.0.2.7:587 is at");
    of(&text, "[relay]\nsrs_secret = \"short\"").is(78).says("at least 16 characters");
    of(&text, "[relay]\nsrs_secret = \"0123456789abcdef\"").is(0).says("may read relay.srs_secret");
    fs::set_permissions(host.path("postrider.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    of(&text, "[relay]\nsrs_secret = \"0123456789abcdef\"").is(0).says_not("srs_secret").says_not("alias info");
    let open = text.replacen("127.0.0.1:0", "0.0.0.0:0", 1);
    of(&open, "").is(0).says("warning: ").says("the alias info leads to another host");
    of(
        &text,
        "[relay]\nsmarthost_sender = \"a@b.example\"\n[delivery]\nthreads = 1\nremote_port = 26\nwarn_after = \"5d\"",
    )
    .is(0)
    .says("warning: relay.smarthost_sender")
    .says("warning: delivery.threads")
    .says("warning: delivery.remote_port")
    .says("warning: delivery.warn_after");
    of(&listen, &format!("[relay]\nsmarthost = \"{own}\"")).is(78);
    host.run(&["check", "--offline"]).is(0).says_not("relay.smarthost");
}

#[test]
fn check_knows_its_own_running_server() {
    let host = Host::new();
    host.add("ann@example.org", "secret");
    fs::create_dir(host.path("spool")).unwrap();
    let lock = fs::File::open(host.path("spool")).unwrap();
    lock.lock().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = fs::read_to_string(host.path("postrider.toml")).unwrap();
    let text = text.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1);
    fs::write(host.path("postrider.toml"), text).unwrap();
    host.run(&["check"]).is(0).says("ok: a server is running").says("is in use, as it is when the server runs");
    drop(lock);
    host.run(&["check"]).is(78).says_not("a server is running");
}

#[test]
fn an_account_that_is_not_there_is_told() {
    let host = Host::with("run_as = \"no-such-account\"");
    host.run(&["check"]).is(78).says("error: run_as: this system has no account no-such-account").says("adduser");
    if nix::unistd::geteuid().is_root() {
        host.run_with(&["user", "add", "ann@example.org"], "x\n").fails(78, "no-such-account");
    }
}

#[test]
fn root_looks_with_the_eyes_of_run_as_and_keeps_the_users_file_readable_to_it() {
    let test = "root_looks_with_the_eyes_of_run_as_and_keeps_the_users_file_readable_to_it";
    let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else { return skip(test, "there is no nobody") };
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "this is not root");
    }
    let host = Host::with("run_as = \"nobody\"");
    fs::set_permissions(host.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    host.add("ann@example.org", "secret");
    let users = fs::metadata(host.path("users")).unwrap();
    assert_eq!((users.uid(), users.gid(), users.mode() & 0o777), (0, nobody.gid.as_raw(), 0o640));
    host.run(&["user", "list"]).is(0).says("ann@example.org");
    fs::create_dir(host.path("spool")).unwrap();
    host.run(&["check"]).is(78).says("chown -R nobody").says("users: 1");
    let own = |path: &Path| nix::unistd::chown(path, Some(nobody.uid), Some(nobody.gid)).unwrap();
    own(&host.path("spool"));
    own(host.folder.path());
    host.run(&["check"]).is(0).says("ok: run_as");
    host.add("bob@example.org", "secret");
    assert_eq!(fs::metadata(host.path("users")).unwrap().uid(), 0);
    own(&host.path("users"));
    host.add("carol@example.org", "secret");
    assert_eq!(fs::metadata(host.path("users")).unwrap().uid(), nobody.uid.as_raw());
}
