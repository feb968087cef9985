//! Client of a ClickHouse server's HTTP interface: statements, typed reads, and inserts of ready blocks.
//!
//! Sends each request once, over the address it was given: no retry, no redirect, no proxy, since a second copy of an
//! insert, or one that reaches another server, is what the protocol is there to rule out.

use std::time::Duration;

use agentgov_connect::{ClickHouseEndpoint, describe, http_client, read_text};
use agentgov_schemas::NotReadyReason;
use reqwest::Url;
use reqwest::blocking::{Body, Client, RequestBuilder};
use serde::de::DeserializeOwned;

use agentgov_service::{Health, StageError, Stop};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than any server keeps an idle connection: one that the server has just closed would look like a doubt.
const IDLE_CONNECTION: Duration = Duration::from_secs(1);
/// How much longer the client waits than the server may work.
pub(super) const MARGIN: Duration = Duration::from_secs(5);
const EXCEPTION_CODE: &str = "X-ClickHouse-Exception-Code";

/// A server, and a database in it.
#[derive(Debug)]
pub struct Store {
    http: Client,
    url: Url,
    endpoint: ClickHouseEndpoint,
    insert_timeout: Duration,
    heeds: Option<(Stop, Health)>,
}

/// Why a request cannot be relied on. Whether an insert took effect is not known after either.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server answered with an exception.
    #[error("clickhouse: {message}")]
    Refused {
        /// ClickHouse's error code; 0 if it gave none.
        code: u32,
        /// What it said.
        message: String,
    },
    /// No answer: not reachable, cut, or too late.
    #[error("clickhouse at {url}: {message}")]
    NoAnswer {
        /// Where.
        url: String,
        /// What happened.
        message: String,
    },
}

impl StoreError {
    /// True if a claim did not hold: someone else claimed, or the server restarted.
    pub const fn is_fence(&self) -> bool {
        matches!(self, Self::Refused { code: 469, .. })
    }
}

impl Store {
    /// A client for `endpoint`, whose inserts may take `insert_timeout` at the server. Connects on first use.
    pub fn new(endpoint: &ClickHouseEndpoint, insert_timeout: Duration) -> Result<Self, StageError> {
        let url = Url::parse(&endpoint.url).map_err(|e| {
            StageError::Config(format!("clickhouse: expected a URL, found `{}`: {e}", endpoint.url))
        })?;
        let http = http_client(&endpoint.url, &endpoint.tls)
            .map_err(|e| StageError::Config(format!("clickhouse: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(insert_timeout + MARGIN)
            .pool_idle_timeout(IDLE_CONNECTION)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| StageError::Config(format!("clickhouse: no HTTP client: {}", describe(&e))))?;
        Ok(Self { http, url, endpoint: endpoint.clone(), insert_timeout, heeds: None })
    }

    /// The same, for a stage: a request that is late is told as `clickhouse_answer`, and one that is under way when a stop is
    /// asked for is given up after a moment. Nothing is lost by that: the table says where to go on.
    pub fn heeding(mut self, stop: Stop, health: Health) -> Self {
        self.heeds = Some((stop, health));
        self
    }

    /// The database that holds the log.
    pub fn database(&self) -> &str {
        &self.endpoint.database
    }

    /// How long an insert may take at the server.
    pub const fn insert_timeout(&self) -> Duration {
        self.insert_timeout
    }

    /// Runs a statement. An INSERT among them must bear being run twice, or be fenced.
    pub fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.send(&[("database", self.database()), ("async_insert", "0")], sql.to_owned()).map(drop)
    }

    /// Runs a statement outside the database, e.g. to create it.
    pub fn execute_outside(&self, sql: &str) -> Result<(), StoreError> {
        self.send(&[], sql.to_owned()).map(drop)
    }

    /// Runs a SELECT; `T` has its columns as fields.
    pub fn select<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, StoreError> {
        let keys = [
            ("database", self.database()),
            ("default_format", "JSONEachRow"),
            ("output_format_json_quote_64bit_integers", "0"),
            ("wait_end_of_query", "1"),
        ];
        let answer = self.send(&keys, sql.to_owned())?;
        let unreadable = |e: serde_json::Error| StoreError::Refused {
            code: 0,
            message: format!("expected rows as JSON, found {answer:?} ({e})"),
        };
        answer.lines().map(|line| serde_json::from_str(line).map_err(unreadable)).collect()
    }

    /// Sends a block in Native format, as one block of one table partition.
    pub(super) fn insert_native(&self, sql: &str, block: Vec<u8>) -> Result<(), StoreError> {
        let seconds = self.insert_timeout.as_secs().max(1).to_string();
        let keys = [
            ("database", self.database()),
            ("query", sql),
            // Answered when the rows are there, not when they are queued.
            ("async_insert", "0"),
            // The fence is checked per block: one insert, one block, all or nothing.
            ("max_insert_block_size", "100000000"),
            ("min_insert_block_size_rows", "100000000"),
            ("min_insert_block_size_bytes", "4000000000"),
            ("input_format_parallel_parsing", "0"),
            ("max_insert_threads", "1"),
            ("max_partitions_per_insert_block", "1"),
            ("throw_on_max_partitions_per_insert_block", "1"),
            // Nothing that looks like a row already there may be left out.
            ("insert_deduplicate", "0"),
            // A doubt lasts as long as the slowest insert.
            ("max_execution_time", &seconds),
            ("http_receive_timeout", &seconds),
            ("wait_end_of_query", "1"),
        ];
        self.send(&keys, block).map(drop)
    }

    fn send(&self, keys: &[(&str, &str)], body: impl Into<Body>) -> Result<String, StoreError> {
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs(keys);
        let mut request = self.http.post(url).body(body);
        if !self.endpoint.user.is_empty() {
            request = request
                .header("X-ClickHouse-User", &self.endpoint.user)
                .header("X-ClickHouse-Key", self.endpoint.password.expose());
        }
        let no_answer = |message| StoreError::NoAnswer { url: self.endpoint.url.clone(), message };
        let answer = match &self.heeds {
            None => exchange(request),
            Some((stop, health)) => {
                let late = || {
                    health.not_ready(
                        NotReadyReason::ClickhouseAnswer,
                        "ClickHouse has accepted a request and does not answer",
                    )
                };
                let answer = stop.race(late, move || exchange(request));
                health.clear(NotReadyReason::ClickhouseAnswer);
                answer.ok_or_else(|| no_answer("asked to stop before it answered".into()))?
            }
        };
        let (status, code, body) = answer.map_err(no_answer)?;
        if status == reqwest::StatusCode::OK && code.is_none() {
            return Ok(body);
        }
        let message = if body.is_empty() { status.to_string() } else { body.trim_end().to_owned() };
        Err(StoreError::Refused { code: code.unwrap_or(0), message })
    }
}

/// Status, the code of an exception if there is one, body.
type Answer = (reqwest::StatusCode, Option<u32>, String);

fn exchange(request: RequestBuilder) -> Result<Answer, String> {
    let answer = request.send().map_err(|e| describe(&e.without_url()))?;
    let status = answer.status();
    let code = answer.headers().get(EXCEPTION_CODE).and_then(|code| code.to_str().ok()?.parse().ok());
    Ok((status, code, read_text(answer)?))
}

/// `text` as an SQL literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}
