//! Starts a stack, prints its addresses as JSON, and keeps it until stdin ends (Ctrl-D).

use std::error::Error;
use std::io::{Read, Write};
use std::time::Instant;

use agentgov_testenv::{Options, TestEnv};

fn main() -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let options = Options::for_tests()?.progress(move |event| {
        let _ = writeln!(std::io::stderr(), "{:6.2} s  {event:?}", begin.elapsed().as_secs_f64());
    });
    let stack = TestEnv::start(options)?;
    let ready = begin.elapsed();
    writeln!(
        std::io::stderr(),
        "{} stack, ready after {ready:.2?}, logs in {}",
        stack.backend(),
        stack.logs().display()
    )?;
    #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
    writeln!(std::io::stdout(), "{}", serde_json::to_string(stack.addresses())?)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stack.stop()?;
    Ok(())
}
