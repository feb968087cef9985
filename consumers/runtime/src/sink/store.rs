//! Client of a ClickHouse server's HTTP interface: statements, typed reads, and inserts of ready blocks.
//!
//! Sends each request once, over the address it was given: no retry, no redirect, no proxy, since a second copy of an
//! insert, or one that reaches another server, is what the protocol is there to rule out.

use std::time::Duration;

use agentgov_connect::{ClickHouseEndpoint, describe, http_client, read_text};
use agentgov_schemas::NotReadyReason;
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;

use agentgov_service::{Health, ShutdownSignal, StageError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than any server keeps an idle connection: one that the server has just closed would look like a doubt.
const MAX_CONNECTION_IDLE: Duration = Duration::from_secs(1);
/// How much longer the client waits than the server may work.
pub(super) const CLIENT_MARGIN: Duration = Duration::from_secs(5);
const EXCEPTION_CODE_HEADER: &str = "X-ClickHouse-Exception-Code";

/// A server, and a database in it.
#[derive(Debug)]
pub struct Store {
    http: Client,
    url: Url,
    endpoint: ClickHouseEndpoint,
    insert_timeout: Duration,
    shutdown: Option<(ShutdownSignal, Health)>,
}

/// Why a request cannot be relied on. Whether an insert took effect is not known after any of them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server answered with an exception.
    #[error("clickhouse: {message}")]
    Exception {
        /// ClickHouse's error code.
        code: u32,
        /// What it said.
        message: String,
    },
    /// Something answered that is not ClickHouse, or gave no exception: a proxy, a page for logging in.
    #[error("clickhouse at {url}: expected 200 or an exception of ClickHouse, found {status}: {message}")]
    Unexpected {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The body.
        message: String,
    },
    /// An answer that is not the rows that were asked for.
    #[error("clickhouse: expected rows as JSON, found {found:?} ({error})")]
    Unreadable {
        /// The answer.
        found: String,
        /// Why it is none.
        error: serde_json::Error,
    },
    /// No answer: not reachable, cut, or too late.
    #[error("clickhouse at {url}: {message}")]
    NoResponse {
        /// Where.
        url: String,
        /// What happened.
        message: String,
    },
    /// A stop was asked for before the answer came.
    #[error("clickhouse at {url}: asked to stop before it answered")]
    Stopped {
        /// Where.
        url: String,
    },
    /// An older insert is under way, later than it may be.
    #[error("clickhouse: an older insert ({marker}) is still under way, later than it may be")]
    InsertOverdue {
        /// Its marker.
        marker: String,
    },
}

/// ClickHouse's `VIOLATED_CONSTRAINT`.
const VIOLATED_CONSTRAINT: u32 = 469;

impl StoreError {
    /// True if a claim did not hold: someone else claimed, or the server restarted.
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Exception { code: VIOLATED_CONSTRAINT, .. })
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
            .timeout(insert_timeout + CLIENT_MARGIN)
            .pool_idle_timeout(MAX_CONNECTION_IDLE)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| StageError::Config(format!("clickhouse: no HTTP client: {}", describe(&e))))?;
        Ok(Self { http, url, endpoint: endpoint.clone(), insert_timeout, shutdown: None })
    }

    /// The same, for a stage: a request that is late is told as `clickhouse_answer`, and one that is under way when a stop is
    /// asked for is given up after a moment. Nothing is lost by that: the table says where to go on.
    pub fn with_shutdown(mut self, stop: ShutdownSignal, health: Health) -> Self {
        self.shutdown = Some((stop, health));
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
    pub fn execute_without_database(&self, sql: &str) -> Result<(), StoreError> {
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
        let unreadable = |error| StoreError::Unreadable { found: answer.clone(), error };
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
        let url = || self.endpoint.url.clone();
        let answer = match &self.shutdown {
            None => send_request(request),
            Some((stop, health)) => {
                let late = || {
                    health.set_not_ready(
                        NotReadyReason::ClickhouseAnswer,
                        "ClickHouse has accepted a request and does not answer",
                    )
                };
                let answer = stop.run_cancellable(late, move || send_request(request));
                health.clear(NotReadyReason::ClickhouseAnswer);
                answer.ok_or_else(|| StoreError::Stopped { url: url() })?
            }
        };
        let Response { status, code, body } =
            answer.map_err(|message| StoreError::NoResponse { url: url(), message })?;
        match code {
            None if status == StatusCode::OK => Ok(body),
            None => {
                let message = body.trim_end().to_owned();
                Err(StoreError::Unexpected { url: url(), status: status.as_u16(), message })
            }
            Some(code) => Err(StoreError::Exception { code, message: body.trim_end().to_owned() }),
        }
    }
}

/// What a server answered.
struct Response {
    status: StatusCode,
    /// The code of an exception, if there is one.
    code: Option<u32>,
    body: String,
}

fn send_request(request: RequestBuilder) -> Result<Response, String> {
    let answer = request.send().map_err(|e| describe(&e.without_url()))?;
    let status = answer.status();
    let code = answer.headers().get(EXCEPTION_CODE_HEADER).and_then(|code| code.to_str().ok()?.parse().ok());
    Ok(Response { status, code, body: read_text(answer)? })
}

/// `text` as an SQL literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// What a client makes of one answer; `None`: the connection is closed without one.
    fn select_error(answer: Option<&'static str>) -> StoreError {
        #[derive(Debug, serde::Deserialize)]
        struct Row {
            #[expect(dead_code, reason = "it is only read")]
            n: i64,
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = ClickHouseEndpoint { url, ..ClickHouseEndpoint::default() };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let store = Store::new(&endpoint, Duration::from_secs(60)).unwrap();
        let error = store.select::<Row>("SELECT 1 AS n").unwrap_err();
        server.join().unwrap();
        error
    }

    #[test]
    fn each_fault_of_an_answer_is_an_error_of_its_own() {
        let fence = select_error(Some(
            "HTTP/1.1 500 x\r\nX-ClickHouse-Exception-Code: 469\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n",
        ));
        assert!(
            matches!(&fence, StoreError::Exception { code: 469, message } if message == "no"),
            "{fence:?}"
        );
        assert!(fence.is_fenced());
        // ClickHouse may fail after it has answered 200.
        let late = select_error(Some(
            "HTTP/1.1 200 OK\r\nX-ClickHouse-Exception-Code: 159\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate",
        ));
        assert!(matches!(late, StoreError::Exception { code: 159, .. }) && !late.is_fenced(), "{late:?}");
        let proxy =
            select_error(Some("HTTP/1.1 502 x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy"));
        assert!(matches!(&proxy, StoreError::Unexpected { status: 502, message, .. } if message == "proxy"));
        let page =
            select_error(Some("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"));
        assert!(matches!(&page, StoreError::Unreadable { found, .. } if found == "<html>"), "{page:?}");
        let closed = select_error(None);
        assert!(matches!(closed, StoreError::NoResponse { .. }), "{closed:?}");
    }
}
