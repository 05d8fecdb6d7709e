//! Postrider, the mail server that a small host can read.
//!
//! SMTP comes in, each message becomes one plain file in a spool directory, a fixed pool of threads delivers it to a
//! local Maildir or to the next host, and POP3 hands the mailbox to its owner.
//!
//! A module uses only the layers below its own (`tests/tidy.rs` holds this):
//!
//! | layer | modules |
//! | --- | --- |
//! | process | [`daemon`], [`cli`] |
//! | work | [`smtpd`], [`pop3`], [`delivery`]: one thread body each; they never name one another |
//! | engines | [`spool`], [`maildir`], [`relay`] |
//! | world | [`config`], [`users`], [`aliases`], [`route`], [`auth`], [`dns`], [`tls`], [`maillog`] |
//! | vocabulary | [`mail`]: pure values, no I/O, no clock, no log |
//! | support | [`io`], [`limits`]: know no mail |

pub mod aliases;
pub mod auth;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod dns;
pub mod io;
pub mod limits;
pub mod mail;
pub mod maildir;
pub mod maillog;
pub mod pop3;
pub mod relay;
pub mod route;
pub mod smtpd;
pub mod spool;
pub mod tls;
pub mod users;
