//! Client of ClickHouse's HTTP interface: statements, typed reads, and inserts of encoded blocks.
//!
//! Sends each request once, to the configured address: no retry, no redirect and no proxy. The protocol must exclude a
//! second copy of an insert, and an insert that reaches another server.

use std::time::Duration;

use agentgov_connect::{ClickHouseEndpoint, describe, http_client, read_body};
use agentgov_schemas::NotReadyReason;
use reqwest::blocking::{Body, Client, RequestBuilder};
use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;

use agentgov_service::{Health, ShutdownSignal, StageError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the idle timeout of any server: a request on a connection that the server has just closed would have an
/// unknown outcome.
const MAX_CONNECTION_IDLE: Duration = Duration::from_secs(1);
/// Time that the client waits beyond the server's time limit.
pub(super) const CLIENT_MARGIN: Duration = Duration::from_secs(5);
const EXCEPTION_CODE_HEADER: &str = "X-ClickHouse-Exception-Code";

/// Server and database.
#[derive(Debug)]
pub struct Store {
    http: Client,
    url: Url,
    endpoint: ClickHouseEndpoint,
    insert_timeout: Duration,
    shutdown: Option<(ShutdownSignal, Health)>,
}

/// Error of a request. After any of them the outcome of an insert is unknown.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server responded with an exception.
    #[error("clickhouse: {message}")]
    Exception {
        /// ClickHouse's error code.
        code: u32,
        /// Message of the exception.
        message: String,
    },
    /// The response is neither a success nor an exception of ClickHouse: a proxy, or a login page.
    #[error("clickhouse at {url}: expected 200 or an exception of ClickHouse, found {status}: {message}")]
    Unexpected {
        /// Address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Body of the response.
        message: String,
    },
    /// The response does not contain the requested rows.
    #[error("clickhouse: expected rows as JSON, found {found:?} ({error})")]
    Unreadable {
        /// Body of the response.
        found: String,
        /// Error of the decoder.
        error: serde_json::Error,
    },
    /// No response: unreachable, disconnected, or timed out.
    #[error("clickhouse at {url}: {message}")]
    NoResponse {
        /// Address.
        url: String,
        /// Error of the connection.
        message: String,
    },
    /// Shutdown was requested before the response.
    #[error("clickhouse at {url}: shutdown was requested before it responded")]
    Stopped {
        /// Address.
        url: String,
    },
    /// An older insert still runs beyond its time limit.
    #[error(
        "clickhouse: expected an older insert ({marker}) to end within its time limit, but it still runs"
    )]
    InsertOverdue {
        /// Marker of the insert.
        marker: String,
    },
}

/// ClickHouse's `VIOLATED_CONSTRAINT`.
const VIOLATED_CONSTRAINT: u32 = 469;

impl StoreError {
    /// Returns true if the claim did not hold: another process has claimed the partition, or the server has restarted.
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Exception { code: VIOLATED_CONSTRAINT, .. })
    }
}

impl Store {
    /// Creates a client for `endpoint`. An insert may take `insert_timeout` on the server. Connects on first use.
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
            .map_err(|e| {
                StageError::Config(format!("clickhouse: could not create an HTTP client: {}", describe(&e)))
            })?;
        Ok(Self { http, url, endpoint: endpoint.clone(), insert_timeout, shutdown: None })
    }

    /// Binds the client to a stage: a late response sets the reason `clickhouse_answer`, and a request that runs at
    /// shutdown is abandoned after the grace period. Nothing is lost by that: the table decides where to resume.
    pub fn with_shutdown(mut self, stop: ShutdownSignal, health: Health) -> Self {
        self.shutdown = Some((stop, health));
        self
    }

    /// Returns the database of the log.
    pub fn database(&self) -> &str {
        &self.endpoint.database
    }

    /// Returns the time limit of an insert on the server.
    pub const fn insert_timeout(&self) -> Duration {
        self.insert_timeout
    }

    /// Runs a statement. An INSERT must be repeatable or fenced.
    pub fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.send(&[("database", self.database()), ("async_insert", "0")], sql.to_owned()).map(drop)
    }

    /// Runs a statement outside of the database, such as its creation.
    pub fn execute_without_database(&self, sql: &str) -> Result<(), StoreError> {
        self.send(&[], sql.to_owned()).map(drop)
    }

    /// Runs a SELECT. `T` has its columns as fields.
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
            // The server responds when the rows are stored, not when they are queued.
            ("async_insert", "0"),
            // The fence is checked per block: one insert is one block, all or nothing.
            ("max_insert_block_size", "100000000"),
            ("min_insert_block_size_rows", "100000000"),
            ("min_insert_block_size_bytes", "4000000000"),
            ("input_format_parallel_parsing", "0"),
            ("max_insert_threads", "1"),
            ("max_partitions_per_insert_block", "1"),
            ("throw_on_max_partitions_per_insert_block", "1"),
            // Deduplication must not drop rows.
            ("insert_deduplicate", "0"),
            // An unknown outcome lasts as long as the slowest insert.
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
                        "ClickHouse has accepted a request and has not responded",
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

/// Response of the server.
struct Response {
    status: StatusCode,
    /// Code of an exception, if there is one.
    code: Option<u32>,
    body: String,
}

fn send_request(request: RequestBuilder) -> Result<Response, String> {
    let answer = request.send().map_err(|e| describe(&e.without_url()))?;
    let status = answer.status();
    let code = answer.headers().get(EXCEPTION_CODE_HEADER).and_then(|code| code.to_str().ok()?.parse().ok());
    Ok(Response { status, code, body: read_body(answer).map_err(|error| error.to_string())? })
}

/// Quotes `text` as an SQL literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Returns the client's error for one response; `None`: the connection is closed without one.
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
    fn each_response_fault_has_its_own_error() {
        let fence = select_error(Some(
            "HTTP/1.1 500 x\r\nX-ClickHouse-Exception-Code: 469\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n",
        ));
        assert!(
            matches!(&fence, StoreError::Exception { code: 469, message } if message == "no"),
            "{fence:?}"
        );
        assert!(fence.is_fenced());
        // ClickHouse can fail after it has responded with status 200.
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
