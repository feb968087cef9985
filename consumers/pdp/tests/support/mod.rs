//! A decision point on loopback, and a client.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use agentgov_pdp::{BundleOnly, DecisionServer, ServerConfig};
use agentgov_policy::BundleFiles;
use agentgov_policy::authzen::AccessBundle;
use agentgov_service::{Health, Metrics, ShutdownSignal};
use agentgov_test_support::root;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;

/// A decision point that is stopped at the end of the test.
pub struct Pdp {
    pub url: String,
    pub client: Client,
    stop: ShutdownSignal,
    server: Mutex<Option<DecisionServer>>,
}

/// Returns a configuration with a free port on loopback.
pub fn on_loopback() -> ServerConfig {
    ServerConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], tls: None, callers: None, url: None }
}

/// Returns the metrics of this process.
pub fn metrics() -> Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::start().unwrap()).clone()
}

/// Returns the files of a folder.
pub fn files(folder: &Path) -> BundleFiles {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    BundleFiles(files)
}

/// Returns the bundle of an example.
pub fn example(name: &str) -> AccessBundle {
    let folder = root().join("examples/authzen").join(name);
    AccessBundle::compile(&files(&folder)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

impl Pdp {
    pub fn start(config: ServerConfig, bundle: AccessBundle) -> Self {
        let metrics = metrics();
        let stop = ShutdownSignal::default();
        let parts = (Health::new("pdp"), metrics, stop.clone());
        let server = DecisionServer::start(config, BundleOnly::new(bundle), parts).unwrap();
        let url = server.url();
        let client = Client::builder().no_proxy().build().unwrap();
        Self { url, client, stop, server: Mutex::new(Some(server)) }
    }

    pub fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().unwrap()
    }

    pub fn request(&self, path: &str, body: impl Into<String>) -> RequestBuilder {
        let url = format!("{}{path}", self.url);
        self.client.post(url).header("Content-Type", "application/json").body(body.into())
    }

    /// Sends a request. Returns status and body.
    pub fn post(&self, path: &str, body: impl Into<String>) -> (u16, String) {
        let response = self.request(path, body).send().unwrap();
        (response.status().as_u16(), response.text().unwrap())
    }

    /// Sends a request. Returns the response's JSON.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post(path, body.to_string());
        assert_eq!(status, 200, "{path} {body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Requests a shutdown, and waits for its end.
    pub fn stop(&self) {
        self.stop.request();
        if let Some(server) = self.server.lock().unwrap().take() {
            server.join().unwrap();
        }
    }
}

impl Drop for Pdp {
    fn drop(&mut self) {
        self.stop();
    }
}
