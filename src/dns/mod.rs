//! Names and addresses of other hosts.
//!
//! [`Resolver`] asks the DNS where mail goes and waits for a bounded time; what it says decides over mail, so that a
//! fault is never taken for an answer. [`ReverseNames`] asks the system, which knows /etc/hosts too, for names that
//! only stand in trace fields.
//!
//! ```text
//!   names.rs      the names of clients, by the system's resolver
//!   resolver.rs   what may be asked
//!   upstream.rs   the servers in turn, and aliases
//!   settings.rs   which servers: /etc/resolv.conf
//!   hosts.rs      names that only this system knows: /etc/hosts
//!   cache.rs      answers for as long as they hold
//!   transport.rs  one try with one server, by UDP and TCP
//!   answer.rs     what the octets of an answer mean: pure
//!   record.rs     what a record holds: pure
//!   found.rs      what is known, or why nothing is
//! ```

pub mod answer;
mod cache;
#[cfg(test)]
mod fake;
mod found;
mod hosts;
mod names;
mod record;
mod resolver;
mod settings;
mod transport;
mod upstream;

pub use found::NoAnswer;
pub use hosts::HOSTS;
pub use names::{ReverseNameThread, ReverseNames, reverse_names};
pub use record::{Mx, Record, Tlsa};
pub use resolver::{RESOLV_CONF, Resolver};
pub use settings::ReadFile;
