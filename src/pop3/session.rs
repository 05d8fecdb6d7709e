//! The POP3 session as a pure state machine: a command in, what to do next out (RFC 1939 §3 to §6).
//!
//! What each command leads to, by state. `ok` is an answer, `no` is -ERR; `→` names the state after success.
//!
//! | command | Authorization | Authorization, user named | Transaction |
//! | --- | --- | --- | --- |
//! | CAPA | list | list | list |
//! | USER | → user named, or no in clear | → user named, or no in clear | no |
//! | PASS | no | login → Transaction, else → Authorization | no |
//! | AUTH | exchange → Transaction, else the same | exchange → Transaction, else the same | no |
//! | STLS | a new session under TLS | a new session under TLS | no |
//! | STAT NOOP RSET | no | no | ok |
//! | LIST UIDL | no | no | list |
//! | LIST n, UIDL n, DELE n | no | no | ok, or no where there is no such message |
//! | RETR n, TOP n m | no | no | message, or no where there is no such message |
//! | QUIT | close | close | remove what is marked, → Authorization, close |
//!
//! AUTH is no for a mechanism that is not offered, and as USER and PASS where nobody logs in in clear; STLS is no under TLS.
//! A line that is no command is -ERR everywhere. Too many errors, or too many wrong passwords, are the end; the end
//! other than by QUIT removes nothing. The only thing done here is to mark; `connection` does what [`Next`] says.

use std::borrow::Cow;

use super::command::{Command, Password, Refusal};
use super::login::Login;
use super::reply::{self, Answer};
use crate::limits;
use crate::mail::sasl::Initial;

/// What the connection does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the answer and read the next command.
    Answer(Answer),
    /// Send the answer and close.
    Close(Answer),
    /// Send the answer, then a list.
    List(Answer, Rows),
    /// Send a message, or its header and so many lines of its body.
    Message {
        /// Which.
        index: usize,
        /// How many, for TOP.
        lines: Option<u64>,
    },
    /// Check the password, then call [`Session::enter`] or [`Session::deny`].
    Login {
        /// Whose mailbox.
        name: String,
        /// As it came.
        password: Password,
    },
    /// Let the client prove who it is by this mechanism, then call [`Session::enter`] or [`Session::deny`].
    Auth {
        /// Its name, as it is offered.
        mechanism: &'static str,
        /// What came with the command.
        initial: Option<Initial>,
    },
    /// Send the answer, and go on with a new session under TLS.
    StartTls(Answer),
    /// Call [`Session::leave`], remove what is marked, and close.
    Remove,
}

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// What is offered.
    Capabilities,
    /// Numbers and sizes.
    Sizes,
    /// Numbers and unique-ids.
    Uids,
}

#[derive(Debug)]
enum State {
    Authorization { user: Option<String> },
    Transaction(Box<Login>),
}

/// What a session may do, fixed when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether a password in clear is taken.
    pub cleartext: bool,
    /// Whether all of it is encrypted; if not, STLS is offered.
    pub under_tls: bool,
    /// The mechanisms by which one can log in.
    pub mechanisms: Vec<&'static str>,
    /// How many errors there may be.
    pub errors: u32,
}

/// One session, from the greeting to QUIT.
#[derive(Debug)]
pub struct Session {
    state: State,
    terms: Terms,
    errors: u32,
    wrong_logins: u32,
}

impl Session {
    /// A session whose greeting was sent.
    pub fn new(terms: Terms) -> Session {
        Session { state: State::Authorization { user: None }, terms, errors: 0, wrong_logins: 0 }
    }

    /// Takes one line, which was a command or not.
    pub fn step(&mut self, line: Result<Command, Refusal>) -> Next {
        let next = match line {
            Ok(command) => self.obey(command),
            Err(refusal) => Next::Answer(refusal.into()),
        };
        self.counted(next)
    }

    /// After [`Next::Login`]: the mailbox is open.
    pub fn enter(&mut self, login: Login) -> Next {
        let listing = &login.mailbox.listing;
        let answer = reply::welcome(listing.left(), listing.octets());
        self.state = State::Transaction(Box::new(login));
        Next::Answer(answer)
    }

    /// After [`Next::Login`]: it is not, for the reason in `answer`.
    pub fn deny(&mut self, answer: Answer) -> Next {
        if answer == reply::SHUT_OUT {
            return Next::Close(answer);
        }
        if answer == reply::WRONG {
            self.wrong_logins += 1;
            if self.wrong_logins >= limits::POP3_LOGINS {
                return Next::Close(reply::WRONG_TOO_OFTEN);
            }
        }
        self.counted(Next::Answer(answer))
    }

    /// Ends the Transaction state, if this is one.
    pub fn leave(&mut self) -> Option<Login> {
        match std::mem::replace(&mut self.state, State::Authorization { user: None }) {
            State::Transaction(login) => Some(*login),
            State::Authorization { .. } => None,
        }
    }

    /// The open mailbox, in the Transaction state.
    pub fn login(&mut self) -> Option<&mut Login> {
        match &mut self.state {
            State::Transaction(login) => Some(login),
            State::Authorization { .. } => None,
        }
    }

    /// The lines of the list after CAPA (RFC 2449 §6, RFC 3206 §3, RFC 2595 §4, RFC 5034 §3).
    pub fn capabilities(&self) -> Vec<Cow<'static, str>> {
        let mut lines: Vec<Cow<'static, str>> =
            ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"].map(Cow::from).into();
        if self.terms.may_log_in() {
            lines.push("USER".into());
            lines.push(format!("SASL {}", self.terms.mechanisms.join(" ")).into());
        }
        // In both states, though it is obeyed in one (RFC 2595 §4).
        if !self.terms.under_tls {
            lines.push("STLS".into());
        }
        lines.push("IMPLEMENTATION Postrider".into());
        lines
    }

    fn counted(&mut self, next: Next) -> Next {
        match next {
            // What another reader removed is nobody's mistake, but it is told by `connection`, not here.
            Next::Answer(answer) if answer.is_error() => {
                self.errors += 1;
                if self.errors > self.terms.errors { Next::Close(reply::TOO_MANY_ERRORS) } else { Next::Answer(answer) }
            }
            next => next,
        }
    }

    fn obey(&mut self, command: Command) -> Next {
        match (&mut self.state, command) {
            (_, Command::Capa) => Next::List(reply::CAPABILITIES, Rows::Capabilities),
            (State::Authorization { user }, command) => authorize(user, command, &self.terms),
            (State::Transaction(login), command) => transact(login, command),
        }
    }
}

impl Terms {
    fn may_log_in(&self) -> bool {
        self.cleartext || self.under_tls
    }

    fn offered(&self, mechanism: Option<String>) -> Option<&'static str> {
        let name = mechanism?;
        self.mechanisms.iter().find(|offered| offered.eq_ignore_ascii_case(&name)).copied()
    }
}

fn authorize(user: &mut Option<String>, command: Command, terms: &Terms) -> Next {
    match command {
        Command::User(_) | Command::Pass(_) | Command::Auth(..) if !terms.may_log_in() => {
            Next::Answer(reply::NO_CLEARTEXT)
        }
        Command::User(name) => {
            *user = Some(name);
            Next::Answer(reply::SEND_PASSWORD)
        }
        // A name is good for one password (RFC 1939 §7).
        Command::Pass(password) => match user.take() {
            Some(name) => Next::Login { name, password },
            None => Next::Answer(reply::USER_FIRST),
        },
        Command::Auth(mechanism, initial) => match terms.offered(mechanism) {
            Some(mechanism) => Next::Auth { mechanism, initial },
            None => Next::Answer(reply::NO_MECHANISM),
        },
        Command::Stls if terms.under_tls => Next::Answer(reply::TLS_ALREADY),
        Command::Stls => Next::StartTls(reply::BEGIN_TLS),
        Command::Quit => Next::Close(reply::BYE),
        _ => Next::Answer(reply::LOG_IN_FIRST),
    }
}

fn transact(login: &mut Login, command: Command) -> Next {
    let listing = &mut login.mailbox.listing;
    match command {
        Command::Stat => Next::Answer(reply::pair(listing.left(), listing.octets())),
        Command::List(None) => Next::List(reply::sizes(listing.left(), listing.octets()), Rows::Sizes),
        Command::Uidl(None) => Next::List(reply::UIDS, Rows::Uids),
        Command::Noop => Next::Answer(reply::NOTHING_DONE),
        Command::Rset => {
            listing.reset();
            Next::Answer(reply::UNMARKED)
        }
        Command::Quit => Next::Remove,
        Command::List(Some(number))
        | Command::Uidl(Some(number))
        | Command::Retr(number)
        | Command::Top(number, _)
        | Command::Dele(number) => of_message(login, command, number),
        Command::Stls => Next::Answer(reply::TLS_TOO_LATE),
        Command::Capa | Command::User(_) | Command::Pass(_) | Command::Auth(..) => Next::Answer(reply::LOGGED_IN),
    }
}

fn of_message(login: &mut Login, command: Command, number: u32) -> Next {
    let listing = &mut login.mailbox.listing;
    let Some(index) = listing.index(number) else { return Next::Answer(reply::NO_SUCH_MESSAGE) };
    match command {
        Command::List(_) => Next::Answer(reply::pair(number, listing.size(index))),
        Command::Uidl(_) => Next::Answer(reply::pair(number, listing.uid(index))),
        Command::Top(_, lines) => Next::Message { index, lines: Some(lines) },
        Command::Dele(_) => {
            listing.delete(index);
            Next::Answer(reply::MARKED)
        }
        _ => Next::Message { index, lines: None },
    }
}

#[cfg(test)]
mod tests {
    use super::super::login::tests::login;
    use super::*;

    fn terms() -> Terms {
        Terms { cleartext: true, under_tls: false, mechanisms: vec!["PLAIN"], errors: 1000 }
    }

    /// Two messages, of 10 and 20 octets.
    fn in_transaction(folder: &tempfile::TempDir, terms: Terms) -> Session {
        let mut session = Session::new(terms);
        session.enter(login(folder.path(), &["1.a,W=10", "2.b,W=20"]));
        session
    }

    fn say(session: &mut Session, line: &str) -> Next {
        session.step(Command::parse(line.as_bytes()))
    }

    /// What is next and the state after it, in one word each.
    fn cell(session: &mut Session, line: &str) -> (&'static str, &'static str) {
        let next = match say(session, line) {
            Next::Answer(answer) if answer.is_error() => "no",
            Next::Answer(_) => "ok",
            Next::Close(_) => "close",
            Next::List(..) => "list",
            Next::Message { .. } => "message",
            Next::Login { .. } => "login",
            Next::Auth { .. } => "exchange",
            Next::StartTls(_) => "tls",
            Next::Remove => "remove",
        };
        let state = match &session.state {
            State::Authorization { user: None } => "A",
            State::Authorization { user: Some(_) } => "U",
            State::Transaction(_) => "T",
        };
        (next, state)
    }

    #[test]
    fn every_cell_of_the_table_is_as_it_says() {
        for (line, bare, named, transaction) in [
            ("CAPA", ("list", "A"), ("list", "U"), ("list", "T")),
            ("USER bob", ("ok", "U"), ("ok", "U"), ("no", "T")),
            ("PASS x", ("no", "A"), ("login", "A"), ("no", "T")),
            ("AUTH", ("no", "A"), ("no", "U"), ("no", "T")),
            ("AUTH plain", ("exchange", "A"), ("exchange", "U"), ("no", "T")),
            ("AUTH PLAIN AAAA", ("exchange", "A"), ("exchange", "U"), ("no", "T")),
            ("AUTH GSSAPI", ("no", "A"), ("no", "U"), ("no", "T")),
            ("STLS", ("tls", "A"), ("tls", "U"), ("no", "T")),
            ("STAT", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("NOOP", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("RSET", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("LIST", ("no", "A"), ("no", "U"), ("list", "T")),
            ("UIDL", ("no", "A"), ("no", "U"), ("list", "T")),
            ("LIST 1", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("UIDL 1", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("DELE 1", ("no", "A"), ("no", "U"), ("ok", "T")),
            ("RETR 1", ("no", "A"), ("no", "U"), ("message", "T")),
            ("TOP 1 0", ("no", "A"), ("no", "U"), ("message", "T")),
            ("LIST 3", ("no", "A"), ("no", "U"), ("no", "T")),
            ("UIDL 0", ("no", "A"), ("no", "U"), ("no", "T")),
            ("DELE 3", ("no", "A"), ("no", "U"), ("no", "T")),
            ("RETR 3", ("no", "A"), ("no", "U"), ("no", "T")),
            ("TOP 3 1", ("no", "A"), ("no", "U"), ("no", "T")),
            ("QUIT", ("close", "A"), ("close", "U"), ("remove", "T")),
            ("XYZ", ("no", "A"), ("no", "U"), ("no", "T")),
            ("STAT x", ("no", "A"), ("no", "U"), ("no", "T")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(cell(&mut Session::new(terms()), line), bare, "{line} in Authorization");
            let mut session = Session::new(terms());
            say(&mut session, "USER ann");
            assert_eq!(cell(&mut session, line), named, "{line} with a user");
            assert_eq!(cell(&mut in_transaction(&folder, terms()), line), transaction, "{line} in Transaction");
        }
    }

    #[test]
    fn in_clear_nobody_logs_in_where_that_is_not_allowed() {
        let mut session = Session::new(Terms { cleartext: false, ..terms() });
        assert_eq!(say(&mut session, "USER ann"), Next::Answer(reply::NO_CLEARTEXT));
        assert_eq!(say(&mut session, "PASS x"), Next::Answer(reply::NO_CLEARTEXT));
        assert_eq!(say(&mut session, "AUTH PLAIN"), Next::Answer(reply::NO_CLEARTEXT));
        let offers = |session: &Session| {
            let lines = session.capabilities();
            ["USER", "SASL PLAIN", "STLS"].map(|offer| lines.iter().any(|line| line == offer))
        };
        assert_eq!(offers(&session), [false, false, true]);
        assert_eq!(offers(&Session::new(terms())), [true, true, true]);
        let mut session = Session::new(Terms { cleartext: false, under_tls: true, ..terms() });
        assert_eq!(offers(&session), [true, true, false]);
        assert_eq!(say(&mut session, "STLS"), Next::Answer(reply::TLS_ALREADY));
        assert_eq!(say(&mut session, "USER ann"), Next::Answer(reply::SEND_PASSWORD));
    }

    #[test]
    fn a_deleted_message_is_there_for_no_command_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut session = in_transaction(&folder, terms());
        assert_eq!(say(&mut session, "DELE 1"), Next::Answer(reply::MARKED));
        for line in ["DELE 1", "RETR 1", "TOP 1 1", "LIST 1", "UIDL 1"] {
            assert_eq!(say(&mut session, line), Next::Answer(reply::NO_SUCH_MESSAGE), "{line}");
        }
        assert_eq!(say(&mut session, "STAT"), Next::Answer(reply::pair(1, 20)));
        assert_eq!(say(&mut session, "LIST 2"), Next::Answer(reply::pair(2, 20)), "numbers stay");
        say(&mut session, "RSET");
        assert_eq!(say(&mut session, "STAT"), Next::Answer(reply::pair(2, 30)));
    }

    #[test]
    fn a_name_is_good_for_one_password_and_wrong_ones_are_counted() {
        let mut session = Session::new(terms());
        for round in 1..=limits::POP3_LOGINS {
            say(&mut session, "USER ann");
            say(&mut session, "CAPA");
            assert!(matches!(say(&mut session, "PASS x"), Next::Login { .. }));
            assert_eq!(session.deny(reply::IN_USE), Next::Answer(reply::IN_USE), "no wrong password");
            assert_eq!(session.deny(reply::SHUT_OUT), Next::Close(reply::SHUT_OUT));
            let last = round == limits::POP3_LOGINS;
            let expected = if last { Next::Close(reply::WRONG_TOO_OFTEN) } else { Next::Answer(reply::WRONG) };
            assert_eq!(session.deny(reply::WRONG), expected);
            assert_eq!(say(&mut session, "PASS x"), Next::Answer(reply::USER_FIRST));
        }
    }

    #[test]
    fn too_many_errors_are_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut session = in_transaction(&folder, Terms { errors: 2, ..terms() });
        for line in ["X", "RETR 9", "NOOP", "STAT"] {
            assert!(matches!(say(&mut session, line), Next::Answer(_)));
        }
        assert_eq!(session.step(Err(Refusal::TooLong)), Next::Close(reply::TOO_MANY_ERRORS));
    }
}
