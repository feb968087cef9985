//! `agentgov topology …`: checks, draws, compares and applies the topology.

use agentgov_schemas::escape::EscapedLines;
use agentgov_service::ExitCode;
use agentgov_topology::{acls, apply, grants, graph, plan, splice};

use crate::cli::{Global, RenderCommand, TopologyCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, outln};
use crate::progress::Progress;

pub fn topology(command: TopologyCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        TopologyCommand::Check { file } => {
            let file = file.or_else(|| global.topology.clone());
            let topology = context::topology_from(file.as_deref())?;
            let partitions: i64 =
                topology.topics.values().map(|topic| i64::from(topic.value.partitions.value)).sum();
            if global.json {
                json(&serde_json::json!({
                    "topics": topology.topics.len(),
                    "partitions": partitions,
                    "stages": topology.stages.len(),
                    "stores": topology.stores.len(),
                }))?;
                return Ok(ExitCode::Done);
            }
            outln!(
                "ok: {} topics with {} partitions, {} stages, {} stores",
                topology.topics.len(),
                partitions,
                topology.stages.len(),
                topology.stores.len()
            );
        }
        TopologyCommand::Graph { write } => {
            let drawing = graph(&*context::topology(global)?);
            match write {
                None if global.json => json(&serde_json::json!({ "mermaid": drawing }))?,
                None => outln!("{}", EscapedLines(drawing.trim_end())),
                Some(file) => {
                    let spliced = splice(&context::read_text(&file)?, &drawing).or_exit(ExitCode::Failed)?;
                    context::write(&file, &spliced)?;
                    if global.json {
                        json(&serde_json::json!({ "written": file }))?;
                    } else {
                        outln!("wrote {}", file.display());
                    }
                }
            }
        }
        TopologyCommand::Render(RenderCommand::Acls) => {
            let acls = acls(&*context::topology(global)?).or_exit(ExitCode::Config)?;
            if global.json {
                json(&acls)?;
            } else {
                outln!("{}", EscapedLines(acls.to_string().trim_end()));
            }
        }
        TopologyCommand::Render(RenderCommand::Grants { database }) => {
            let statements = grants(&*context::topology(global)?, &database);
            if global.json {
                json(&statements)?;
            } else {
                outln!("{};", EscapedLines(statements.join(";\n")));
            }
        }
        TopologyCommand::Plan => {
            let progress = Progress::new(global.json);
            let step = progress.step("comparing the cluster with the topology");
            let plan = plan(&*context::topology(global)?, &context::endpoints(global)?)
                .or_exit(ExitCode::TryAgain)?;
            drop(step);
            if global.json {
                json(&plan)?;
            } else {
                outln!("{}", EscapedLines(&plan));
            }
            return Ok(if plan.is_empty() { ExitCode::Done } else { ExitCode::Findings });
        }
        TopologyCommand::Apply => {
            let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
            let mut print_difference = |difference: &agentgov_topology::Difference| {
                if !global.json {
                    outln!("{}", EscapedLines(difference));
                }
            };
            let applied = apply(&topology, &endpoints, &mut print_difference).map_err(|error| {
                let code = match &error {
                    agentgov_topology::ApplyError::Refused(_) => ExitCode::Failed,
                    _ => ExitCode::TryAgain,
                };
                Failure::report(code, error)
            })?;
            if global.json {
                json(&applied)?;
            } else if applied.removed.is_empty() {
                outln!("nothing to do: the cluster matches the topology");
            }
        }
    }
    Ok(ExitCode::Done)
}
