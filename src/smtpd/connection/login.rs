//! The part of a connection that lets a client prove who it is (RFC 4954).

use super::{Connection, End};
use crate::auth::dialogue::{self, Next, Out};
use crate::auth::{self, Denied};
use crate::limits;
use crate::mail::address::Address;
use crate::mail::reply::{self, Reply};
use crate::mail::sasl::Mechanism;
use crate::maillog;

impl Connection<'_> {
    /// Speaks an exchange to its end, and says how it ended.
    #[inline(never)]
    pub(super) fn log_in(&mut self, mechanism: &str, initial: Option<&str>) -> Result<(), End> {
        // The session knows the names of ours alone.
        let Ok(mechanism) = mechanism.parse::<Mechanism>() else {
            return Err(End::Told(reply::internal_error(), "a mechanism that is none"));
        };
        // The check may take a while, and the client wait for what was said before.
        self.flush()?;
        let bindings = auth::bindings(self.reader.get_mut().tls());
        let server = self.server;
        let mut next = dialogue::begin(&server.gate, self.client, (mechanism, initial), bindings);
        let out = loop {
            next = match next {
                Next::Send(challenge, dialogue) => {
                    self.reply(&reply::challenge(challenge));
                    match self.response()? {
                        Some(line) => dialogue.respond(&line),
                        None => Next::Out(Out::TooLong),
                    }
                }
                Next::In(user) => {
                    self.let_in(user, mechanism);
                    return Ok(());
                }
                Next::Out(out) => break out,
            }
        };
        self.refuse_login(out)
    }

    /// The client's line in an exchange. `None` if it is too long for one.
    fn response(&mut self) -> Result<Option<String>, End> {
        // What is no UTF-8 is no base64 either, and refused as such.
        self.line(limits::AUTH_LINE, |line| line.map(|line| String::from_utf8_lossy(line).into_owned()))
    }

    fn let_in(&mut self, user: Address, mechanism: Mechanism) {
        let agreed = self.reader.get_mut().tls().map(|facts| &facts.agreed);
        maillog::authenticated(self.client, &user, mechanism, agreed);
        self.session.logged_in(user);
        self.reply(&reply::logged_in());
    }

    fn refuse_login(&mut self, out: Out) -> Result<(), End> {
        self.session.not_logged_in();
        let reply = refusal(out);
        // Whatever else ends one is in the log as a failed login.
        if matches!(out, Out::Cancelled | Out::TooLong) {
            maillog::refused(self.client, "AUTH", None, None, &reply);
        }
        self.reply(&reply);
        if out == Out::Denied(Denied::ShutOut) {
            self.flush()?;
            return Err(End::Over);
        }
        Ok(())
    }
}

/// RFC 4954 §4 and §6.
fn refusal(out: Out) -> Reply {
    match out {
        Out::Cancelled => reply::exchange_cancelled(),
        Out::TooLong => reply::exchange_too_long(),
        Out::Malformed => reply::exchange_unreadable(),
        Out::Denied(Denied::Wrong(_)) => reply::wrong_credentials(),
        Out::Denied(Denied::ShutOut) => reply::shut_out(),
        Out::Denied(Denied::Busy) => reply::logins_busy(),
        Out::Denied(Denied::TooDear) => reply::login_too_dear(),
    }
}
