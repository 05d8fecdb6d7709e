//! The SMTP session as a pure state machine: a command in, what to do next out (RFC 5321 §4.1.4).
//!
//! What each command leads to, by state. `ok` is done, `503` out of order; `→` names the state after success.
//!
//! | command | Connected | Greeted | Mail | Rcpt | Chunks | Refused |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | EHLO HELO | → Greeted | → Greeted | → Greeted | → Greeted | → Greeted | → Greeted |
//! | STARTTLS | 503 | a new session under TLS | 503 | 503 | 503 | 503 |
//! | AUTH | 503 | exchange → Greeted | 503 | 503 | 503 | 503 |
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
//! STARTTLS is unknown where there is no certificate, and 503 under TLS. AUTH is 504 for a mechanism that is not offered,
//! 538 where it would be under TLS, and 503 once someone has logged in or where HELO was said. MAIL is 530 on a port for
//! submission until someone has, and 555 with REQUIRETLS in clear, or with AUTH= where there is no AUTH. A port for
//! submission knows no ETRN.
//!
//! In Refused a chunk of the message was refused, and the rest of them is still on its way. After any state, too many
//! errors or too many commands without a message are 421 and the end.

use super::command::{Command, Query, Refusal};
use crate::limits;
use crate::mail::address::{Address, Domain, ForwardPath, ReversePath};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::parameter::{MailParameters, ParameterError, RcptParameters};
use crate::mail::reply::{self, Reply};
use crate::mail::sasl::Initial;

/// What this connection is for, and what it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether only those who log in may send (RFC 6409 §4.3).
    pub submission: bool,
    /// What there is of TLS.
    pub tls: Tls,
    /// The mechanisms by which one can log in on this connection, or could under TLS.
    pub mechanisms: Vec<&'static str>,
    /// Whether that has to be under TLS.
    pub log_in_under_tls: bool,
}

/// What there is of TLS on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Nothing.
    #[default]
    None,
    /// STARTTLS.
    Offered,
    /// All of it is encrypted.
    Active,
}

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
    /// Whether a message from this sender may come now; `user` is who has logged in.
    fn sender(&self, path: &ReversePath, parameters: &MailParameters, user: Option<&Address>) -> Result<(), Reply>;
    /// The address a recipient stands for, if this client, or who has logged in, may send to it.
    fn recipient(&self, path: &ForwardPath, from: &ReversePath, user: Option<&Address>) -> Result<Address, Reply>;
    /// What is heeded of the reports that this client, or who has logged in, asks for.
    fn heeded(&self, parameters: RcptParameters, user: Option<&Address>) -> RcptParameters;
    /// Whether an envelope may grow to so many octets of memory.
    fn envelope_may_have(&self, octets: usize) -> bool;
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
    /// Send the reply, and go on with a new session under TLS.
    StartTls(Reply),
    /// Let the client prove who it is by this mechanism, then call [`Session::logged_in`] or [`Session::not_logged_in`].
    Auth {
        /// Its name, as it is offered.
        mechanism: &'static str,
        /// What came with the command, in base64.
        initial: Option<Initial>,
    },
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
    terms: Terms,
    state: State,
    user: Option<Address>,
    errors: u32,
    idle_commands: usize,
}

impl Session {
    /// A session whose greeting was sent, or one after STARTTLS: nothing is known of the client.
    pub fn new(terms: Terms) -> Session {
        Session { terms, state: State::Connected, user: None, errors: 0, idle_commands: 0 }
    }

    /// Who has logged in.
    pub fn user(&self) -> Option<&Address> {
        self.user.as_ref()
    }

    /// Whether anyone can log in here at all, be it after STARTTLS.
    pub fn may_ever_log_in(&self) -> bool {
        !self.terms.mechanisms.is_empty()
    }

    /// Whether only those who log in may send.
    pub fn is_for_submission(&self) -> bool {
        self.terms.submission
    }

    /// Whether all of it is encrypted.
    pub fn is_under_tls(&self) -> bool {
        self.terms.tls == Tls::Active
    }

    /// The client has proved to be this user.
    pub fn logged_in(&mut self, user: Address) {
        self.user = Some(user);
    }

    /// It has not.
    pub fn not_logged_in(&mut self) {
        self.errors += 1;
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
            // One recipient too many is nobody's mistake: clients with a long list are to go on (RFC 5321 §4.5.3.1.10).
            Next::Reply(reply) if *reply == reply::too_many_recipients() => {}
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

    /// Whether there is an envelope, be it with a message on its way.
    pub fn has_envelope(&self) -> bool {
        self.in_chunks() || self.reverse_path().is_some()
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
                Next::Reply(self.ehlo(policy))
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
            Command::Help if self.terms.submission => Next::Reply(reply::help_submission()),
            Command::Help => Next::Reply(reply::help()),
            Command::Vrfy(query) => Next::Reply(readable(policy.verify(&query.name), &query)),
            Command::Expn(query) => Next::Reply(readable(policy.expand(&query.name), &query)),
            Command::Etrn(domain) => Next::Reply(match &self.state {
                // RFC 6409 §7.
                _ if self.terms.submission => reply::unknown_command(),
                State::Connected => reply::greet_first(),
                State::Greeted(_, Transaction::None) => policy.bring_forward(&domain),
                State::Greeted(..) => reply::in_transaction(),
            }),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial),
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

    fn ehlo(&self, policy: &dyn Policy) -> Reply {
        let reply = reply::ehlo(policy.hostname(), policy.message_size(), self.terms.submission);
        let reply = match self.terms.tls {
            Tls::None => reply,
            Tls::Offered => reply.line("STARTTLS"),
            // RFC 8689 §2: nobody could obey in clear what it asks for.
            Tls::Active => reply.line("REQUIRETLS"),
        };
        match self.may_log_in() && !self.terms.mechanisms.is_empty() {
            true => reply.line(format!("AUTH {}", self.terms.mechanisms.join(" "))),
            false => reply,
        }
    }

    fn may_log_in(&self) -> bool {
        self.is_under_tls() || !self.terms.log_in_under_tls
    }

    fn start_tls(&self) -> Next {
        match (&self.state, self.terms.tls) {
            (_, Tls::None) => Next::Reply(reply::unknown_command()),
            (State::Connected, _) => Next::Reply(reply::greet_first()),
            (_, Tls::Active) => Next::Reply(reply::tls_already()),
            (State::Greeted(_, Transaction::None), Tls::Offered) => Next::StartTls(reply::start_tls()),
            (State::Greeted(..), Tls::Offered) => Next::Reply(reply::in_transaction()),
        }
    }

    fn auth(&self, mechanism: &str, initial: Option<Initial>) -> Next {
        Next::Reply(match &self.state {
            _ if self.terms.mechanisms.is_empty() => reply::unknown_command(),
            State::Connected => reply::greet_first(),
            // RFC 4954 §4: it is an extension, and permitted outside of transactions, once.
            State::Greeted(Hello { extended: false, .. }, _) => reply::greet_first(),
            State::Greeted(_, Transaction::None) if self.user.is_some() => reply::logged_in_already(),
            State::Greeted(_, Transaction::None) if !self.may_log_in() => reply::log_in_under_tls(),
            State::Greeted(_, Transaction::None) => {
                match self.terms.mechanisms.iter().find(|offered| offered.eq_ignore_ascii_case(mechanism)) {
                    Some(mechanism) => return Next::Auth { mechanism, initial },
                    None => reply::no_such_mechanism(),
                }
            }
            State::Greeted(..) => reply::in_transaction(),
        })
    }

    fn mail(&mut self, path: ReversePath, parameters: MailParameters, policy: &dyn Policy) -> Reply {
        match &self.state {
            State::Connected => return reply::greet_first(),
            State::Greeted(_, Transaction::None) => {}
            State::Greeted(..) => return reply::nested_mail(),
        }
        if self.terms.submission && self.user.is_none() {
            return if self.may_log_in() { reply::log_in_first() } else { reply::start_tls_first() };
        }
        if parameters.auth && self.terms.mechanisms.is_empty() {
            return reply::bad_parameter(false, ParameterError::Unknown("AUTH".to_owned()));
        }
        if parameters.require_tls && !self.is_under_tls() {
            return reply::require_tls_in_clear();
        }
        if let Err(refusal) = policy.sender(&path, &parameters, self.user.as_ref()) {
            return refusal;
        }
        // RFC 4954 §5: whoever it names may not have said so.
        let parameters = MailParameters { auth: false, ..parameters };
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
        let address = match policy.recipient(&rcpt.path, &envelope.reverse_path, self.user.as_ref()) {
            Ok(address) => address,
            Err(refusal) => return refusal,
        };
        let recipient = Recipient { address, parameters: policy.heeded(rcpt.parameters, self.user.as_ref()) };
        if !envelope.recipients.contains(&recipient) {
            let memory = envelope.memory() + recipient.memory();
            if envelope.recipients.len() >= policy.recipients() || !policy.envelope_may_have(memory) {
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
mod tests;
