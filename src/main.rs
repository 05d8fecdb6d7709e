//! The command `postrider`.
fn main() -> std::process::ExitCode {
    let path = std::env::args().nth(3).unwrap_or_default();
    match postrider::daemon::serve(std::path::Path::new(&path)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "postrider: {e}");
            std::process::ExitCode::from(e.exit_code())
        }
    }
}
