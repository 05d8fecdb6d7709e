//! Messages for next hops: what the tests of the relay send, and a short way to send it.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use postrider::mail::address::ReversePath;
use postrider::mail::envelope::Recipient;
use postrider::mail::outcome::{Cause, Outcome};
use postrider::mail::parameter::{MailParameters, RcptParameters};
use postrider::relay::{Content, Patience, Peer, Refusal, Security, Sent, Session, Transaction};
use postrider::tls::Level;

/// A message in memory, which may say that it has another size, and break off.
pub struct Letter {
    pub octets: Vec<u8>,
    pub size: u64,
    pub breaks: bool,
    /// How often it was told that all have it.
    pub taken: usize,
}

impl Letter {
    pub fn new(octets: impl Into<Vec<u8>>) -> Letter {
        let octets = octets.into();
        Letter { size: octets.len() as u64, octets, breaks: false, taken: 0 }
    }

    /// Lines of 64 octets, and a shorter one.
    pub fn of_size(size: usize) -> Letter {
        let line = b".23456789012345678901234567890123456789012345678901234567890ab\r\n";
        let mut octets: Vec<u8> = line.iter().copied().cycle().take(size).collect();
        if size >= 2 {
            octets[size - 2..].copy_from_slice(b"\r\n");
        }
        Letter::new(octets)
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is gone"))
    }
}

impl Content for Letter {
    fn size(&self) -> u64 {
        self.size
    }

    fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        Ok(if self.breaks { Box::new(self.octets.chain(Broken)) } else { Box::new(self.octets.as_slice()) })
    }

    fn taken(&mut self) {
        self.taken += 1;
    }
}

/// How long tests wait for a hop that will answer.
pub const LONG: Duration = Duration::from_secs(30);
/// How long they wait for one that will not.
pub const SHORT: Duration = Duration::from_secs(1);

pub fn open(address: SocketAddr, reply: Duration) -> Result<Session, Refusal> {
    let patience = Patience { connect: LONG, reply };
    let security = Security::new("hop.example", Level::Opportunistic).unwrap();
    Session::open(
        &Peer { address, name: "hop.example", is_authentic: true, hello: "mail.example.org", patience },
        &security,
    )
}

pub fn recipients(count: usize) -> Vec<Recipient> {
    let address = |at| format!("r{at}@hop.example").parse().unwrap();
    (0..count).map(|at| Recipient { address: address(at), parameters: RcptParameters::default() }).collect()
}

/// Sends `letter` to so many recipients.
pub fn send(session: &mut Session, count: usize, letter: &mut Letter) -> Sent {
    send_with(session, &recipients(count), "", letter)
}

/// As delivery does it: whoever is undecided after a transaction that ended with a yes is in the next one.
pub fn send_with(session: &mut Session, recipients: &[Recipient], parameters: &str, letter: &mut Letter) -> Sent {
    let reverse_path: ReversePath = "<ann@example.org>".parse().unwrap();
    let parameters = MailParameters::parse(parameters).unwrap();
    let mut all = Sent { outcomes: vec![None; recipients.len()], broke: None };
    loop {
        let open: Vec<usize> = (0..recipients.len()).filter(|at| all.outcomes[*at].is_none()).collect();
        let rest: Vec<Recipient> = open.iter().map(|at| recipients[*at].clone()).collect();
        let transaction = Transaction { reverse_path: &reverse_path, recipients: &rest, parameters: &parameters };
        let sent = session.send(&transaction, letter);
        let is_delivered = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Delivered(_)));
        let goes_on = sent.outcomes.iter().any(is_delivered) && sent.broke.is_none();
        open.iter().zip(sent.outcomes).for_each(|(at, outcome)| all.outcomes[*at] = outcome);
        all.broke = sent.broke;
        if !goes_on || all.outcomes.iter().all(Option::is_some) {
            return all;
        }
    }
}

/// An outcome in short: `delivered 250 …`.
pub fn short(outcome: &Outcome) -> String {
    let (word, cause): (_, &Cause) = match outcome {
        Outcome::Delivered(cause) => ("delivered", cause),
        Outcome::Deferred(cause) => ("deferred", cause),
        Outcome::Failed(cause) => ("failed", cause),
    };
    format!("{word} {cause}")
}

/// The outcomes in short, `-` for what is undecided.
pub fn outcomes(sent: &Sent) -> Vec<String> {
    sent.outcomes.iter().map(|outcome| outcome.as_ref().map_or("-".to_owned(), short)).collect()
}
