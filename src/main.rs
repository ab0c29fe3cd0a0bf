//! Parse, run, turn the outcome into the exit code; nothing else.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(curec::cli::commands::main())
}
