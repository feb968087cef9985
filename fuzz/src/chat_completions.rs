//! Fuzz check: any bytes as recorded runs. Parses to an import with the reported number of events, or returns problems with
//! lines.

use agentgov_importers::{ImportError, ImportOptions, chat_completions};
use agentgov_schemas::Micros;

pub fn check(data: &[u8]) {
    let options = ImportOptions {
        tenant_id: "acme".to_owned(),
        environment: "test".to_owned(),
        agent_id: "agent".to_owned(),
        agent_version: None,
        start_time: None,
        now: Micros(1_715_785_200_000_000),
        label: None,
        skip_bad: data.len().is_multiple_of(2),
    };
    match chat_completions::parse("runs.jsonl", data, options) {
        Ok(import) => {
            let sessions = import.sessions().map(|session| session.expect("a file that was checked"));
            let counted: u64 = sessions.map(|session| session.events().len() as u64).sum();
            assert_eq!(counted, import.summary().events);
            assert!(import.left_out().is_empty() == import.problems().is_empty());
        }
        Err(ImportError::Problems(problems)) => {
            assert!(!problems.is_empty());
            // A line ends with LF, CR or both. Lines of a compressed file cannot be counted here.
            let lines = 1 + data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
            for problem in problems.iter().filter(|_| !data.starts_with(&[0x1f, 0x8b])) {
                assert!(problem.line >= 1 && problem.line <= lines, "{problem} of {lines} lines");
            }
        }
        Err(error) => panic!("{error}"),
    }
}
