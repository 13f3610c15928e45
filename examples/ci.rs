//! `cargo ci`: runs exactly what `.ci/run` runs, wherever it is called from.

use std::process::{Command, exit};

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run");
    let status = Command::new("bash").arg(script).current_dir(env!("CARGO_MANIFEST_DIR")).status();
    match status {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(e) => {
            eprintln!("cannot start bash {script}: {e}");
            exit(1);
        }
    }
}
