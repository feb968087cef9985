//! Regenerates stack.lock beside this crate's stack.toml: `cargo run -p agentgov-testenv --example lock`.

use std::io::Write;
use std::path::Path;

use agentgov_testenv::{Error, Event, lock};

fn main() -> Result<(), Error> {
    lock(Path::new(env!("CARGO_MANIFEST_DIR")), &|event| {
        if let Event::Downloading { part, what, .. } = event {
            let _ = writeln!(std::io::stderr(), "{part}: {what}");
        }
    })
}
