//! The `qconv` binary; all of it is in the library.

fn main() -> std::process::ExitCode {
    qconv::cli::main()
}
