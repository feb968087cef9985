//! What processes say of themselves.

use std::time::Duration;

use agentgov_connect::{describe, read_body};
use agentgov_service::serve::{Readiness, StageReadiness};
use serde::Serialize;

const WITHIN: Duration = Duration::from_secs(3);

/// A process that serves health.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Where it was asked.
    pub url: String,
    /// Why it gave no answer, if so.
    pub away: Option<String>,
    /// Its build's version.
    pub version: String,
    /// Its stages.
    pub stages: Vec<StageReadiness>,
}

/// What is known of them if asking them panicked.
pub(crate) fn panicked(urls: &[String]) -> Vec<Process> {
    let away = || Some("asking it panicked".to_owned());
    let process =
        |url: &String| Process { url: url.clone(), away: away(), version: String::new(), stages: vec![] };
    urls.iter().map(process).collect()
}

/// Asks all of them at once. A URL is that of `run --listen`, with or without `http://`.
pub(crate) fn processes(urls: &[String]) -> Vec<Process> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = urls.iter().map(|url| (url, scope.spawn(move || ask(url)))).collect();
        let told = asked.into_iter().map(|(url, answer)| {
            let answer = answer.join().unwrap_or_else(|_| Err("asking it panicked".to_owned()));
            let (away, told) = match answer {
                Ok(told) => (None, Some(told)),
                Err(why) => (Some(why), None),
            };
            // Of a process that is away neither is known.
            let (version, stages) = told.map(|told| (told.version, told.stages)).unwrap_or_default();
            Process { url: url.clone(), away, version, stages }
        });
        told.collect()
    })
}

fn ask(url: &str) -> Result<Readiness, String> {
    let base = url.trim_end_matches('/');
    let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let http =
        reqwest::blocking::Client::builder().timeout(WITHIN).no_proxy().build().map_err(|e| describe(&e))?;
    let answer =
        http.get(format!("{base}/readyz?format=json")).send().map_err(|e| describe(&e.without_url()))?;
    let status = answer.status();
    let body = read_body(answer).map_err(|error| error.to_string())?;
    serde_json::from_str(&body)
        .map_err(|e| format!("expected the answer of `agentgov run --listen`, found {status}: {e}"))
}
