//! The verbs: what was asked on the command line, who does it, and how it ends.
//!
//! Results go to standard output, messages to standard error as `postrider: MESSAGE`. A reader who goes away
//! (`| head`) ends the output and is no failure; a full disk is one. Every verb ends with a code of sysexits(3), which
//! stands in [`exit`].

mod check;
mod finding;
mod hops;
mod host;
mod onward;
mod password;
mod queue;
mod route;
mod secrets;
mod user;
mod words;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use getopts::{Matches, Options};

use crate::config::{self, Config, ConfigError};
use crate::daemon;
use crate::io::{account, keeper};

/// The codes of sysexits(3).
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// What was given to work on is wrong.
    pub const DATA: u8 = 65;
    /// What was to be read is not there.
    pub const NO_INPUT: u8 = 66;
    /// There is no such user.
    pub const NO_USER: u8 = 67;
    /// A command of the configuration can't be run; seen only by the server.
    pub const CANT_EXECUTE: u8 = 71;
    /// A file can't be made.
    pub const CANT_CREATE: u8 = 73;
    /// Reading or writing failed.
    pub const IO: u8 = 74;
    /// The account that runs us may not.
    pub const NO_PERMISSION: u8 = 77;
    /// The configuration, or what it names, is wrong.
    pub const CONFIG: u8 = 78;
}

const USAGE: &str = "\
usage: postrider [--config FILE] VERB [ARGUMENTS]

  serve                   run the server; SIGHUP reloads, SIGTERM drains and stops
  check [--offline]       say what is wrong with the configuration and all that it names
  user add ADDRESS        give an address a mailbox; its password is read from standard input
  user passwd ADDRESS     set another password
  user remove ADDRESS     remove a user; the mail stays
  user list               every user, one a line
  queue list [WORD...]    what waits, is held or has failed, with the last replies and the next attempt
  queue show WORD...      all that is known of a message
  queue retry WORD...     try now
  queue hold WORD...      set aside
  queue release WORD...   let what was set aside go on
  queue remove WORD...    remove for good; nobody is told
  route ADDRESS           where mail for an address would go and why, and when it would be tried

  --config FILE           the configuration; default /etc/postrider/postrider.toml
  --help, --version       also after a verb
";

const USAGE_SERVE: &str = "\
usage: postrider serve [--config FILE]

Runs the server in the foreground. SIGHUP reloads, SIGTERM drains and stops.
";

const USAGE_CHECK: &str = "\
usage: postrider check [--config FILE] [--offline]

Reads the configuration, the users, the aliases and their lists, and looks at ports, folders, disk and next hops.
Prints lines that begin with ok:, warning: or error:; ends with 0 if there is no error, else with 78.
With --offline it only reads files, and looks neither at this host nor into DNS.
";

const USAGE_USER: &str = "\
usage: postrider user add ADDRESS [--scram]
       postrider user passwd ADDRESS [--scram]
       postrider user remove ADDRESS
       postrider user list
       each with [--config FILE]

The password is asked for twice at a terminal, else it is the first line of standard input.
With --scram it is kept as {SCRAM-SHA-256}; once every user's is, the server offers SCRAM.
A running server takes the change up by itself.
";

const USAGE_QUEUE: &str = "\
usage: postrider queue [list] [WORD...] [--json]
       postrider queue show WORD... [--json]
       postrider queue retry | hold | release WORD...
       postrider queue remove WORD... [--yes]
       each with [--config FILE]

WORD is one of, and several mean any of them:
  0TQXGV0000001           the message with this id
  ann@example.org         messages from or to this address
  example.org             messages to anyone in this domain
  from:ann@example.org, from:@example.org, from:<>    by the sender; <> is the sender of reports
  to:bob@example.net, to:@example.net                 by the recipient
  all                     every message
Works with the server up or down. remove asks if more than one message matches, unless --yes is given.
";

const USAGE_ROUTE: &str = "\
usage: postrider route ADDRESS [--from ADDRESS] [--config FILE]

Says where mail for ADDRESS would go, each step and why, and when it would be tried. Nothing is sent.
--from is the sender; it matters for lists with an owner. Default: the postmaster; <> is the sender of reports.
Ends with 67 if the mail would go nowhere.
";

/// Why a verb ended without success.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    what: String,
}

impl Failure {
    /// With a code of [`exit`] and the message.
    pub fn new(code: u8, what: impl Into<String>) -> Failure {
        Failure { code, what: what.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let code = match &error {
            ConfigError::Unreadable(_, error, _) => code_of(error, exit::CONFIG),
            ConfigError::Wrong(..) => exit::CONFIG,
        };
        Failure::new(code, error.to_string())
    }
}

/// The code of an I/O error; `missing` is the one for what is not there.
fn code_of(error: &io::Error, missing: u8) -> u8 {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => exit::NO_PERMISSION,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing,
        _ => exit::IO,
    }
}

/// Does what the arguments, without the name of the command, ask for.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match dispatch(arguments) {
        Ok(code) => code.into(),
        Err(failure) => {
            // Where standard error is gone, the code must do.
            let _ = writeln!(io::stderr(), "postrider: {}", failure.what.trim_end());
            failure.code.into()
        }
    }
}

fn dispatch(arguments: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let matches = options().parse(arguments).map_err(|error| misused(&error.to_string(), ""))?;
    let words: Vec<&str> = matches.free.iter().map(String::as_str).collect();
    let verb = words.first().copied().unwrap_or_default();
    if matches.opt_present("version") {
        return print(&format!("postrider {}\n", env!("CARGO_PKG_VERSION"))).map(|()| exit::OK);
    }
    if matches.opt_present("help") {
        return print(usage_of(verb)).map(|()| exit::OK);
    }
    for (option, of) in OPTIONS_OF_VERBS {
        if matches.opt_present(option) && verb != of {
            return Err(misused(&format!("only {of} knows --{option}"), verb));
        }
    }
    let config = config_path(&matches);
    match words[..] {
        ["serve"] => serve(&config),
        [keeper::VERB, ref rest @ ..] => keep(rest),
        ["check"] => check::run(&config, matches.opt_present("offline")),
        ["user", ref rest @ ..] => user::run(&config, rest, matches.opt_present("scram")).map(|()| exit::OK),
        ["queue", ref rest @ ..] => {
            let flags = queue::Flags { json: matches.opt_present("json"), yes: matches.opt_present("yes") };
            queue::run(&config, rest, flags)
        }
        ["route", address] => route::run(&config, address, matches.opt_str("from").as_deref()),
        ["route"] => Err(misused("the address is missing", verb)),
        ["route", _, word, ..] => Err(misused(&format!("there is one word too many: {word}"), verb)),
        [] => Err(misused("name a verb: serve, check, user, queue or route", "")),
        ["serve" | "check", word, ..] => Err(misused(&format!("{verb} takes no {word}"), verb)),
        _ => Err(misused(&format!("there is no verb {verb}; the verbs are serve, check, user, queue and route"), "")),
    }
}

/// Options that only one verb knows.
const OPTIONS_OF_VERBS: [(&str, &str); 5] =
    [("offline", "check"), ("json", "queue"), ("yes", "queue"), ("from", "route"), ("scram", "user")];

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("c", "config", "", "FILE");
    options.optflag("h", "help", "");
    options.optflag("V", "version", "");
    options.optflag("", "offline", "");
    options.optflag("", "json", "");
    options.optflag("", "yes", "");
    options.optflag("", "scram", "");
    options.optopt("", "from", "", "ADDRESS");
    options
}

/// Where the configuration is. Paths in it are meant from its folder, wherever the second process is.
fn config_path(matches: &Matches) -> PathBuf {
    let path = matches.opt_str("config").map_or_else(|| config::DEFAULT_PATH.into(), PathBuf::from);
    std::path::absolute(&path).unwrap_or(path)
}

fn usage_of(verb: &str) -> &'static str {
    match verb {
        "serve" => USAGE_SERVE,
        "check" => USAGE_CHECK,
        "user" => USAGE_USER,
        "queue" => USAGE_QUEUE,
        "route" => USAGE_ROUTE,
        _ => USAGE,
    }
}

/// A wrong command line: what is wrong, then how it goes.
fn misused(what: &str, verb: &str) -> Failure {
    Failure::new(exit::USAGE, format!("{}\n{}", what.trim_end_matches('.'), usage_of(verb)))
}

fn serve(config: &Path) -> Result<u8, Failure> {
    daemon::serve(config).map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
    Ok(exit::OK)
}

/// What the server starts as its second process, and that for each command (DESIGN §6); no verb for people.
fn keep(words: &[&str]) -> Result<u8, Failure> {
    match *words {
        ["exec", account, program, ref arguments @ ..] => {
            let error = keeper::turn_into(account, program, arguments);
            Err(Failure::new(exit::CANT_EXECUTE, format!("cannot run {program}: {error}")))
        }
        [] => keeper::serve().map(|()| exit::OK).map_err(|error| Failure::new(exit::USAGE, error.to_string())),
        _ => Err(Failure::new(exit::USAGE, keeper::NotByServer.to_string())),
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    write_out(text).map(|_| ())
}

/// Writes to standard output, and says whether anyone still reads it.
fn write_out(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(exit::IO, format!("cannot write to standard output: {error}"))),
    }
}

/// Gives up root for the account that the configuration names, if there is one (DESIGN §3).
fn become_run_as(config: &Config) -> Result<(), Failure> {
    match &config.run_as {
        Some(name) if account::is_root() => {
            account::become_account(name).map_err(|error| Failure::new(exit::CONFIG, format!("run_as: {error}")))
        }
        _ => Ok(()),
    }
}
