//! The SMTP session as a pure state machine: a command in, what to do next out (RFC 5321 §4.1.4).
//!
//! What each command leads to, by state. `ok` is done, `503` out of order; `→` names the state after success.
//!
//! | command | Connected | Greeted | Mail | Rcpt | Chunks | Refused |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | EHLO HELO | → Greeted | → Greeted | → Greeted | → Greeted | → Greeted | → Greeted |
//! | MAIL | 503 | → Mail | 503 | 503 | 503 | 503 |
//! | RCPT | 503 | 503 | → Rcpt | → Rcpt | 503 | 503 |
//! | DATA | 503 | 503 | 503 | message → Greeted | 503 | 503 |
//! | BDAT | swallow, 503 | swallow, 503 | swallow, 503 | chunk → Chunks | chunk → Chunks | swallow, 503 |
//! | BDAT LAST | swallow, 503 | swallow, 503 | swallow, 503 | message → Greeted | message → Greeted | swallow, 503 |
//! | RSET | ok | ok | → Greeted | → Greeted | → Greeted | → Greeted |
//! | NOOP HELP VRFY EXPN | ok | ok | ok | ok | ok | ok |
//! | ETRN | 503 | ok | 503 | 503 | 503 | 503 |
//! | QUIT | close | close | close | close | close | close |
//!
//! In Refused a chunk of the message was refused, and the rest of them is still on its way. After any state, too many
//! errors or too many commands without a message are 421 and the end.

use super::command::{Command, Query, Refusal};
use crate::limits;
use crate::mail::address::{Address, Domain, ForwardPath, ReversePath};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::parameter::{MailParameters, RcptParameters};
use crate::mail::reply::{self, Reply};

/// What the session asks of the world.
pub trait Policy {
    /// The name of this host.
    fn hostname(&self) -> &str;
    /// Octets a message may have.
    fn message_size(&self) -> u64;
    /// Recipients a transaction may have.
    fn recipients(&self) -> usize;
    /// Errors a session may have.
    fn errors(&self) -> u32;
    /// Whether a message may come now.
    fn sender(&self, parameters: &MailParameters) -> Result<(), Reply>;
    /// The address a recipient stands for, if this client may send to it.
    fn recipient(&self, path: &ForwardPath, from: &ReversePath) -> Result<Address, Reply>;
    /// What is heeded of the reports that this client asks for.
    fn heeded(&self, parameters: RcptParameters) -> RcptParameters;
    /// The answer to VRFY.
    fn verify(&self, name: &str) -> Reply;
    /// The answer to EXPN.
    fn expand(&self, name: &str) -> Reply;
    /// Has the mail for a domain tried now, and says so: the answer to ETRN.
    fn bring_forward(&self, domain: &Domain) -> Reply;
}

/// What the connection does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the reply and read the next command.
    Reply(Reply),
    /// Send the reply and close.
    Close(Reply),
    /// Take the message up to its dot, then call [`Session::message_over`].
    Data(Envelope),
    /// Take a chunk, then call [`Session::message_over`] after the last, [`Session::chunk_refused`] after a bad one. With
    /// the first of a message comes its envelope.
    Chunk {
        /// Octets that follow.
        size: u64,
        /// Whether it is the last.
        last: bool,
        /// With the first chunk.
        envelope: Option<Envelope>,
    },
    /// Read this many octets, drop them, then send the reply.
    Swallow(u64, Reply),
}

/// How the client said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name it gave itself.
    pub name: String,
    /// Whether by EHLO.
    pub extended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Connected,
    Greeted(Hello, Transaction),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    /// No recipient yet.
    Mail(Envelope),
    /// One recipient at least.
    Rcpt(Envelope),
    Chunks,
    Refused,
}

/// One session, from the greeting to QUIT.
#[derive(Debug)]
pub struct Session {
    state: State,
    errors: u32,
    idle_commands: usize,
}

impl Session {
    /// A session whose greeting was sent.
    pub fn new() -> Session {
        Session { state: State::Connected, errors: 0, idle_commands: 0 }
    }

    /// Takes one line, which was a command or not.
    pub fn step(&mut self, line: Result<Command, Refusal>, policy: &dyn Policy) -> Next {
        // A large message has more chunks than any patience; its own limit bounds them.
        let is_worth_it =
            matches!(&line, Ok(Command::Bdat(size, _)) if *size >= limits::FULL_CHUNK && self.has_recipient());
        self.idle_commands += usize::from(!is_worth_it);
        if self.idle_commands > limits::IDLE_COMMANDS.saturating_add(policy.recipients()) {
            return Next::Close(reply::too_many_commands());
        }
        let next = match line {
            Ok(command) => self.obey(command, policy),
            Err(Refusal { reply, close: true }) => Next::Close(reply),
            Err(Refusal { reply, close: false }) => Next::Reply(reply),
        };
        match &next {
            Next::Reply(reply) | Next::Swallow(_, reply) if reply.is_error() => self.errors += 1,
            _ => {}
        }
        match next {
            Next::Reply(_) if self.errors > policy.errors() => Next::Close(reply::too_many_errors()),
            next => next,
        }
    }

    /// How the client said hello, once it has.
    pub fn hello(&self) -> Option<&Hello> {
        match &self.state {
            State::Connected => None,
            State::Greeted(hello, _) => Some(hello),
        }
    }

    /// The reverse-path of the transaction, for the log.
    pub fn reverse_path(&self) -> Option<&ReversePath> {
        match &self.state {
            State::Greeted(_, Transaction::Mail(envelope) | Transaction::Rcpt(envelope)) => {
                Some(&envelope.reverse_path)
            }
            _ => None,
        }
    }

    /// Whether some chunks of a message have come, and not the last.
    pub fn in_chunks(&self) -> bool {
        matches!(self.state, State::Greeted(_, Transaction::Chunks))
    }

    /// The message was taken or refused: the transaction is over.
    pub fn message_over(&mut self, accepted: bool) {
        self.set(Transaction::None);
        if accepted {
            self.idle_commands = 0;
        } else {
            self.errors += 1;
        }
    }

    /// A chunk that was not the last was refused.
    pub fn chunk_refused(&mut self) {
        self.errors += 1;
        self.set(Transaction::Refused);
    }

    fn has_recipient(&self) -> bool {
        matches!(self.state, State::Greeted(_, Transaction::Rcpt(_) | Transaction::Chunks))
    }

    fn set(&mut self, transaction: Transaction) {
        if let State::Greeted(_, current) = &mut self.state {
            *current = transaction;
        }
    }

    fn obey(&mut self, command: Command, policy: &dyn Policy) -> Next {
        match command {
            Command::Ehlo(name) => {
                self.state = State::Greeted(Hello { name, extended: true }, Transaction::None);
                Next::Reply(reply::ehlo(policy.hostname(), policy.message_size()))
            }
            Command::Helo(name) => {
                self.state = State::Greeted(Hello { name, extended: false }, Transaction::None);
                Next::Reply(reply::helo(policy.hostname()))
            }
            Command::Rset => {
                self.set(Transaction::None);
                Next::Reply(reply::reset())
            }
            Command::Noop => Next::Reply(reply::noop()),
            Command::Help => Next::Reply(reply::help()),
            Command::Vrfy(query) => Next::Reply(readable(policy.verify(&query.name), &query)),
            Command::Expn(query) => Next::Reply(readable(policy.expand(&query.name), &query)),
            Command::Etrn(domain) => Next::Reply(match &self.state {
                State::Connected => reply::greet_first(),
                State::Greeted(_, Transaction::None) => policy.bring_forward(&domain),
                State::Greeted(..) => reply::in_transaction(),
            }),
            Command::Quit => Next::Close(reply::bye()),
            Command::Mail(path, parameters) => Next::Reply(self.mail(path, parameters, policy)),
            Command::Rcpt(path, parameters, is_ascii) => {
                let rcpt = Rcpt { path, parameters, is_ascii };
                Next::Reply(self.rcpt(rcpt, policy))
            }
            Command::Data => self.data(),
            Command::Bdat(size, last) => self.bdat(size, last),
        }
    }

    fn mail(&mut self, path: ReversePath, parameters: MailParameters, policy: &dyn Policy) -> Reply {
        match &self.state {
            State::Connected => return reply::greet_first(),
            State::Greeted(_, Transaction::None) => {}
            State::Greeted(..) => return reply::nested_mail(),
        }
        if let Err(refusal) = policy.sender(&parameters) {
            return refusal;
        }
        self.set(Transaction::Mail(Envelope { reverse_path: path, parameters, recipients: Vec::new() }));
        reply::sender_ok()
    }

    fn rcpt(&mut self, rcpt: Rcpt, policy: &dyn Policy) -> Reply {
        let State::Greeted(_, transaction) = &mut self.state else { return reply::greet_first() };
        let envelope = match transaction {
            Transaction::None => return reply::mail_first(),
            Transaction::Chunks => return reply::in_chunks(),
            Transaction::Refused => return reply::chunks_failed(),
            Transaction::Mail(envelope) | Transaction::Rcpt(envelope) => envelope,
        };
        if !rcpt.is_ascii && !envelope.parameters.smtputf8 {
            return reply::needs_smtputf8();
        }
        let address = match policy.recipient(&rcpt.path, &envelope.reverse_path) {
            Ok(address) => address,
            Err(refusal) => return refusal,
        };
        let recipient = Recipient { address, parameters: policy.heeded(rcpt.parameters) };
        if !envelope.recipients.contains(&recipient) {
            if envelope.recipients.len() >= policy.recipients() {
                return reply::too_many_recipients();
            }
            envelope.recipients.push(recipient);
        }
        if let Transaction::Mail(envelope) | Transaction::Rcpt(envelope) =
            std::mem::replace(transaction, Transaction::None)
        {
            *transaction = Transaction::Rcpt(envelope);
        }
        reply::recipient_ok()
    }

    fn data(&mut self) -> Next {
        Next::Reply(match &self.state {
            State::Greeted(_, Transaction::Rcpt(envelope)) => return Next::Data(envelope.clone()),
            State::Connected => reply::greet_first(),
            State::Greeted(_, Transaction::None) => reply::mail_first(),
            State::Greeted(_, Transaction::Mail(..)) => reply::recipient_first(),
            State::Greeted(_, Transaction::Chunks) => reply::in_chunks(),
            State::Greeted(_, Transaction::Refused) => reply::chunks_failed(),
        })
    }

    fn bdat(&mut self, size: u64, last: bool) -> Next {
        let State::Greeted(_, transaction) = &mut self.state else {
            return Next::Swallow(size, reply::greet_first());
        };
        match std::mem::replace(transaction, Transaction::Chunks) {
            Transaction::Rcpt(envelope) => Next::Chunk { size, last, envelope: Some(envelope) },
            Transaction::Chunks => Next::Chunk { size, last, envelope: None },
            other => {
                let refusal = match other {
                    Transaction::None => reply::mail_first(),
                    Transaction::Mail(..) => reply::recipient_first(),
                    _ => reply::chunks_failed(),
                };
                *transaction = other;
                Next::Swallow(size, refusal)
            }
        }
    }
}

/// RFC 6531 §3.7.4.2: who did not say SMTPUTF8 can't read more than ASCII.
fn readable(reply: Reply, query: &Query) -> Reply {
    if query.smtputf8 || reply.is_ascii() { reply } else { reply::answer_needs_smtputf8() }
}

struct Rcpt {
    path: ForwardPath,
    parameters: RcptParameters,
    is_ascii: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Open;

    impl Policy for Open {
        fn hostname(&self) -> &str {
            "mail.example.org"
        }
        fn message_size(&self) -> u64 {
            1000
        }
        fn recipients(&self) -> usize {
            2
        }
        fn errors(&self) -> u32 {
            3
        }
        fn sender(&self, _: &MailParameters) -> Result<(), Reply> {
            Ok(())
        }
        fn recipient(&self, path: &ForwardPath, _: &ReversePath) -> Result<Address, Reply> {
            match path {
                ForwardPath::Address(address) if address.local_part() != "no" => Ok(address.clone()),
                _ => Err(reply::no_such_mailbox()),
            }
        }
        fn heeded(&self, parameters: RcptParameters) -> RcptParameters {
            parameters
        }

        fn verify(&self, _: &str) -> Reply {
            reply::cannot_verify()
        }
        fn expand(&self, _: &str) -> Reply {
            reply::cannot_expand()
        }
        fn bring_forward(&self, _: &Domain) -> Reply {
            reply::nothing_waits()
        }
    }

    fn step(session: &mut Session, line: &str) -> Next {
        session.step(Command::parse(line.as_bytes()), &Open)
    }

    /// What `next` is, in the words of the table.
    fn cell(next: &Next) -> String {
        match next {
            Next::Reply(reply) => reply.code().to_string(),
            Next::Close(reply) => format!("close {}", reply.code()),
            Next::Data(envelope) => format!("message for {}", envelope.recipients.len()),
            Next::Chunk { size, last, envelope } => format!("chunk {size} {last} {}", envelope.is_some()),
            Next::Swallow(size, reply) => format!("swallow {size} {}", reply.code()),
        }
    }

    fn name(session: &Session) -> &'static str {
        match &session.state {
            State::Connected => "Connected",
            State::Greeted(_, Transaction::None) => "Greeted",
            State::Greeted(_, Transaction::Mail(..)) => "Mail",
            State::Greeted(_, Transaction::Rcpt(_)) => "Rcpt",
            State::Greeted(_, Transaction::Chunks) => "Chunks",
            State::Greeted(_, Transaction::Refused) => "Refused",
        }
    }

    fn in_state(state: &str) -> Session {
        let mut session = Session::new();
        let lines = ["EHLO a", "MAIL FROM:<a@b.org>", "RCPT TO:<c@d.org>", "BDAT 1"];
        let states = ["Connected", "Greeted", "Mail", "Rcpt", "Chunks", "Refused"];
        let steps = states.iter().position(|name| *name == state).unwrap();
        lines.iter().take(steps).for_each(|line| _ = step(&mut session, line));
        if state == "Refused" {
            session.chunk_refused();
        }
        assert_eq!(name(&session), state);
        session
    }

    /// Every cell of the table at the top of this file: command × state → what happens, and the state after it.
    #[test]
    fn every_cell_of_the_table_holds() {
        const STATES: [&str; 6] = ["Connected", "Greeted", "Mail", "Rcpt", "Chunks", "Refused"];
        let same = |what: &str| STATES.map(|state| (what.to_owned(), state));
        let refused = |what: &str, except: &[(usize, &str, &'static str)]| {
            let mut cells = same(what);
            except.iter().for_each(|(at, what, state)| cells[*at] = ((*what).to_owned(), *state));
            cells
        };
        let all = |what: &str, state: &'static str| STATES.map(|_| (what.to_owned(), state));
        let mut rset = all("250", "Greeted");
        rset[0] = ("250".to_owned(), "Connected");
        let chunks = [(3, "chunk 7 false true", "Chunks"), (4, "chunk 7 false false", "Chunks")];
        let last = [(3, "chunk 7 true true", "Chunks"), (4, "chunk 7 true false", "Chunks")];
        let rows = [
            ("EHLO a", all("250", "Greeted")),
            ("HELO a", all("250", "Greeted")),
            ("MAIL FROM:<a@b.org>", refused("503", &[(1, "250", "Mail")])),
            ("RCPT TO:<e@f.org>", refused("503", &[(2, "250", "Rcpt"), (3, "250", "Rcpt")])),
            ("DATA", refused("503", &[(3, "message for 1", "Rcpt")])),
            ("BDAT 7", refused("swallow 7 503", &chunks)),
            ("BDAT 7 LAST", refused("swallow 7 503", &last)),
            ("RSET", rset),
            ("NOOP", same("250")),
            ("HELP", same("214")),
            ("VRFY a", same("252")),
            ("EXPN a", same("550")),
            ("ETRN d.org", refused("503", &[(1, "251", "Greeted")])),
            ("QUIT", same("close 221")),
            ("BDAT x", same("close 501")),
            ("FOO", same("500")),
        ];
        for (line, cells) in rows {
            for (state, (what, after)) in STATES.into_iter().zip(cells) {
                let mut session = in_state(state);
                let next = step(&mut session, line);
                assert_eq!((cell(&next), name(&session)), (what, after), "{line} in {state}");
            }
        }
    }

    #[test]
    fn after_a_message_the_session_is_as_after_its_hello() {
        for state in ["Rcpt", "Chunks"] {
            let mut session = in_state(state);
            session.message_over(true);
            assert_eq!(name(&session), "Greeted");
        }
    }

    #[test]
    fn a_refused_recipient_leaves_the_transaction_as_it_was() {
        let mut session = in_state("Mail");
        assert_eq!(cell(&step(&mut session, "RCPT TO:<no@d.org>")), "550");
        assert_eq!(name(&session), "Mail");
        assert_eq!(cell(&step(&mut session, "DATA")), "503");
    }

    #[test]
    fn recipients_are_counted_once_each() {
        let mut session = in_state("Rcpt");
        for (line, expected) in [("c", "250"), ("c", "250"), ("d", "250"), ("e", "452")] {
            assert_eq!(cell(&step(&mut session, &format!("RCPT TO:<{line}@d.org>"))), expected);
        }
        assert_eq!(cell(&step(&mut session, "DATA")), "message for 2");
    }

    #[test]
    fn international_recipients_need_smtputf8() {
        let mut session = in_state("Mail");
        assert_eq!(cell(&step(&mut session, "RCPT TO:<jörg@d.org>")), "553");
        let mut session = in_state("Greeted");
        step(&mut session, "MAIL FROM:<jörg@b.org> SMTPUTF8");
        assert_eq!(cell(&step(&mut session, "RCPT TO:<jörg@d.org>")), "250");
    }

    #[test]
    fn errors_and_idle_commands_come_to_an_end() {
        let mut session = Session::new();
        let codes: Vec<String> = (0..4).map(|_| cell(&step(&mut session, "FOO"))).collect();
        assert_eq!(codes, ["500", "500", "500", "close 421"]);
        let mut session = Session::new();
        for _ in 0..limits::IDLE_COMMANDS + Open.recipients() {
            assert_eq!(cell(&step(&mut session, "NOOP")), "250");
        }
        assert_eq!(cell(&step(&mut session, "NOOP")), "close 421");
    }
}
