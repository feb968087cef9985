//! The HTTP server of decision points with a constant decision: the part of a request's time that is not the decision.

use agentgov_pdp::{
    Answer, BundleId, Caller, DecisionPoint, DecisionServer, Found, Question, Refusal, Search, ServerConfig,
};
use agentgov_policy::authzen::Properties;
use agentgov_schemas::Digest;
use agentgov_schemas::verdict::Decision;
use agentgov_service::{Health, Metrics, ShutdownSignal};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::BenchError;
use crate::worker::report_result;

/// Name of the process in its health.
const NAME: &str = "constant";
/// Member that pads the response.
const PADDING: &str = "padding";

/// Task of a worker that serves a constant decision. Its result is the URL.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConstantServer {
    /// Bytes of a response, so that both contenders write equally long ones.
    pub response_bytes: usize,
}

struct ConstantPoint(Answer);

impl DecisionPoint for ConstantPoint {
    async fn evaluate(&self, _: Option<&Caller>, _: Question<'_>) -> Result<Answer, Refusal> {
        Ok(self.0.clone())
    }

    async fn search(&self, _: Option<&Caller>, _: Search<'_>) -> Result<Found, Refusal> {
        Ok(Found::default())
    }
}

fn answer(padding: usize) -> Answer {
    let mut more = Properties::new();
    more.insert(PADDING.to_owned(), Value::String("x".repeat(padding)));
    Answer {
        decision: Decision::Allow,
        reason: "granted",
        policies: Vec::new(),
        observed: Vec::new(),
        errors: Vec::new(),
        evaluation_id: Uuid::nil(),
        bundle: Some(BundleId { name: NAME.into(), version: "1".into(), digest: Digest::of(&[]) }),
        recorded: false,
        more,
    }
}

pub(crate) fn serve(task: &ConstantServer) -> Result<(), BenchError> {
    let unpadded = serde_json::to_string(&answer(0))
        .map_err(|error| BenchError::io("encoding an answer")(error.into()))?
        .len();
    let point = ConstantPoint(answer(task.response_bytes.saturating_sub(unpadded)));
    let config =
        ServerConfig { listen: vec![([127, 0, 0, 1], 0).into()], tls: None, callers: None, url: None };
    let failed = |message: String| BenchError::Http { what: "serving a constant decision", message };
    let metrics = Metrics::start().map_err(|error| failed(error.to_string()))?;
    let stop = ShutdownSignal::default();
    let server = DecisionServer::start(config, point, (Health::new(NAME), metrics, stop.clone()))
        .map_err(|error| failed(error.to_string()))?;
    report_result(&server.url())?;
    stop.request();
    server.join().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_adds_its_own_length() {
        let bytes = |padding| serde_json::to_string(&answer(padding)).unwrap().len();
        assert_eq!(bytes(700), bytes(0) + 700);
    }
}
