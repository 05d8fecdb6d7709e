//! The SMTP server: one thread a connection, which meets the rest of Postrider only in the spool.
//!
//! | file | room |
//! | --- | --- |
//! | `command` | a line becomes a command: pure |
//! | `session` | a command becomes a reply and what to do next: pure |
//! | `policy` | who may send what to whom |
//! | `room` | memory for envelopes |
//! | `receipt` | the octets of a message on their way into a draft |
//! | `received` | the Received field |
//! | `connection` | reads, writes and waits |

pub mod command;
pub mod connection;
mod policy;
mod receipt;
mod received;
pub mod room;
pub mod session;
