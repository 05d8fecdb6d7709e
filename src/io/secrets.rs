//! Where secrets come from: files and programs that the configuration names.
//!
//! Both may be for root alone. So every look at one goes through [`Secrets`], which may ask another process. A secret is one
//! line; what is empty, endless, or takes too long is an error in plain words, and no secret is ever in one.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::limits;

/// Reads secret files, and runs the programs that print secrets.
pub trait Secrets: fmt::Debug + Send + Sync {
    /// The content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// What a program printed that ended well: its name, and its arguments.
    fn run(&self, command: &[String]) -> io::Result<Vec<u8>>;
}

/// What this account may read and run itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectSecrets;

impl Secrets for DirectSecrets {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        bounded(File::open(path)?)
    }

    fn run(&self, command: &[String]) -> io::Result<Vec<u8>> {
        let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no program is named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // A program that prints more than a pipe holds does not end, and is one that prints no secret.
        let ended = wait(&mut child, limits::SECRET_COMMAND);
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = ended?;
        if !status.success() {
            return Err(io::Error::other(format!("it ended with {status}")));
        }
        let output = child.stdout.take().ok_or(io::ErrorKind::UnexpectedEof)?;
        // All it printed is there; what it left behind running may hold the pipe open for ever.
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        bounded(output)
    }
}

fn wait(child: &mut Child, most: Duration) -> io::Result<std::process::ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() > most {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it took longer than {most:?}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match from.take(limits::SECRET + 1).read_to_end(&mut content) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    if content.len() as u64 > limits::SECRET {
        let what = format!("it is longer than {} octets", limits::SECRET);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(content)
}

/// The secret in what was read or printed: its first line.
pub fn first_line(content: &[u8]) -> io::Result<Vec<u8>> {
    let line = content.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty"));
    }
    Ok(line.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Vec<u8>, String> {
        let command: Vec<String> = ["sh", "-c", line].iter().map(|word| (*word).to_owned()).collect();
        DirectSecrets.run(&command).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_a_line() {
        for (content, expected) in [("abc\n", Some("abc")), ("a b\r\nc", Some("a b")), ("x", Some("x")), ("\nx", None)]
        {
            assert_eq!(
                first_line(content.as_bytes()).ok(),
                expected.map(|text| text.as_bytes().to_vec()),
                "{content:?}"
            );
        }
    }

    #[test]
    fn programs_print_secrets_or_are_told_wrong() {
        assert_eq!(run("echo secret").unwrap(), b"secret\n");
        assert_eq!(run("sleep 100 & echo secret").unwrap(), b"secret\n", "what goes on is not waited for");
        assert!(run("echo secret; exit 3").unwrap_err().contains("3"));
        assert!(run("head -c 40000 /dev/zero").unwrap_err().contains("longer than"));
        assert!(DirectSecrets.run(&[]).is_err() && DirectSecrets.run(&["/no/such/program".into()]).is_err());
    }

    #[test]
    fn files_are_bounded() {
        assert_eq!(DirectSecrets.read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
