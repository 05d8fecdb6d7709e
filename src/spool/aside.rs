//! `failed/`: what could not be read, or failed and had nowhere to be returned to, each with a report in plain words.
//!
//! No message is removed or replaced: a name that is taken gets a number. The report is on the disk before the message
//! moves, so that no message is ever there without one; one whose message is gone is replaced.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::{State, Status};
use super::{Spool, eml, state_file};
use crate::io::clock::{self, Now};
use crate::io::durable;
use crate::mail::queue_id::QueueId;
use crate::maillog;

impl Spool {
    /// Puts a file of `queue/` that is no entry into `failed/`. An error leaves it where it is.
    pub(super) fn set_aside(&self, id: Option<QueueId>, from: &Path, what: &str, mend: &str) -> io::Result<()> {
        let name = from.file_name().unwrap_or(OsStr::new("unnamed"));
        let to = self.free_name(name)?;
        let shown = to.file_name().unwrap_or(name).display();
        let time = clock::rfc3339(Now::read().wall);
        let report = format!("{shown} was set aside on {time}.\n\nWhat is wrong: {what}.\nWhat to do: {mend}.\n");
        self.move_with_report(from, &to, &report)?;
        maillog::set_aside(id, &to, what);
        Ok(())
    }

    /// Puts an entry whose state can't be read into `failed/`, state and all: who has it already is not to be guessed.
    pub(super) fn set_state_aside(&self, id: QueueId, what: &str) -> io::Result<()> {
        let mend = format!(
            "mend {} here, then move first it and then {} back to queue/; without the .state file it would go to \
             everybody again",
            state_file(id),
            eml(id)
        );
        self.set_aside_with_state(id, &format!("{} is wrong: {what}", state_file(id)), &mend)
    }

    /// Puts an entry into `failed/`, with its state if it has one. At each step a state stands beside the message.
    pub(super) fn set_aside_with_state(&self, id: QueueId, what: &str, mend: &str) -> io::Result<()> {
        let (from, to) = (self.folders.state(id), self.folders.failed.join(state_file(id)));
        let located = |error| durable::located("set aside", &from, error);
        let is_there = durable::exists(&from)?;
        if is_there {
            durable::remove(&to)?;
            // What can't have two names, a folder for example, follows the message.
            let _ = fs::hard_link(&from, &to);
        }
        self.set_aside(Some(id), &self.folders.eml(id), what, mend)?;
        match is_there && !durable::exists(&to)? {
            true => fs::rename(&from, &to).map_err(located),
            false => durable::remove(&from),
        }
    }

    /// Puts an entry some of whose targets failed into `failed/`.
    pub(super) fn fail(&self, id: QueueId, state: &State) -> io::Result<()> {
        let to = self.free_name(OsStr::new(&eml(id)))?;
        let draft = self.folders.tmp.join(state_file(id));
        // Who moves it back wants it tried at once, and with patience.
        let state = &State { waited: Duration::ZERO, next_attempt: None, retry_in: Duration::ZERO, ..state.clone() };
        durable::replace(&self.folders.failed.join(state_file(id)), &draft, state.to_string().as_bytes())?;
        let shown = to.file_name().unwrap_or_default().display().to_string();
        self.move_with_report(&self.folders.eml(id), &to, &failure_report(id, &shown, state))?;
        maillog::set_aside(Some(id), &to, "not everybody has it, and nobody can be told");
        Ok(())
    }

    fn move_with_report(&self, from: &Path, to: &Path, report: &str) -> io::Result<()> {
        let report_path = report_of(to);
        let draft = self.folders.tmp.join(report_path.file_name().unwrap_or_default());
        durable::replace(&report_path, &draft, report.as_bytes())?;
        durable::rename_new(from, to).map_err(|error| durable::located("move here", to, error))?;
        durable::sync_dir(&self.folders.failed)
    }

    /// A path in `failed/` that no file has.
    fn free_name(&self, name: &OsStr) -> io::Result<PathBuf> {
        let tried = (0..10_000).map(|number| {
            let mut tried = name.to_owned();
            if number > 0 {
                tried.push(format!(".{number}"));
            }
            self.folders.failed.join(tried)
        });
        let mut free = tried.filter(|path| path.symlink_metadata().is_err());
        free.next().ok_or_else(|| {
            durable::located("find a free name in", &self.folders.failed, io::ErrorKind::AlreadyExists.into())
        })
    }
}

fn report_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".report");
    name.into()
}

fn failure_report(id: QueueId, shown: &str, state: &State) -> String {
    let mut text = format!(
        "{shown} did not reach everybody, and nobody can be told: it has no sender, or one that was told too often of late.\n\n"
    );
    for target in &state.targets {
        let what = match target.status {
            Status::Delivered => "has it",
            Status::Failed => "does not have it",
            Status::Pending => "was not tried to the end",
        };
        let reply = target.reply.as_deref().map(|reply| format!(": {reply}")).unwrap_or_default();
        text.push_str(&format!("{} {what}{reply}\n", target.address));
    }
    let state = state_file(id);
    text.push_str(&format!(
        "\nWhat to do: mend the cause; in {state}, put \"Status: pending\" where it is to be tried again; then move first \
         {state} to queue/, and then {shown} to queue/{}. Or remove the files.\n",
        eml(id)
    ));
    text
}
