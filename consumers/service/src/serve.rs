//! What a process says of itself over HTTP: /livez, /readyz with reasons, /metrics for Prometheus.
//!
//! Live, ready and lagging are three questions with three answers: a stage that waits for ClickHouse is live and not
//! ready; one whose loop does not turn is not live ([`Snapshot::hangs`]). It serves until the stages have ended: while they
//! finish their batches they are live, and not ready.

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

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How often samples that nobody fetches are tidied.
const TIDY: Duration = Duration::from_secs(5);

/// An HTTP server that is listening.
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
    /// Reasons that were told once: their gauges fall back to 0, they do not vanish.
    told: Arc<Mutex<BTreeSet<(String, NotReadyReason)>>>,
}

/// What a process says of its readiness, for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readiness {
    /// This build's version.
    pub version: String,
    /// True if every stage is ready.
    pub ready: bool,
    /// The process's stages.
    pub stages: Vec<StageReadiness>,
}

/// What a stage says of its readiness, for programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReadiness {
    /// The stage.
    pub stage: String,
    /// Why it is not ready, by what is wrong; empty: ready.
    pub not_ready: BTreeMap<String, String>,
    /// Why it is not live, if so.
    pub hangs: Option<String>,
    /// Since it last finished a batch, or found nothing to do.
    pub progress_age_seconds: f64,
}

impl HealthServer {
    /// Serves on the first of the addresses that is free, until it is joined. Port 0 takes a free one. Once `stop` is asked, nothing is ready any more.
    ///
    /// # Errors
    /// If none of the addresses can be listened on.
    pub fn start(
        listen: &[SocketAddr],
        stages: Vec<Health>,
        metrics: Metrics,
        stop: ShutdownSignal,
    ) -> Result<Self, StageError> {
        let failed = |e: &dyn std::fmt::Display| {
            StageError::Config(format!("serving health on {}: {e}", shown(listen)))
        };
        let listener = std::net::TcpListener::bind(listen).map_err(|e| failed(&e))?;
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        let address = listener.local_addr().map_err(|e| failed(&e))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        let app =
            router(Process { stages: stages.into(), stop, metrics: metrics.clone(), told: Arc::default() });
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
                                tokio::time::sleep(TIDY).await;
                                metrics.tidy();
                            }
                        });
                        let until = async move {
                            while !ended.is_requested() {
                                tokio::time::sleep(LOOK).await;
                            }
                        };
                        axum::serve(listener, app).with_graceful_shutdown(until).await
                    });
                    if let Err(error) = served {
                        tracing::error!(%error, "health is not served any more");
                    }
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self { address, ended, thread })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
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

fn router(process: Process) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(process)
}

impl Process {
    /// Every stage, each not ready once the process is asked to end.
    fn snapshots(&self) -> Vec<Snapshot> {
        let mut stages: Vec<_> = self.stages.iter().map(Health::snapshot).collect();
        if self.stop.is_requested() {
            for stage in &mut stages {
                stage
                    .not_ready
                    .insert(NotReadyReason::Stopping, "asked to end; finishing the batch in work".into());
            }
        }
        stages
    }
}

async fn livez(State(process): State<Process>) -> (StatusCode, String) {
    let stages = process.snapshots().into_iter();
    answer(
        "live",
        stages.filter_map(|s| s.hangs().map(|why| format!("{}: {}\n", s.stage, Escaped(why)))).collect(),
    )
}

#[derive(Deserialize)]
struct Asked {
    format: Option<String>,
}

async fn readyz(State(process): State<Process>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    failpoint::edge("serve::readyz");
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let snapshots = process.snapshots();
    if asked.format.as_deref() == Some("json") || accept.contains("application/json") {
        let readiness = readiness(&snapshots);
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        return (status, Json(readiness)).into_response();
    }
    let reasons = snapshots.iter().flat_map(|stage| {
        stage.not_ready.iter().map(|(what, why)| format!("{}: {what}: {}\n", stage.stage, Escaped(why)))
    });
    answer("ready", reasons.collect()).into_response()
}

fn readiness(stages: &[Snapshot]) -> Readiness {
    let told = |stage: &Snapshot| StageReadiness {
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
        stages: stages.iter().map(told).collect(),
    }
}

async fn metrics(State(process): State<Process>) -> impl IntoResponse {
    let mut told = process.told.lock().unwrap_or_else(PoisonError::into_inner);
    for stage in process.snapshots() {
        let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
        let name = &stage.stage;
        gauge!(READY, "stage" => name.clone()).set(yes(stage.not_ready.is_empty()));
        gauge!(LIVE, "stage" => name.clone()).set(yes(stage.hangs().is_none()));
        gauge!(PROGRESS_AGE, "stage" => name.clone()).set(stage.since_progress.as_secs_f64());
        told.insert((name.clone(), NotReadyReason::Starting));
        told.extend(stage.not_ready.keys().map(|reason| (name.clone(), *reason)));
        for (_, reason) in told.iter().filter(|(stage, _)| stage == name) {
            gauge!(NOT_READY, "stage" => name.clone(), "reason" => reason.as_str())
                .set(yes(stage.not_ready.contains_key(reason)));
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], process.metrics.render())
}

fn answer(fine: &str, troubles: Vec<String>) -> (StatusCode, String) {
    if troubles.is_empty() {
        (StatusCode::OK, format!("{fine}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_told_with_503() {
        assert_eq!(answer("ready", vec![]), (StatusCode::OK, "ready\n".into()));
        let (status, text) = answer("ready", vec!["log-sink: clickhouse: away\n".into()]);
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "log-sink: clickhouse: away\n")
        );
    }

    #[test]
    fn a_program_reads_which_stage_waits_for_what() {
        let (ready, waits) = (Health::new("alerter"), Health::new("log-sink"));
        ready.clear(NotReadyReason::Starting);
        waits.set_not_ready(NotReadyReason::Clickhouse, "away");
        let told = readiness(&[ready.snapshot(), waits.snapshot()]);
        assert!(!told.ready && told.stages[0].not_ready.is_empty());
        assert_eq!(told.stages[1].not_ready["clickhouse"], "away");
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Readiness>(&text).unwrap(), told);
    }
}
