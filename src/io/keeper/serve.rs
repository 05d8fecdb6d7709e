//! The second process itself: it hears which files and commands are allowed, once, and then serves wishes for these.
//!
//! It trusts its peer with nothing else: the server may be in a stranger's hands by then. Reads are done in turn, at
//! once; each command has its thread, so that a slow one holds up no certificate. What is no request ends it, and so does
//! the end of the server, whose end of the channel closes; whatever it runs is killed with it.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use nix::sys::prctl::set_name;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::command::Running;
use super::file;
use super::message::{Allowed, Answer, Request, Wish, read_frame, write_frame};
use crate::io::account;
use crate::io::sandbox;
use crate::limits;

/// Why the second process does not start.
#[derive(Debug)]
pub struct NotByServer;

impl fmt::Display for NotByServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("this is a part of the server, which starts it by itself")
    }
}

/// Serves on standard input, which is a socket, until its other end closes.
pub fn serve() -> Result<(), NotByServer> {
    let start = || -> io::Result<Desk> {
        // What it was started by is called exe, and a person who lists processes is to know it.
        set_name(c"postrider")?;
        sandbox::keep_memory()?;
        // They mean the server: while it drains, it may still want something.
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let first = read_frame(&channel, limits::KEEPER_ALLOWED)?;
        let allowed = first.as_deref().and_then(Allowed::parse);
        let allowed = allowed.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Desk { channel, answering: Mutex::new(()), allowed, running: Running::default() })
    };
    let desk = Arc::new(start().map_err(|_| NotByServer)?);
    desk.answer(0, Ok(Vec::new()));
    while let Ok(Some(frame)) = read_frame(&desk.channel, limits::KEEPER_REQUEST) {
        let Some(request) = Request::parse(&frame) else { break };
        desk.take(request);
    }
    desk.running.end();
    Ok(())
}

struct Desk {
    channel: UnixStream,
    answering: Mutex<()>,
    allowed: Allowed,
    running: Running,
}

impl Desk {
    fn take(self: &Arc<Desk>, Request { id, wish }: Request) {
        let allowed = &self.allowed;
        let result = match wish {
            Wish::Read(at) => allowed.files.get(at).ok_or_else(not_named).and_then(|path| read(path)),
            Wish::List(at) => allowed.folders.get(at).ok_or_else(not_named).and_then(|folder| list(folder)),
            Wish::Below(at, pem, name) => {
                let folder = allowed.folders.get(at).ok_or_else(not_named);
                folder.and_then(|folder| read(&folder.join(name.as_str()).join(pem.file_name())))
            }
            Wish::Account(number) => account::name_of(number).map(|name| name.unwrap_or_default().into_bytes()),
            Wish::Run(at) if at >= allowed.commands.len() => Err(not_named()),
            Wish::Run(at) => match self.run(id, at) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        self.answer(id, result);
    }

    fn run(self: &Arc<Desk>, id: u64, at: usize) -> io::Result<()> {
        let desk = self.clone();
        let body = move || {
            let command = desk.allowed.commands.get(at).map_or(&[][..], Vec::as_slice);
            desk.answer(id, desk.running.run(command, desk.allowed.run_as.as_deref()));
        };
        Builder::new().name(format!("command {at}")).spawn(body).map(|_| ())
    }

    fn answer(&self, id: u64, result: io::Result<Vec<u8>>) {
        let _turn = self.answering.lock().unwrap_or_else(PoisonError::into_inner);
        // A server that is gone is noticed where it is listened to.
        let _ = write_frame(&self.channel, &Answer { id, result }.print());
    }
}

fn not_named() -> io::Error {
    let text = "the configuration did not name this when the server was started";
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if account::is_root() {
        file::only_root_decides(path)?;
    }
    file::read(path)
}

fn list(folder: &Path) -> io::Result<Vec<u8>> {
    if account::is_root() {
        file::only_root_decides(folder)?;
    }
    let names = file::list(folder)?;
    Ok(names.iter().map(super::message::Name::as_str).collect::<Vec<_>>().join("\n").into_bytes())
}
