//! The scripted agent: what it calls, and what must follow.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agentgov_service::ExitCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::mcp::{McpClient, ToolAnswer};
use crate::failure::{Failure, OrExit as _};

/// Text of the files before the agent acts.
const BEFORE: &str = "Monday: call the printer's shop\n";
/// Text that the agent writes.
const AFTER: &str = "Monday: call the printer's shop\nTuesday: order paper\n";
/// Tool that the agent may not use, so that it is not listed.
const NOT_GRANTED: &str = "create_directory";

/// The folder of files that the server serves.
pub struct DeskFolder {
    path: PathBuf,
}

impl DeskFolder {
    /// Creates the files in an empty folder.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let create = || {
            fs::create_dir_all(path.join("done"))?;
            fs::write(path.join("plan.txt"), BEFORE)?;
            fs::write(path.join("budget.txt"), BEFORE)?;
            // The server compares real paths.
            path.canonicalize()
        };
        let path = create().map_err(|error: io::Error| Failure::new(ExitCode::Failed, error))?;
        Ok(Self { path })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }

    fn has(&self, file: &str, text: &str) -> bool {
        self.text(file).as_deref() == Some(text)
    }

    fn argument(&self, file: &str) -> String {
        self.path.join(file).to_string_lossy().into_owned()
    }
}

/// Outcome that a call must have.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The server has done it.
    Done,
    /// The server has not seen it: outcome, and the rule or the reason.
    Held(&'static str, &'static str),
}

/// A call of the agent, with what followed.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What the agent tried.
    pub call: &'static str,
    /// Name of the tool.
    pub tool: &'static str,
    /// Outcome of the decision: allow, deny or ask.
    pub outcome: String,
    /// Rule that held the call, or the reason without a rule; empty for a call that was done.
    pub by: String,
    /// What is so afterwards.
    pub effect: &'static str,
    /// True if the call had the expected outcome, and the files are as they must be.
    pub is_expected: bool,
    /// Text that the agent received.
    pub answer: String,
    /// Id of the approval that the call needs; empty without one.
    pub approval_id: String,
}

/// Runs the agent. `approve` approves the call with an id.
pub fn run(
    client: &mut McpClient,
    folder: &DeskFolder,
    approve: impl FnOnce(&str) -> Result<(), Failure>,
) -> Result<Vec<Step>, Failure> {
    let mut agent = Agent { client, folder, steps: Vec::new() };
    let write = |file: &str| json!({ "path": folder.argument(file), "content": AFTER });
    let moving =
        json!({ "source": folder.argument("plan.txt"), "destination": folder.argument("done/plan.txt") });
    let is_moved =
        |folder: &DeskFolder| folder.has("done/plan.txt", AFTER) && folder.text("plan.txt").is_none();

    let listed = agent.client.tools()?;
    let is_listed =
        listed.iter().any(|tool| tool == "read_text_file") && !listed.iter().any(|tool| tool == NOT_GRANTED);
    agent.steps.push(Step {
        call: "list the tools",
        tool: "",
        outcome: "allow".to_owned(),
        by: String::new(),
        effect: "the agent sees no tool without a grant",
        is_expected: is_listed,
        answer: listed.join(", "),
        approval_id: String::new(),
    });
    agent.step(
        ("write plan.txt before reading it", "write_file", &write("plan.txt")),
        Expected::Held("deny", "read-before-write"),
        ("plan.txt is unchanged", &|folder| folder.has("plan.txt", BEFORE)),
    )?;
    agent.step(
        ("read plan.txt", "read_text_file", &json!({ "path": folder.argument("plan.txt") })),
        Expected::Done,
        ("the agent has the text", &|_| true),
    )?;
    agent.step(
        ("write plan.txt right after the read", "write_file", &write("plan.txt")),
        Expected::Done,
        ("plan.txt has the new text", &|folder| folder.has("plan.txt", AFTER)),
    )?;
    agent.step(
        ("write budget.txt, which it has not read", "write_file", &write("budget.txt")),
        Expected::Held("deny", "read-before-write"),
        ("budget.txt is unchanged", &|folder| folder.has("budget.txt", BEFORE)),
    )?;
    agent.step(
        ("create a folder", NOT_GRANTED, &json!({ "path": folder.argument("new") })),
        Expected::Held("deny", "no_grant"),
        ("there is no new folder", &|folder| !folder.path.join("new").exists()),
    )?;
    let asked = agent.step(
        ("move plan.txt", "move_file", &moving),
        Expected::Held("ask", "moving-asks"),
        ("plan.txt is where it was", &|folder| folder.has("plan.txt", AFTER)),
    )?;
    approve(&asked)?;
    agent.step(
        ("move plan.txt, once it is approved", "move_file", &moving),
        Expected::Done,
        ("plan.txt is moved", &is_moved),
    )?;
    // So that the same move would be possible.
    fs::rename(folder.path.join("done/plan.txt"), folder.path.join("plan.txt")).or_exit(ExitCode::Failed)?;
    let asked_again = agent.step(
        ("move plan.txt a second time", "move_file", &moving),
        Expected::Held("ask", "moving-asks"),
        ("plan.txt is where it was", &|folder| folder.has("plan.txt", AFTER)),
    )?;
    if let Some(last) = agent.steps.last_mut() {
        last.is_expected &= asked_again != asked;
    }
    Ok(agent.steps)
}

struct Agent<'a> {
    client: &'a mut McpClient,
    folder: &'a DeskFolder,
    steps: Vec<Step>,
}

impl Agent<'_> {
    /// Calls a tool, and compares what follows. Returns the id of the approval that the call needs.
    fn step(
        &mut self,
        (call, tool, arguments): (&'static str, &'static str, &Value),
        expected: Expected,
        (effect, is_so): (&'static str, &dyn Fn(&DeskFolder) -> bool),
    ) -> Result<String, Failure> {
        let answer = self.client.call(tool, arguments)?;
        let is_expected = is_expected(&answer, expected) && is_so(self.folder);
        let ToolAnswer { text, outcome, reason, policies, approval_id, .. } = answer;
        self.steps.push(Step {
            call,
            tool,
            by: if outcome.is_empty() { String::new() } else { policies.first().cloned().unwrap_or(reason) },
            outcome: if outcome.is_empty() { "allow".to_owned() } else { outcome },
            effect,
            is_expected,
            answer: text,
            approval_id: approval_id.clone(),
        });
        Ok(approval_id)
    }
}

fn is_expected(answer: &ToolAnswer, expected: Expected) -> bool {
    match expected {
        Expected::Done => !answer.is_error && answer.outcome.is_empty(),
        Expected::Held(outcome, by) => {
            let is_by = answer.policies == [by] || answer.policies.is_empty() && answer.reason == by;
            let is_asked = (outcome == "ask") != answer.approval_id.is_empty();
            answer.is_error && answer.outcome == outcome && is_by && is_asked
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_expected_only_with_its_outcome_and_its_rule() {
        let own = |text: &str| text.to_owned();
        let done = ToolAnswer { text: own("done"), ..ToolAnswer::default() };
        let denied = ToolAnswer {
            is_error: true,
            outcome: own("deny"),
            reason: own("policy"),
            policies: vec![own("a-rule")],
            ..ToolAnswer::default()
        };
        let asks = ToolAnswer { outcome: own("ask"), approval_id: own("id"), ..denied.clone() };
        let no_grant = ToolAnswer { reason: own("no_grant"), policies: Vec::new(), ..denied.clone() };
        let failed = ToolAnswer { is_error: true, ..done.clone() };
        for (answer, expected, holds) in [
            (&done, Expected::Done, true),
            (&failed, Expected::Done, false),
            (&denied, Expected::Done, false),
            (&denied, Expected::Held("deny", "a-rule"), true),
            (&denied, Expected::Held("deny", "another-rule"), false),
            (&denied, Expected::Held("deny", "policy"), false),
            (&done, Expected::Held("deny", "a-rule"), false),
            (&asks, Expected::Held("ask", "a-rule"), true),
            (&asks, Expected::Held("deny", "a-rule"), false),
            (
                &ToolAnswer { approval_id: String::new(), ..asks.clone() },
                Expected::Held("ask", "a-rule"),
                false,
            ),
            (&no_grant, Expected::Held("deny", "no_grant"), true),
        ] {
            assert_eq!(is_expected(answer, expected), holds, "{answer:?} {expected:?}");
        }
    }
}
