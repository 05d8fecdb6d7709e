//! Why a dropped file can't be taken, and how its report says so: the line, what is wrong and what would be right. It
//! quotes nothing of the file, because others than its owner may read it.

use std::fmt;

/// Why a file can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropError {
    /// The line, from 1; 0 is the whole file.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub mend: String,
}

impl fmt::Display for DropError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "line {}: ", self.line)?;
        }
        write!(out, "{}; {}", self.what, self.mend)
    }
}

impl std::error::Error for DropError {}

impl DropError {
    /// What is wrong, and what to do; line 0 is the file as a whole.
    pub fn new(line: usize, what: impl Into<String>, mend: impl Into<String>) -> DropError {
        DropError { line, what: what.into(), mend: mend.into() }
    }
}

/// The text of `NAME.report`; `name` is that of the file beside it.
pub fn report(name: &str, error: &DropError) -> String {
    let place = if error.line > 0 { format!("line {} of {name}", error.line) } else { name.to_owned() };
    let sendable = name.strip_suffix(".bad").unwrap_or(name);
    format!(
        "The message in {name} was not sent to anyone.\n\nWhere:     {place}\nWhat:      {}\nWhat to do: {}\n\n\
         Then: mv {name} {sendable}\nThis report can be removed. The rules are in postrider-spool(5).\n",
        error.what, error.mend
    )
}
