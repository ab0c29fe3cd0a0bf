//! Bound the allocator, parse, run, turn the outcome into the exit code; nothing else.

fn main() -> std::process::ExitCode {
    curec::telemetry::bound_arenas();
    std::process::ExitCode::from(curec::cli::main())
}
