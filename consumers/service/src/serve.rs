//! HTTP server for health and metrics: /livez, /readyz with reasons, /metrics for Prometheus.
//!
//! A stage that waits for ClickHouse is live and not ready; a stage whose loop does not run is not live ([`Snapshot::hangs`]).
//! The server runs until the stages have ended. During a shutdown the stages are live, and not ready.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentgov_schemas::NotReadyReason;
use agentgov_schemas::escape::Escaped;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics::gauge;
use serde::{Deserialize, Serialize};

use crate::health::Snapshot;
use crate::metrics::{LIVE, NOT_READY, PROGRESS_AGE, READY};
use crate::{Health, Metrics, ShutdownSignal, StageError, failpoint};

/// Interval of the checks whether the server must end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of the upkeep of histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Running HTTP server.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    ended: ShutdownSignal,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone)]
struct Process {
    stages: Arc<[Health]>,
    stop: ShutdownSignal,
    metrics: Metrics,
    /// Reasons that were reported before. Their gauges fall back to 0 and do not disappear.
    reported: Arc<Mutex<BTreeSet<(String, NotReadyReason)>>>,
}

/// Readiness of a process, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readiness {
    /// Version of this build.
    pub version: String,
    /// True if every stage is ready.
    pub ready: bool,
    /// Stages of the process.
    pub stages: Vec<StageReadiness>,
}

/// Readiness of a stage, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReadiness {
    /// The stage.
    pub stage: String,
    /// Reasons for which the stage is not ready, with explanations. Empty if it is ready.
    pub not_ready: BTreeMap<String, String>,
    /// Reason for which the stage is not live, if it is not.
    pub hangs: Option<String>,
    /// Time since the stage last finished a batch or found nothing to do, in seconds.
    pub progress_age_seconds: f64,
}

impl HealthServer {
    /// Starts a server on the first address that is free; port 0 selects a free port. Once `stop` is requested, no stage is
    /// ready.
    ///
    /// # Errors
    /// If the server cannot listen on any of the addresses.
    pub fn start(
        listen: &[SocketAddr],
        stages: Vec<Health>,
        metrics: Metrics,
        stop: ShutdownSignal,
    ) -> Result<Self, StageError> {
        let failed = |e: &dyn std::fmt::Display| {
            StageError::Config(format!("cannot serve health on {}: {e}", shown(listen)))
        };
        let listener = std::net::TcpListener::bind(listen).map_err(|e| failed(&e))?;
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        let address = listener.local_addr().map_err(|e| failed(&e))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        let app = router(Process {
            stages: stages.into(),
            stop,
            metrics: metrics.clone(),
            reported: Arc::default(),
        });
        let ended = ShutdownSignal::default();
        let thread = std::thread::Builder::new()
            .name("health".into())
            .spawn({
                let ended = ended.clone();
                move || {
                    let served = runtime.block_on(async {
                        let listener = tokio::net::TcpListener::from_std(listener)?;
                        tokio::spawn(async move {
                            loop {
                                tokio::time::sleep(UPKEEP_INTERVAL).await;
                                metrics.run_upkeep();
                            }
                        });
                        let until = async move {
                            while !ended.is_requested() {
                                tokio::time::sleep(POLL_INTERVAL).await;
                            }
                        };
                        axum::serve(listener, app).with_graceful_shutdown(until).await
                    });
                    if let Err(error) = served {
                        tracing::error!(%error, "the health server failed; health is no longer served");
                    }
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self { address, ended, thread })
    }

    /// Returns the address of the server.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server.
    pub fn join(self) {
        self.ended.request();
        if self.thread.join().is_err() {
            tracing::error!("the health server panicked");
        }
    }
}

fn shown(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// Returns the routes /livez, /readyz and /metrics for a server of another crate, which must call [`Metrics::run_upkeep`] regularly.
/// Once `stop` is requested, no stage is ready.
pub fn routes(stages: Vec<Health>, metrics: Metrics, stop: ShutdownSignal) -> Router {
    router(Process { stages: stages.into(), stop, metrics, reported: Arc::default() })
}

fn router(process: Process) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(process)
}

impl Process {
    /// Returns the state of every stage. No stage is ready once a shutdown is requested.
    fn snapshots(&self) -> Vec<Snapshot> {
        let mut stages: Vec<_> = self.stages.iter().map(Health::snapshot).collect();
        if self.stop.is_requested() {
            for stage in &mut stages {
                stage
                    .not_ready
                    .insert(NotReadyReason::Stopping, "shutting down; finishing the current batch".into());
            }
        }
        stages
    }
}

async fn livez(State(process): State<Process>) -> (StatusCode, String) {
    let stages = process.snapshots().into_iter();
    respond(
        "live",
        stages.filter_map(|s| s.hangs().map(|why| format!("{}: {}\n", s.stage, Escaped(why)))).collect(),
    )
}

#[derive(Deserialize)]
struct ReadyzQuery {
    format: Option<String>,
}

async fn readyz(
    State(process): State<Process>,
    Query(query): Query<ReadyzQuery>,
    headers: HeaderMap,
) -> Response {
    failpoint::edge("serve::readyz");
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let snapshots = process.snapshots();
    if query.format.as_deref() == Some("json") || accept.contains("application/json") {
        let readiness = readiness(&snapshots);
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return (status, Json(readiness)).into_response();
    }
    let reasons = snapshots.iter().flat_map(|stage| {
        stage.not_ready.iter().map(|(what, why)| format!("{}: {what}: {}\n", stage.stage, Escaped(why)))
    });
    respond("ready", reasons.collect()).into_response()
}

fn readiness(stages: &[Snapshot]) -> Readiness {
    let readiness = |stage: &Snapshot| StageReadiness {
        stage: stage.stage.clone(),
        not_ready: stage
            .not_ready
            .iter()
            .map(|(what, why)| (what.as_str().to_owned(), why.clone()))
            .collect(),
        hangs: stage.hangs(),
        progress_age_seconds: stage.since_progress.as_secs_f64(),
    };
    Readiness {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: stages.iter().all(|stage| stage.not_ready.is_empty()),
        stages: stages.iter().map(readiness).collect(),
    }
}

async fn metrics(State(process): State<Process>) -> impl IntoResponse {
    let mut reported = process.reported.lock().unwrap_or_else(PoisonError::into_inner);
    for stage in process.snapshots() {
        let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
        let name = &stage.stage;
        gauge!(READY, "stage" => name.clone()).set(yes(stage.not_ready.is_empty()));
        gauge!(LIVE, "stage" => name.clone()).set(yes(stage.hangs().is_none()));
        gauge!(PROGRESS_AGE, "stage" => name.clone()).set(stage.since_progress.as_secs_f64());
        reported.insert((name.clone(), NotReadyReason::Starting));
        reported.extend(stage.not_ready.keys().map(|reason| (name.clone(), *reason)));
        for (_, reason) in reported.iter().filter(|(stage, _)| stage == name) {
            gauge!(NOT_READY, "stage" => name.clone(), "reason" => reason.as_str())
                .set(yes(stage.not_ready.contains_key(reason)));
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], process.metrics.render())
}

fn respond(healthy: &str, reasons: Vec<String>) -> (StatusCode, String) {
    if reasons.is_empty() {
        (StatusCode::OK, format!("{healthy}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_returned_with_status_503() {
        assert_eq!(respond("ready", vec![]), (StatusCode::OK, "ready\n".into()));
        let (status, text) = respond("ready", vec!["log-sink: clickhouse: away\n".into()]);
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "log-sink: clickhouse: away\n")
        );
    }

    #[test]
    fn readiness_in_json_has_the_reasons_of_each_stage() {
        let (ready, waits) = (Health::new("alerter"), Health::new("log-sink"));
        ready.clear(NotReadyReason::Starting);
        waits.set_not_ready(NotReadyReason::Clickhouse, "away");
        let found = readiness(&[ready.snapshot(), waits.snapshot()]);
        assert!(!found.ready && found.stages[0].not_ready.is_empty());
        assert_eq!(found.stages[1].not_ready["clickhouse"], "away");
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Readiness>(&text).unwrap(), found);
    }
}
