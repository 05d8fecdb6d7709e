//! The server as one process.

use std::fmt;
use std::path::Path;

/// What keeps the server from starting.
#[derive(Debug)]
pub struct StartError;

impl StartError {
    /// As sysexits(3) has it.
    pub fn exit_code(&self) -> u8 {
        69
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the server is not built yet")
    }
}

/// Runs the server until it is told to stop.
pub fn serve(_config: &Path) -> Result<(), StartError> {
    Err(StartError)
}
