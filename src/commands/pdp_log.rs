//! `agentgov pdp` without `--bundle`: decides with the state of the log, and records each decision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_follower::{Follower, FollowerConfig};
use agentgov_pdp::{
    Callers, DecisionLog, DecisionServer, LogPoint, LogPointConfig, RecordedDecision, ServerConfig,
};
use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_schemas::catalogue;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::{Event, Recorder, RecorderOptions, SpoolOptions, WhenFull};
use agentgov_service::panics::PanicGuard;
use agentgov_service::{ExitCode, Health, Metrics, ShutdownSignal};
use agentgov_token::SigningKey;

use crate::cli::{Global, Pdp};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, outln};

/// Maximum age of a topic's copy. An older copy counts as unknown.
const MAX_STALENESS: Duration = Duration::from_secs(10);
/// Maximum bytes of actions that wait for the evaluator, per partition.
const MAX_AHEAD_BYTES: usize = 16 << 20;
/// Validity of a token: from the decision to the record of the call.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Maximum number of sources of decisions, one per tenant and environment.
const MAX_SOURCES: usize = 1_000;
/// Maximum bytes of decisions that Kafka has not acknowledged, per source.
const BUFFER_BYTES: usize = 16 << 20;
/// Time for the buffered decisions to reach Kafka at shutdown. The rest stays in the spool.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub fn pdp(args: &Pdp, config: ServerConfig, name: &str, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let signing_key = args.signing_key.as_deref().map(read_key).transpose()?;
    let metrics = Metrics::start()?;
    let (health, stop) = (Health::new(name), ShutdownSignal::default());
    let panics = PanicGuard::new(stop.clone());
    let on_signal = stop.clone();
    ctrlc::set_handler(move || on_signal.request()).or_exit(ExitCode::Failed)?;
    let follower = Arc::new(
        Follower::new(
            &topology,
            FollowerConfig {
                kafka: endpoints.kafka.clone(),
                name: name.to_owned(),
                max_staleness: MAX_STALENESS,
                max_ahead_bytes: MAX_AHEAD_BYTES,
            },
        )
        .or_exit(ExitCode::Config)?,
    );
    let log = Arc::new(RecorderLog::new(args, &endpoints, &topology));
    log.open(config.callers.as_ref())?;
    let is_signed = signing_key.is_some();
    let point = LogPoint::new(
        Arc::clone(&follower),
        SharedLog(Arc::clone(&log)),
        LogPointConfig { name: name.to_owned(), signing_key, token_lifetime: TOKEN_LIFETIME },
    );
    let following = {
        let (health, stop) = (health.clone(), stop.clone());
        let registry = endpoints.schema_registry.clone();
        std::thread::Builder::new()
            .name("follower".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let ended = follower.run(&registry, &health, &stop);
                // Without a follower, the server could answer no request.
                stop.request();
                ended
            })
            .or_exit(ExitCode::Failed)?
    };
    let server = DecisionServer::start(config, point, (health, metrics, stop.clone()));
    let server = server.inspect_err(|_| stop.request()).or_exit(ExitCode::Config)?;
    if global.json {
        print::json_line(&serde_json::json!({ "listening": server.url(), "signed": is_signed }))?;
    } else {
        let tokens = if is_signed { "signed" } else { "without tokens: give --signing-key" };
        outln!("decisions on {}, on the state of the log; recorded, {}", server.url(), tokens);
    }
    let served = server.join();
    stop.request();
    let followed = following.join();
    log.close();
    if let Some(panic) = panics.panic() {
        return Err(panic.into());
    }
    followed
        .map_err(|_| Failure::new(ExitCode::Panicked, "the follower panicked".to_owned()))?
        .map_err(Failure::from)?;
    served.or_exit(ExitCode::Failed)?;
    Ok(ExitCode::Done)
}

fn read_key(file: &std::path::Path) -> Result<SigningKey, Failure> {
    let failure = |error: &dyn std::fmt::Display| {
        Failure::new(
            ExitCode::Config,
            format!("{}: {error}; make one with `agentgov registry key new`", file.display()),
        )
    };
    let text = std::fs::read_to_string(file).map_err(|error| failure(&error))?;
    SigningKey::from_private_jwk(&text).map_err(|error| failure(&error))
}

/// Records decisions with the SDK: one source per tenant and environment.
struct RecorderLog {
    options: RecorderOptions,
    recorders: Mutex<HashMap<(String, String), Arc<Recorder>>>,
}

/// Reference to the log, shared with the function that closes it.
struct SharedLog(Arc<RecorderLog>);

impl RecorderLog {
    fn new(args: &Pdp, endpoints: &Endpoints, topology: &Arc<Topology>) -> Self {
        let options = RecorderOptions {
            buffer_bytes: BUFFER_BYTES,
            // Denies at once if the buffer is full, instead of delaying the decision.
            when_full: WhenFull::Fail,
            spool: Some(SpoolOptions::new(&args.spool)),
            ..RecorderOptions::new(
                endpoints.kafka.clone(),
                endpoints.schema_registry.clone(),
                Arc::clone(topology),
                "",
                "",
            )
        };
        Self { options, recorders: Mutex::default() }
    }

    /// Opens the sources of the callers, so that decisions which a killed process left in the spool are published now.
    fn open(&self, callers: Option<&Callers>) -> Result<(), Failure> {
        for caller in callers.into_iter().flat_map(Callers::iter) {
            self.recorder(&caller.tenant, &caller.environment).map_err(|error| {
                Failure::new(ExitCode::TryAgain, format!("caller {}: {error}", caller.name))
            })?;
        }
        Ok(())
    }

    fn recorder(&self, tenant_id: &str, environment: &str) -> Result<Arc<Recorder>, String> {
        let key = (tenant_id.to_owned(), environment.to_owned());
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recorder) = recorders.get(&key) {
            return Ok(Arc::clone(recorder));
        }
        if recorders.len() >= MAX_SOURCES {
            return Err(format!("expected at most {MAX_SOURCES} tenants and environments, found one more"));
        }
        let options = RecorderOptions {
            tenant_id: tenant_id.to_owned(),
            environment: environment.to_owned(),
            ..self.options.clone()
        };
        let recorder = Arc::new(Recorder::start(options).map_err(|error| error.to_string())?);
        recorders.insert(key, Arc::clone(&recorder));
        Ok(recorder)
    }

    /// Closes the sources. Decisions that do not reach Kafka in time stay in the spool.
    fn close(&self) {
        let recorders = std::mem::take(&mut *self.recorders.lock().unwrap_or_else(PoisonError::into_inner));
        for ((tenant, environment), recorder) in recorders {
            if let Err(error) = recorder.close(CLOSE_TIMEOUT) {
                tracing::warn!(tenant, environment, %error, "decisions stay in the spool: the next start publishes them");
            }
        }
    }
}

impl DecisionLog for SharedLog {
    fn record(&self, decision: &RecordedDecision<'_>) -> Result<(), String> {
        let recorder = self.0.recorder(decision.tenant_id, decision.environment)?;
        let event = Event {
            occurred_at: Some(decision.occurred_at),
            actor: decision.actor,
            trace: decision.trace,
            decision: Some(&decision.decision),
            ..Event::new(catalogue::DECISION_MADE, decision.session_id, decision.agent)
        };
        recorder.record(&event).map(|_| ()).map_err(|error| error.to_string())
    }
}
