//! The part of a connection that lets a client prove whose mailbox it may open, by PASS or by AUTH (RFC 5034).

use std::fmt::Display;

use super::super::login::Denied;
use super::super::reply::{self, Answer};
use super::super::session::Next;
use super::{Connection, End};
use crate::auth::dialogue::{self, Next as Step, Out};
use crate::auth::{self, Denied as Refused};
use crate::limits;
use crate::mail::address::Address;
use crate::mail::sasl::{Credentials, Mechanism};
use crate::maillog;

impl Connection<'_> {
    /// Opens the mailbox for a name and its password, or says why not.
    pub(super) fn log_in(&mut self, name: &str, password: &[u8]) -> Next {
        match self.server.gate.check(self.client, &Credentials::new(name, password)) {
            Ok(address) => self.open(address, "USER"),
            Err(denied) => {
                maillog::login_failed(self.client, name, denied.why());
                self.session.deny(refusal(Out::Denied(denied)))
            }
        }
    }

    /// Speaks an exchange to its end, and opens the mailbox, or says why not.
    pub(super) fn exchange(&mut self, mechanism: &str, initial: Option<&str>) -> Result<Next, End> {
        // The session knows the names of ours alone.
        let Ok(mechanism) = mechanism.parse::<Mechanism>() else { return Ok(Next::Answer(reply::NO_MECHANISM)) };
        let bindings = auth::bindings(self.reader.get_mut().stream.tls());
        let server = self.server;
        let mut step = dialogue::begin(&server.gate, self.client, (mechanism, initial), bindings);
        loop {
            step = match step {
                Step::Send(challenge, dialogue) => {
                    self.answer(&reply::challenge(&challenge));
                    match self.response()? {
                        Some(line) => dialogue.respond(&line),
                        None => Step::Out(Out::TooLong),
                    }
                }
                Step::In(address) => return Ok(self.open(address, mechanism)),
                Step::Out(out) => return Ok(self.session.deny(refusal(out))),
            }
        }
    }

    /// The client's line in an exchange. `None` if it is too long for one.
    fn response(&mut self) -> Result<Option<String>, End> {
        // What is no UTF-8 is no base64 either, and refused as such.
        self.line(limits::AUTH_LINE, |line| line.map(|line| String::from_utf8_lossy(line).into_owned()))
    }

    /// Opens the mailbox of someone whom the gate has let in by this mechanism, or by USER and PASS.
    fn open(&mut self, address: Address, mechanism: impl Display) -> Next {
        let name = address.to_string();
        let (answer, why) = match self.server.open(address) {
            Ok(login) => {
                let size = (login.mailbox.listing.left(), login.mailbox.listing.octets());
                let agreed = self.reader.get_mut().stream.tls().map(|facts| &facts.agreed);
                maillog::login(self.client, &login.address, size, (mechanism, agreed));
                return self.session.enter(login);
            }
            Err(Denied::Unsafe) => (reply::WRONG, "the name can't be that of a folder"),
            Err(Denied::InUse) => (reply::IN_USE, "another session has the mailbox"),
            Err(Denied::Unreadable(address, error)) => {
                maillog::mailbox_error(&address, error);
                (reply::CANNOT_OPEN, "the mailbox can't be read")
            }
        };
        maillog::login_failed(self.client, &name, why);
        self.session.deny(answer)
    }
}

fn refusal(out: Out) -> Answer {
    match out {
        Out::Cancelled => reply::CANCELLED,
        Out::TooLong => reply::RESPONSE_TOO_LONG,
        Out::Malformed => reply::UNREADABLE,
        Out::Denied(Refused::Wrong(_)) => reply::WRONG,
        Out::Denied(Refused::ShutOut) => reply::SHUT_OUT,
        Out::Denied(Refused::Busy) => reply::BUSY,
        Out::Denied(Refused::TooDear) => reply::TOO_DEAR,
    }
}
