//! `agentgov audit …`: compares the log with the topics.

use agentgov_audit::{Finding, FindingKind, Report, completeness};
use agentgov_service::ExitCode;

use crate::cli::{AuditCommand, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, outln, style};
use crate::progress::Progress;

/// Maximum number of partitions or intervals printed per finding.
const MAX_SHOWN: usize = 12;

/// Runs `audit …`.
///
/// # Errors
/// If the command fails.
pub fn audit(command: &AuditCommand, global: &Global) -> Result<ExitCode, Failure> {
    let AuditCommand::Completeness = command;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let progress = Progress::new(global.json);
    let step = progress.step("comparing topics and tables");
    let report = completeness(&topology, &endpoints).or_exit(ExitCode::TryAgain)?;
    drop(step);
    if global.json {
        json(&report)?;
    } else {
        print_report(&report);
    }
    Ok(if report.findings.is_empty() { ExitCode::Done } else { ExitCode::Findings })
}

/// Prints the size of the audit and each kind of finding.
pub fn print_report(report: &Report) {
    outln!(
        "{} records in the topics, {} rows in the tables, {} offsets skipped, {} records not yet reached by the sink",
        report.records,
        report.rows,
        report.skipped,
        report.pending
    );
    outln!(
        "{} judged actions ({} sent again), {} answers not yet given by the stages, {} sources ({} closed)",
        report.judged,
        report.sent_again,
        report.unanswered,
        report.sources,
        report.closed_sources
    );
    if report.held_back > 0 {
        outln!(
            "{} offsets are behind an open transaction, where no stage reads: `agentgov status` names the partition",
            report.held_back
        );
    }
    if report.without_basis > 0 {
        outln!(
            "{} verdicts are older than the first evaluation basis of their partition: they cannot be recomputed",
            report.without_basis
        );
    }
    for kind in FindingKind::ALL {
        let name = kind.as_str();
        match report.finding(kind) {
            None => outln!("  {} {:<17} 0", style("✓").green(), name),
            Some(finding) => {
                outln!("  {} {:<17} {}, first {}", style("✗").red(), name, finding.count, finding.first);
                print_details(finding);
                outln!("      {}", kind.meaning());
            }
        }
    }
    let found = report.findings.iter().map(|finding| finding.kind);
    if !report.findings.is_empty() && found.into_iter().all(FindingKind::is_caused_by_producer) {
        outln!("The pipeline lost, doubled and changed nothing. The producers must be fixed.");
    }
}

/// Prints the partitions and intervals of a finding beyond its first occurrence.
fn print_details(finding: &Finding) {
    if finding.by_partition.len() > 1 {
        let counts =
            finding.by_partition.iter().take(MAX_SHOWN).map(|(partition, n)| format!("{partition}: {n}"));
        let more = finding.by_partition.len().saturating_sub(MAX_SHOWN);
        outln!("      by partition: {}{}", counts.collect::<Vec<_>>().join(", "), and_more(more as u64));
    }
    if let Some((_, others)) = finding.intervals.split_first()
        && !others.is_empty()
    {
        let shown = others.iter().take(MAX_SHOWN).map(ToString::to_string);
        let more = (others.len().saturating_sub(MAX_SHOWN) as u64).saturating_add(finding.more_intervals);
        outln!("      then {}{}", shown.collect::<Vec<_>>().join("; "), and_more(more));
    }
}

fn and_more(more: u64) -> String {
    if more == 0 { String::new() } else { format!(", and {more} more (--json)") }
}
