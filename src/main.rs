//! The command `postrider`: everything is in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    postrider::cli::run(std::env::args_os().skip(1))
}
