//! The POP3 session as a pure state machine: a command in, what to do next out (RFC 1939 §3 to §6).
//!
//! What each command leads to, by state. `ok` is an answer, `no` is -ERR; `→` names the state after success.
//!
//! | command | Authorization | Authorization, user named | Transaction |
//! | --- | --- | --- | --- |
//! | CAPA | list | list | list |
//! | USER | → user named, or no in clear | → user named, or no in clear | no |
//! | PASS | no | login → Transaction, else → Authorization | no |
//! | AUTH | no | no | no |
//! | STAT NOOP RSET | no | no | ok |
//! | LIST UIDL | no | no | list |
//! | LIST n, UIDL n, DELE n | no | no | ok, or no where there is no such message |
//! | RETR n, TOP n m | no | no | message, or no where there is no such message |
//! | QUIT | close | close | remove what is marked, → Authorization, close |
//!
//! A line that is no command is -ERR everywhere. Too many errors, or too many wrong passwords, are the end; the end
//! other than by QUIT removes nothing. The only thing done here is to mark; `connection` does what [`Next`] says.

use super::command::{Command, Password, Refusal};
use super::login::Login;
use super::reply::{self, Answer};
use crate::limits;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether a password in clear is taken.
    pub cleartext: bool,
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

    /// The lines of the list after CAPA (RFC 2449 §6, RFC 3206 §3). SASL is missing as long as there are no mechanisms.
    pub fn capabilities(&self) -> impl Iterator<Item = &'static str> {
        let user = self.terms.cleartext.then_some("USER");
        let always = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"];
        always.into_iter().chain(user).chain(["IMPLEMENTATION Postrider"])
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
            (State::Authorization { user }, command) => authorize(user, command, self.terms.cleartext),
            (State::Transaction(login), command) => transact(login, command),
        }
    }
}

fn authorize(user: &mut Option<String>, command: Command, cleartext: bool) -> Next {
    match command {
        Command::User(_) | Command::Pass(_) if !cleartext => Next::Answer(reply::NO_CLEARTEXT),
        Command::User(name) => {
            *user = Some(name);
            Next::Answer(reply::SEND_PASSWORD)
        }
        // A name is good for one password (RFC 1939 §7).
        Command::Pass(password) => match user.take() {
            Some(name) => Next::Login { name, password },
            None => Next::Answer(reply::USER_FIRST),
        },
        Command::Auth => Next::Answer(reply::NO_MECHANISM),
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
        Command::Capa | Command::User(_) | Command::Pass(_) | Command::Auth => Next::Answer(reply::LOGGED_IN),
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

    const TERMS: Terms = Terms { cleartext: true, errors: 1000 };

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
            ("AUTH PLAIN", ("no", "A"), ("no", "U"), ("no", "T")),
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
            assert_eq!(cell(&mut Session::new(TERMS), line), bare, "{line} in Authorization");
            let mut session = Session::new(TERMS);
            say(&mut session, "USER ann");
            assert_eq!(cell(&mut session, line), named, "{line} with a user");
            assert_eq!(cell(&mut in_transaction(&folder, TERMS), line), transaction, "{line} in Transaction");
        }
    }

    #[test]
    fn in_clear_nobody_logs_in_where_that_is_not_allowed() {
        let mut session = Session::new(Terms { cleartext: false, ..TERMS });
        assert_eq!(say(&mut session, "USER ann"), Next::Answer(reply::NO_CLEARTEXT));
        assert_eq!(say(&mut session, "PASS x"), Next::Answer(reply::NO_CLEARTEXT));
        assert!(!session.capabilities().any(|line| line == "USER"));
        assert!(Session::new(TERMS).capabilities().any(|line| line == "USER"));
    }

    #[test]
    fn a_deleted_message_is_there_for_no_command_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut session = in_transaction(&folder, TERMS);
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
        let mut session = Session::new(TERMS);
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
        let mut session = in_transaction(&folder, Terms { errors: 2, ..TERMS });
        for line in ["X", "RETR 9", "NOOP", "STAT"] {
            assert!(matches!(say(&mut session, line), Next::Answer(_)));
        }
        assert_eq!(session.step(Err(Refusal::TooLong)), Next::Close(reply::TOO_MANY_ERRORS));
    }
}
