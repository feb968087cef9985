//! Queries of the tables.

use std::time::Duration;

use agentgov_connect::ClickHouseEndpoint;
use reqwest::blocking::Client;

/// Timeout of a query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the response of ClickHouse to a statement.
pub(crate) fn query(store: &ClickHouseEndpoint, statement: String) -> Result<String, String> {
    let http = Client::builder().timeout(QUERY_TIMEOUT).no_proxy().build().map_err(|e| e.to_string())?;
    http.post(&store.url)
        .query(&[("database", store.database.as_str())])
        .header("X-ClickHouse-User", &store.user)
        .header("X-ClickHouse-Key", store.password.expose())
        .body(statement)
        .send()
        .and_then(|answer| answer.error_for_status()?.text())
        .map_err(|e| e.to_string())
}
