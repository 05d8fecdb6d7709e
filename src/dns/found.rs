//! What is known about a question: records, or why there are none.
//!
//! That something is not there is knowledge, and final; a fault is not.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::record::Record;

/// Shared with the cache.
pub(super) type Known = Result<Arc<Found>, NoAnswer>;

/// The records that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub records: Vec<Record>,
    /// Whether they were checked by a server that we trust.
    pub authenticated: bool,
}

/// Why there are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There is no such name (NXDOMAIN), nor any below it (RFC 8020).
    NoSuchName,
    /// The name is there, and has no records of this type.
    NoRecords,
    /// Nobody knows yet: what was asked, whom, and what happened, in words. Another time it may be otherwise.
    Fault(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoAnswer::NoSuchName => out.write_str("there is no such name in the DNS"),
            NoAnswer::NoRecords => out.write_str("the DNS has no such records for the name"),
            NoAnswer::Fault(words) => write!(out, "the DNS gave no answer: {words}"),
        }
    }
}

impl Error for NoAnswer {}
