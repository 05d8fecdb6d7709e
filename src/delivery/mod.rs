//! Delivery: a fixed pool of threads, each of which takes what is due, tries it once, and writes down what became of it.
//!
//! | file | room |
//! | --- | --- |
//! | `plan` | what an attempt has to do: pure |
//! | `attempt` | doing it |
//! | `patience` | when the next one comes: pure |

mod attempt;
pub mod patience;
mod plan;

use crate::route::CurrentSite;
use crate::spool::Spool;

/// The body of one delivery thread: until the spool is stopped.
pub fn run(spool: &Spool, site: &CurrentSite) {
    while let Some(claim) = spool.claim_due() {
        attempt::attempt(claim, &site.get());
    }
}
