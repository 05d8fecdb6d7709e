//! What the fuzzers check: a function of octets for each place where foreign octets come in, and the seeds it begins with.
//!
//! `tests/fuzz/fuzz.rs` gives them what libFuzzer invents; `tests/regressions.rs` gives them, on every build, the seeds and
//! whatever was found. Each holds more than that nothing panics: what was printed is read again as the same, the same
//! octets mean the same however they are cut, and what comes out is bounded and can break no line.
#![allow(missing_docs)]

pub mod address;
pub mod aliases;
pub mod command;
pub mod configuration;
pub mod dialogues;
pub mod dns_answer;
pub mod drop_file;
pub mod framing;
pub mod header;
pub mod pieces;
pub mod pop3;
pub mod remote_reply;
pub mod sasl;
pub mod session;
pub mod state;
pub mod users;

/// One place where foreign octets come in.
pub struct Target {
    pub name: &'static str,
    /// Panics at what must not be.
    pub check: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "address", check: address::check, seeds: address::seeds },
    Target { name: "aliases", check: aliases::check, seeds: aliases::seeds },
    Target { name: "command", check: command::check, seeds: command::seeds },
    Target { name: "configuration", check: configuration::check, seeds: configuration::seeds },
    Target { name: "dns_answer", check: dns_answer::check, seeds: dns_answer::seeds },
    Target { name: "drop_file", check: drop_file::check, seeds: drop_file::seeds },
    Target { name: "framing", check: framing::check, seeds: framing::seeds },
    Target { name: "header", check: header::check, seeds: header::seeds },
    Target { name: "pop3", check: pop3::check, seeds: pop3::seeds },
    Target { name: "remote_reply", check: remote_reply::check, seeds: remote_reply::seeds },
    Target { name: "sasl", check: sasl::check, seeds: sasl::seeds },
    Target { name: "session", check: session::check, seeds: session::seeds },
    Target { name: "state", check: state::check, seeds: state::seeds },
    Target { name: "users", check: users::check, seeds: users::seeds },
];

/// Whether a text can break no line and move no terminal's cursor.
pub fn is_one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// Whether each CR stands before a LF, and each LF behind a CR.
pub fn has_whole_line_ends(octets: &[u8]) -> bool {
    octets.iter().enumerate().all(|(at, octet)| match octet {
        b'\r' => octets.get(at + 1) == Some(&b'\n'),
        b'\n' => at > 0 && octets[at - 1] == b'\r',
        _ => true,
    })
}
