//! POP3: from the connection to the last line of UIDL, login and STAT between them, on a large mailbox; beside Dovecot on
//! the same Maildir, with the index that it has written and after that was removed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use postrider::mail::queue_id::QueueId;

use crate::Bench;
use crate::figures::Unit;
use crate::rivals::{self, POSTRIDER, free_address, mailbox};
use crate::support::{PASSWORD, eventually, find};

/// Messages in the mailbox.
const MESSAGES: usize = 100_000;

struct Dovecot(Child);

impl Drop for Dovecot {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// Ours and Dovecot in turns.
    pub fn fetch(&mut self) {
        let (mut server, _) = rivals::prepared(&self.onward);
        let maildir = server.path("spool/mail/example.org/r0");
        fill(&maildir);
        server.run();
        let (ours, user) = (server.pop3_address(), mailbox(0));
        let home = std::env::temp_dir().join("dovecot");
        let dovecot = start(&home, &server.path("spool/mail"), &user);
        let words = |index: &str| format!("POP3 login, STAT, UIDL of 100,000 messages{index}");
        // What was never looked at is not in any cache: once for each.
        (0..3).for_each(|_| _ = fetched(ours, &user));
        for _ in 0..self.scale.rounds.max(3) {
            for index in ["", ", no index"] {
                self.figures.add(&words(index), Unit::Seconds, POSTRIDER, fetched(ours, &user).as_secs_f64());
            }
            let Some((_, theirs)) = &dovecot else { continue };
            forget(&maildir);
            for index in [", no index", ""] {
                self.figures.add(&words(index), Unit::Seconds, "Dovecot", fetched(*theirs, &user).as_secs_f64());
            }
        }
        self.kept.push(server);
    }
}

/// A Maildir as Postrider leaves it.
fn fill(maildir: &Path) {
    ["tmp", "new", "cur"].iter().for_each(|name| fs::create_dir_all(maildir.join(name)).unwrap());
    let text = format!("From: <sender@far.example>\r\nSubject: one of many\r\n\r\n{}", "X\r\n".repeat(100));
    let (now, size, mut last) = (UNIX_EPOCH.elapsed().unwrap(), text.len(), None);
    for _ in 0..MESSAGES {
        let id = QueueId::after(last, now, 0);
        last = Some(id);
        let name = format!("{}.{id}R1.mail.example.org,S={size},W={size}", id.seconds());
        fs::write(maildir.join("new").join(name), &text).unwrap();
    }
    let owned = Command::new("chown").args(["-R", "mail:mail"]).arg(maildir).status().unwrap();
    assert!(owned.success());
}

/// Removes what Dovecot knows of the mailbox.
fn forget(maildir: &Path) {
    for entry in fs::read_dir(maildir).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("dovecot") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// `None` where it is not installed.
fn start(folder: &Path, mail: &Path, user: &str) -> Option<(Dovecot, SocketAddr)> {
    let program = find("dovecot")?;
    if !Path::new("/usr/lib/dovecot/pop3").exists() {
        return None;
    }
    let version = Command::new(&program).arg("--version").output().unwrap();
    let (root, mail, address) = (folder.display(), mail.display(), free_address());
    let words = if version.stdout.starts_with(b"2.4") {
        format!(
            "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nmail_driver = maildir\n\
             mail_path = {mail}/%{{user|domain}}/%{{user|username}}\nauth_allow_cleartext = yes\n\
             passdb passwd-file {{\n passwd_file_path = {root}/users\n}}\n\
             userdb static {{\n fields {{\n  uid = mail\n  gid = mail\n  home = {root}/home\n }}\n}}\n"
        )
    } else {
        format!(
            "mail_location = maildir:{mail}/%d/%n\ndisable_plaintext_auth = no\n\
             passdb {{\n driver = passwd-file\n args = {root}/users\n}}\n\
             userdb {{\n driver = static\n args = uid=mail gid=mail home={root}/home\n}}\n"
        )
    };
    let text = format!(
        "{words}base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/log\nssl = no\nprotocols = pop3\n\
         first_valid_uid = 1\nfirst_valid_gid = 1\n\
         service pop3-login {{\n chroot =\n inet_listener pop3 {{\n  port = {}\n }}\n inet_listener pop3s {{\n  port = 0\n }}\n}}\n\
         service anvil {{\n chroot =\n}}\n",
        address.port()
    );
    fs::create_dir_all(folder.join("home")).unwrap();
    assert!(Command::new("chown").arg("mail:mail").arg(folder.join("home")).status().unwrap().success());
    // Its login process is another account's, and so are the folders on the way to the mailbox.
    let mut above = mail.to_string();
    while above.len() > std::env::temp_dir().as_os_str().len() {
        fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).unwrap();
        above.truncate(above.rfind('/').unwrap());
    }
    fs::set_permissions(format!("{mail}/example.org"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("users"), format!("{user}:{{PLAIN}}{PASSWORD}\n")).unwrap();
    fs::write(folder.join("dovecot.conf"), text).unwrap();
    let mut command = Command::new(program);
    command.arg("-F").arg("-c").arg(folder.join("dovecot.conf")).stdin(Stdio::null());
    let dovecot = Dovecot(command.spawn().unwrap());
    eventually("Dovecot listens", || TcpStream::connect(address).is_ok());
    Some((dovecot, address))
}

/// How long a client waits that asks what there is.
fn fetched(address: SocketAddr, user: &str) -> Duration {
    let begun = Instant::now();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut line = String::new();
    let mut read = |reader: &mut BufReader<TcpStream>| {
        line.clear();
        reader.read_line(&mut line).unwrap();
        line.clone()
    };
    assert!(read(&mut reader).starts_with("+OK"));
    for command in [format!("USER {user}"), format!("PASS {PASSWORD}"), "STAT".to_owned(), "UIDL".to_owned()] {
        reader.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let reply = read(&mut reader);
        assert!(reply.starts_with("+OK"), "{command}: {reply}");
        assert!(command != "STAT" || reply.starts_with(&format!("+OK {MESSAGES} ")), "{reply}");
    }
    let mut listed = 0;
    while read(&mut reader) != ".\r\n" {
        listed += 1;
    }
    assert_eq!(listed, MESSAGES);
    let took = begun.elapsed();
    reader.get_mut().write_all(b"QUIT\r\n").unwrap();
    read(&mut reader);
    took
}
