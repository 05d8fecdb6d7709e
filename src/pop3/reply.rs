//! Every answer of the POP3 server in one place, so that no two causes share a text (RFC 1939 §3).
//!
//! An error that begins with a bracket has a response code (RFC 2449 §8): `[IN-USE]` of RFC 2449 §8.1.2, `[AUTH]`,
//! `[SYS/TEMP]` and `[SYS/PERM]` of RFC 3206. Everything else here is words, and no client reads meaning into them.

use std::borrow::Cow;
use std::fmt::Display;

use super::command::Refusal;

/// The first line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Cow<'static, str>);

impl Answer {
    /// Whether it says no.
    pub fn is_error(&self) -> bool {
        self.0.starts_with("-ERR")
    }

    /// The octets for the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])*
        pub const $name: Answer = Answer(Cow::Borrowed($text));)*

        #[cfg(test)]
        const FIXED: &[Answer] = &[$($name),*];
    };
}

answers! {
    /// To CAPA; the list follows.
    CAPABILITIES = "+OK the list follows";
    /// To USER, whether there is one or not.
    SEND_PASSWORD = "+OK now the password";
    /// To NOOP.
    NOTHING_DONE = "+OK";
    /// To DELE.
    MARKED = "+OK deleted once you say QUIT";
    /// To RSET.
    UNMARKED = "+OK nothing is marked as deleted";
    /// To UIDL; the list follows.
    UIDS = "+OK unique-ids follow";
    /// To TOP; the lines follow.
    TOP = "+OK the top follows";
    /// To QUIT.
    BYE = "+OK goodbye";
    /// To a verb that is not known.
    UNKNOWN = "-ERR no such command";
    /// To a known verb with arguments it does not take.
    BAD_ARGUMENTS = "-ERR these are not the arguments of this command";
    /// To a line that is too long.
    TOO_LONG = "-ERR line too long";
    /// To a line that a bare LF ended; the connection closes, because the peer's lines are not ours.
    BARE_LINE_FEED = "-ERR lines end with CR LF; closing";
    /// To a line that went on and on; the connection closes.
    ENDLESS = "-ERR that line has no end; closing";
    /// To STLS, before the handshake.
    BEGIN_TLS = "+OK begin TLS now";
    /// To STLS under TLS.
    TLS_ALREADY = "-ERR this connection is under TLS already";
    /// To STLS within a session (RFC 2595 §4).
    TLS_TOO_LATE = "-ERR TLS begins before the login";
    /// To AUTH by a mechanism that is not there, or by none.
    NO_MECHANISM = "-ERR no such mechanism; CAPA lists those there are";
    /// To an exchange that the client ended with a star.
    CANCELLED = "-ERR the login was cancelled";
    /// To a response in an exchange that can't be read.
    UNREADABLE = "-ERR that is no base64, or not what the mechanism wants";
    /// To a response in an exchange that is too long.
    RESPONSE_TOO_LONG = "-ERR the response is too long";
    /// To a login from a client that may not send its password in clear.
    NO_CLEARTEXT = "-ERR [SYS/PERM] passwords in clear are not taken from your address";
    /// To PASS without USER.
    USER_FIRST = "-ERR say USER first";
    /// To a command that needs a login.
    LOG_IN_FIRST = "-ERR log in first";
    /// To a login within a session.
    LOGGED_IN = "-ERR you are logged in already";
    /// To a login with a wrong name or a wrong password; nobody learns which (RFC 3206 §4).
    WRONG = "-ERR [AUTH] wrong name or password";
    /// As [`WRONG`], once too often; the connection closes.
    WRONG_TOO_OFTEN = "-ERR [AUTH] wrong name or password, too often; closing";
    /// To a login from an address that made too many wrong ones; the connection closes.
    SHUT_OUT = "-ERR [SYS/TEMP] too many wrong passwords from your address; try again later";
    /// To a login while another session has the mailbox.
    IN_USE = "-ERR [IN-USE] another session has this mailbox open";
    /// To a login when too many others are being checked.
    BUSY = "-ERR [SYS/TEMP] too many logins at once; try again";
    /// To a login whose check would take more memory than there is.
    TOO_DEAR = "-ERR [SYS/PERM] this server has too little memory to check that password; ask the postmaster for another";
    /// To a login when the mailbox can't be read.
    CANNOT_OPEN = "-ERR [SYS/TEMP] the mailbox cannot be read right now";
    /// To who has not logged in after all that time; the connection closes.
    LOGIN_TOO_LATE = "-ERR the login took too long; closing";
    /// To the number of a message that is not there, or marked as deleted.
    NO_SUCH_MESSAGE = "-ERR no such message";
    /// To RETR or TOP of a message that another reader has removed meanwhile.
    GONE = "-ERR the message is gone; another reader has removed it";
    /// To RETR or TOP of a message whose file can't be read.
    CANNOT_READ = "-ERR [SYS/TEMP] the message cannot be read right now";
    /// To QUIT when some messages could not be removed (RFC 1939 §6).
    NOT_REMOVED = "-ERR [SYS/TEMP] some messages not removed";
    /// After too many errors; the connection closes.
    TOO_MANY_ERRORS = "-ERR too many errors; closing";
    /// At shutdown; nothing was deleted.
    STOPPING = "-ERR [SYS/TEMP] the server is stopping";
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        match refusal {
            Refusal::Unknown => UNKNOWN,
            Refusal::Arguments => BAD_ARGUMENTS,
            Refusal::TooLong => TOO_LONG,
        }
    }
}

/// The first line of all. It holds no timestamp in brackets: APOP is not offered (RFC 1939 §7).
pub fn greeting(hostname: impl Display) -> Answer {
    Answer(format!("+OK {hostname} POP3 Postrider").into())
}

/// To AUTH and what follows it: the next challenge, in base64 (RFC 5034 §4).
pub fn challenge(text: &str) -> Answer {
    Answer(format!("+ {text}").into())
}

/// To PASS, or at the end of AUTH.
pub fn welcome(messages: usize, octets: u64) -> Answer {
    Answer(format!("+OK {messages} messages, {octets} octets").into())
}

/// To STAT, and to LIST or UIDL of one message: two numbers, or a number and a unique-id.
pub fn pair(first: impl Display, second: impl Display) -> Answer {
    Answer(format!("+OK {first} {second}").into())
}

/// To LIST; the list follows.
pub fn sizes(messages: usize, octets: u64) -> Answer {
    Answer(format!("+OK {messages} messages ({octets} octets)").into())
}

/// To RETR; the message follows.
pub fn message(octets: u64) -> Answer {
    Answer(format!("+OK {octets} octets").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_says_yes_or_no_and_stands_once() {
        let mut texts: Vec<&str> = FIXED.iter().map(|answer| answer.0.as_ref()).collect();
        for text in &texts {
            assert!(text.starts_with("+OK") || text.starts_with("-ERR "), "{text}");
            assert!(text.len() + 2 <= 512, "RFC 1939 §3");
        }
        texts.sort_unstable();
        assert!(texts.windows(2).all(|two| two[0] != two[1]));
    }

    #[test]
    fn response_codes_are_those_of_the_rfcs() {
        for text in FIXED.iter().filter_map(|answer| answer.0.strip_prefix("-ERR [")) {
            let code = text.split(']').next().unwrap();
            assert!(["AUTH", "IN-USE", "SYS/TEMP", "SYS/PERM"].contains(&code), "{text}");
        }
    }
}
