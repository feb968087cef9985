//! `agentgov demo --desk`: runs a scripted agent with an MCP server for files behind the gateway, and shows what was prevented.

mod mcp;
pub mod report;
pub mod scenario;
mod server;

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_audit::completeness;
use agentgov_connect::Endpoints;
use agentgov_log_reader::LogReader;
use agentgov_service::ExitCode;
use tempfile::TempDir;
use uuid::Uuid;

use self::mcp::McpClient;
use self::report::DeskReport;
use self::scenario::{DeskFolder, Step};
use self::server::FileServer;
use super::example::DESK;
use super::pipeline::{OtherBundles, Pipeline, Pushed};
use super::up;
use crate::cli::{Demo, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, outln};
use crate::progress::Progress;

/// Name of the server in the policies.
const SERVER: &str = "files";
/// Name of the person who approves.
const APPROVER: &str = "demo-approver";
/// Time for a command, a request for an approval and its decision to be in the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(60);
/// Seconds that the gateway waits for an approval before it answers: enough for the decision point to read one that is published.
const APPROVAL_WAIT: &str = "2";
/// Bytes of a command's output that an error repeats.
const MAX_OUTPUT: usize = 2 << 10;

pub fn desk(args: &Demo, global: &Global) -> Result<ExitCode, Failure> {
    // Missing programs and files are reported before anything starts.
    let topology = context::topology(global)?;
    let server = FileServer::find(&args.server)?;
    let pushed = Pushed::in_environment(&DESK, &args.environment, OtherBundles::Refuse)?;
    let began = Instant::now();
    let progress = Arc::new(Progress::new(global.json));
    server.fetch(&progress)?;
    let folder = tempfile::Builder::new().prefix("agentgov-desk-").tempdir().or_exit(ExitCode::Failed)?;
    let files = DeskFolder::create(&folder.path().join("files"))?;
    let step = progress.step("starting the MCP server once");
    step.done(format!("{} tools", server.probe(files.path())?));

    let mut pipeline = Pipeline::start(topology, None, false, &pushed, global, &progress)?;
    let reader =
        LogReader::new(&pipeline.endpoints.clickhouse, &pipeline.topology).or_exit(ExitCode::Config)?;
    let demo = DeskDemo {
        settings: write_settings(folder.path(), &pipeline.endpoints)?,
        topology: global.topology.clone(),
        command: server.command(files.path()),
        session_id: format!("desk-{}", Uuid::now_v7()),
        environment: args.environment.clone(),
        folder,
    };
    let step = progress.step("accepting the tools of the server, and making an approver's key");
    demo.prepare()?;
    step.done(format!("server {SERVER}, approver {APPROVER}"));
    let pdp = pipeline.start_pdp()?;

    let step = progress.step("running the agent behind the gateway");
    let steps = demo.run_agent(&pipeline, &pdp, &files)?;
    step.done(format!("{} steps in session {}", steps.len(), demo.session_id));

    let step = progress.step("logging, judging, alerting");
    let source = demo.wait_for_log(&pipeline, &reader, &steps, Duration::from_secs(args.within))?;
    step.done("every call has its verdict");
    let audit = if pipeline.is_ours() {
        let step = progress.step("comparing topics and tables");
        let audit = completeness(&pipeline.topology, &pipeline.endpoints).or_exit(ExitCode::TryAgain)?;
        step.done(format!("{} records, {} findings", audit.records, audit.findings.len()));
        Some(audit)
    } else {
        None
    };
    let entries = reader.session(DESK.tenant, &demo.session_id).or_exit(ExitCode::Failed)?;
    let report = DeskReport {
        server: server.name(),
        session_id: demo.session_id.clone(),
        approver: APPROVER,
        steps,
        verdicts: entries.into_iter().filter_map(|entry| entry.verdict).collect(),
        calls: reader.decided_calls(&source).or_exit(ExitCode::Failed)?,
        violations: reader.violations(&source).or_exit(ExitCode::Failed)?,
        rules: pipeline.bundle.policies().filter_map(|policy| super::report::Rule::of(policy)).collect(),
        audit,
        total_ms: began.elapsed().as_millis(),
    };
    if global.json {
        json(&report.to_json())?;
    } else {
        outln!("{}", report.to_text(args.keep));
    }
    if args.keep {
        up::serve_until_shutdown(pipeline, global.json)?;
    } else {
        pipeline.stop()?;
    }
    Ok(if report.faults().is_empty() { ExitCode::Done } else { ExitCode::Findings })
}

/// What the commands of the demo share.
struct DeskDemo {
    /// File with the addresses of the stack.
    settings: PathBuf,
    topology: Option<PathBuf>,
    /// Command line of the MCP server.
    command: Vec<OsString>,
    session_id: String,
    environment: String,
    /// Removed at the end.
    folder: TempDir,
}

impl DeskDemo {
    fn key(&self) -> PathBuf {
        self.folder.path().join("approver.jwk")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    /// Returns `agentgov ARGS` on this stack.
    fn agentgov(&self, args: &[&str]) -> Result<Command, Failure> {
        let mut command = Command::new(std::env::current_exe().or_exit(ExitCode::Failed)?);
        command.args(args).arg("--stack").arg(&self.settings).stdin(Stdio::null());
        if let Some(topology) = &self.topology {
            command.arg("--topology").arg(topology);
        }
        Ok(command)
    }

    /// Runs `agentgov ARGS -- TAIL` on this stack. Returns its stdout.
    fn run(&self, args: &[&str], tail: &[OsString]) -> Result<Vec<u8>, Failure> {
        let mut command = self.agentgov(args)?;
        if !tail.is_empty() {
            command.arg("--").args(tail);
        }
        let output = command.output().or_exit(ExitCode::Failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::report(
            ExitCode::Failed,
            format!(
                "agentgov {}: expected success, found {}:\n{}",
                args.join(" "),
                output.status,
                end_of(&stderr)
            ),
        ))
    }

    /// Accepts the definitions of the server's tools, and makes the approver's key.
    fn prepare(&self) -> Result<(), Failure> {
        let reason = ["--reason", "the demo uses this version of the server"];
        let pin = [&["registry", "pin", SERVER, "--tenant", DESK.tenant, "--accept"][..], &reason].concat();
        self.run(&pin, &self.command)?;
        let key = self.key();
        let out = ["--tenant", DESK.tenant, "--out", path_text(&key)?];
        let new = [&["registry", "key", "new", "--kind", "approver", "--name", APPROVER][..], &out].concat();
        self.run(&new, &[]).map(drop)
    }

    /// Runs the agent behind the gateway.
    fn run_agent(&self, pipeline: &Pipeline, pdp: &str, files: &DeskFolder) -> Result<Vec<Step>, Failure> {
        let spool = self.folder.path().join("spool");
        let of = ["--server", SERVER, "--tenant", DESK.tenant, "--agent", DESK.agent];
        let session = ["--environment", &self.environment, "--session", &self.session_id];
        let more = ["--pdp", pdp, "--approval-wait", APPROVAL_WAIT, "--spool", path_text(&spool)?];
        let mut gateway = self.agentgov(&[&["gateway", "stdio"][..], &of, &session, &more].concat())?;
        gateway.arg("--").args(&self.command);
        gateway.stderr(File::create(self.log()).or_exit(ExitCode::Failed)?);
        let mut client = McpClient::start(gateway).map_err(|failure| self.with_log(&failure))?;
        let approve = |id: &str| self.approve(pipeline, id);
        let steps = scenario::run(&mut client, files, approve).map_err(|failure| self.with_log(&failure))?;
        client.close().map_err(|failure| self.with_log(&failure))?;
        Ok(steps)
    }

    /// Approves a call, as a person does. Returns when the approval is in the log.
    fn approve(&self, pipeline: &Pipeline, id: &str) -> Result<(), Failure> {
        if id.is_empty() {
            return Ok(());
        }
        let of = ["--tenant", DESK.tenant, "--session", &self.session_id];
        let list = ["approvals", "list", "--all", "--json"];
        let is_in_state = |state: &str| -> Result<bool, Failure> {
            let output = self.run(&[&list[..], &of].concat(), &[])?;
            let listing: serde_json::Value = serde_json::from_slice(&output).or_exit(ExitCode::Failed)?;
            let found = listing.get("approvals").and_then(serde_json::Value::as_array);
            Ok(found.is_some_and(|found| {
                found
                    .iter()
                    .any(|one| one.get("id") == Some(&id.into()) && one.get("state") == Some(&state.into()))
            }))
        };
        pipeline
            .wait("the request for the approval to be in the log", LOG_TIMEOUT, |_| is_in_state("open"))?;
        let key = self.key();
        let signed = ["--reason", "the plan is done", "--key", path_text(&key)?];
        self.run(&[&["approvals", "approve", id][..], &signed, &of].concat(), &[])?;
        pipeline.wait("the approval to be in the log", LOG_TIMEOUT, |_| is_in_state("granted"))
    }

    /// Waits until every event of the gateway is logged and judged. Returns its source.
    fn wait_for_log(
        &self,
        pipeline: &Pipeline,
        reader: &LogReader,
        steps: &[Step],
        within: Duration,
    ) -> Result<String, Failure> {
        let calls = steps.iter().filter(|step| !step.tool.is_empty());
        // Each allowed call has a result. One more for the event that closes the source.
        let events: usize = calls.map(|step| if step.outcome == "allow" { 2 } else { 1 }).sum();
        let events = events as u64 + 1;
        let mut source = String::new();
        pipeline.wait("every call logged and judged", within, |_| {
            if source.is_empty() {
                let entries = reader.session(DESK.tenant, &self.session_id).or_exit(ExitCode::TryAgain)?;
                let call = entries.into_iter().find(|entry| !entry.event.token_decision_id.is_empty());
                source = call.map(|entry| entry.event.source_id).unwrap_or_default();
            }
            if source.is_empty() {
                return Ok(false);
            }
            let progress = reader.progress(&source).or_exit(ExitCode::TryAgain)?;
            let calls = reader.decided_calls(&source).or_exit(ExitCode::TryAgain)?;
            let is_decided = calls.iter().all(|call| !call.decided.is_empty() && !call.judged.is_empty());
            Ok(progress.is_complete(events) && is_decided)
        })?;
        Ok(source)
    }

    /// Adds the end of the gateway's log to a failure.
    fn with_log(&self, failure: &Failure) -> Failure {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        if log.is_empty() {
            return failure.clone();
        }
        Failure::report(failure.code, format!("{failure}; the gateway's log ends with:\n{}", end_of(&log)))
    }
}

/// Writes the addresses and logins of the stack to a file that only this user can read.
fn write_settings(folder: &Path, endpoints: &Endpoints) -> Result<PathBuf, Failure> {
    let path = folder.join("stack.json");
    let text = serde_json::to_string(&endpoints.to_settings()).or_exit(ExitCode::Failed)?;
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).or_exit(ExitCode::Failed)?;
    Ok(path)
}

fn path_text(path: &Path) -> Result<&str, Failure> {
    OsStr::new(path).to_str().ok_or_else(|| {
        Failure::new(
            ExitCode::Failed,
            format!("{}: expected a temporary folder named in UTF-8", path.display()),
        )
    })
}

fn end_of(text: &str) -> &str {
    let text = text.trim_end();
    text.split_at(text.ceil_char_boundary(text.len().saturating_sub(MAX_OUTPUT))).1
}
