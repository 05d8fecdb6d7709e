//! What a run of the command came to, and what is expected of it.

use std::process::Output;

/// What a run came to.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Ended with this code, and no panic.
    pub fn is(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Ended with this code and a message that has these words.
    pub fn fails(self, code: i32, words: &str) -> Ended {
        let ended = self.is(code);
        assert!(ended.err.starts_with("postrider: ") && ended.err.contains(words), "{words}\n{ended:#?}");
        ended
    }

    /// Its output has these words.
    pub fn says(self, words: &str) -> Ended {
        assert!(self.out.contains(words), "{words}\n{self:#?}");
        self
    }

    /// Its output does not have these words.
    pub fn says_not(self, words: &str) -> Ended {
        assert!(!self.out.contains(words), "{words}\n{self:#?}");
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |octets| String::from_utf8(octets).unwrap();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
