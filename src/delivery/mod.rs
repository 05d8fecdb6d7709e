//! Delivery: a fixed pool of threads, each of which takes what is due, tries it once, and writes down what became of it.
//!
//! | file | room |
//! | --- | --- |
//! | `plan` | what an attempt has to do: pure |
//! | `attempt` | doing it, target by target |
//! | `local` | a copy into a mailbox here |
//! | `group` | which targets go out together: pure |
//! | `remote` | one group of targets, from finding the next hop to their outcomes |
//! | `refused` | why servers were of no use, and what that means together: pure |
//! | `trust` | what a next hop has to prove, and who logs in there |
//! | `hops` | which next hop has room, and which is down: pure |
//! | `content` | what a next hop gets of a message |
//! | `report` | what senders are told |
//! | `storm` | how often they are told |
//! | `patience` | when the next attempt comes: pure |

mod attempt;
mod content;
mod group;
mod hops;
mod local;
pub mod patience;
mod plan;
mod refused;
mod remote;
mod report;
mod storm;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::config::Delivery;
use crate::dns::Resolver;
use crate::io::secrets::Secrets;
use crate::limits;
use crate::relay::Pool;
use crate::route::CurrentSite;
use crate::spool::Spool;
use remote::Remote;
use storm::Storm;
use trust::Trust;

/// What the delivery threads share.
#[derive(Debug)]
pub struct Deliverer {
    remote: Remote,
    storm: Storm,
    is_over: AtomicBool,
}

impl Deliverer {
    /// For a pool of as many threads as `settings` says. Logins at other hosts get their secrets from `secrets`.
    pub fn new(settings: &Delivery, resolver: Arc<Resolver>, secrets: Arc<dyn Secrets>) -> Deliverer {
        let (hops, trust) = (hops::Hops::new(settings), Trust::new(secrets));
        let remote = Remote { hops, pool: Pool::default(), resolver, trust };
        Deliverer { remote, storm: Storm::default(), is_over: AtomicBool::new(false) }
    }

    /// The body of one delivery thread: until the spool is stopped.
    pub fn run(&self, spool: &Spool, site: &CurrentSite) {
        while let Some(claim) = spool.claim_due() {
            attempt::attempt(claim, &site.get(), self);
        }
    }

    /// The body of the one thread that ends sessions with other hosts that nobody uses: until [`Deliverer::end`], and then
    /// all of them. Unparked, it looks at once.
    pub fn tend(&self, spool: &Spool, site: &CurrentSite) {
        while !self.is_over.load(Ordering::SeqCst) {
            thread::park_timeout(limits::WATCH);
            self.remote.tend(&site.get(), spool);
        }
        self.remote.pool.close_all();
    }

    /// Nothing is delivered any more, and no session waits for another message.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}
