//! The commands before a message, and what the replies to them decide.
//!
//! With PIPELINING they are written together, DATA too, and their replies read in order (RFC 2920 §3.1); without it each
//! waits for the one before. A refused recipient is one outcome and no more.

use super::Refusal;
use super::offers::Offers;
use super::reply::Answer;
use super::stage::Stage;
use super::transaction::{Progress, Transaction};
use super::wire::{Said, Wire};
use crate::limits;
use crate::mail::envelope::Recipient;
use crate::mail::outcome::{Cause, Outcome};
use crate::mail::parameter::{MailParameters, RcptParameters};

/// A command and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    step: Step,
    /// With its CR LF.
    pub line: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Reset,
    Mail,
    /// The recipient at this place of the transaction.
    Rcpt(usize),
    Data,
}

impl Command {
    /// Where in the dialogue it is.
    pub fn stage(&self) -> Stage {
        match self.step {
            Step::Reset => Stage::Reset,
            Step::Mail => Stage::Mail,
            Step::Rcpt(_) => Stage::Rcpt,
            Step::Data => Stage::Data,
        }
    }
}

/// What the hop has said of one transaction's envelope.
#[derive(Debug, Default)]
pub struct Envelope {
    /// The recipients it accepted, by their place.
    pub accepted: Vec<usize>,
    /// It said 354 and waits for a message.
    pub go_ahead: bool,
    sender_refused: bool,
    surplus: Vec<(usize, Cause)>,
}

/// The commands of one transaction for the recipients in `batch`. A message of `size` octets in chunks takes no DATA
/// (RFC 3030 §3).
pub fn commands(
    transaction: &Transaction<'_>,
    batch: &[usize],
    size: u64,
    offers: &Offers,
) -> impl Iterator<Item = Command> {
    let mail = Command { step: Step::Mail, line: mail_line(transaction, size, offers) };
    let recipients = batch.iter().filter_map(|&at| {
        let line = rcpt_line(transaction.recipients.get(at)?, transaction.parameters.smtputf8, offers);
        Some(Command { step: Step::Rcpt(at), line })
    });
    let data = (!offers.chunking).then(|| Command { step: Step::Data, line: "DATA\r\n".to_owned() });
    std::iter::once(mail).chain(recipients).chain(data)
}

/// The command that ends a transaction which came to no end of its own.
pub fn reset() -> Command {
    Command { step: Step::Reset, line: "RSET\r\n".to_owned() }
}

/// How many of `commands` may be sent before the first is answered.
pub fn window(commands: &[Command], offers: &Offers) -> usize {
    if !offers.pipelining {
        return commands.len().min(1);
    }
    let mut octets = 0;
    let fits = |command: &&Command| {
        octets += command.line.len();
        octets <= limits::RELAY_PIPELINE
    };
    commands.iter().take_while(fits).count().max(1).min(commands.len())
}

fn mail_line(transaction: &Transaction<'_>, size: u64, offers: &Offers) -> String {
    let wanted = transaction.parameters;
    let parameters = MailParameters {
        size: None,
        body: wanted.body.filter(|_| offers.eight_bit_mime),
        smtputf8: wanted.smtputf8 && offers.smtputf8,
        // Whoever does not offer it is not sent such a message at all.
        require_tls: wanted.require_tls,
        ret: wanted.ret.filter(|_| offers.dsn),
        envid: wanted.envid.clone().filter(|_| offers.dsn),
        // RFC 4954 §5: we have logged in, and it was not we who wrote the message.
        auth: offers.logged_in,
    };
    let size = offers.size.map(|_| format!(" SIZE={size}")).unwrap_or_default();
    format!("MAIL FROM:{}{size}{parameters}\r\n", transaction.reverse_path)
}

fn rcpt_line(recipient: &Recipient, smtputf8: bool, offers: &Offers) -> String {
    let mut parameters = RcptParameters::default();
    if offers.dsn {
        parameters = recipient.parameters.clone();
        if let Some(orcpt) = parameters.orcpt.as_mut().filter(|orcpt| !smtputf8 && !orcpt.address.is_ascii()) {
            orcpt.address = escape(&orcpt.address);
        }
    }
    format!("RCPT TO:<{}>{parameters}\r\n", recipient.address)
}

/// A `utf-8` address for hops that take ASCII only (RFC 6533 §3, utf-8-addr-xtext).
fn escape(address: &str) -> String {
    let mut escaped = String::new();
    for letter in address.chars() {
        match letter {
            letter if letter.is_ascii() => escaped.push(letter),
            letter => escaped.push_str(&format!("\\x{{{:X}}}", u32::from(letter))),
        }
    }
    escaped
}

impl Envelope {
    /// Whether `next` need not be sent: nobody would get the message.
    pub fn is_over(&self, next: &Command) -> bool {
        self.sender_refused || (next.step == Step::Data && self.accepted.is_empty())
    }

    /// Takes the reply to `command`. What it decides stands in `progress` then; an error ends the session.
    pub fn hear(
        &mut self,
        command: &Command,
        answer: &Answer,
        wire: &Wire,
        progress: &mut Progress,
    ) -> Result<(), Refusal> {
        let stage = command.stage();
        let hoped = if command.step == Step::Data { 354 } else { 2 };
        match (command.step, wire.judge(stage, answer, hoped)?) {
            (Step::Reset | Step::Mail, Said::Yes(_)) => {}
            (Step::Reset, Said::No(_)) => return Err(wire.out_of_step(stage, "refused it")),
            (Step::Mail, Said::No(outcome)) => {
                self.sender_refused = true;
                progress.decide_rest(&outcome);
            }
            (Step::Rcpt(_), Said::Yes(_)) if self.sender_refused => {
                return Err(wire.out_of_step(stage, "accepted a recipient after it had refused the sender"));
            }
            (Step::Rcpt(_), Said::No(_)) if self.sender_refused => {}
            (Step::Rcpt(at), Said::Yes(_)) => self.accepted.push(at),
            (Step::Rcpt(at), Said::No(outcome)) => self.refuse(at, outcome, progress),
            (Step::Data, said) => {
                self.close(progress);
                match said {
                    Said::Yes(_) => self.go_ahead = true,
                    Said::No(outcome) => self.accepted.drain(..).for_each(|at| progress.decide(at, outcome.clone())),
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, at: usize, outcome: Outcome, progress: &mut Progress) {
        match outcome {
            // RFC 5321 §4.5.3.1.10: 552 is what 452 should have been.
            Outcome::Deferred(cause) | Outcome::Failed(cause) if matches!(cause.reply.code(), 452 | 552) => {
                // X.2.X is about this mailbox, which will be no emptier in the next transaction (RFC 3463 §3.3).
                match cause.reply.enhanced().is_some_and(|enhanced| enhanced.1 == 2) {
                    true => progress.decide(at, Outcome::Deferred(cause)),
                    false => self.surplus.push((at, cause)),
                }
            }
            outcome => progress.decide(at, outcome),
        }
    }

    /// All recipients were answered: those that were too many go in the next transaction, if there was room for any.
    pub fn close(&mut self, progress: &mut Progress) {
        for (at, cause) in self.surplus.drain(..) {
            match self.accepted.is_empty() {
                true => progress.decide(at, Outcome::Deferred(cause)),
                false => progress.put_back(at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::ReversePath;

    const ALL: Offers = Offers {
        size: Some(u64::MAX),
        eight_bit_mime: true,
        pipelining: true,
        smtputf8: true,
        chunking: false,
        dsn: true,
        require_tls: true,
        logged_in: false,
    };

    fn lines(parameters: &str, offers: &Offers) -> String {
        let recipient = |address: &str, parameters: &str| Recipient {
            address: address.parse().unwrap(),
            parameters: RcptParameters::parse(parameters).unwrap(),
        };
        let recipients =
            [recipient("b@c.example", "NOTIFY=NEVER ORCPT=rfc822;b+2B@c"), recipient("d@e.example", "ORCPT=utf-8;ü+x")];
        let reverse_path: ReversePath = "<a@b.example>".parse().unwrap();
        let parameters = MailParameters::parse(parameters).unwrap();
        let transaction = Transaction { reverse_path: &reverse_path, recipients: &recipients, parameters: &parameters };
        commands(&transaction, &[0, 1], 77, offers).map(|command| command.line).collect()
    }

    #[test]
    fn parameters_are_sent_to_hops_that_know_them() {
        assert_eq!(
            lines("SIZE=1 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x", &ALL),
            "MAIL FROM:<a@b.example> SIZE=77 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x\r\n\
             RCPT TO:<b@c.example> NOTIFY=NEVER ORCPT=rfc822;b+2B@c\r\n\
             RCPT TO:<d@e.example> ORCPT=utf-8;ü+x\r\nDATA\r\n"
        );
        let logged_in = Offers { logged_in: true, ..Offers::default() };
        assert!(lines("", &logged_in).starts_with("MAIL FROM:<a@b.example> AUTH=<>\r\n"));
        assert!(lines("AUTH=<>", &ALL).starts_with("MAIL FROM:<a@b.example> SIZE=77\r\n"));
        assert!(lines("", &ALL).contains("ORCPT=utf-8;\\x{FC}+x\r\n"), "a transaction without SMTPUTF8 is ASCII");
        assert_eq!(
            lines("BODY=8BITMIME RET=HDRS ENVID=x", &Offers { chunking: true, ..Offers::default() }),
            "MAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nRCPT TO:<d@e.example>\r\n"
        );
    }

    #[test]
    fn no_more_is_under_way_than_the_buffers_hold() {
        let long = Command { step: Step::Mail, line: "x".repeat(limits::RELAY_PIPELINE / 4) };
        let commands = vec![long; 9];
        assert_eq!(window(&commands, &ALL), 4);
        assert_eq!(window(&commands[..3], &ALL), 3);
        assert_eq!(window(&commands, &Offers::default()), 1);
        let longer = Command { step: Step::Mail, line: "x".repeat(2 * limits::RELAY_PIPELINE) };
        assert_eq!(window(&[longer], &ALL), 1);
        assert_eq!(window(&[], &ALL), 0);
    }
}
