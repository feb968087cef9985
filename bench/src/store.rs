//! ClickHouse requests of the benchmark: over HTTP, inserts with the settings of the log-sink.

use agentgov_connect::ClickHouseEndpoint;
use reqwest::blocking::Client;

use crate::BenchError;

/// A database of a ClickHouse server.
#[derive(Clone, Debug)]
pub struct Store {
    http: Client,
    endpoint: ClickHouseEndpoint,
}

impl Store {
    /// Creates the client, without connecting.
    ///
    /// # Errors
    /// If the client cannot be created.
    pub fn new(endpoint: &ClickHouseEndpoint) -> Result<Self, BenchError> {
        let http = Client::builder().timeout(None).no_proxy().build().map_err(BenchError::store("client"))?;
        Ok(Self { http, endpoint: endpoint.clone() })
    }

    /// Returns the server's address and login.
    pub fn endpoint(&self) -> &ClickHouseEndpoint {
        &self.endpoint
    }

    /// Runs a statement and returns the response.
    ///
    /// # Errors
    /// If ClickHouse rejects the statement or cannot be reached.
    pub fn run(&self, sql: impl Into<String>) -> Result<Vec<u8>, BenchError> {
        self.send(&[("low_cardinality_allow_in_native_format", "0")], sql.into().into_bytes())
    }

    /// Runs a statement and splits the response into lines of tab-separated fields.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn lines(&self, sql: impl Into<String>) -> Result<Vec<Vec<String>>, BenchError> {
        let answer = self.run(sql)?;
        let answer = String::from_utf8_lossy(&answer);
        Ok(answer.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// Inserts a block in Native format.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn insert(&self, table: &str, block: &[u8]) -> Result<(), BenchError> {
        let sql = format!("INSERT INTO {table} FORMAT Native");
        let parameters = [
            ("query", sql.as_str()),
            ("async_insert", "0"),
            ("max_insert_block_size", "100000000"),
            ("min_insert_block_size_rows", "100000000"),
            ("min_insert_block_size_bytes", "4000000000"),
            ("input_format_parallel_parsing", "0"),
            ("max_insert_threads", "1"),
            ("insert_deduplicate", "0"),
            ("wait_end_of_query", "1"),
        ];
        self.send(&parameters, block.to_vec()).map(drop)
    }

    fn send(&self, parameters: &[(&str, &str)], body: Vec<u8>) -> Result<Vec<u8>, BenchError> {
        let mut url = reqwest::Url::parse(&self.endpoint.url)
            .map_err(|error| BenchError::Store { what: "its URL", message: error.to_string() })?;
        url.query_pairs_mut().append_pair("database", &self.endpoint.database).extend_pairs(parameters);
        let mut request = self.http.post(url).body(body);
        if !self.endpoint.user.is_empty() {
            request = request
                .header("X-ClickHouse-User", &self.endpoint.user)
                .header("X-ClickHouse-Key", self.endpoint.password.expose());
        }
        let answer = request.send().map_err(BenchError::store("request"))?;
        let is_good = answer.status().is_success();
        let bytes = answer.bytes().map_err(BenchError::store("response"))?.to_vec();
        if is_good {
            return Ok(bytes);
        }
        Err(BenchError::Store { what: "rejected", message: String::from_utf8_lossy(&bytes).into_owned() })
    }
}
