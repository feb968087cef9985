//! `agentgov gateway`: stands between an agent and its tools.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentgov_authzen_client::DecisionClient;
use agentgov_connect::{Secret, Tls};
use agentgov_gateway::http::{HttpGateway, ServeConfig, ServeParts};
use agentgov_gateway::process::{PrintLog, StartError};
use agentgov_gateway::proxy::ProxyConfig;
use agentgov_gateway::session::{Identity, Journal, Session};
use agentgov_gateway::sessions::{Journals, Sessions};
use agentgov_gateway::stdio::{self, Ended, StdioOptions};
use agentgov_schemas::catalogue;
use agentgov_sdk::{Producer, ProducerOptions, Recorder, SourceOptions, SpoolOptions, WhenFull};
use agentgov_service::{ExitCode, ShutdownSignal};
use uuid::Uuid;

use crate::cli::{GatewayCommand, GatewayServe, GatewayStdio, Global};
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, errln, outln};
use crate::{context, local};

/// Time for one answer of the decision point, which waits 250 ms at most for the event before the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that an event waits for room in the spool.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the buffered events to reach Kafka at the end. The rest stays in the spool.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of sources, one for each tenant and environment.
const MAX_SOURCES: usize = 1_000;
/// Interval at which the shutdown request is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub fn gateway(command: GatewayCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        GatewayCommand::Stdio(args) => run_stdio(args, global),
        GatewayCommand::Serve(args) => serve(&args, global),
    }
}

fn run_stdio(args: GatewayStdio, global: &Global) -> Result<ExitCode, Failure> {
    if args.server.is_empty() || args.server.contains('/') {
        return Err(Failure::new(
            ExitCode::Usage,
            format!("--server: expected a name without `/`, found {:?}", args.server),
        ));
    }
    let decider = decider(args.pdp.as_ref(), args.token_file.as_deref(), global)?;
    let stop = shutdown_signal()?;
    let producer = producer(args.spool, global)?;
    let recorder = producer.recorder(source(&args.tenant, &args.environment)).or_exit(ExitCode::Config)?;
    let recorder = Arc::new(recorder);
    // Other parties of a given session begin and end it.
    let is_own = args.session.is_none();
    let identity = Identity {
        tenant_id: args.tenant,
        environment: args.environment,
        agent_id: args.agent,
        session_id: args.session.unwrap_or_else(|| Uuid::now_v7().to_string()),
    };
    errln!("agentgov: session {} of agent {}", identity.session_id, identity.agent_id);
    let session = Arc::new(Session::new(identity, Box::new(decider), Box::new(Arc::clone(&recorder))));
    if is_own {
        session.record_plain(catalogue::SESSION_STARTED).or_exit(ExitCode::TryAgain)?;
    }
    let options = StdioOptions {
        server: args.server,
        command: args.command,
        proxy: ProxyConfig {
            approval_wait: Duration::from_secs(args.approval_wait),
            ..ProxyConfig::default()
        },
        from_client: Box::new(std::io::stdin()),
        to_client: Box::new(frames_to_stdout()),
        print_log: print_log(),
    };
    let ended = stdio::run(options, Arc::clone(&session), || stop.is_requested());
    if is_own && let Err(error) = session.record_plain(catalogue::SESSION_ENDED) {
        tracing::warn!(%error, "the end of the session is not recorded");
    }
    close(&recorder);
    match ended {
        Ok(Ended::Client) => Ok(ExitCode::Done),
        Ok(Ended::Server(status)) => {
            Err(Failure::new(ExitCode::Failed, format!("the MCP server ended before its client: {status}")))
        }
        Err(error @ (StartError::NoCommand | StartError::Start { .. })) => {
            Err(Failure::new(ExitCode::Config, error))
        }
        Err(error) => Err(Failure::new(ExitCode::Failed, error)),
    }
}

fn serve(args: &GatewayServe, global: &Global) -> Result<ExitCode, Failure> {
    let text = context::read_text(&args.config)?;
    let config = ServeConfig::parse(&args.config.display().to_string(), &text).map_err(|problems| {
        Failure::all(ExitCode::Config, "the file of the gateway has errors:", problems)
    })?;
    let pdp = args.pdp.as_ref().or(config.pdp.as_ref());
    let decider = decider(pdp, config.pdp_token_file.as_deref().map(Path::new), global)?;
    let stop = shutdown_signal()?;
    let log = Arc::new(RecorderLog {
        producer: producer(config.spool.as_ref().map(PathBuf::from), global)?,
        recorders: Mutex::default(),
    });
    let sessions = Arc::new(Sessions::new(Arc::new(decider), Box::new(SharedLog(Arc::clone(&log)))));
    let parts = ServeParts { sessions, proxy: ProxyConfig::default(), print_log: print_log() };
    let stopped = async move {
        while !stop.is_requested() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let gateway = HttpGateway::start(config, parts, stopped).or_exit(ExitCode::Config)?;
    if global.json {
        print::json_line(&serde_json::json!({ "listening": format!("http://{}", gateway.address()) }))?;
    } else {
        outln!("gateway on http://{}", gateway.address());
    }
    let ended = gateway.join();
    log.close();
    ended.map(|()| ExitCode::Done).or_exit(ExitCode::Panicked)
}

fn shutdown_signal() -> Result<ShutdownSignal, Failure> {
    let stop = ShutdownSignal::default();
    let on_signal = stop.clone();
    ctrlc::set_handler(move || on_signal.request()).or_exit(ExitCode::Failed)?;
    Ok(stop)
}

fn print_log() -> Arc<PrintLog> {
    Arc::new(|line: &str| errln!("{}", print::Text::from_escaped(line.to_owned())))
}

/// Returns the stream of frames to the client, another process.
#[expect(clippy::disallowed_methods, reason = "only an MCP client reads it, and frames must not be escaped")]
fn frames_to_stdout() -> std::io::Stdout {
    std::io::stdout()
}

fn decider(
    pdp: Option<&String>,
    token_file: Option<&Path>,
    global: &Global,
) -> Result<DecisionClient, Failure> {
    let given: Vec<String> = pdp.into_iter().cloned().collect();
    let Some(url) = context::decision_points(&given, global).into_iter().next() else {
        return Err(Failure::new(
            ExitCode::Usage,
            "expected the URL of a decision point, found none: set --pdp or AGENTGOV_PDP, or start `agentgov up`",
        ));
    };
    let token = token_file.map(context::read_text).transpose()?;
    let token = token.map(|token| Secret::new(token.trim()));
    DecisionClient::new(&url, &Tls::default(), token, ANSWER_TIMEOUT).or_exit(ExitCode::Config)
}

/// Starts the producer, which publishes the events that a killed process left in the spool.
fn producer(spool: Option<PathBuf>, global: &Global) -> Result<Producer, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let spool = spool.or_else(|| Some(local::state_folder()?.join("gateway-spool")));
    let spool = spool.unwrap_or_else(|| PathBuf::from("agentgov-gateway-spool"));
    let options = ProducerOptions {
        linger: Duration::ZERO,
        spool: Some(SpoolOptions::new(spool)),
        ..ProducerOptions::new(endpoints.kafka, endpoints.schema_registry, topology)
    };
    Producer::start(options).or_exit(ExitCode::TryAgain)
}

fn source(tenant_id: &str, environment: &str) -> SourceOptions {
    SourceOptions { when_full: WhenFull::WaitFor(ROOM_TIMEOUT), ..SourceOptions::new(tenant_id, environment) }
}

fn close(recorder: &Recorder) {
    if let Err(error) = recorder.close(CLOSE_TIMEOUT) {
        errln!("agentgov: {}; the next gateway with the same spool publishes them", error);
    }
}

/// One producer, with a source for each tenant and environment.
struct RecorderLog {
    producer: Producer,
    recorders: Mutex<HashMap<(String, String), Arc<Recorder>>>,
}

/// The log, shared with the function that closes it.
struct SharedLog(Arc<RecorderLog>);

impl Journals for SharedLog {
    fn open(&self, tenant_id: &str, environment: &str) -> Result<Arc<dyn Journal>, String> {
        let RecorderLog { producer, recorders } = &*self.0;
        let mut recorders = recorders.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant_id.to_owned(), environment.to_owned());
        if let Some(recorder) = recorders.get(&key) {
            return Ok(Arc::clone(recorder) as Arc<dyn Journal>);
        }
        if recorders.len() >= MAX_SOURCES {
            return Err(format!("expected at most {MAX_SOURCES} tenants and environments, found one more"));
        }
        let recorder =
            producer.recorder(source(tenant_id, environment)).map_err(|error| error.to_string())?;
        let recorder = Arc::new(recorder);
        recorders.insert(key, Arc::clone(&recorder));
        Ok(recorder)
    }
}

impl RecorderLog {
    fn close(&self) {
        let recorders = std::mem::take(&mut *self.recorders.lock().unwrap_or_else(PoisonError::into_inner));
        recorders.values().for_each(|recorder| close(recorder));
    }
}
