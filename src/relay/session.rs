//! A session with a next hop, from the connection to QUIT.
//!
//! It is open and greeted as long as the value lives; dropped, it only closes. After anything that leaves the dialogue in
//! doubt it is not reusable: what the hop says next could answer anything.

use super::offers::Offers;
use super::stage::Stage;
use super::wire::{Said, Wire};
use super::{Peer, Refusal};

/// An open session.
#[derive(Debug)]
pub struct Session {
    pub(super) wire: Wire,
    pub(super) offers: Offers,
    pub(super) transactions: u32,
    /// The last transaction did not end with the hop's yes: it is to be told that it is over.
    pub(super) unfinished: bool,
    /// Both sides know where they are.
    pub(super) in_step: bool,
}

impl Session {
    /// Connects, waits for the greeting, and says EHLO, or HELO to a hop that does not know it (RFC 5321 §3.2).
    pub fn open(peer: &Peer<'_>) -> Result<Session, Refusal> {
        let mut wire = Wire::connect(peer)?;
        let greeting = wire.reply(Stage::Greeting)?;
        accept(Stage::Greeting, wire.judge(Stage::Greeting, &greeting, 2)?)?;
        let answer = wire.ask(Stage::Hello, &format!("EHLO {}\r\n", peer.hello))?;
        let offers = if answer.class() == 5 {
            let answer = wire.ask(Stage::Hello, &format!("HELO {}\r\n", peer.hello))?;
            accept(Stage::Hello, wire.judge(Stage::Hello, &answer, 2)?)?;
            Offers::default()
        } else {
            accept(Stage::Hello, wire.judge(Stage::Hello, &answer, 2)?)?;
            Offers::read(&answer)
        };
        Ok(Session { wire, offers, transactions: 0, unfinished: false, in_step: true })
    }

    /// What the hop offers; nothing, if only HELO was to its liking.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Whether another message may be sent in this session.
    pub fn is_reusable(&self) -> bool {
        self.in_step && !self.wire.has_pending()
    }

    /// Whether the hop still waits for the next command, without waiting for it: one that closed has, or said 421
    /// meanwhile, does not.
    pub fn is_alive(&mut self) -> bool {
        self.in_step && self.wire.is_quiet()
    }

    /// How many transactions there were.
    pub fn messages(&self) -> u32 {
        self.transactions
    }

    /// Takes leave, and waits for the reply shortly (RFC 5321 §4.1.1.10). Nothing depends on it.
    pub fn quit(mut self) {
        if self.is_reusable() {
            let _ = self.wire.ask(Stage::Quit, "QUIT\r\n");
        }
    }
}

fn accept(stage: Stage, said: Said) -> Result<(), Refusal> {
    match said {
        Said::Yes(_) => Ok(()),
        Said::No(outcome) => Err(Refusal { stage, outcome }),
    }
}
