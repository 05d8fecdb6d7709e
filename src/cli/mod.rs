//! The verbs: what was asked on the command line, who does it, and how it ends.
//!
//! Results go to standard output, messages to standard error as `postrider: MESSAGE`. A reader who goes away
//! (`| head`) ends the output and is no failure; a full disk is one. Every verb ends with a code of sysexits(3), which
//! stands in [`exit`].

mod check;
mod host;
mod password;
mod user;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use getopts::{Matches, Options};

use crate::config::{self, Config, ConfigError};
use crate::daemon;
use crate::io::account;

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

  --config FILE           the configuration; default /etc/postrider/postrider.toml
  --help, --version       also after a verb
";

const USAGE_SERVE: &str = "\
usage: postrider serve [--config FILE]

Runs the server in the foreground. SIGHUP reloads, SIGTERM drains and stops.
";

const USAGE_CHECK: &str = "\
usage: postrider check [--config FILE] [--offline]

Reads the configuration, the users, the aliases and their lists, and looks at ports, folders and disk.
Prints lines that begin with ok:, warning: or error:; ends with 0 if there is no error, else with 78.
With --offline it only reads files, and does not look at this host.
";

const USAGE_USER: &str = "\
usage: postrider user add ADDRESS
       postrider user passwd ADDRESS
       postrider user remove ADDRESS
       postrider user list
       each with [--config FILE]

The password is asked for twice at a terminal, else it is the first line of standard input.
A running server takes the change up by itself.
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
            ConfigError::Unreadable(_, error) => code_of(error, exit::CONFIG),
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
    if matches.opt_present("offline") && verb != "check" {
        return Err(misused("only check knows --offline", verb));
    }
    let config = config_path(&matches);
    match words[..] {
        ["serve"] => serve(&config),
        ["check"] => check::run(&config, matches.opt_present("offline")),
        ["user", ref rest @ ..] => user::run(&config, rest).map(|()| exit::OK),
        [] => Err(misused("name a verb: serve, check or user", "")),
        ["serve" | "check", word, ..] => Err(misused(&format!("{verb} takes no {word}"), verb)),
        _ => Err(misused(&format!("there is no verb {verb}; the verbs are serve, check and user"), "")),
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options.optopt("c", "config", "", "FILE");
    options.optflag("h", "help", "");
    options.optflag("V", "version", "");
    options.optflag("", "offline", "");
    options
}

fn config_path(matches: &Matches) -> PathBuf {
    matches.opt_str("config").map_or_else(|| config::DEFAULT_PATH.into(), PathBuf::from)
}

fn usage_of(verb: &str) -> &'static str {
    match verb {
        "serve" => USAGE_SERVE,
        "check" => USAGE_CHECK,
        "user" => USAGE_USER,
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

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
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
