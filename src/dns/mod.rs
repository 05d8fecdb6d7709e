//! Names and addresses of other hosts.
//!
//! [`Resolver`] asks the DNS where mail goes and waits for a bounded time; what it says decides over mail, so that a
//! fault is never taken for an answer. [`ReverseNames`] asks the system, which knows /etc/hosts too, for names that
//! only stand in trace fields.
//!
//! ```text
//!   names.rs      the names of clients, by the system's resolver
//!   resolver.rs   what may be asked, aliases, servers in turn
//!   settings.rs   which servers: /etc/resolv.conf
//!   cache.rs      answers for as long as they hold
//!   transport.rs  one try with one server, by UDP and TCP
//!   answer.rs     what the octets of an answer mean: pure
//! ```

mod answer;
mod cache;
#[cfg(test)]
mod fake;
mod names;
mod resolver;
mod settings;
mod transport;

pub use answer::{Mx, Tlsa};
pub use names::{ReverseNameThread, ReverseNames, reverse_names};
pub use resolver::{NoAnswer, Resolver};
