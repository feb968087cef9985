//! `agentgov pdp` without `--bundle`: decides with the state of the log, and records each decision.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_follower::{Follower, FollowerConfig};
use agentgov_pdp::{
    AskedApproval, Callers, DecisionLog, DecisionServer, LogPoint, LogPointConfig, NotRecorded,
    RecordedDecision, ServerConfig,
};
use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_schemas::topology::Topology;
use agentgov_schemas::{NotReadyReason, catalogue};
use agentgov_sdk::{
    Event, Producer, ProducerOptions, RecordError, Recorder, SourceOptions, SpoolOptions, WhenFull,
};
use agentgov_service::panics::PanicGuard;
use agentgov_service::{ExitCode, Health, Metrics, ShutdownSignal, StageError};
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
/// Time for the buffered decisions to reach Kafka at shutdown. The rest stays in the spool.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub fn pdp(args: &Pdp, config: ServerConfig, name: &str, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let signing_key = args.signing_key.as_deref().map(read_key).transpose()?;
    let is_signed = signing_key.is_some();
    let stop = ShutdownSignal::default();
    let panics = PanicGuard::new(stop.clone());
    let on_signal = stop.clone();
    ctrlc::set_handler(move || on_signal.request()).or_exit(ExitCode::Failed)?;
    let options = PdpOptions {
        name,
        health: Health::new(name),
        signing_key,
        approval_lifetime: Duration::from_secs(args.approval_lifetime),
        spool: &args.spool,
        server: config,
    };
    let running = RunningPdp::start(options, &endpoints, &topology, stop)?;
    if global.json {
        print::json_line(&serde_json::json!({ "listening": running.url(), "signed": is_signed }))?;
    } else {
        let tokens = if is_signed { "signed" } else { "without tokens: give --signing-key" };
        outln!("decisions on {}, on the state of the log; recorded, {}", running.url(), tokens);
    }
    let ended = running.join();
    if let Some(panic) = panics.panic() {
        return Err(panic.into());
    }
    ended.map(|()| ExitCode::Done)
}

/// Options of a decision point on the log.
pub struct PdpOptions<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its health, which its server reports.
    pub health: Health,
    /// The key that signs its tokens.
    pub signing_key: Option<SigningKey>,
    /// Validity of an approval, from the request for it on.
    pub approval_lifetime: Duration,
    /// Folder of its spool.
    pub spool: &'a Path,
    /// Where it listens, and to whom.
    pub server: ServerConfig,
}

/// A decision point in threads of this process.
pub struct RunningPdp {
    stop: ShutdownSignal,
    server: DecisionServer,
    following: JoinHandle<Result<(), StageError>>,
    log: Arc<RecorderLog>,
}

impl RunningPdp {
    /// Starts it. It requests `stop` when it ends by itself.
    pub fn start(
        options: PdpOptions<'_>,
        endpoints: &Endpoints,
        topology: &Arc<Topology>,
        stop: ShutdownSignal,
    ) -> Result<Self, Failure> {
        let PdpOptions { name, health, signing_key, approval_lifetime, spool, server } = options;
        let metrics = Metrics::start()?;
        // Until the follower clears it: the server must not be ready before it knows a state.
        health.set_not_ready(NotReadyReason::Stale, "the state of the log is not read yet");
        let follower = FollowerConfig {
            kafka: endpoints.kafka.clone(),
            max_staleness: MAX_STALENESS,
            max_ahead_bytes: MAX_AHEAD_BYTES,
        };
        let follower = Arc::new(Follower::new(topology, follower).or_exit(ExitCode::Config)?);
        let callers = server.callers.iter().flat_map(Callers::iter);
        let tenants = callers.map(|caller| caller.tenant.clone()).collect();
        let log = Arc::new(RecorderLog::start(spool, endpoints, topology)?);
        let point = LogPoint::new(
            Arc::clone(&follower),
            SharedLog(Arc::clone(&log)),
            LogPointConfig {
                name: name.to_owned(),
                signing_key,
                token_lifetime: TOKEN_LIFETIME,
                approval_lifetime,
                tenants,
            },
        );
        let server = DecisionServer::start(server, point, (health.clone(), metrics, stop.clone()))
            .or_exit(ExitCode::Config)?;
        let registry = endpoints.schema_registry.clone();
        let (reports, stops) = (health.clone(), stop.clone());
        let following = std::thread::Builder::new()
            .name("follower".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let ended = follower.run(&registry, &reports, &stops);
                // A server without a follower could only say that it does not know.
                stops.request();
                ended
            })
            .inspect_err(|_| stop.request())
            .or_exit(ExitCode::Failed)?;
        Ok(Self { stop, server, following, log })
    }

    /// Returns the URL that the decision point serves.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Waits until it has ended, and publishes its last decisions.
    pub fn join(self) -> Result<(), Failure> {
        let served = self.server.join();
        self.stop.request();
        let followed = self.following.join();
        self.log.close();
        followed
            .map_err(|_| Failure::new(ExitCode::Panicked, "the follower panicked".to_owned()))?
            .map_err(Failure::from)?;
        served.or_exit(ExitCode::Failed)
    }
}

pub fn read_key(file: &Path) -> Result<SigningKey, Failure> {
    agentgov_registry::read_key_file(file).map_err(|error| {
        Failure::new(
            ExitCode::Config,
            format!("{}: {error}; make one with `agentgov registry key new`", file.display()),
        )
    })
}

/// Records decisions by the SDK: one producer, with a source for each tenant and environment. The records linger as
/// other events do, since no answer waits for Kafka (ADR 0041).
struct RecorderLog {
    producer: Producer,
    recorders: Mutex<HashMap<(String, String), Arc<Recorder>>>,
}

/// The log, shared with the function that closes it.
struct SharedLog(Arc<RecorderLog>);

impl RecorderLog {
    /// Starts the producer, which publishes the decisions that a killed process left in the spool.
    fn start(spool: &Path, endpoints: &Endpoints, topology: &Arc<Topology>) -> Result<Self, Failure> {
        let options = ProducerOptions {
            spool: Some(SpoolOptions::new(spool)),
            ..ProducerOptions::new(
                endpoints.kafka.clone(),
                endpoints.schema_registry.clone(),
                Arc::clone(topology),
            )
        };
        let producer = Producer::start(options).or_exit(ExitCode::TryAgain)?;
        Ok(Self { producer, recorders: Mutex::default() })
    }

    fn recorder(&self, tenant_id: &str, environment: &str) -> Result<Arc<Recorder>, NotRecorded> {
        let key = (tenant_id.to_owned(), environment.to_owned());
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recorder) = recorders.get(&key) {
            return Ok(Arc::clone(recorder));
        }
        if recorders.len() >= MAX_SOURCES {
            let reason = format!("expected at most {MAX_SOURCES} tenants and environments, found one more");
            return Err(NotRecorded::Decision(reason));
        }
        // Denies at once if the buffer is full, instead of delaying the decision.
        let options =
            SourceOptions { when_full: WhenFull::Fail, ..SourceOptions::new(tenant_id, environment) };
        let opened = self.producer.recorder(options).map_err(|error| NotRecorded::Log(error.to_string()))?;
        let recorder = Arc::new(opened);
        recorders.insert(key, Arc::clone(&recorder));
        Ok(recorder)
    }

    fn record(&self, tenant_id: &str, environment: &str, event: &Event<'_>) -> Result<(), NotRecorded> {
        let recorder = self.recorder(tenant_id, environment)?;
        recorder.record(event).map(|_| ()).map_err(|error| {
            if matches!(error, RecordError::Stopped { .. }) {
                self.forget(tenant_id, environment);
            }
            let reason = error.to_string();
            match error {
                RecordError::Full { .. }
                | RecordError::SpoolFull { .. }
                | RecordError::Spool { .. }
                | RecordError::Stopped { .. } => NotRecorded::Log(reason),
                _ => NotRecorded::Decision(reason),
            }
        })
    }

    /// Forgets a source that has stopped, so that the next decision opens another one.
    fn forget(&self, tenant_id: &str, environment: &str) {
        let key = (tenant_id.to_owned(), environment.to_owned());
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Ends the sources. Decisions that do not reach Kafka in time stay in the spool.
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
    fn waiting_bytes(&self) -> u64 {
        let recorders = self.0.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        recorders.values().map(|recorder| recorder.stats().waiting_bytes as u64).sum()
    }

    fn record(&self, decision: &RecordedDecision<'_>) -> Result<(), NotRecorded> {
        let event = Event {
            occurred_at: Some(decision.occurred_at),
            actor: decision.actor,
            trace: decision.trace,
            decision: Some(&decision.decision),
            ..Event::new(catalogue::DECISION_MADE, decision.session_id, decision.agent)
        };
        self.0.record(decision.tenant_id, decision.environment, &event)
    }

    fn record_asked(&self, asked: &AskedApproval<'_>) -> Result<(), String> {
        let event = Event {
            occurred_at: Some(asked.occurred_at),
            actor: asked.actor,
            trace: asked.trace,
            approval: Some(asked.approval),
            ..Event::new(catalogue::APPROVAL_ASKED, asked.session_id, asked.agent)
        };
        let recorded = self.0.record(asked.tenant_id, asked.environment, &event);
        recorded.map_err(|fault| fault.reason().to_owned())
    }
}
