//! Any bytes as recorded runs: an import whose events are as many as it says, or problems with lines.

use agentgov_importers::{ImportOptions, chat_completions};
use agentgov_schemas::Micros;

pub fn check(data: &[u8]) {
    let options = ImportOptions {
        tenant_id: "acme".to_owned(),
        environment: "test".to_owned(),
        agent_id: "agent".to_owned(),
        agent_version: None,
        start_time: None,
        now: Micros(1_715_785_200_000_000),
    };
    match chat_completions::parse("runs.jsonl", data, options) {
        Ok(import) => {
            let counted: u64 = import.sessions().map(|session| session.events().len() as u64).sum();
            assert_eq!(counted, import.summary().events);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = data.split(|byte| *byte == b'\n').count() as u64;
            for problem in problems {
                assert!(problem.line >= 1 && problem.line <= lines, "{problem} of {lines} lines");
            }
        }
    }
}
