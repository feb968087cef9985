//! A full store: ClickHouse rejects inserts while less than a configured amount of disk space is free.

use std::time::{Duration, Instant};

use agentgov_connect::ClickHouseEndpoint;
use reqwest::blocking::Client;

/// ClickHouse's setting, set above the size of any disk.
const SETTING: &str = "min_free_disk_bytes_to_perform_insert";
/// Timeout of the retries to reset the setting.
const RESET_TIMEOUT: Duration = Duration::from_secs(120);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Tables whose store is made full.
pub(crate) struct FullStore<'a> {
    endpoint: &'a ClickHouseEndpoint,
    tables: Vec<&'a str>,
    http: Client,
}

impl<'a> FullStore<'a> {
    pub(crate) fn new(
        endpoint: &'a ClickHouseEndpoint,
        tables: impl Iterator<Item = &'a str>,
    ) -> reqwest::Result<Self> {
        let http = Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        Ok(Self { endpoint, tables: tables.collect(), http })
    }

    /// Makes the store full for `length`, and until the reset succeeds. Returns false if ClickHouse was unreachable.
    pub(crate) fn fill(&self, length: Duration) -> Result<bool, String> {
        let full = self.alter(&format!("MODIFY SETTING {SETTING} = 1000000000000000000")).is_ok();
        if full {
            std::thread::sleep(length);
        }
        let began = Instant::now();
        while let Err(why) = self.alter(&format!("RESET SETTING {SETTING}")) {
            if began.elapsed() > RESET_TIMEOUT {
                return Err(why);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        Ok(full)
    }

    fn alter(&self, how: &str) -> Result<(), String> {
        for table in &self.tables {
            let request = self
                .http
                .post(&self.endpoint.url)
                .query(&[("database", self.endpoint.database.as_str())])
                .header("X-ClickHouse-User", &self.endpoint.user)
                .header("X-ClickHouse-Key", self.endpoint.password.expose())
                .body(format!("ALTER TABLE {table} {how}"));
            let answer = request.send().map_err(|e| e.to_string())?;
            if !answer.status().is_success() {
                return Err(answer.text().unwrap_or_default());
            }
        }
        Ok(())
    }
}
