//! What became of one attempt to deliver to one target: three outcomes, never two, each with its evidence.

use std::fmt;

use super::reply::{Enhanced, Reply};

/// The end of one attempt for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the mailbox, or the next hop has said it is now theirs.
    Delivered(Cause),
    /// Not this time; it will be tried again.
    Deferred(Cause),
    /// Never; the sender is to be told.
    Failed(Cause),
}

/// Who said so, and in which words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The reply of the other host, or the one this host would have given.
    pub reply: Reply,
    /// The host that gave it; `None` for what this one found itself, if only that the other was silent.
    pub host: Option<String>,
}

impl Cause {
    /// Something this host found itself: 250, 451 or 550 by the class of `enhanced`.
    pub fn local(enhanced: Enhanced, text: impl Into<String>) -> Cause {
        let code = match enhanced.0 {
            2 => 250,
            4 => 451,
            _ => 550,
        };
        Cause { reply: Reply::new(code, Some(enhanced), text.into()), host: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reply.fmt(out)
    }
}
