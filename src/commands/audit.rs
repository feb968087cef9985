//! `agentgov audit …`: is the log whole?

use agentgov_audit::{Kind, Report, completeness};
use agentgov_runtime::ExitCode;

use crate::cli::{AuditCommand, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, say, style};

pub fn audit(command: &AuditCommand, global: &Global) -> Result<ExitCode, Failure> {
    let AuditCommand::Completeness = command;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let report = completeness(&topology, &endpoints).or_exit(ExitCode::TryAgain)?;
    if global.json {
        json(&report)?;
    } else {
        tell(&report);
    }
    Ok(if report.findings.is_empty() { ExitCode::Done } else { ExitCode::Findings })
}

/// Prints what an audit looked at, and each kind of finding.
pub fn tell(report: &Report) {
    say!(
        "{} records in the topics, {} rows in the tables, {} records not yet reached by the sink",
        report.records,
        report.rows,
        report.pending
    );
    say!(
        "{} judged actions ({} sent again), {} answers not yet given by the stages, {} sources ({} closed)",
        report.judged,
        report.sent_again,
        report.unanswered,
        report.sources,
        report.closed_sources
    );
    for kind in Kind::ALL {
        let name = kind.as_str();
        match report.findings.iter().find(|finding| finding.kind == kind) {
            None => say!("  {} {:<14} 0", style("✓").green(), name),
            Some(finding) => {
                say!("  {} {:<14} {}, first {}", style("✗").red(), name, finding.count, finding.first);
                say!("      {}", kind.meaning());
            }
        }
    }
}
