//! What `check` has to say about one thing: how bad it is, and a sentence with its place and its mend.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// The server runs; it may not do what was meant.
    Warning,
    /// The server, or a part of it, does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is, where, and what would be right.
    pub text: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(text: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, text: text.into() }
    }

    /// Perhaps not what was meant.
    pub fn warning(text: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, text: text.into() }
    }

    /// Wrong.
    pub fn error(text: impl Into<String>) -> Finding {
        Finding { level: Level::Error, text: text.into() }
    }
}
