//! The POP3 server: one thread a connection, which hands a Maildir to its owner (RFC 1939, 2449, 3206).
//!
//! | file | room |
//! | --- | --- |
//! | `command` | a line becomes a command: pure |
//! | `reply` | every answer there is |
//! | `session` | a command becomes what to do next: pure |
//! | `listing` | the messages of a mailbox, numbered: pure |
//! | `message` | how large a message is on the wire, and where its top ends: pure |
//! | `mailbox` | the files behind a listing |
//! | `login` | who may open which mailbox, and who has it open |
//! | `connection` | reads, writes and waits |

pub mod command;
pub mod connection;
mod listing;
mod login;
mod mailbox;
pub mod message;
mod reply;
pub mod session;
