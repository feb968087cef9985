//! `agentgov gateway`: stands between an agent and its tools.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov_authzen_client::DecisionClient;
use agentgov_connect::{Secret, Tls};
use agentgov_gateway::proxy::ProxyConfig;
use agentgov_gateway::session::{Identity, Journal, Session};
use agentgov_gateway::stdio::{self, Ended, StdioError, StdioOptions};
use agentgov_schemas::catalogue;
use agentgov_schemas::escape::Escaped;
use agentgov_sdk::{
    Event, Producer, ProducerOptions, Receipt, RecordError, Recorder, SourceOptions, SpoolOptions, WhenFull,
};
use agentgov_service::{ExitCode, ShutdownSignal};
use uuid::Uuid;

use crate::cli::{GatewayCommand, GatewayStdio, Global};
use crate::failure::{Failure, OrExit as _};
use crate::print::errln;
use crate::{context, local};

/// Time for one answer of the decision point, which waits 250 ms at most for the event before the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that an event waits for room in the spool.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the buffered events to reach Kafka at the end. The rest stays in the spool.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub fn gateway(command: GatewayCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        GatewayCommand::Stdio(args) => run_stdio(args, global),
    }
}

fn run_stdio(args: GatewayStdio, global: &Global) -> Result<ExitCode, Failure> {
    if args.server.is_empty() || args.server.contains('/') {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("--server: expected a name without `/`, found {:?}", args.server),
        ));
    }
    let decider = decider(&args, global)?;
    let stop = ShutdownSignal::default();
    let on_signal = stop.clone();
    ctrlc::set_handler(move || on_signal.request()).or_exit(ExitCode::Failed)?;
    let recorder = Arc::new(recorder(&args, global)?);
    // Other parties of a given session begin and end it.
    let is_own = args.session.is_none();
    let identity = Identity {
        tenant_id: args.tenant,
        environment: args.environment,
        agent_id: args.agent,
        session_id: args.session.unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    errln!("agentgov: session {} of agent {}", identity.session_id, identity.agent_id);
    let session =
        Arc::new(Session::new(identity, Box::new(decider), Box::new(SharedRecorder(Arc::clone(&recorder)))));
    if is_own {
        session.record_plain(catalogue::SESSION_STARTED).or_exit(ExitCode::TryAgain)?;
    }
    let options = StdioOptions {
        server: args.server,
        command: args.command,
        proxy: ProxyConfig::default(),
        from_client: Box::new(std::io::stdin()),
        to_client: Box::new(frames_to_stdout()),
        print_log: Box::new(|line| errln!("{}", Escaped(line))),
    };
    let ended = stdio::run(options, Arc::clone(&session), || stop.is_requested());
    if is_own && let Err(error) = session.record_plain(catalogue::SESSION_ENDED) {
        tracing::warn!(%error, "the end of the session is not recorded");
    }
    if let Err(error) = recorder.close(CLOSE_TIMEOUT) {
        errln!("agentgov: {}; the next gateway with the same spool publishes them", error);
    }
    match ended {
        Ok(Ended::Client) => Ok(ExitCode::Done),
        Ok(Ended::Server(status)) => {
            Err(Failure::new(ExitCode::Failed, format!("the MCP server ended before its client: {status}")))
        }
        Err(error @ (StdioError::NoCommand | StdioError::Start { .. })) => {
            Err(Failure::new(ExitCode::Config, error))
        }
        Err(error) => Err(Failure::new(ExitCode::Failed, error)),
    }
}

/// Returns the stream of frames to the client, another process.
#[expect(clippy::disallowed_methods, reason = "only an MCP client reads it, and frames must not be escaped")]
fn frames_to_stdout() -> std::io::Stdout {
    std::io::stdout()
}

fn decider(args: &GatewayStdio, global: &Global) -> Result<DecisionClient, Failure> {
    let given: Vec<String> = args.pdp.iter().cloned().collect();
    let Some(url) = context::decision_points(&given, global).into_iter().next() else {
        return Err(Failure::new(
            ExitCode::Usage,
            "expected the URL of a decision point, found none: set --pdp or AGENTGOV_PDP, or start `agentgov up`",
        ));
    };
    let token = args.token_file.as_deref().map(context::read_text).transpose()?;
    let token = token.map(|token| Secret::new(token.trim()));
    DecisionClient::new(&url, &Tls::default(), token, ANSWER_TIMEOUT).or_exit(ExitCode::Config)
}

fn recorder(args: &GatewayStdio, global: &Global) -> Result<Recorder, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let spool = args.spool.clone().or_else(|| Some(local::state_folder()?.join("gateway-spool")));
    let spool = spool.unwrap_or_else(|| PathBuf::from("agentgov-gateway-spool"));
    let options = ProducerOptions {
        linger: Duration::ZERO,
        spool: Some(SpoolOptions::new(spool)),
        ..ProducerOptions::new(endpoints.kafka, endpoints.schema_registry, topology)
    };
    let producer = Producer::start(options).or_exit(ExitCode::TryAgain)?;
    let source = SourceOptions {
        when_full: WhenFull::WaitFor(ROOM_TIMEOUT),
        ..SourceOptions::new(&args.tenant, &args.environment)
    };
    producer.recorder(source).or_exit(ExitCode::Config)
}

/// The recorder, shared with the function that closes it.
struct SharedRecorder(Arc<Recorder>);

impl Journal for SharedRecorder {
    fn record(&self, event: &Event<'_>) -> Result<Receipt, RecordError> {
        self.0.record(event)
    }

    fn check(&self, event: &Event<'_>) -> Result<(), RecordError> {
        self.0.check(event)
    }

    fn source_id(&self) -> &str {
        self.0.source_id()
    }
}
