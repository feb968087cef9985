//! A store that is full: ClickHouse refuses inserts as long as less than so much of its disk is free.

use std::time::{Duration, Instant};

use agentgov_connect::ClickHouseEndpoint;
use reqwest::blocking::Client;

/// ClickHouse's own limit, set beyond any disk.
const SETTING: &str = "min_free_disk_bytes_to_perform_insert";
/// How long the store may be away when it is to have room again.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// The tables that can be full.
pub(crate) struct Store<'a> {
    endpoint: &'a ClickHouseEndpoint,
    tables: Vec<&'a str>,
    http: Client,
}

impl<'a> Store<'a> {
    pub(crate) fn new(
        endpoint: &'a ClickHouseEndpoint,
        tables: impl Iterator<Item = &'a str>,
    ) -> reqwest::Result<Self> {
        let http = Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        Ok(Self { endpoint, tables: tables.collect(), http })
    }

    /// Full for `length`, or as long as it takes to be told otherwise. False if the store was away.
    pub(crate) fn fill(&self, length: Duration) -> Result<bool, String> {
        let full = self.alter(&format!("MODIFY SETTING {SETTING} = 1000000000000000000")).is_ok();
        if full {
            std::thread::sleep(length);
        }
        let began = Instant::now();
        while let Err(why) = self.alter(&format!("RESET SETTING {SETTING}")) {
            if began.elapsed() > PATIENCE {
                return Err(why);
            }
            std::thread::sleep(PAUSE);
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
