"""The servers that are put to the test: Postrider, and others for comparison, each with its queue and Maildirs where
it is told.

Each runs in a process namespace of its own, so that one kill -9 ends all of it at once. What it reads is in a folder
that no power cut touches; its queue and its mailboxes are on the disks under test. Retries follow each other quickly.
"""
import os
import random
import shutil
import signal
import socket
import subprocess
import time

from load import BOXES, Session

HERE = os.path.dirname(os.path.abspath(__file__))
NOBODY = 65534
# Of a password nobody needs here.
LOCKED = "{BLF-CRYPT}$2y$04$ieEMV7yFbKBI6nMxyzghK.6jjBIbH.ugi88OVnrdWWu3COWDcZx2K"
PATIENCE = 60


def free_port():
    """One that no client is given for its own end while the server is down."""
    while True:
        port = random.randint(15000, 32000)
        if is_free(port):
            return port


def is_free(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def compile_faults(folder):
    """The library of faults.c."""
    library = os.path.join(folder, "faults.so")
    arguments = ["-O1", "-shared", "-fPIC", "-o", library, f"{HERE}/faults.c", "-ldl", "-lpthread"]
    subprocess.run(["cc", *arguments], check=True)
    return library


def faults(library, paths, **settings):
    """The environment that preloads it."""
    named = {f"FAULT_{key.upper()}": str(value) for key, value in settings.items()}
    return {"LD_PRELOAD": library, "FAULT_PATHS": ":".join(paths), **named}


class Server:
    """A server with its configuration in `work`, its queue below `disk` and its mailboxes below `mail_disk`. Mail for
    far.example goes to `relay_port`."""

    name, namespaces = None, []
    is_ours = False
    threads = 20  # How many messages it has under way to one next hop at most.

    def __init__(self, work, disk, mail_disk, relay_port=None):
        self.work, self.disk, self.port, self.relay_port = work, disk, free_port(), relay_port
        self.mail = os.path.join(mail_disk, "mail")
        self.queue = os.path.join(disk, "queue")
        self.process, self.faults = None, {}
        os.makedirs(work, exist_ok=True)
        self.configure()

    def write(self, name, text):
        with open(os.path.join(self.work, name), "w") as file:
            file.write(text)

    def start(self):
        """Returns the seconds until a client is greeted."""
        begun = time.monotonic()
        command = ["unshare", "--pid", "--fork", "--kill-child=KILL", *self.namespaces, "sh", "-c", self.script()]
        with open(os.path.join(self.work, "output"), "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env={**os.environ, **self.faults}, start_new_session=True)
        while True:
            try:
                Session(self.port, 5).close()
                return time.monotonic() - begun
            except (OSError, ValueError):
                if time.monotonic() - begun > PATIENCE or self.process.poll() is not None:
                    with open(os.path.join(self.work, "output"), errors="replace") as output:
                        said = " / ".join(output.read().split("\n")[-3:]).strip(" /")
                    raise RuntimeError(f"{self.name} did not start: {said}")
                time.sleep(0.01)

    def kill(self):
        """All of it at once, and gone when this returns: when it was killed, and when it was gone."""
        killed = time.monotonic()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None
        # Those in its namespace end a moment later.
        while not is_free(self.port):
            time.sleep(0.002)
        return killed, time.monotonic()

    def panics(self):
        return 0


class Postrider(Server):
    name = "Postrider"
    is_ours = True
    binary = None
    threads = 16

    def configure(self):
        self.queue = os.path.join(self.disk, "spool")
        self.write("users", "".join(f"{address}:{LOCKED}\n" for address in BOXES))
        self.write("aliases", "")
        relay = f'[relay]\ndomains = {{ "far.example" = "127.0.0.1:{self.relay_port}" }}\n' if self.relay_port else ""
        # Where it shares the disk it is the default: a folder in the spool.
        if self.mail.startswith(self.disk + "/"):
            self.mail = os.path.join(self.queue, "mail")
        self.write("postrider.toml", f"""
hostname = "mail.home.example"
local_domains = ["home.example"]
spool = "{self.queue}"
mailboxes = "{self.mail}"
users = "users"
aliases = "aliases"
log = "mail.log"
[listen]
smtp = ["127.0.0.1:{self.port}"]
pop3 = []
[delivery]
threads = {self.threads}
retry_min = "1s"
retry_max = "5s"
[limits]
free_space = "1MiB"
[dns]
resolver = "127.0.0.1:9"
{relay}""")

    def script(self):
        return f"exec {self.binary} serve --config {self.work}/postrider.toml"

    def panics(self):
        with open(os.path.join(self.work, "mail.log"), errors="replace") as log:
            return sum(" panicked " in line for line in log)


POSTFIX_SERVICES = """
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
"""


class Postfix(Server):
    name = "Postfix"

    def configure(self):
        for folder in ("etc", "state", "pid"):
            os.makedirs(f"{self.work}/{folder}", exist_ok=True)
        os.makedirs(self.queue, exist_ok=True)
        # Else a file that is open for writing would keep the disk from being made read-only.
        os.symlink(f"{self.work}/pid", f"{self.queue}/pid")
        os.makedirs(self.mail, exist_ok=True)
        os.chown(self.mail, NOBODY, NOBODY)
        os.chmod(self.work, 0o755)
        shutil.chown(f"{self.work}/state", "postfix")
        # Each of its accounts writes to the log while the one program for that is not there yet.
        self.write("log", "")
        os.chmod(f"{self.work}/log", 0o666)
        self.write("etc/mailboxes", "".join(f"{address} {box}/\n" for address, box in BOXES.items()))
        self.write("etc/master.cf", f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
                                    f"postlog unix-dgram n - n - 1 postlogd{POSTFIX_SERVICES}")
        self.write("etc/main.cf", f"""
compatibility_level = 3.6
queue_directory = {self.queue}
data_directory = {self.work}/state
maillog_file = {self.work}/log
maillog_file_prefixes = {self.work}
myhostname = mail.home.example
mydestination =
alias_maps =
alias_database =
biff = no
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = home.example
virtual_mailbox_base = {self.mail}
virtual_mailbox_maps = texthash:{self.work}/etc/mailboxes
virtual_uid_maps = static:{NOBODY}
virtual_gid_maps = static:{NOBODY}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
queue_minfree = 0
message_size_limit = 1000000
virtual_mailbox_limit = 1000000
transport_maps = texthash:{self.work}/etc/transport
disable_dns_lookups = yes
in_flow_delay = 0
minimal_backoff_time = 1s
maximal_backoff_time = 5s
queue_run_delay = 1s
""")
        self.write("etc/transport", f"far.example smtp:[127.0.0.1]:{self.relay_port}\n" if self.relay_port else "")
        for file in ("mailboxes", "transport", "main.cf", "master.cf"):
            # Each of its programs waits for two seconds on a file that was just written, lest it be written still.
            os.utime(f"{self.work}/etc/{file}", (time.time() - 60,) * 2)

    def script(self):
        # Its lock would name a process of another namespace.
        return f"rm -f {self.queue}/pid/*; postfix -c {self.work}/etc start-fg; true"


class Unpacked(Server):
    """One that Debian does not install beside another. It is unpacked (tests/programs.sh), and finds the accounts and
    folders that it is compiled for in a mount namespace of its own."""

    namespaces = ["--mount"]
    package = accounts = None
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "../../target")

    @classmethod
    def folder(cls):
        return os.path.abspath(f"{cls.target}/tmp/unpacked/{cls.package}")

    def configure(self):
        for folder in (self.queue, self.mail, f"{self.work}/log"):
            os.makedirs(folder, exist_ok=True)
            os.chown(folder, NOBODY, NOBODY)
        for name in ("passwd", "group"):
            with open(f"/etc/{name}") as file:
                known = file.read()
            tail = "::/var/lib/opensmtpd/empty:/usr/sbin/nologin" if name == "passwd" else ":"
            more = (f"{account}:x:{number}:" + (f"{number}{tail}" if name == "passwd" else "")
                    for account, number in self.accounts)
            self.write(name, known + "\n".join(more) + "\n")
        self.write("conf", self.configuration())
        os.chmod(f"{self.work}/conf", 0o600)

    def script(self):
        work = self.work
        return (f"set -e; mount --bind {work}/passwd /etc/passwd; mount --bind {work}/group /etc/group; "
                f"mount -t tmpfs none /var; {self.world()}")


class Exim(Unpacked):
    name, package, accounts = "Exim", "exim4-daemon-light", [("Debian-exim", NOBODY)]

    def world(self):
        # It starts itself anew for each delivery, as root and by its own configuration or not at all.
        return (f"mkdir -p /var/lib/exim4; cp {self.work}/conf /var/lib/exim4/config.autogenerated; "
                f"cp {self.folder()}/usr/sbin/exim4 /var/exim4; chown root /var/exim4; chmod 4755 /var/exim4; "
                f"chmod 644 /var/lib/exim4/config.autogenerated; /var/exim4 -bdf -q2s")

    def configuration(self):
        return f"""
exim_path = /var/exim4
exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = mail.home.example
spool_directory = {self.queue}
log_file_path = {self.work}/log/%slog
pid_file_path = {self.work}/pid
daemon_smtp_ports = {self.port}
local_interfaces = 127.0.0.1
acl_smtp_rcpt = rcpt
acl_smtp_data = data
tls_advertise_hosts =
keep_environment =
never_users =
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
begin acl
rcpt:
  accept domains = home.example : far.example
data:
  accept
begin routers
local:
  driver = accept
  condition = ${{lookup{{$local_part}}lsearch{{{self.work}/boxes}}{{yes}}{{no}}}}
  transport = maildir
far:
  driver = manualroute
  route_list = far.example 127.0.0.1
  self = send
  transport = far
begin transports
far:
  driver = smtp
  port = {self.relay_port or 25}
  hosts_avoid_tls = *
maildir:
  driver = appendfile
  maildir_format
  directory = {self.mail}/home.example/${{lookup{{$local_part}}lsearch{{{self.work}/boxes}}}}
  user = Debian-exim
  group = Debian-exim
begin retry
* * F,1h,2s
"""

    def configure(self):
        super().configure()
        self.write("boxes", "".join(f"{address.split('@')[0]}: {address.split('@')[0]}\n" for address in BOXES))


class OpenSmtpd(Unpacked):
    name, package = "OpenSMTPD", "opensmtpd"
    accounts = [("opensmtpd", NOBODY - 1), ("opensmtpq", NOBODY - 2)]

    def world(self):
        folder = self.folder()
        return (f"mount --bind {folder}/usr/libexec /usr/libexec; mkdir -p -m 711 /var/spool /var/spool/smtpd /var/run "
                f"/var/lib /var/lib/opensmtpd /var/lib/opensmtpd/empty; chown root:root {self.queue}; "
                f"chmod 711 {self.queue}; mount --bind {self.queue} /var/spool/smtpd; "
                f"{folder}/usr/sbin/smtpd -d -f {self.work}/conf")

    def configuration(self):
        known = ", ".join(f'"{address}" = "nobody"' for address in BOXES)
        return f"""table boxes {{ {known} }}
listen on 127.0.0.1 port {self.port} hostname mail.home.example
action keep maildir "{self.mail}/%{{rcpt.domain}}/%{{rcpt.user}}" virtual <boxes>
action far relay host smtp://127.0.0.1:{self.relay_port or 25}
match from any for domain "home.example" action keep
match from any for domain "far.example" action far
"""


SERVERS = {server.name: server for server in (Postrider, Postfix, Exim, OpenSmtpd)}


def why_not(name):
    """Why a server can't be had here; `None` if it can."""
    kind = SERVERS[name]
    if name == "Postfix" and not shutil.which("postfix", path="/usr/sbin"):
        return "it is not installed"
    if issubclass(kind, Unpacked) and not os.path.isdir(kind.folder()):
        return "it is not unpacked"
    return None
