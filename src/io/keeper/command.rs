//! Running a command that the configuration names: without a shell, with a clean environment, bounded in time and output.
//!
//! Two steps, because a child can give up root only in a program of its own: the second process starts this program
//! again ([`turn_into`]), which becomes the account that commands run as, and then is the command. So commands never run
//! as root unless the server itself does; one that needs more uses sudo(8) or doas(1) as any program of that account.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};

use super::{PROGRAM, VERB};
use crate::io::account;
use crate::limits;

/// Where programs are looked for, whatever the server was started with.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Stands for no account: the command runs as whoever starts it.
const NO_ACCOUNT: &str = "-";

/// The commands that run now, by their process groups; `None` once no more may start.
pub struct Running(Mutex<Option<BTreeSet<u32>>>);

impl Default for Running {
    fn default() -> Running {
        Running(Mutex::new(Some(BTreeSet::new())))
    }
}

impl Running {
    /// Runs a command to its end and returns what it printed. An error holds the last it said on standard error.
    pub fn run(&self, command: &[String], account: Option<&str>) -> io::Result<Vec<u8>> {
        let name = command.first().map_or("", String::as_str);
        let mut child = self.start(command, account).map_err(|error| told(name, "cannot be started", error))?;
        let deadline = Instant::now() + limits::SECRET_COMMAND;
        let mut said = Said::default();
        let ended = said.hear(&mut child, deadline).and_then(|()| self.wait(&mut child, deadline));
        if ended.is_err() {
            self.kill(&mut child);
        }
        let status = ended.map_err(|error| told(name, &said.last_words(), error))?;
        if status.success() { Ok(said.output) } else { Err(failed(name, status, &said.last_words())) }
    }

    /// Kills what runs, and lets nothing start any more.
    pub fn end(&self) {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        groups.into_iter().flatten().for_each(kill_group);
    }

    fn start(&self, command: &[String], account: Option<&str>) -> io::Result<Child> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(groups) = running.as_mut().filter(|groups| groups.len() < limits::KEEPER_COMMANDS) else {
            return Err(io::Error::other("too many commands run at once"));
        };
        let child = Command::new(PROGRAM)
            .args([VERB, "exec", "--", account.unwrap_or(NO_ACCOUNT)])
            .args(command)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        groups.insert(child.id());
        Ok(child)
    }

    fn wait(&self, child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
        loop {
            // Under the lock, so that a number that is free again is never killed.
            let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = child.try_wait()? {
                running.iter_mut().for_each(|groups| _ = groups.remove(&child.id()));
                return Ok(status);
            }
            drop(running);
            if Instant::now() >= deadline {
                return Err(too_late());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&self, child: &mut Child) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kill_group(child.id());
        // What was killed ends; an error here would only say that it has ended.
        let _ = child.wait();
        running.iter_mut().for_each(|groups| _ = groups.remove(&child.id()));
    }
}

fn kill_group(group: u32) {
    if let Ok(group) = i32::try_from(group) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it took longer than {} s", limits::SECRET_COMMAND.as_secs()))
}

fn told(name: &str, words: &str, error: io::Error) -> io::Error {
    let words = if words.is_empty() { String::new() } else { format!("; {words}") };
    io::Error::new(error.kind(), format!("the command {name}: {error}{words}"))
}

fn failed(name: &str, status: ExitStatus, words: &str) -> io::Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it did not end well".to_owned(),
    };
    told(name, words, io::Error::other(how))
}

/// What a command printed so far.
#[derive(Default)]
struct Said {
    output: Vec<u8>,
    complaint: Vec<u8>,
}

impl Said {
    /// Reads until both pipes are closed.
    fn hear(&mut self, child: &mut Child, deadline: Instant) -> io::Result<()> {
        let (mut output, mut complaint) = (child.stdout.take(), child.stderr.take());
        while output.is_some() || complaint.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(too_late());
            }
            let (of_output, of_complaint) = readable(output.as_ref(), complaint.as_ref(), left)?;
            if of_output && !hear_some(&mut output, &mut self.output)? {
                output = None;
            }
            if of_complaint && !hear_some(&mut complaint, &mut self.complaint)? {
                complaint = None;
            }
            if self.output.len() > limits::SECRET {
                return Err(io::Error::other(format!("it printed more than {} octets", limits::SECRET)));
            }
            let early = self.complaint.len().saturating_sub(limits::KEEPER_COMPLAINT);
            self.complaint.drain(..early);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.complaint).trim().to_owned()
    }
}

/// Reads once from what is readable; false at its end.
fn hear_some(from: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut some = [0; 4096];
    let count = from.as_mut().map_or(Ok(0), |from| from.read(&mut some))?;
    into.extend_from_slice(&some[..count]);
    Ok(count > 0)
}

/// Waits until one of the two can be read without waiting, or the time is over.
fn readable(first: Option<&impl AsFd>, second: Option<&impl AsFd>, left: Duration) -> io::Result<(bool, bool)> {
    let mut watched = Vec::new();
    watched.extend(first.map(|first| PollFd::new(first.as_fd(), PollFlags::POLLIN)));
    watched.extend(second.map(|second| PollFd::new(second.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = watched.iter().map(|one| one.any().unwrap_or(false));
    Ok((first.is_some() && ready.next().unwrap_or(false), second.is_some() && ready.next().unwrap_or(false)))
}

/// Becomes the account and then the command. Returns only if that can't be.
pub fn turn_into(account_name: &str, program: &str, arguments: &[&str]) -> io::Error {
    let become_and_be = || -> io::Result<()> {
        if account_name != NO_ACCOUNT {
            account::become_account(account_name)?;
        }
        // After the change of the account, which clears it. Whoever started us may die before us.
        set_pdeathsig(Signal::SIGKILL)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
        if let Some(own) = User::from_uid(geteuid())? {
            command.env("HOME", own.dir).env("USER", &own.name).env("LOGNAME", own.name);
        }
        Err(command.exec())
    };
    become_and_be().err().unwrap_or_else(|| io::Error::other("it did not start"))
}
