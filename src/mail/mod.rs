//! The vocabulary of mail, as pure values: what is parsed at the door and printed at the edge. No I/O, no clock, no log.
//!
//! For each type that has a text form, parsing what was printed gives the same value (property tests hold this).

pub mod address;
pub mod complete;
pub mod dsn;
pub mod encoded_word;
pub mod envelope;
pub mod header;
pub mod letters;
pub mod next_hop;
pub mod outcome;
pub mod parameter;
pub mod queue_id;
pub mod reply;
pub mod rewrite;
pub mod sasl;
pub mod seven_bit;
pub mod srs;
