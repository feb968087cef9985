//! Connection to the log in ClickHouse.

use std::time::Duration;

use agentgov_connect::{ClickHouseEndpoint, TlsError, clickhouse_client, describe};
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use clickhouse::{Client, RowOwned, RowRead};

/// Default timeout of a query, sufficient for a large report.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// Reader of the log.
pub struct LogReader {
    client: Client,
    url: String,
    runtime: tokio::runtime::Runtime,
    timeout: Duration,
    pub(crate) tables: Tables,
}

/// Names of the log's tables, from the topology.
pub(crate) struct Tables {
    pub actions: String,
    pub verdicts: String,
    pub alerts: String,
    pub rejects: String,
    pub bundles: String,
}

/// Error while reading the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request failed.
    #[error("reading the log from ClickHouse at {url}: {}{}", describe(source), path_hint(url, source))]
    ClickHouse {
        /// URL of the server.
        url: String,
        /// Error of the client or the server.
        source: clickhouse::error::Error,
    },
    /// The TLS settings are invalid.
    #[error("clickhouse: {0}")]
    Tls(#[from] TlsError),
    /// The query timed out.
    #[error("reading the log from ClickHouse at {url}: expected a response within {timeout:?}, found none")]
    Timeout {
        /// URL of the server.
        url: String,
        /// Timeout of the query.
        timeout: Duration,
    },
    /// The topology lacks a table.
    #[error(transparent)]
    Topology(#[from] MissingRole),
    /// The asynchronous runtime cannot start.
    #[error("cannot start the log reader: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Returns a hint for a URL with a path that ClickHouse does not serve.
fn path_hint(url: &str, source: &clickhouse::error::Error) -> &'static str {
    let has_path = url.split_once("://").is_some_and(|(_, rest)| {
        rest.split_once('/').is_some_and(|(_, path)| !path.trim_matches('/').is_empty())
    });
    match source {
        clickhouse::error::Error::BadResponse(answer) if has_path && !answer.contains("Code: ") => {
            "; the URL has a path, and ClickHouse answers queries at `/`: set AGENTGOV_CLICKHOUSE to scheme, host and port, \
             unless a proxy expects that path"
        }
        _ => "",
    }
}

impl LogReader {
    /// Creates a reader of the log at `endpoint`, which connects on first use.
    ///
    /// # Errors
    /// If the topology lacks a table of the log, or the TLS settings are invalid.
    pub fn new(endpoint: &ClickHouseEndpoint, topology: &Topology) -> Result<Self, ReadError> {
        let table = |subject: Subject| -> Result<String, MissingRole> {
            let (topic, _) = topology.topic_of(subject)?;
            topology.table_from(topic).map(|(_, table)| table.to_owned())
        };
        Ok(Self {
            client: clickhouse_client(endpoint)?,
            url: endpoint.url.clone(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            timeout: DEFAULT_TIMEOUT,
            tables: Tables {
                actions: table(subject::ACTION_EVENT)?,
                verdicts: table(subject::VERDICT)?,
                alerts: table(subject::ALERT)?,
                rejects: table(subject::REJECT)?,
                bundles: table(subject::BUNDLE)?,
            },
        })
    }

    /// Sets the timeout of queries.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the rows of `sql`, in which each `?` is replaced by the next of `values`, quoted.
    pub(crate) fn rows<T: RowOwned + RowRead>(
        &self,
        sql: &str,
        values: &[&str],
    ) -> Result<Vec<T>, ReadError> {
        let query = values.iter().fold(self.client.query(sql), |query, value| query.bind(value));
        self.wait(query.fetch_all())
    }

    /// Returns the single row of `sql`.
    pub(crate) fn row<T: RowOwned + RowRead>(&self, sql: &str, values: &[&str]) -> Result<T, ReadError> {
        let query = values.iter().fold(self.client.query(sql), |query, value| query.bind(value));
        self.wait(query.fetch_one())
    }

    fn wait<T>(&self, answer: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, ReadError> {
        let (url, timeout) = (|| self.url.clone(), self.timeout);
        match self.runtime.block_on(async { tokio::time::timeout(timeout, answer).await }) {
            Ok(answer) => answer.map_err(|source| ReadError::ClickHouse { url: url(), source }),
            Err(_) => Err(ReadError::Timeout { url: url(), timeout }),
        }
    }
}

#[cfg(test)]
mod tests {
    use clickhouse::error::Error;

    use super::*;

    #[test]
    fn response_of_another_server_hints_at_the_path_of_the_url() {
        let no_handle = || Error::BadResponse("There is no handle /play2".to_owned());
        let exception = || Error::BadResponse("Code: 60. DB::Exception: no such table".to_owned());
        for (url, source, hinted) in [
            ("http://c:8123/play2", no_handle(), true),
            ("http://c:8123/", no_handle(), false),
            ("http://c:8123", no_handle(), false),
            ("http://c:8123/proxied", exception(), false),
        ] {
            let text = ReadError::ClickHouse { url: url.to_owned(), source }.to_string();
            assert_eq!(text.contains("set AGENTGOV_CLICKHOUSE"), hinted, "{text}");
        }
    }
}
