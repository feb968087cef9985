//! Fuzz check: any text as registry.yaml. Parses to entries, or returns problems with positions.

use agentgov_registry::RegistryFile;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(problems) = RegistryFile::parse("registry.yaml", text) else { return };
    assert!(!problems.is_empty());
    // A carriage return alone also ends a line: YAML 1.2, 5.4.
    let lines = text.split(['\n', '\r']).count() as u64 + 1;
    for problem in problems {
        assert!(
            problem.line >= 1 && problem.line <= lines && problem.column >= 1,
            "{problem} of {lines} lines"
        );
    }
}
