//! Where in the dialogue a session is: how long it waits there, and in which words it says what went wrong.

use std::time::Duration;

use crate::limits;

/// How long a next hop is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For anything after it, where RFC 5321 §4.5.3.2 does not ask for less.
    pub reply: Duration,
}

impl Default for Patience {
    /// As RFC 5321 §4.5.3.2 asks.
    fn default() -> Patience {
        Patience { connect: limits::CONNECT_TIMEOUT, reply: limits::RELAY_END_REPLY }
    }
}

/// Where in the dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Until TCP has a connection.
    Connect,
    /// Until its first reply.
    Greeting,
    /// EHLO, or HELO.
    Hello,
    /// STARTTLS and the handshake after it, or the handshake that comes first.
    Tls,
    /// AUTH.
    Auth,
    /// RSET, where an earlier transaction did not come to its end.
    Reset,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, until its 354.
    Data,
    /// The message, but for its last octet.
    Message,
    /// The final reply. From here on the hop may have the message whatever we see.
    End,
    /// QUIT.
    Quit,
}

impl Stage {
    /// How long this stage may take: a connection, a reply from its first octet to its last, a block of the message
    /// (RFC 5321 §4.5.3.2).
    pub fn timeout(self, patience: &Patience) -> Duration {
        let asked = match self {
            Stage::Connect => return patience.connect,
            Stage::Greeting | Stage::Hello | Stage::Auth | Stage::Reset | Stage::Mail | Stage::Rcpt => {
                limits::RELAY_REPLY
            }
            Stage::Tls => limits::TLS_HANDSHAKE_TIMEOUT,
            Stage::Data => limits::RELAY_DATA_REPLY,
            Stage::Message => limits::RELAY_BLOCK_TIMEOUT,
            Stage::End => limits::RELAY_END_REPLY,
            Stage::Quit => limits::RELAY_QUIT_REPLY,
        };
        asked.min(patience.reply)
    }

    /// What we do meanwhile, in words that follow "while".
    pub(super) fn words(self) -> &'static str {
        match self {
            Stage::Connect => "we connected to it",
            Stage::Greeting => "we waited for its greeting",
            Stage::Tls => "we agreed with it on TLS",
            Stage::Hello => "we waited for its reply to EHLO or HELO",
            Stage::Auth => "we logged in there",
            Stage::Reset => "we waited for its reply to RSET",
            Stage::Mail => "we waited for its reply to MAIL",
            Stage::Rcpt => "we waited for its reply to RCPT",
            Stage::Data => "we waited for its reply to DATA",
            Stage::Message => "we sent the message",
            Stage::End => "we waited for its reply to the message, which it may have taken",
            Stage::Quit => "we waited for its reply to QUIT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_waits_as_long_as_it_should_and_never_longer_than_wanted() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let rfc = [
            (Stage::Greeting, minutes(5)),
            (Stage::Tls, minutes(1)),
            (Stage::Hello, minutes(5)),
            (Stage::Auth, minutes(5)),
            (Stage::Mail, minutes(5)),
            (Stage::Rcpt, minutes(5)),
            (Stage::Data, minutes(2)),
            (Stage::Message, minutes(3)),
            (Stage::End, minutes(10)),
        ];
        let hasty = Patience { connect: Duration::from_secs(7), reply: Duration::from_secs(3) };
        for (stage, asked) in rfc {
            assert_eq!(stage.timeout(&Patience::default()), asked, "{stage:?}");
            assert_eq!(stage.timeout(&hasty), hasty.reply, "{stage:?}");
        }
        assert_eq!(Stage::Connect.timeout(&hasty), hasty.connect);
    }
}
