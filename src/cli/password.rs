//! Asking for a password: at a terminal twice and without echo, else the first line of standard input.
//!
//! The terminal is left as it was found, also when the person gives up with Ctrl-C. Fails for a password that no client
//! could log in with.

use std::io::{self, IsTerminal, Read, Write};

use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};

use super::{Failure, exit};
use crate::limits;

/// Ctrl-C, as a terminal sends it.
const INTERRUPT: u8 = 3;

/// Reads the new password of `whom`.
pub fn read(whom: &str) -> Result<Vec<u8>, Failure> {
    if !io::stdin().is_terminal() {
        return read_line().and_then(checked);
    }
    let first = ask(&format!("New password of {whom}: ")).and_then(checked)?;
    if ask("Once more: ")? != first {
        return Err(Failure::new(exit::DATA, "the two passwords differ; nothing was changed"));
    }
    Ok(first)
}

fn ask(prompt: &str) -> Result<Vec<u8>, Failure> {
    let silence = Silence::begin()?;
    let _ = write!(io::stderr(), "{prompt}");
    let line = read_line();
    drop(silence);
    // The person's own line end was not echoed.
    let _ = writeln!(io::stderr());
    let line = line?;
    if line.contains(&INTERRUPT) {
        return Err(Failure::new(exit::DATA, "interrupted; nothing was changed"));
    }
    Ok(line)
}

/// A line without its end, cut where it is longer than a password may be. One octet at a time, because Ctrl-C ends it too.
fn read_line() -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock();
    let mut octet = [0];
    while line.len() <= limits::CREDENTIAL + 1 {
        match input.read(&mut octet) {
            Ok(0) if line.is_empty() => {
                let what = "no password on standard input; write it there as one line";
                return Err(Failure::new(exit::NO_INPUT, what));
            }
            Ok(0) => break,
            Ok(_) if octet[0] == b'\n' => break,
            Ok(_) => line.push(octet[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::new(exit::IO, format!("cannot read standard input: {error}"))),
        }
        if octet[0] == INTERRUPT {
            break;
        }
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(line)
}

fn checked(password: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let wrong = if password.is_empty() {
        "the password is empty; choose one"
    } else if password.len() > limits::CREDENTIAL {
        "the password is longer than 512 octets; choose a shorter one"
    } else if password.iter().any(u8::is_ascii_control) {
        "the password holds a control character, which clients can't send; choose another"
    } else {
        return Ok(password);
    };
    Err(Failure::new(exit::DATA, wrong))
}

/// A terminal without echo, until it is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> Result<Silence, Failure> {
        let failed = |error| Failure::new(exit::IO, format!("cannot switch off the terminal's echo: {error}"));
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        // A signal would end us with the echo still off: Ctrl-C ends the line instead, and is seen in it.
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT;
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent).map_err(failed)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // What was typed ahead stays; a terminal that is gone needs no echo.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_that_clients_can_send() {
        for (password, why) in [(&b""[..], "empty"), (&[b'x'; 513], "longer"), (b"a\0b", "control")] {
            assert!(checked(password.to_vec()).unwrap_err().what.contains(why));
        }
        assert!(checked("pässword 🔑".as_bytes().to_vec()).is_ok());
        assert!(checked(vec![b'x'; 512]).is_ok());
    }
}
