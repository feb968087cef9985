//! What a process says of itself over HTTP: /livez, /readyz with reasons, /metrics for Prometheus.
//!
//! Live, ready and lagging are three questions with three answers: a stage that waits for ClickHouse is live and not
//! ready; one that has made no progress for [`STUCK`] although it is not waiting for anything is not live.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::health::Snapshot;
use crate::{Health, StageError, Stop};

/// A stage that says it is ready looks around at least ten times a second. After this long without, it hangs.
const STUCK: Duration = Duration::from_secs(60);
/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// An HTTP server that is listening.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    thread: std::thread::JoinHandle<()>,
}

#[derive(Clone)]
struct Process {
    stages: Vec<Health>,
    metrics: PrometheusHandle,
}

impl Serving {
    /// Serves until `stop` is asked. Port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is taken, or this process serves already.
    pub fn start(listen: SocketAddr, stages: Vec<Health>, stop: Stop) -> Result<Self, StageError> {
        let failed =
            |e: &dyn std::fmt::Display| StageError::Config(format!("serving health on {listen}: {e}"));
        let listener = std::net::TcpListener::bind(listen).map_err(|e| failed(&e))?;
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        let address = listener.local_addr().map_err(|e| failed(&e))?;
        let metrics = PrometheusBuilder::new().install_recorder().map_err(|e| failed(&e))?;
        describe();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
        let app = router(Process { stages, metrics });
        let thread = std::thread::Builder::new()
            .name("health".into())
            .spawn(move || {
                let served = runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let ended = async move {
                        while !stop.is_asked() {
                            tokio::time::sleep(LOOK).await;
                        }
                    };
                    axum::serve(listener, app).with_graceful_shutdown(ended).await
                });
                if let Err(error) = served {
                    tracing::error!(%error, "health is not served any more");
                }
            })
            .map_err(|e| failed(&e))?;
        Ok(Self { address, thread })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended; ask the stop first.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the health server panicked");
        }
    }
}

fn router(process: Process) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(process)
}

async fn livez(State(process): State<Process>) -> (StatusCode, String) {
    let stuck = process
        .stages
        .iter()
        .map(Health::snapshot)
        .filter(is_stuck)
        .map(|stage| format!("{}: no progress for {:.0?}\n", stage.stage, stage.since_progress));
    answer("live", stuck.collect())
}

async fn readyz(State(process): State<Process>) -> (StatusCode, String) {
    let reasons = process.stages.iter().map(Health::snapshot).flat_map(|stage| {
        let name = stage.stage;
        stage.not_ready.into_iter().map(move |(what, why)| format!("{name}: {what}: {why}\n"))
    });
    answer("ready", reasons.collect())
}

async fn metrics(State(process): State<Process>) -> String {
    for stage in process.stages.iter().map(Health::snapshot) {
        let ready = if stage.not_ready.is_empty() { 1.0 } else { 0.0 };
        metrics::gauge!("agentgov_ready", "stage" => stage.stage.clone()).set(ready);
        metrics::gauge!("agentgov_progress_age_seconds", "stage" => stage.stage.clone())
            .set(stage.since_progress.as_secs_f64());
        metrics::counter!("agentgov_records_total", "stage" => stage.stage.clone()).absolute(stage.records);
    }
    process.metrics.render()
}

fn answer(fine: &str, troubles: Vec<String>) -> (StatusCode, String) {
    if troubles.is_empty() {
        (StatusCode::OK, format!("{fine}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles.concat())
    }
}

/// One that says why it is not ready waits for something: it is alive, and restarting it helps nobody.
fn is_stuck(stage: &Snapshot) -> bool {
    stage.not_ready.is_empty() && stage.since_progress > STUCK
}

/// What each metric is, for those who read /metrics.
fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("agentgov_ready", "1 if the stage is ready, else 0; /readyz says why.");
    describe_gauge!(
        "agentgov_progress_age_seconds",
        Unit::Seconds,
        "Since the stage last finished a batch, or found nothing to do."
    );
    describe_counter!("agentgov_records_total", "Records processed by this process.");
    describe_counter!("agentgov_rejects_total", "Records rejected by this process, by reason.");
    describe_counter!(
        "agentgov_transactions_aborted_total",
        "Transactions that were aborted; their records were processed again."
    );
    describe_histogram!("agentgov_step_seconds", Unit::Seconds, "Decoding and stepping a batch.");
    describe_histogram!(
        "agentgov_commit_seconds",
        Unit::Seconds,
        "Producing a batch's outputs and committing its transaction."
    );
    describe_counter!("agentgov_rows_inserted_total", "Rows inserted by this process, by table.");
    describe_histogram!(
        "agentgov_insert_seconds",
        Unit::Seconds,
        "An insert, until it is durable, by table."
    );
    describe_counter!(
        "agentgov_doubts_total",
        "Inserts whose answer was not a plain yes, by table; each was looked after."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_hanging() {
        let mut stage = Health::new("evaluator").snapshot();
        stage.since_progress = STUCK * 2;
        assert!(!is_stuck(&stage), "it says what it waits for");
        stage.not_ready.clear();
        assert!(is_stuck(&stage));
        stage.since_progress = STUCK;
        assert!(!is_stuck(&stage));
    }

    #[test]
    fn troubles_are_told_with_503() {
        assert_eq!(answer("ready", vec![]), (StatusCode::OK, "ready\n".into()));
        let (status, text) = answer("ready", vec!["log-sink: clickhouse: away\n".into()]);
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "log-sink: clickhouse: away\n")
        );
    }
}
