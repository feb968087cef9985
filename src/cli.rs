//! The command line.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use agentgov_gateway::hooks::agent::CodingAgent;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::{Digest, Vocabulary as _};
use agentgov_service::ExitCode;
#[cfg(feature = "local-stack")]
use agentgov_testenv::HelperCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;

use crate::commands;
use crate::failure::Failure;
use crate::process::CommandLine;

/// Governance for AI agents: records what each agent did, and judges whether it was allowed.
#[derive(Debug, Parser)]
#[command(name = "agentgov", version, arg_required_else_help = true)]
pub struct Cli {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
    /// Addresses of the stack, and the topology.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Kafka brokers, comma separated.
    #[arg(long, global = true, env = "AGENTGOV_KAFKA", value_name = "HOST:PORT", hide_env_values = true)]
    pub kafka: Option<String>,
    /// URL of the schema registry's Confluent API.
    #[arg(long, global = true, env = "AGENTGOV_SCHEMA_REGISTRY", value_name = "URL", hide_env_values = true)]
    pub schema_registry: Option<String>,
    /// URL of ClickHouse's HTTP interface.
    #[arg(long, global = true, env = "AGENTGOV_CLICKHOUSE", value_name = "URL", hide_env_values = true)]
    pub clickhouse: Option<String>,
    /// YAML file with the addresses and logins of the stack; environment variables override it.
    #[arg(long, global = true, env = "AGENTGOV_STACK", value_name = "FILE", hide_env_values = true)]
    pub stack: Option<PathBuf>,
    /// Topology file [default: the built-in one].
    #[arg(long, global = true, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Log filter for stderr, e.g. info or agentgov_runtime=debug.
    #[arg(long, global = true, env = "AGENTGOV_LOG", default_value = "error", value_name = "FILTER")]
    pub log: String,
}

/// Commands of `agentgov`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a stack, send recorded agent runs through the pipeline, print a report, stop everything.
    #[cfg(feature = "local-stack")]
    Demo(Demo),
    /// Run a stack with every stage until interrupted.
    #[cfg(feature = "local-stack")]
    Up(Up),
    /// Run stages until a signal.
    Run(Run),
    /// Answer requests for decisions (OpenID AuthZEN) until a signal.
    Pdp(Pdp),
    /// Ask a decision point before each call of an agent, and record calls and results.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Ask the gateway before each call of a coding agent; the agent runs it. Exit code 2: blocked.
    #[command(subcommand)]
    Hook(HookCommand),
    /// Show the pipeline and its faults on one screen. Exit code 3: a fault; 75: a part is away.
    Status(Status),
    /// Check and draw the topology, compare it with a cluster, create what is missing.
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Publish recorded agent runs as events.
    Import(Import),
    /// Register and list agents and tools.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Check, test and push policy bundles.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// List requests for approvals, and approve or refuse them.
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Show sessions.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Handle records that a stage could not process.
    #[command(subcommand)]
    Rejects(RejectsCommand),
    /// Audit the log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Manage the parts of the local stack.
    #[cfg(feature = "local-stack")]
    #[command(subcommand)]
    Testenv(TestenvCommand),
}

/// `demo`.
#[cfg(feature = "local-stack")]
#[derive(Debug, Args)]
pub struct Demo {
    /// Recorded runs to use instead of the samples, in a format of `import chat-completions`; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Ask the decision point before each call, and compare each decision with the verdict. Exit code 3: they differ.
    #[arg(long)]
    pub inline: bool,
    /// Run an agent with an MCP server for files behind the gateway, instead of recorded runs. Exit code 3: a call was not decided
    /// as expected. Needs Node.js, whose npx fetches the server from npm.
    #[arg(long, conflicts_with_all = ["input", "inline", "violations"])]
    pub desk: bool,
    /// Environment in which the bundle of --desk judges.
    #[arg(long, value_name = "NAME", default_value = "production", requires = "desk")]
    pub environment: String,
    /// Command line of an MCP server for --desk instead of npm's; the folder of files is its last argument.
    #[arg(last = true, value_name = "COMMAND", requires = "desk")]
    pub server: Vec<OsString>,
    /// Start time of the sessions; UTC without a zone.
    #[arg(long, value_name = "TIME", default_value = "2024-05-15T15:00:00")]
    pub start_time: String,
    /// Keep the stack running after the report, until interrupted.
    #[arg(long)]
    pub keep: bool,
    /// Write the violations to this file, one per line: session, call, tool, policy, tab separated.
    #[arg(long, value_name = "FILE")]
    pub violations: Option<PathBuf>,
    /// Fail if the pipeline takes longer than this.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub within: u64,
}

/// `up`.
#[cfg(feature = "local-stack")]
#[derive(Debug, Args)]
pub struct Up {
    /// Folder for the stack's data [default: a temporary folder, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Resume behind records that retention deleted before they were read.
    #[arg(long)]
    pub accept_gap: bool,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Names of stages in the topology, or `all`.
    #[arg(required = true, value_name = "STAGE")]
    pub stages: Vec<String>,
    /// Resume behind records that retention deleted before they were read.
    #[arg(long)]
    pub accept_gap: bool,
    /// Address on which to serve /livez, /readyz and /metrics.
    #[arg(long, value_name = "HOST:PORT", env = "AGENTGOV_LISTEN")]
    pub listen: Option<Listen>,
}

/// Default validity of an approval, in seconds.
pub const APPROVAL_SECONDS: u64 = 900;

/// `pdp`.
#[derive(Debug, Args)]
pub struct Pdp {
    /// Folder of a bundle of `model: authzen`, to decide by it alone: without Kafka, and nothing is recorded.
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Name of this decision point in its events, its tokens and its health.
    #[arg(long, default_value = "pdp", conflicts_with = "bundle")]
    pub name: String,
    /// Private key that signs the tokens of decisions, as `registry key new` writes it [default: no tokens].
    #[arg(long, value_name = "FILE", conflicts_with = "bundle")]
    pub signing_key: Option<PathBuf>,
    /// Validity of an approval, from the request for it on.
    #[arg(long, value_name = "SECONDS", default_value_t = APPROVAL_SECONDS, conflicts_with = "bundle",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub approval_lifetime: u64,
    /// Folder that keeps decisions until Kafka has them.
    #[arg(long, value_name = "DIR", default_value = "agentgov-pdp-spool", conflicts_with = "bundle")]
    pub spool: PathBuf,
    /// Address on which to serve the Authorization API, /livez, /readyz and /metrics. Plain HTTP is for loopback only.
    #[arg(long, value_name = "HOST:PORT", env = "AGENTGOV_PDP_LISTEN", default_value = "127.0.0.1:8181")]
    pub listen: Listen,
    /// YAML file of callers, each with the SHA-256 of its bearer token [default: any client, on loopback only].
    #[arg(long, value_name = "FILE")]
    pub callers: Option<PathBuf>,
    /// Certificate of the server, followed by its chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM, PKCS #8, not encrypted).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// URL under which clients reach it, for the metadata [default: https, with the host of the request].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// `gateway …`.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Run an MCP server behind the gateway, for a client that speaks MCP over stdio.
    Stdio(GatewayStdio),
    /// Serve MCP over HTTP on this machine, for clients with a bearer token.
    Serve(GatewayServe),
}

/// `gateway serve`.
#[derive(Debug, Args)]
pub struct GatewayServe {
    /// YAML file with address, callers and MCP servers.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// URL of the decision point [default: that of the file, then that of a running `up`].
    #[arg(long, value_name = "URL", env = "AGENTGOV_PDP")]
    pub pdp: Option<String>,
}

/// `gateway stdio`.
#[derive(Debug, Args)]
pub struct GatewayStdio {
    /// Name of the server: its tools are NAME/TOOL in policies and in the registry.
    #[arg(long, value_name = "NAME")]
    pub server: String,
    /// Tenant of the agent.
    #[arg(long)]
    pub tenant: String,
    /// The agent that the client acts for.
    #[arg(long)]
    pub agent: String,
    /// Deployment environment.
    #[arg(long, default_value = "production")]
    pub environment: String,
    /// Session of the agent, which others begin and end [default: a new one, as long as this process runs].
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// URL of the decision point [default: that of a running `up`].
    #[arg(long, value_name = "URL", env = "AGENTGOV_PDP")]
    pub pdp: Option<String>,
    /// File with the bearer token for the decision point [default: none].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Folder that keeps events until Kafka has them [default: in the user's state folder].
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Time that a call waits for an approval before it is answered with the approval's id.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub approval_wait: u64,
    /// Command line of the MCP server.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `hook …`.
#[derive(Debug, Subcommand)]
pub enum HookCommand {
    /// Answer a hook of Claude Code: JSON on standard input.
    ClaudeCode(HookArgs),
    /// Answer a hook of Codex CLI: JSON on standard input.
    Codex(HookArgs),
    /// Answer a hook of Cursor: JSON on standard input.
    Cursor(HookArgs),
    /// Answer a hook of Gemini CLI: JSON on standard input.
    GeminiCli(HookArgs),
    /// Add the hooks to the settings of an agent, so that they fail closed.
    Install(HookInstall),
    /// Report what the settings of an agent let run unasked. Exit code 3: something.
    Check(HookCheck),
}

/// URL of a gateway that listens where the documentation says.
const GATEWAY_URL: &str = "http://127.0.0.1:8282";

/// `hook AGENT`.
#[derive(Debug, Args)]
pub struct HookArgs {
    /// URL of the gateway: plain HTTP on this machine.
    #[arg(long, value_name = "URL", env = "AGENTGOV_GATEWAY", default_value = GATEWAY_URL)]
    pub url: String,
    /// File with the bearer token for the gateway [default: none].
    #[arg(long, value_name = "FILE", env = "AGENTGOV_GATEWAY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Time for an answer. Afterwards the call is blocked.
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=25))]
    pub timeout: u64,
}

/// `hook install`.
#[derive(Debug, Args)]
pub struct HookInstall {
    /// claude-code, codex, cursor or gemini-cli.
    #[arg(value_parser = coding_agent)]
    pub agent: CodingAgent,
    /// File of the agent's settings [default: that of this user].
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// URL of the gateway: plain HTTP on this machine.
    #[arg(long, value_name = "URL", env = "AGENTGOV_GATEWAY", default_value = GATEWAY_URL)]
    pub url: String,
    /// File with the bearer token for the gateway [default: none].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `hook check`.
#[derive(Debug, Args)]
pub struct HookCheck {
    /// claude-code, codex, cursor or gemini-cli.
    #[arg(value_parser = coding_agent)]
    pub agent: CodingAgent,
    /// File of the agent's settings [default: that of this user].
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
}

fn coding_agent(name: &str) -> Result<CodingAgent, String> {
    let names = CodingAgent::ALL.map(CodingAgent::name).join(", ");
    CodingAgent::by_name(name).ok_or_else(|| format!("expected one of {names}"))
}

/// Socket addresses that HOST:PORT resolves to, in the order of the resolver.
#[derive(Clone, Debug)]
pub struct Listen(pub Vec<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected HOST:PORT, e.g. localhost:9464 or 0.0.0.0:9464";
        let addresses: Vec<_> = text.to_socket_addrs().map_err(|e| format!("{EXPECTED}: {e}"))?.collect();
        if addresses.is_empty() {
            Err(format!("{EXPECTED}: the host has no address"))
        } else {
            Ok(Self(addresses))
        }
    }
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Address of a process's `run --listen`, to include its health. May be repeated.
    #[arg(long, value_name = "URL", env = "AGENTGOV_HEALTH", value_delimiter = ',')]
    pub health: Vec<String>,
    /// Address of a decision point, to include its health. May be repeated [default: that of a running `up`].
    #[arg(long, value_name = "URL", env = "AGENTGOV_PDP", value_delimiter = ',')]
    pub pdp: Vec<String>,
    /// Repeat at this interval, until interrupted.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub watch: Option<u64>,
}

/// `topology …`.
#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Check the topology against its rules, offline. Reports every error with its file and line.
    Check {
        /// Topology file [default: the one of --topology, or the built-in one].
        file: Option<PathBuf>,
    },
    /// Draw the topology as Mermaid.
    Graph {
        /// Write the drawing between the markers of this Markdown file instead of printing it.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Print the rights in Kafka or ClickHouse, computed from the topology.
    #[command(subcommand)]
    Render(RenderCommand),
    /// Compare the topology with the cluster, and change nothing. Exit code 3: they differ.
    Plan,
    /// Create what is missing. Deletes nothing, shrinks nothing.
    Apply,
}

/// `topology render …`.
#[derive(Debug, Subcommand)]
pub enum RenderCommand {
    /// Each principal's rights in Kafka, as a script for kafka-acls.sh.
    Acls,
    /// Roles and grants for ClickHouse, as SQL.
    Grants {
        /// Database of the log.
        #[arg(long, default_value = agentgov_connect::settings::DEFAULT_DATABASE)]
        database: String,
    },
}

/// Format of recorded runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// One run per line, with messages as in OpenAI's chat completions.
    ChatCompletions,
}

/// Example of `import --help`. It can be imported unchanged.
const IMPORT_EXAMPLE: &str = r#"A file of three runs, one a line:
{"task_id": "1", "trial": 0, "messages": [{"role": "user", "content": "Who am I?"}, {"role": "assistant", "content": "You are Lee."}]}
{"messages": [{"role": "user", "content": "Cancel it."}, {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "cancel", "arguments": "{\"id\": 7}"}}]}, {"role": "tool", "tool_call_id": "c1", "content": "done"}]}
{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": null, "refusal": "I cannot help with that."}]}

Read as well: arrays of runs, pretty-printed JSON, gzip, tau-bench, tau2 and AgentDojo results, content in parts."#;

/// `import`.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLE)]
pub struct Import {
    /// Format of the file.
    pub format: Format,
    /// File, plain or gzip; `-` is standard input.
    pub file: PathBuf,
    /// Field with the label of a run, e.g. `id` or `metadata.id` [default: task_id/trial, otherwise the line].
    #[arg(long, value_name = "FIELD")]
    pub label: Option<String>,
    /// Leave out unreadable runs and name them [default: one unreadable run fails the whole import].
    #[arg(long)]
    pub skip_bad: bool,
    /// Tenant of the runs.
    #[arg(long)]
    pub tenant: String,
    /// Agent of the runs.
    #[arg(long)]
    pub agent: String,
    /// Deployment environment.
    #[arg(long, default_value = "production")]
    pub environment: String,
    /// Start time of the sessions; each message is a second later. UTC without a zone [default: now].
    #[arg(long, value_name = "TIME")]
    pub start_time: Option<String>,
}

/// `registry …`.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Push the agents and tools of a file; skips unchanged entries.
    Push {
        /// A registry.yaml.
        file: PathBuf,
    },
    /// List agents, tools and bundles.
    List,
    /// Show the entries of agents, tools and servers, as of now or of a position that a verdict names.
    Show(RegistryQuery),
    /// Show each change of agents, tools and servers, with its author and reason.
    History(RegistryQuery),
    /// Compare the accepted definitions of a server's tools with those accepted before, or with what the server lists now. Exit
    /// code 3: the server lists something else.
    Diff {
        /// Name of the server.
        server: String,
        /// Tenant of the tools.
        #[arg(long)]
        tenant: String,
        /// Entries of the topic of tools before this offset.
        #[arg(long, value_name = "OFFSET")]
        as_of: Option<i64>,
        /// Command that starts the server, which speaks MCP over stdio.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Compare the tools that a server lists with the accepted definitions, and accept them. Exit code 3: they differ, and were
    /// not accepted.
    Pin {
        /// Name of the server; its tools are `server/name` in calls.
        server: String,
        /// Tenant of the tools.
        #[arg(long)]
        tenant: String,
        /// Reason, for the log.
        #[arg(long)]
        reason: Option<String>,
        /// Accept what the server lists. With a digest: only the list of this digest, which the command without --accept prints.
        #[arg(long, value_name = "DIGEST", num_args = 0..=1, require_equals = true, requires = "reason")]
        accept: Option<Option<Digest>>,
        /// Command that starts the server, which speaks MCP over stdio.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Suspend an agent, a tool or a server: each call is denied until it is resumed.
    Suspend {
        /// Target and reason.
        #[command(flatten)]
        target: SuspensionArgs,
        /// Suspend a tool or a server that has no entry, although entries with a similar name exist.
        #[arg(long, conflicts_with = "agent")]
        unregistered: bool,
    },
    /// End a suspension.
    Resume(SuspensionArgs),
    /// Make, revoke and list the keys that sign decisions and approvals.
    #[command(subcommand)]
    Key(KeyCommand),
}

/// `registry show` and `registry history`.
#[derive(Debug, Args)]
pub struct RegistryQuery {
    /// Id of an agent, or name of a tool or a server [default: all].
    #[arg(allow_hyphen_values = true)]
    pub name: Option<String>,
    /// This tool only, by its name in calls.
    #[arg(long, conflicts_with_all = ["name", "server"])]
    pub tool: Option<String>,
    /// This server and its tools only.
    #[arg(long, conflicts_with = "name")]
    pub server: Option<String>,
    /// This tenant only.
    #[arg(long)]
    pub tenant: Option<String>,
    /// Entries before this offset, in the topic of agents or tools: a verdict names the offset of each topic that it used.
    #[arg(long, value_name = "OFFSET")]
    pub as_of: Option<i64>,
}

/// `registry suspend` and `registry resume`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["agent", "tool", "server"])))]
pub struct SuspensionArgs {
    /// Id of the agent.
    #[arg(allow_hyphen_values = true)]
    pub agent: Option<String>,
    /// Name of the tool in calls: `server/name` for a tool of a server.
    #[arg(long)]
    pub tool: Option<String>,
    /// Name of the server, for all of its tools.
    #[arg(long)]
    pub server: Option<String>,
    /// Tenant of the agent, the tool or the server.
    #[arg(long)]
    pub tenant: String,
    /// Reason, for the log.
    #[arg(long)]
    pub reason: String,
}

/// `registry key …`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key, write its private half to a new file, publish its public half, print its id.
    New {
        /// pdp or approver.
        #[arg(long, value_parser = key_kind)]
        kind: KeyKind,
        /// Name of the pdp or the approver.
        #[arg(long)]
        name: String,
        /// The only tenant that it signs for [default: all].
        #[arg(long)]
        tenant: Option<String>,
        /// File for the private JWK. It must not exist; only its owner can read it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Revoke a key for good: its signatures are invalid for every call that is logged from then on.
    Revoke {
        /// Id of the key.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Reason, for the log.
        #[arg(long)]
        reason: String,
    },
    /// List the published keys, revoked ones too.
    List,
}

fn key_kind(name: &str) -> Result<KeyKind, String> {
    KeyKind::by_name(name).ok_or_else(|| format!("expected {}", KeyKind::names().join(" or ")))
}

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Compile a bundle. Reports every error with its file and line. Exit code 78: the bundle has errors.
    Check {
        /// The bundle's folder.
        bundle: PathBuf,
        /// Write the generated Cedar schema into the bundle.
        #[arg(long)]
        write: bool,
    },
    /// Run a bundle's tests. Exit code 3: a test fails.
    Test {
        /// The bundle's folder.
        bundle: PathBuf,
    },
    /// Check, test and push a bundle; it then judges its environments.
    Push {
        /// The bundle's folder.
        bundle: PathBuf,
        /// Replace bundles of other names in its environments.
        #[arg(long)]
        replace: bool,
    },
}

/// `approvals …`.
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// List the open requests for approvals.
    List {
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only those of this session.
        #[arg(long)]
        session: Option<String>,
        /// Also those that are decided, used or expired.
        #[arg(long)]
        all: bool,
    },
    /// Print a request for an approval, with its whole arguments.
    Show {
        /// Id of the approval.
        id: String,
        /// Tenant; required only if several tenants have such an approval.
        #[arg(long)]
        tenant: Option<String>,
        /// Session; required only if several sessions have such an approval.
        #[arg(long)]
        session: Option<String>,
    },
    /// Approve a call: once, within its time, for exactly its arguments.
    Approve(ApprovalArgs),
    /// Refuse a call.
    Deny(ApprovalArgs),
}

/// `approvals approve` and `approvals deny`.
#[derive(Debug, Args)]
pub struct ApprovalArgs {
    /// Id of the approval.
    pub id: String,
    /// Reason, for the log.
    #[arg(long)]
    pub reason: String,
    /// Private key of the approver, as `registry key new --kind approver` writes it.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Tenant; required only if several tenants have such an approval.
    #[arg(long)]
    pub tenant: Option<String>,
    /// Session; required only if several sessions have such an approval.
    #[arg(long)]
    pub session: Option<String>,
}

/// `session …`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Print a session event by event, with the verdicts, their inputs and the policies' texts.
    Show {
        /// Id or label of the session.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        session: String,
        /// Tenant; required only if several tenants have such a session.
        #[arg(long)]
        tenant: Option<String>,
    },
}

/// `rejects …`.
#[derive(Debug, Subcommand)]
pub enum RejectsCommand {
    /// Resume a stage that stopped because of too many rejects.
    Resume {
        /// Name of the stage in the topology.
        stage: String,
        /// Reason, recorded with the control.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// `audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Compare topics, tables and the claims of the events. Exit code 3: a record is missing, doubled or out of order.
    Completeness,
}

/// `testenv …`.
#[cfg(feature = "local-stack")]
#[derive(Debug, Subcommand)]
pub enum TestenvCommand {
    /// Download the stack's parts again and write their digests to the lock file.
    Lock {
        /// Folder of the lock file.
        #[arg(long, value_name = "DIR", default_value = "testenv")]
        folder: PathBuf,
    },
    /// Internal processes of a local stack, started by the stack itself.
    #[command(flatten)]
    Helper(HelperCommand),
}

impl CommandLine for Cli {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(self) -> Result<ExitCode, Failure> {
        commands::dispatch(self.command, &self.global)
    }
}

impl Global {
    /// Initialises logging to stderr; stdout is for results.
    pub fn trace(&self) {
        // librdkafka logs every end of a partition and every lost connection as an error. It also returns the relevant
        // errors to its caller, and the stages log those.
        let directives = format!("rdkafka::client=off,librdkafka=off,{}", self.log);
        let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("error"));
        // Fields quote text of servers, files and records.
        let fields = debug_fn(|writer, field, value| {
            let value = Escaped(format!("{value:?}"));
            if field.name() == "message" {
                write!(writer, "{value}")
            } else {
                write!(writer, "{field}={value}")
            }
        });
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .fmt_fields(fields.delimited(" "))
            // Log files contain no colour codes.
            .with_ansi(console::user_attended_stderr() && console::colors_enabled_stderr())
            // If stderr is closed, the subscriber would report that on stderr and panic.
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    /// Returns the first block of this language in the section of docs/CONTROL.md about the gateway.
    fn gateway_example(language: &str) -> &'static str {
        let page = include_str!("../docs/CONTROL.md");
        let (_, section) = page.split_once("## In front of MCP servers\n").unwrap();
        let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
        let example = block.split_once("```\n").unwrap().0;
        assert!(example.lines().count() <= 12, "{example}");
        example
    }

    #[test]
    fn examples_of_the_gateway_are_valid() {
        use clap::Parser as _;
        let config: serde_json::Value = serde_json::from_str(gateway_example("json")).unwrap();
        let server = &config["mcpServers"]["files"];
        let args = server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
        let parsed = super::Cli::try_parse_from(std::iter::once("agentgov").chain(args)).unwrap();
        let super::Command::Gateway(super::GatewayCommand::Stdio(stdio)) = parsed.command else {
            panic!("{parsed:?}")
        };
        assert_eq!((server["command"].as_str(), stdio.server.as_str()), (Some("agentgov"), "files"));
        assert_eq!((stdio.agent.as_str(), stdio.command.len()), ("desk-bot", 4));
        let config =
            agentgov_gateway::http::ServeConfig::parse("gateway.yaml", gateway_example("yaml")).unwrap();
        assert!(config.servers.contains_key("files"));
    }

    #[test]
    fn import_example_can_be_imported() {
        let lines: Vec<&str> = super::IMPORT_EXAMPLE.lines().filter(|line| line.starts_with('{')).collect();
        let options = agentgov_importers::ImportOptions {
            tenant_id: "t".to_owned(),
            environment: "e".to_owned(),
            agent_id: "a".to_owned(),
            agent_version: None,
            start_time: None,
            now: agentgov_schemas::Micros(0),
            label: None,
            skip_bad: false,
        };
        let file = lines.join("\n");
        let import = agentgov_importers::chat_completions::parse("f", file.as_bytes(), options).unwrap();
        assert_eq!((import.summary().sessions, import.summary().tool_calls), (3, 1));
        assert!(import.notes().lines().is_empty());
    }
}
