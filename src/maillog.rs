//! The log: one event, one line, one file (DESIGN §7). This is the only place that words these lines.
//!
//! ```text
//! 2026-11-23T15:36:51.204+00:00 INFO 0TQXGV0000001 accepted from=<a@b.example> to=c@d.example recipients=1 size=4337
//! ```
//!
//! Time, level, queue id or `-`, event, then `key=value` pairs. Foreign octets are escaped, values with spaces quoted, long
//! ones cut. Lines are written out before the 250 of a batch, at each warning and at least every second. The file is
//! opened again when it was renamed or removed. A log that can't be written stops no mail: that goes to standard error,
//! once. Each event is documented in postrider-log(5). Long because it is a table of all of them.

mod file;

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use log::Level;

use self::file::LogFile;
use crate::config::LogTarget;
use crate::io::clock::{self, Now};
use crate::io::sandbox::Enforced;
use crate::io::table::LocatedError;
use crate::limits;
use crate::mail::address::{Address, ForwardPath, ReversePath};
use crate::mail::letters::is_misleading;
use crate::mail::next_hop::NextHop;
use crate::mail::outcome::Cause;
use crate::mail::queue_id::QueueId;
use crate::mail::reply::Reply;

static LOG_FILE: OnceLock<LogFile> = OnceLock::new();

/// Opens the log and sends every line there from now on. Called once a process.
pub fn start(target: &LogTarget) -> io::Result<()> {
    let mut builder = env_logger::Builder::new();
    // Other crates' lines are not in postrider-log(5).
    builder.filter_level(log::LevelFilter::Off).filter_module(env!("CARGO_PKG_NAME"), log::LevelFilter::Info);
    builder.format(|out, record| {
        let time = clock::rfc3339_millis(Now::read().wall);
        writeln!(out, "{time} {} {}", record.level(), record.args())
    });
    if let LogTarget::File(path) = target {
        let file = LogFile::open(path)?;
        LOG_FILE.set(file).map_err(|_| io::Error::other("the log is open already"))?;
        builder.target(env_logger::Target::Pipe(Box::new(Pipe)));
    }
    builder.try_init().map_err(io::Error::other)
}

/// Writes out what is buffered.
pub fn flush() {
    if let Some(file) = LOG_FILE.get() {
        file.flush();
    }
}

/// Opens the file anew if the path no longer leads to the one that is open.
pub fn reopen_if_moved() {
    if let Some(file) = LOG_FILE.get() {
        file.reopen_if_moved();
    }
}

struct Pipe;

impl Write for Pipe {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if let Some(file) = LOG_FILE.get() {
            file.write(octets);
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line being put together.
struct Event {
    level: Level,
    line: String,
}

fn event(level: Level, id: Option<QueueId>, name: &str) -> Event {
    let mut line = String::with_capacity(USUAL_LINE);
    let _ = match id {
        Some(id) => write!(line, "{id} {name}"),
        None => write!(line, "- {name}"),
    };
    Event { level, line }
}

/// Most lines need no more memory than this at once.
const USUAL_LINE: usize = 256;

impl Event {
    fn pair(mut self, key: &str, value: impl Display) -> Event {
        let _ = write!(self.line, " {key}={}", Escaped(&value.to_string()));
        self
    }

    fn maybe(self, key: &str, value: Option<impl Display>) -> Event {
        match value {
            Some(value) => self.pair(key, value),
            None => self,
        }
    }

    fn write(mut self) {
        if self.line.len() > limits::LOG_LINE {
            self.line.truncate(self.line.floor_char_boundary(limits::LOG_LINE));
            self.line.push('…');
        }
        log::log!(self.level, "{}", self.line);
        if self.level <= Level::Warn {
            flush();
        }
    }
}

/// A value that can hold nothing that looks like the end of it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0[..self.0.floor_char_boundary(limits::FOREIGN_TEXT)];
        let quoted = text.is_empty() || text.contains([' ', '"', '=']) || text.contains(is_misleading);
        if !quoted {
            return out.write_str(text);
        }
        out.write_str("\"")?;
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(out, "\\{letter}")?,
                letter if is_misleading(letter) => write!(out, "{}", letter.escape_default())?,
                letter => out.write_char(letter)?,
            }
        }
        out.write_str("\"")
    }
}

/// How a time is told to people: `45s`, `12m`, `3h`, `2d`.
struct Span(Duration);

impl Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(out, "{seconds}s"),
            120..7200 => write!(out, "{}m", seconds / 60),
            7200..172_800 => write!(out, "{}h", seconds / 3600),
            _ => write!(out, "{}d", seconds / 86400),
        }
    }
}

// The process.

/// The server is ready.
pub fn started(hostname: &impl Display, spool: &Path, sync: &str, queued: usize, threads: usize) {
    event(Level::Info, None, "started")
        .pair("version", env!("CARGO_PKG_VERSION"))
        .pair("hostname", hostname)
        .pair("spool", spool.display())
        .pair("sync", sync)
        .pair("queued", queued)
        .pair("threads", threads)
        .write();
}

/// A port is open; `most` is how many connections it takes.
pub fn listening(protocol: &str, address: SocketAddr, most: usize) {
    event(Level::Info, None, "listening")
        .pair("protocol", protocol)
        .pair("address", address)
        .pair("most", most)
        .write();
}

/// The second process runs as `account`.
pub fn keeper_started(pid: u32, account: &str) {
    event(Level::Info, None, "keeper-started").pair("pid", pid).pair("account", account).write();
}

/// The second process ended before the server did.
pub fn keeper_ended(status: &str) {
    let mend = "restart the server; until then no renewed key is read and no command run";
    event(Level::Error, None, "keeper-ended").pair("status", status).pair("do", mend).write();
}

/// What the kernel keeps this process from.
pub fn sandboxed(enforced: Enforced) {
    event(Level::Info, None, "sandbox").pair("limits", enforced).write();
}

/// What the kernel can't keep this process from.
pub fn sandbox_lacks(missing: Enforced) {
    let mend = "nothing, mail goes on; a kernel with Landlock (files: Linux 5.19, ports: 6.7) limits more";
    event(Level::Warn, None, "sandbox-lacks").pair("missing", missing).pair("do", mend).write();
}

/// SIGTERM came.
pub fn stopping() {
    event(Level::Info, None, "stopping").write();
}

/// Nothing runs any more; `unfinished` deliveries were left for the next start.
pub fn stopped(unfinished: usize, panics: usize) {
    event(Level::Info, None, "stopped").pair("unfinished", unfinished).pair("panics", panics).write();
    flush();
}

/// Configuration, users or aliases were taken up.
pub fn reloaded(what: &str) {
    event(Level::Info, None, "reloaded").pair("what", what).write();
}

/// They were not, and the old ones stay.
pub fn reload_failed(error: impl Display) {
    event(Level::Error, None, "reload-failed").pair("error", error).write();
}

/// A key was changed that a running server can't take up.
pub fn reload_ignored(key: &str) {
    event(Level::Warn, None, "reload-ignored").pair("key", key).pair("do", "restart to take it up").write();
}

/// A list of the aliases can't be read: mail for it waits.
pub fn list_unreadable(error: impl Display) {
    event(Level::Warn, None, "list-unreadable").pair("error", error).write();
}

/// A thread broke off. That is a defect of this server: please report it.
pub fn panicked(thread: &str, message: &str, total: usize) {
    event(Level::Error, None, "panicked").pair("thread", thread).pair("message", message).pair("total", total).write();
}

/// Something is short on this machine: descriptors, threads, memory.
pub fn shortage(doing: &str, error: &io::Error) {
    event(Level::Error, None, "shortage").pair("doing", doing).pair("error", error).write();
}

// Certificates.

/// A certificate is shown from now on; `days` it has left.
pub fn certificate(file: &Path, names: &[String], days: i64) {
    event(Level::Info, None, "certificate")
        .pair("file", file.display())
        .pair("names", names.join(","))
        .pair("days", days)
        .write();
}

/// No certificate is configured: one was made, which proves nothing to strangers.
pub fn certificate_made(file: &Path, name: &str) {
    event(Level::Warn, None, "certificate-made")
        .pair("file", file.display())
        .pair("names", name)
        .pair("do", "set tls.certificate and tls.key to one that others trust")
        .write();
}

/// A certificate or its key is of no use. The old one, if there is one, stays for the `days` that it has left.
pub fn certificate_broken(error: &LocatedError, days: Option<i64>) {
    event(Level::Error, None, "certificate-broken")
        .pair("file", error.path.display())
        .pair("error", &error.what)
        .maybe("days", days)
        .write();
}

/// A certificate has only `days` left, and should have been renewed.
pub fn certificate_expires(file: &Path, days: i64) {
    event(Level::Warn, None, "certificate-expires").pair("file", file.display()).pair("days", days).write();
}

/// A certificate's folder was removed: it is shown no more.
pub fn certificate_gone(file: &Path) {
    event(Level::Info, None, "certificate-gone").pair("file", file.display()).write();
}

// Connections.

/// A connection was answered 421 at once.
pub fn turned_away(protocol: &str, client: IpAddr, why: &str, open: usize) {
    event(Level::Warn, None, "turned-away")
        .pair("client", client)
        .pair("protocol", protocol)
        .pair("why", why)
        .pair("open", open)
        .write();
}

/// A command was refused; `from` and `to` as far as they were known.
pub fn refused(client: IpAddr, command: &str, from: Option<&ReversePath>, to: Option<&ForwardPath>, reply: &Reply) {
    event(Level::Info, None, "refused")
        .pair("client", client)
        .pair("command", command)
        .maybe("from", from)
        .maybe("to", to)
        .pair("reply", reply)
        .write();
}

/// A session was ended by this server.
pub fn cut_off(protocol: &str, client: IpAddr, why: impl Display) {
    event(Level::Info, None, "cut-off").pair("client", client).pair("protocol", protocol).pair("why", why).write();
}

/// A client and we do not agree on TLS; the connection is closed.
pub fn tls_failed(protocol: &str, client: IpAddr, why: impl Display) {
    event(Level::Info, None, "tls-failed").pair("client", client).pair("protocol", protocol).pair("why", why).write();
}

/// What is logged of a message when it is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where from: the client's address, or `drop/NAME`.
    pub client: String,
    /// As Received names it, `ESMTPS` for example, or `drop` or `report`.
    pub protocol: &'static str,
}

/// A message is on the disk.
pub fn accepted(id: QueueId, from: &ReversePath, to: &Address, recipients: usize, size: u64, origin: &Origin) {
    event(Level::Info, Some(id), "accepted")
        .pair("from", from)
        .pair("to", to)
        .pair("recipients", recipients)
        .pair("size", size)
        .pair("client", &origin.client)
        .pair("protocol", origin.protocol)
        .write();
}

/// A message was refused at its end.
pub fn rejected(client: IpAddr, from: Option<&ReversePath>, size: u64, reply: &Reply) {
    event(Level::Info, None, "rejected")
        .pair("client", client)
        .maybe("from", from)
        .pair("size", size)
        .pair("reply", reply)
        .write();
}

// The queue.

/// The recipients were resolved to targets.
pub fn expanded(id: QueueId, recipients: usize, targets: usize) {
    event(Level::Info, Some(id), "expanded").pair("recipients", recipients).pair("targets", targets).write();
}

/// A target has it. `how` is `rename`, `copy`, or the host that took it; `tls` is what protected it on its way there.
pub fn delivered(id: QueueId, to: &Address, (how, tls): (&str, Option<&str>), waited: Duration) {
    event(Level::Info, Some(id), "delivered")
        .pair("to", to)
        .pair("how", how)
        .maybe("tls", tls)
        .pair("waited", Span(waited))
        .write();
}

/// TLS with a host failed, and its mail goes there in clear.
pub fn in_clear(id: QueueId, host: impl Display, reply: &str) {
    event(Level::Info, Some(id), "in-clear").pair("host", host).pair("reply", reply).write();
}

/// A message without a sender, such as a report, was to have REQUIRETLS and can't: it goes to this hop without, for nobody
/// could be told.
pub fn require_tls_waived(id: QueueId, hop: &NextHop, reply: &Cause) {
    event(Level::Info, Some(id), "requiretls-waived").pair("hop", hop).pair("reply", reply).write();
}

/// A target has to wait.
pub fn deferred(id: QueueId, to: &Address, host: Option<&str>, reply: &str, next: Duration) {
    event(Level::Info, Some(id), "deferred")
        .pair("to", to)
        .maybe("host", host)
        .pair("reply", reply)
        .pair("next", Span(next))
        .write();
}

/// A target failed for good.
pub fn failed(id: QueueId, to: &Address, host: Option<&str>, reply: &str) {
    event(Level::Error, Some(id), "failed").pair("to", to).maybe("host", host).pair("reply", reply).write();
}

/// The sender, or the owner of a list, is told by the message `report`; `what` is `failed`, `delayed` and so on.
pub fn reported(id: QueueId, report: QueueId, to: &Address, what: &str) {
    event(Level::Info, Some(id), "reported").pair("to", to).pair("report", report).pair("what", what).write();
}

/// The sender is not told: it was told too often of late.
pub fn report_capped(id: QueueId, to: &Address, most: usize) {
    event(Level::Warn, Some(id), "report-capped").pair("to", to).pair("most", most).write();
}

/// No server of a next hop can be spoken with: its mail waits, and is not tried before `next`.
pub fn hop_down(hop: &NextHop, cause: &Cause, next: Duration) {
    event(Level::Warn, None, "hop-down")
        .pair("hop", hop)
        .maybe("host", cause.host.as_deref())
        .pair("reply", cause)
        .pair("next", Span(next))
        .write();
}

/// A next hop that was down takes mail again.
pub fn hop_up(hop: &NextHop) {
    event(Level::Info, None, "hop-up").pair("hop", hop).write();
}

/// A message, or a file that should be one, is in `failed/` now, with a report beside it.
pub fn set_aside(id: Option<QueueId>, to: &Path, why: impl Display) {
    event(Level::Error, id, "set-aside").pair("file", to.display()).pair("why", why).write();
}

/// Nothing of the message is left to do.
pub fn removed(id: QueueId, why: &str) {
    event(Level::Info, Some(id), "removed").pair("why", why).write();
}

/// Someone put the message into `hold/`.
pub fn held(id: QueueId) {
    event(Level::Info, Some(id), "held").write();
}

/// Someone put the message (back) into `queue/`; it goes on as its state says.
pub fn released(id: QueueId, next: Duration) {
    event(Level::Info, Some(id), "released").pair("next", Span(next)).write();
}

/// Someone touched the message or edited its state.
pub fn rescheduled(id: QueueId, why: &str, next: Duration) {
    event(Level::Info, Some(id), "rescheduled").pair("why", why).pair("next", Span(next)).write();
}

/// The queue can't be read or written; the entry is tried again.
pub fn spool_error(id: Option<QueueId>, error: impl Display) {
    event(Level::Error, id, "spool-error").pair("error", error).write();
}

/// At start: what was found and done.
pub fn swept(drafts: usize, queued: usize, aside: usize) {
    event(Level::Info, None, "swept").pair("drafts", drafts).pair("queued", queued).pair("aside", aside).write();
}

// The drop folder.

/// A file in `drop/` is no message, or not from who may send it.
pub fn drop_refused(name: &Path, report: &Path, why: impl Display) {
    event(Level::Warn, None, "drop-refused")
        .pair("file", name.display())
        .pair("report", report.display())
        .pair("why", why)
        .write();
}

/// A file in `drop/` can't be taken now; it is left there and tried again.
pub fn drop_waits(name: &Path, error: impl Display) {
    event(Level::Warn, None, "drop-waits").pair("file", name.display()).pair("error", error).write();
}

// Logins.

/// Someone logged in to send mail; `tls` is what the connection is encrypted with.
pub fn authenticated(client: IpAddr, user: &Address, mechanism: impl Display, tls: Option<impl Display>) {
    event(Level::Info, None, "authenticated")
        .pair("client", client)
        .pair("user", user)
        .pair("mechanism", mechanism)
        .maybe("tls", tls)
        .write();
}

/// Someone opened a mailbox; `tls` is what the connection is encrypted with.
pub fn login(
    client: IpAddr,
    mailbox: &Address,
    (messages, octets): (usize, u64),
    (mechanism, tls): (impl Display, Option<impl Display>),
) {
    event(Level::Info, None, "login")
        .pair("client", client)
        .pair("mailbox", mailbox)
        .pair("mechanism", mechanism)
        .maybe("tls", tls)
        .pair("messages", messages)
        .pair("octets", octets)
        .write();
}

/// Someone did not; the client's address comes first, for programs that ban it.
pub fn login_failed(client: IpAddr, name: &str, why: &str) {
    event(Level::Warn, None, "login-failed").pair("client", client).pair("name", name).pair("why", why).write();
}

/// Someone guesses: after so many wrong passwords every login from this address is refused for a while.
pub fn shut_out(client: IpAddr, failures: u32, span: Duration) {
    event(Level::Warn, None, "shut-out")
        .pair("client", client)
        .pair("failures", failures)
        .pair("for", Span(span))
        .write();
}

/// A mailbox was closed.
pub fn logout(client: IpAddr, mailbox: &Address, fetched: usize, deleted: usize, left: usize) {
    event(Level::Info, None, "logout")
        .pair("client", client)
        .pair("mailbox", mailbox)
        .pair("fetched", fetched)
        .pair("deleted", deleted)
        .pair("left", left)
        .write();
}

/// A mailbox can't be read or written.
pub fn mailbox_error(mailbox: &Address, error: impl Display) {
    event(Level::Error, None, "mailbox-error").pair("mailbox", mailbox).pair("error", error).write();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_end_the_line_or_itself() {
        for (value, shown) in [
            ("plain", "plain"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\r\nb", "\"a\\r\\nb\""),
            ("a\" level=\"b", "\"a\\\" level=\\\"b\""),
            ("x=y", "\"x=y\""),
            ("\u{9b}31m", "\"\\u{9b}31m\""),
            ("a\u{2028}b\u{202e}ö", "\"a\\u{2028}b\\u{202e}ö\""),
        ] {
            assert_eq!(Escaped(value).to_string(), shown);
        }
        assert!(Escaped(&"ß".repeat(4000)).to_string().len() <= limits::FOREIGN_TEXT);
    }
}
