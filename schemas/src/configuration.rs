//! Environment variables that configure agentgov.

use std::ffi::OsStr;

/// Returns true for a variable that configures agentgov: the address or the login of a part of its stack. A governed
/// program must not inherit it, since with it the program could write to the log.
pub fn is_configuration(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"AGENTGOV_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_agentgov_are_its_configuration() {
        for (name, is_removed) in [
            ("AGENTGOV_KAFKA", true),
            ("AGENTGOV_CLICKHOUSE_PASSWORD", true),
            ("PATH", false),
            ("AGENT", false),
        ] {
            assert_eq!(is_configuration(OsStr::new(name)), is_removed, "{name}");
        }
    }
}
