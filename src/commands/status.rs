//! `agentgov status`: prints the state of the pipeline on one screen.

use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;
use agentgov_status::{
    Answer, Group, GroupState, Health, Part, Process, ProcessAddresses, Status, TopologyState, collect,
};
use agentgov_topology::ClusterReadError;
use console::{Style, StyledObject};
use jiff::Timestamp;

use crate::cli::{self, Global};
use crate::context;
use crate::failure::Failure;
use crate::print::{self, Text, json, left, outln, right, style, style_text, text};

pub fn status(args: &cli::Status, global: &Global) -> Result<ExitCode, Failure> {
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let decision_points = context::decision_points(&args.pdp, global);
    let addresses = ProcessAddresses { stages: &args.health, decision_points: &decision_points };
    loop {
        let status = collect(&topology, &endpoints, addresses, || compare(&topology, &endpoints));
        if args.watch.is_some() && !global.json {
            print::clear_screen();
        }
        if global.json {
            json(&status)?;
        } else {
            print_status(&status);
        }
        match args.watch {
            Some(_) if print::is_stdout_gone() => return Ok(ExitCode::Done),
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
            None => {
                return Ok(match status.health {
                    Health::Healthy => ExitCode::Done,
                    Health::Unhealthy => ExitCode::Findings,
                    Health::PartAway => ExitCode::TryAgain,
                });
            }
        }
    }
}

fn compare(topology: &Topology, endpoints: &Endpoints) -> Result<TopologyState, ClusterReadError> {
    let plan = agentgov_topology::plan(topology, endpoints)?;
    let differences = plan.differences.iter().map(ToString::to_string).collect();
    Ok(TopologyState { topics: plan.topics, subjects: plan.subjects, differences })
}

/// Prints the state of the pipeline.
pub fn print_status(status: &Status) {
    let (word, colour) = match status.health {
        Health::Healthy => ("healthy", Style::new().green().bold()),
        Health::Unhealthy => ("not healthy", Style::new().red().bold()),
        Health::PartAway => ("a part is away", Style::new().red().bold()),
    };
    let at = Timestamp::from_millisecond(status.at).unwrap_or_default();
    outln!("{}  {}", colour.apply_to(Escaped(word)), style(at.strftime("%Y-%m-%d %H:%M:%S UTC")).dim());
    for wrong in &status.wrong {
        outln!("  {} {}", style("✗").red(), wrong.what);
        outln!("    {} {}", style("→").dim(), wrong.to_do);
    }
    print_heading(&text!("Parts"));
    status.parts.iter().for_each(print_part);
    match &status.topology {
        Answer::Known(state) if state.differences.is_empty() => {
            outln!(
                "  {} {} the cluster matches the topology: {} topics, {} subjects",
                mark(true),
                left("topology", 11),
                state.topics,
                state.subjects
            );
        }
        Answer::Known(state) => {
            for difference in &state.differences {
                outln!("  {} {} {}", mark(false), left("topology", 11), difference);
            }
        }
        Answer::Unknown(why) => {
            outln!("  {} {} {}", unknown_mark(), left("topology", 11), unknown_because(why))
        }
    }
    print_heading(&text!("{} processes  partitions     behind   oldest waits", left("Stages", 17)));
    for stage in &status.stages {
        match &stage.state {
            Answer::Known(group) => print_stage(&stage.name, group),
            Answer::Unknown(why) => {
                outln!("  {} {} {}", unknown_mark(), left(&stage.name, 11), unknown_because(why))
            }
        }
    }
    if !status.processes.is_empty() {
        print_heading(&text!("Processes"));
        status.processes.iter().for_each(print_process);
    }
    if !status.decision_points.is_empty() {
        print_heading(&text!("Decision points"));
        status.decision_points.iter().for_each(print_process);
    }
    print_heading(&text!("{} {}  newest row", left("Tables", 15), right("rows", 12)));
    for table in &status.tables {
        match &table.rows {
            Answer::Known(rows) => {
                let newest = table.newest.map_or_else(|| "–".to_owned(), |newest| ago(status.at, newest));
                outln!("    {} {}  {}", left(&table.name, 11), right(thousands(*rows), 12), newest);
            }
            Answer::Unknown(why) => {
                outln!("  {} {} {}", unknown_mark(), left(&table.name, 11), unknown_because(why))
            }
        }
    }
    print_heading(&text!("Last hour"));
    print_list("alerts", &status.alerts_last_hour, |alerted| {
        let again = alerted.violations.saturating_sub(alerted.opened);
        format!(
            "{} {} opened, {} further violations",
            thousands(alerted.opened),
            alerted.severity,
            thousands(again)
        )
    });
    print_list("rejects", &status.rejects_last_hour, |rejected| {
        format!("{} {} of {}", thousands(rejected.count), rejected.reason, rejected.stage)
    });
    print_heading(&text!("Standing"));
    print_list("bundles", &status.bundles, |active| {
        let digest: String = active.digest.chars().take(12).collect();
        let pushed = ago(status.at, active.pushed_at);
        format!(
            "{}: {} {} ({digest}), pushed {pushed} by {}",
            active.environment, active.name, active.version, active.pushed_by
        )
    });
    print_list("gaps", &status.gaps, |gap| {
        let lost = gap.to - gap.from;
        format!(
            "{} {} to {}: {lost} offsets accepted as lost {}",
            gap.topic_partition,
            gap.from,
            gap.to - 1,
            ago(status.at, gap.accepted_at)
        )
    });
    print_list("skipped", &status.skipped, |skipped| {
        format!(
            "{} {} offsets without a record, by transactions or compaction; the last are {} to {}, {}",
            skipped.topic_partition,
            thousands(skipped.offsets),
            skipped.from,
            skipped.to - 1,
            ago(status.at, skipped.logged_at)
        )
    });
}

fn print_part(part: &Part) {
    let text = if part.answers {
        text!("{} {}", left(&part.detail, 22), style(format!("{} ms", part.answer_ms)).dim())
    } else {
        style(format!("away: {}", part.detail)).red().into()
    };
    outln!("  {} {} {} {}", mark(part.answers), left(&part.name, 11), left(&part.address, 39), text);
}

fn print_stage(name: &str, group: &Group) {
    let stable = group.state == GroupState::Stable && group.held == group.partitions;
    let state = match group.state {
        GroupState::Stable => group.members.to_string(),
        GroupState::Rebalancing => format!("{} rebalancing", group.members),
        GroupState::Empty => "none".to_owned(),
    };
    let held = format!("{}/{}", group.held, group.partitions);
    let line = |mark: Text, name: Text, state: &str, held: &str, records: i64, oldest: Option<f64>| {
        let (records, oldest) =
            (thousands(u64::try_from(records).unwrap_or_default()), oldest_wait(records, oldest));
        outln!(
            "  {} {} {} {} {} {}",
            mark,
            name,
            left(state, 10),
            left(held, 11),
            right(records, 9),
            right(oldest, 13)
        );
    };
    line(mark(stable).into(), left(name, 13), &state, &held, group.records(), group.oldest_seconds());
    for held in &group.held_back {
        let what = format!("{}/{} held back at offset {}", held.topic, held.partition, held.offset);
        outln!("    {} {} offsets for {}", style(what).red(), held.records, format_seconds(held.seconds));
    }
    // The stage's line already covers a single topic.
    for lag in group.lag.iter().filter(|lag| lag.records > 0 && group.lag.len() > 1) {
        line(
            " ".into(),
            text!("{}", style_text(left(&lag.topic, 13)).dim()),
            "",
            "",
            lag.records,
            lag.oldest_seconds,
        );
    }
}

fn print_process(process: &Process) {
    if let Some(why) = &process.away {
        outln!("  {} {} {}", mark(false), left(&process.url, 28), style(why).red());
    }
    for stage in &process.stages {
        let healthy = stage.not_ready.is_empty() && stage.hangs.is_none();
        let text = if healthy {
            format!("ready, progress {} ago", format_seconds(stage.progress_age_seconds))
        } else {
            String::new()
        };
        outln!("  {} {} {} {}", mark(healthy), left(&process.url, 28), left(&stage.stage, 10), text);
        let waits = stage.not_ready.iter().map(|(reason, why)| format!("{reason}: {why}"));
        for why in waits.chain(stage.hangs.iter().map(|why| format!("hangs: {why}"))) {
            outln!("      {}", style(why).red());
        }
    }
}

/// Prints entries, one line each, up to [`MAX_SHOWN`].
fn print_list<T>(name: &str, answer: &Answer<Vec<T>>, line: impl Fn(&T) -> String) {
    const MAX_SHOWN: usize = 6;
    match answer {
        Answer::Unknown(why) => outln!("  {} {} {}", unknown_mark(), left(name, 11), unknown_because(why)),
        Answer::Known(entries) if entries.is_empty() => outln!("    {} none", left(name, 11)),
        Answer::Known(entries) => {
            for (at, entry) in entries.iter().take(MAX_SHOWN).enumerate() {
                outln!("    {} {}", left(if at == 0 { name } else { "" }, 11), line(entry));
            }
            if entries.len() > MAX_SHOWN {
                outln!("    {} and {} more", left("", 11), entries.len() - MAX_SHOWN);
            }
        }
    }
}

fn print_heading(text: &Text) {
    outln!();
    outln!("{}", style_text(Text::from_escaped(text.as_str().trim_end().to_owned())).bold());
}

fn mark(healthy: bool) -> StyledObject<Escaped<&'static str>> {
    if healthy { style("✓").green() } else { style("✗").red() }
}

fn unknown_mark() -> StyledObject<Escaped<&'static str>> {
    style("?").yellow()
}

fn unknown_because(why: &str) -> StyledObject<Escaped<String>> {
    style(format!("not known: {why}")).dim()
}

fn oldest_wait(records: i64, oldest: Option<f64>) -> String {
    match oldest {
        _ if records == 0 => "–".to_owned(),
        Some(seconds) => format_seconds(seconds),
        None => "not known".to_owned(),
    }
}

fn ago(now: i64, then: i64) -> String {
    let seconds = (now - then).max(0) as f64 / 1000.0;
    format!("{} ago", format_seconds(seconds))
}

/// Formats a duration in its two largest units.
fn format_seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_are_formatted() {
        for (seconds, expected) in [
            (0.25, "0.2 s"),
            (59.9, "59 s"),
            (192.0, "3 min 12 s"),
            (7_500.0, "2 h 05 min"),
            (180_000.0, "2 d 02 h"),
        ] {
            assert_eq!(format_seconds(seconds), expected);
        }
        assert_eq!(
            (thousands(7), thousands(1_234), thousands(1_234_567)),
            ("7".into(), "1,234".into(), "1,234,567".into())
        );
        assert_eq!(
            (oldest_wait(0, None), oldest_wait(3, None), oldest_wait(3, Some(12.0))),
            ("–".into(), "not known".into(), "12 s".into())
        );
    }
}
