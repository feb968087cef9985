//! Readiness of processes.

use std::time::Duration;

use agentgov_connect::{describe, read_body};
use agentgov_service::serve::{Readiness, StageReadiness};
use serde::Serialize;

/// Timeout of a request to a process.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Process that serves health.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Address of the process.
    pub url: String,
    /// Error, if the process did not respond.
    pub away: Option<String>,
    /// Version of the build; empty if it is unknown.
    pub version: String,
    /// Stages of the process.
    pub stages: Vec<StageReadiness>,
}

/// Returns the state of processes for which the requests panicked.
pub(crate) fn panicked(urls: &[String]) -> Vec<Process> {
    let away = || Some("the request panicked".to_owned());
    let process =
        |url: &String| Process { url: url.clone(), away: away(), version: String::new(), stages: vec![] };
    urls.iter().map(process).collect()
}

/// Sends a request to every process, in parallel. A URL is that of `run --listen`, with or without `http://`.
pub(crate) fn processes(urls: &[String]) -> Vec<Process> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = urls.iter().map(|url| (url, scope.spawn(move || ask(url)))).collect();
        let processes = threads.into_iter().map(|(url, answer)| {
            let answer = answer.join().unwrap_or_else(|_| Err("the request panicked".to_owned()));
            let (away, readiness) = match answer {
                Ok(readiness) => (None, Some(readiness)),
                Err(why) => (Some(why), None),
            };
            // Version and stages of a process that did not respond are unknown.
            let (version, stages) =
                readiness.map(|readiness| (readiness.version, readiness.stages)).unwrap_or_default();
            Process { url: url.clone(), away, version, stages }
        });
        processes.collect()
    })
}

fn ask(url: &str) -> Result<Readiness, String> {
    let base = url.trim_end_matches('/');
    let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let http = reqwest::blocking::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .no_proxy()
        .build()
        .map_err(|e| describe(&e))?;
    let answer =
        http.get(format!("{base}/readyz?format=json")).send().map_err(|e| describe(&e.without_url()))?;
    let status = answer.status();
    let body = read_body(answer).map_err(|error| error.to_string())?;
    serde_json::from_str(&body).map_err(|e| {
        format!("expected the answer of `agentgov run --listen` or `agentgov pdp`, found {status}: {e}")
    })
}
