//! `agentgov registry pin` and `diff`: the definitions that a server lists, and the accepted ones.

use std::collections::BTreeSet;
use std::ffi::OsString;

use agentgov_registry::{
    AcceptedDefinition, DefinitionChange, DefinitionDiff, LoggedChange, MemberDiff, RegisteredTool,
    RegistryContext, ServerLimits, TopicHistory, accept_definitions, compare_definitions, list_digest,
    list_server_tools, tool_history,
};
use agentgov_schemas::Digest;
use agentgov_schemas::key::check_tenant_id;
use agentgov_service::ExitCode;
use serde_json::{Value, json};

use super::{check_reason, check_server};
use crate::cli::Global;
use crate::commands::policy::current_user;
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json as print_json, outln};

/// Maximum characters of a value in a report; `--json` has all of it.
const MAX_SHOWN: usize = 2_000;

/// Acceptance of what a server lists.
#[derive(Clone, Copy)]
pub struct Acceptance<'a> {
    /// Reason, for the log.
    pub reason: &'a str,
    /// Digest of the only list to accept; absent for any list.
    pub digest: Option<Digest>,
}

/// Compares what a server lists with the accepted definitions, prints the difference, and then accepts it if there is an
/// `acceptance`. The server may list something else in each run: only a digest ties the acceptance to a list that a person saw.
pub fn pin(
    (tenant, server): (&str, &str),
    acceptance: Option<Acceptance<'_>>,
    command: &[OsString],
    global: &Global,
) -> Result<ExitCode, Failure> {
    if let Some(Acceptance { reason, .. }) = acceptance {
        check_reason(reason)?;
    }
    check_names(tenant, server)?;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let history = tool_history(context, None).or_exit(ExitCode::TryAgain)?;
    let diffs = compare_with_server(&history, (tenant, server), command)?;
    let list = list_digest(&diffs);
    if !global.json {
        print_diffs(&diffs);
        outln!("list {}", list);
    }
    let expected = acceptance.and_then(|acceptance| acceptance.digest);
    let other = expected.filter(|expected| *expected != list);
    let accepted = match acceptance {
        Some(Acceptance { reason, .. }) if other.is_none() => Some(
            accept_definitions(context, tenant, &diffs, reason, &current_user())
                .or_exit(ExitCode::TryAgain)?,
        ),
        _ => None,
    };
    if global.json {
        print_json(&json!({
            "tenant_id": tenant, "server": server, "list_digest": list.to_string(),
            "tools": shown(&history, tenant, &diffs), "accepted": accepted,
        }))?;
    }
    if let Some(expected) = other {
        let message = format!(
            "--accept: expected the list {expected}, found {list}; nothing was accepted; read the difference, and accept this \
             digest if it is as expected"
        );
        return Err(Failure::new(ExitCode::Failed, message));
    }
    if !global.json {
        match &accepted {
            Some(accepted) => outln!("accepted: {} entries published", accepted.len()),
            None if diffs.iter().any(DefinitionDiff::differs) => {
                outln!(
                    "not accepted: calls of these tools are denied; to accept this list, add --reason REASON --accept={}",
                    list
                );
            }
            None => outln!("nothing differs"),
        }
    }
    let is_held = accepted.is_none() && diffs.iter().any(DefinitionDiff::differs);
    Ok(if is_held { ExitCode::Findings } else { ExitCode::Done })
}

/// Compares the accepted definitions with those before them, or with what a server lists.
pub fn diff(
    (tenant, server): (&str, &str),
    as_of: Option<i64>,
    command: &[OsString],
    global: &Global,
) -> Result<ExitCode, Failure> {
    check_names(tenant, server)?;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let history = tool_history(context, as_of).or_exit(ExitCode::TryAgain)?;
    let diffs = if command.is_empty() {
        compare_with_former(&history, tenant, server)
    } else {
        compare_with_server(&history, (tenant, server), command)?
    };
    if global.json {
        print_json(&json!({
            "tenant_id": tenant, "server": server, "tools": shown(&history, tenant, &diffs),
        }))?;
    } else {
        print_diffs(&diffs);
    }
    let differs = !command.is_empty() && diffs.iter().any(DefinitionDiff::differs);
    Ok(if differs { ExitCode::Findings } else { ExitCode::Done })
}

fn check_names(tenant: &str, server: &str) -> Result<(), Failure> {
    check_tenant_id(tenant).map_err(|error| Failure::new(ExitCode::Usage, format!("--tenant: {error}")))?;
    check_server(server)
}

fn tools_of<'h>(
    history: &'h TopicHistory<RegisteredTool>,
    tenant: &'h str,
    server: &'h str,
) -> impl Iterator<Item = &'h RegisteredTool> {
    let entries = history.last().into_iter().map(|LoggedChange { entry, .. }| entry);
    entries.filter(move |tool| tool.tenant_id == tenant && !tool.is_server() && tool.server_name() == server)
}

fn compare_with_server(
    history: &TopicHistory<RegisteredTool>,
    (tenant, server): (&str, &str),
    command: &[OsString],
) -> Result<Vec<DefinitionDiff>, Failure> {
    let listed = list_server_tools(command, &ServerLimits::default()).or_exit(ExitCode::Failed)?;
    compare_definitions(server, tools_of(history, tenant, server), &listed).or_exit(ExitCode::Failed)
}

fn compare_with_former(
    history: &TopicHistory<RegisteredTool>,
    tenant: &str,
    server: &str,
) -> Vec<DefinitionDiff> {
    let names: BTreeSet<&str> = tools_of(history, tenant, server).map(|tool| tool.name.as_str()).collect();
    let definition = |change: Option<&LoggedChange<RegisteredTool>>| {
        change.map_or_else(AcceptedDefinition::default, |change| change.entry.definition.clone())
    };
    let diffs = names.into_iter().map(|name| {
        let [current, former] = history.accepted(tenant, name);
        DefinitionDiff::new(name, definition(former), definition(current))
    });
    diffs.filter(|diff| diff.before.digest.is_some() || diff.now.digest.is_some()).collect()
}

/// Returns the differences as JSON, each with the entry that accepted the current definition.
fn shown(history: &TopicHistory<RegisteredTool>, tenant: &str, diffs: &[DefinitionDiff]) -> Vec<Value> {
    let entry = |diff: &DefinitionDiff| {
        let [current, former] = history.accepted(tenant, &diff.name);
        let acceptance = |change: Option<&LoggedChange<RegisteredTool>>| {
            change.map(|change| {
                json!({
                    "offset": change.offset, "logged_at": change.logged_at, "pushed_by": change.pushed_by,
                    "reason": change.entry.reason,
                    "definition_digest": change.entry.definition.digest.map(|digest| digest.to_string()),
                })
            })
        };
        json!({ "difference": diff, "accepted": acceptance(current), "formerly_accepted": acceptance(former) })
    };
    diffs.iter().map(entry).collect()
}

/// Prints what differs, member by member.
pub fn print_diffs(diffs: &[DefinitionDiff]) {
    for DefinitionDiff { name, change, before, now, members } in diffs {
        let word = match change {
            DefinitionChange::New => "new",
            DefinitionChange::Changed => "changed",
            DefinitionChange::Gone => "gone",
            DefinitionChange::Unchanged => "unchanged",
        };
        let digest = |definition: &AcceptedDefinition| {
            definition.digest.map_or_else(|| "-".to_owned(), |digest| digest.to_string())
        };
        outln!("{:<9} {}", word, name);
        if *change == DefinitionChange::Unchanged {
            continue;
        }
        outln!("  before {}", digest(before));
        outln!("  now    {}", digest(now));
        for MemberDiff { member, before, now } in members {
            outln!("  {}", member);
            for (sign, value) in [("-", before), ("+", now)] {
                if let Some(value) = value {
                    outln!("    {} {}", sign, beginning(&value.to_string()));
                }
            }
        }
        if *change == DefinitionChange::New {
            outln!("  + {}", beginning(&now.json));
        }
    }
}

fn beginning(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str(" … (--json has all of it)");
    }
    shown
}
