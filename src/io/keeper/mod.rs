//! The second process (DESIGN §6): it reads what only root may read, and runs commands, for a server that gave up root.
//!
//! Its purpose is what it does not do. A server that a stranger has taken over can ask it for the files and commands that
//! the configuration named at start, and for nothing else: no other path, no other argument, no account but `run_as` for a
//! command, and no file that the account of the server could have put in the place of the one that was named.
//!
//! It is this program again, at the other end of a socket. It is started before root is given up, and in every case: where
//! there is no root, it runs as the same account, and there is still one way. It ends with the server. Where it ends
//! before, that is told, and there is no other until the server is restarted, which by then may start no program
//! ([`crate::io::sandbox`]): what was read stays in use, and what needs a command waits.
//!
//! | who | thread | does |
//! | --- | --- | --- |
//! | server | any | [`Secrets::read`], [`Keeper::list`], [`Keeper::account`], [`Secrets::run`]: waits, within a bound |
//! | server | one | [`Answers::run`]: hands answers out, and notices the end |
//! | second process | main | takes requests, reads files |
//! | second process | one a command | waits for it |

mod command;
pub mod file;
pub mod message;
mod serve;

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::io::sandbox;
use crate::io::secrets::Secrets;
use crate::limits;
pub use command::{PATH, turn_into};
pub use message::Allowed;
use message::{Answer, LONGEST_ANSWER, Name, Request, Wish, read_frame, write_frame};
pub use serve::{NotByServer, serve};

/// This program, though its file may have been replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";

/// The verb that makes this program the second process, or one of its commands.
pub const VERB: &str = "keeper";

/// The server's side, for any number of threads.
#[derive(Debug)]
pub struct Keeper {
    allowed: Allowed,
    line: Mutex<Line>,
    /// Holds a token for each command that may run at once.
    places: (Sender<()>, Receiver<()>),
}

#[derive(Debug, Default)]
struct Line {
    /// `None` once the second process has ended.
    to: Option<UnixStream>,
    last: u64,
    waiting: BTreeMap<u64, Sender<io::Result<Vec<u8>>>>,
}

impl Keeper {
    /// Starts the second process and waits until it is ready. [`Answers::run`] needs a thread before anything is asked.
    pub fn start(allowed: Allowed) -> io::Result<(Arc<Keeper>, Answers)> {
        Keeper::start_program(Path::new(PROGRAM), allowed)
    }

    /// As [`Keeper::start`], where the program is another file than the one that runs: in tests.
    pub fn start_program(program: &Path, allowed: Allowed) -> io::Result<(Arc<Keeper>, Answers)> {
        let (child, from) = start(program, &allowed)?;
        let line = Line { to: Some(from.try_clone()?), ..Line::default() };
        let places = bounded(limits::KEEPER_COMMANDS);
        (0..limits::KEEPER_COMMANDS).for_each(|_| _ = places.0.send(()));
        let keeper = Arc::new(Keeper { allowed, line: Mutex::new(line), places });
        Ok((keeper.clone(), Answers { keeper, from, child }))
    }

    /// The names of the folders in a folder of certificates, in order.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let text = |name: &Name| name.as_str().to_owned();
        let denied = match file::list(folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
            other => return other.map(|names| names.iter().map(text).collect()),
        };
        let at = self.allowed.folders.iter().position(|allowed| allowed == folder);
        let at = at.ok_or_else(|| explained(folder, denied))?;
        let names = self.ask(Wish::List(at), limits::KEEPER_WAIT)?;
        Ok(String::from_utf8_lossy(&names).lines().filter_map(Name::parse).map(|name| text(&name)).collect())
    }

    /// The name of the account of this number, if this system has one.
    pub fn account(&self, number: u32) -> io::Result<Option<String>> {
        let name = self.ask(Wish::Account(number), limits::KEEPER_WAIT)?;
        Ok(String::from_utf8(name).ok().filter(|name| !name.is_empty()))
    }

    fn ask(&self, wish: Wish, within: Duration) -> io::Result<Vec<u8>> {
        let (answer, answered) = bounded(1);
        let id = self.say(wish, answer)?;
        let answer = answered.recv_timeout(within);
        self.line().waiting.remove(&id);
        answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the second process did not answer")))
    }

    fn say(&self, wish: Wish, answer: Sender<io::Result<Vec<u8>>>) -> io::Result<u64> {
        let mut line = self.line();
        line.last += 1;
        let request = Request { id: line.last, wish };
        let to = line.to.as_ref().ok_or_else(gone)?;
        if let Err(error) = write_frame(to, request.to_string().as_bytes()) {
            // Half a request can't be mended.
            let _ = to.shutdown(Shutdown::Both);
            return Err(error);
        }
        line.waiting.insert(request.id, answer);
        Ok(request.id)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Secrets for Keeper {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let denied = match file::read(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
            other => return other,
        };
        let wish = self.allowed.wish_for(path).ok_or_else(|| explained(path, denied))?;
        self.ask(wish, limits::KEEPER_WAIT)
    }

    fn run(&self, command: &[String]) -> io::Result<Vec<u8>> {
        let Some(at) = self.allowed.commands.iter().position(|allowed| allowed == command) else {
            let name = command.first().map_or("", String::as_str);
            let text = format!("the command {name} is not one the configuration named at start; restart the server");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        };
        let (give_back, take) = &self.places;
        let busy = |_| io::Error::new(io::ErrorKind::TimedOut, "other commands took too long");
        take.recv_timeout(limits::SECRET_COMMAND).map_err(busy)?;
        let result = self.ask(Wish::Run(at), limits::SECRET_COMMAND + limits::KEEPER_WAIT);
        let _ = give_back.try_send(());
        result
    }
}

/// What is denied, and was not named at start.
fn explained(path: &Path, denied: io::Error) -> io::Error {
    let mend = match sandbox::mend(path, &denied) {
        "" => "; it was not named when the server was started: restart it, or let its account read this",
        mend => mend,
    };
    io::Error::new(denied.kind(), format!("{denied}{mend}"))
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the second process has ended; restart the server")
}

fn start(program: &Path, allowed: &Allowed) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.arg0("postrider").arg(VERB).env_clear().current_dir("/").process_group(0);
    let mut child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn()?;
    // Ours alone holds their end open from now on, but for the child.
    drop(command);
    let ready = greet(&ours, allowed);
    if ready.is_err() {
        let _ = child.kill().and_then(|()| child.wait());
    }
    ready.map(|()| (child, ours))
}

fn greet(stream: &UnixStream, allowed: &Allowed) -> io::Result<()> {
    let wait = Some(limits::KEEPER_WAIT);
    stream.set_write_timeout(wait)?;
    stream.set_read_timeout(wait)?;
    write_frame(stream, &allowed.print()?)?;
    let answer = read_frame(stream, LONGEST_ANSWER)?.as_deref().and_then(Answer::parse);
    answer.filter(|answer| answer.id == 0).ok_or_else(gone)?.result?;
    stream.set_read_timeout(None)
}

/// The body of the thread that hands answers out.
pub struct Answers {
    keeper: Arc<Keeper>,
    from: UnixStream,
    child: Child,
}

impl Answers {
    /// The process id of the second process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Hands answers out until the second process has ended, and returns how it did.
    pub fn run(mut self) -> String {
        while let Ok(Some(frame)) = read_frame(&self.from, LONGEST_ANSWER) {
            let Some(answer) = Answer::parse(&frame) else { break };
            let waiting = self.keeper.line().waiting.remove(&answer.id);
            waiting.map(|waiting| waiting.try_send(answer.result));
        }
        let mut line = self.keeper.line();
        line.to = None;
        let waiting = std::mem::take(&mut line.waiting);
        drop(line);
        waiting.into_values().for_each(|waiting| _ = waiting.try_send(Err(gone())));
        // It may only have said nonsense; as root it can't be killed from here, and ends when nobody is there to hear it.
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.child.kill();
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_named_at_start_asks_for_a_restart() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let said = explained(Path::new("/etc/postrider/key.pem"), denied);
        assert!(said.kind() == io::ErrorKind::PermissionDenied && said.to_string().contains("restart it"), "{said}");
    }
}
