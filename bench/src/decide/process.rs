//! Servers and stages in processes of their own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentgov_sdk::{FlushError, RecordError, Recorder, RecorderOptions, StartError};

use super::constant::ConstantServer;
use crate::process::Process;
use crate::run::wait_until_done;
use crate::sessions::Scripts;
use crate::worker::{PublishResult, WorkerTask};
use crate::{Bench, BenchError, Load};

/// Interval at which a new process is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(5);
/// Time for recorded events to be acknowledged.
const RECORD_TIMEOUT: Duration = Duration::from_secs(120);

/// A server to start.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// A decision point on the log.
    Pdp {
        /// Its name.
        name: &'a str,
        /// File of its signing key.
        key: &'a Path,
        /// Folder of its spool.
        spool: &'a Path,
    },
    /// A decision point by a bundle alone.
    Bundle(&'a Path),
    /// The HTTP server of decision points with a constant decision of so many bytes.
    Constant(usize),
    /// OPA, with the policies and data of a folder.
    Opa(&'a Path, &'a Path),
    /// The evaluator.
    Evaluator,
    /// `agentgov gateway serve` with a file of its settings.
    Gateway(&'a Path),
}

/// A server that is ready.
pub struct RunningServer {
    pub(crate) process: Process,
    /// Its address.
    pub address: SocketAddr,
    /// Time from its start until it was ready.
    pub ready_after: Duration,
}

impl RunningServer {
    /// Ends the server and waits for its end.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn stop(self) -> Result<(), BenchError> {
        self.process.terminate()
    }
}

/// Every stage, in processes of their own.
pub struct RunningStages(Vec<Process>);

impl RunningStages {
    /// Ends the stages and waits for their end.
    ///
    /// # Errors
    /// If one cannot be ended.
    pub fn stop(self) -> Result<(), BenchError> {
        self.0.into_iter().try_for_each(Process::terminate)
    }
}

impl Bench<'_> {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub fn start(&self, start: Start<'_>) -> Result<RunningServer, BenchError> {
        let began = Instant::now();
        let text = |path: &Path| path.display().to_string();
        let listen = ["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        let mut process = match start {
            Start::Pdp { name, key, spool } => {
                let mut args = ["pdp", "--name", name, "--signing-key"].map(str::to_owned).to_vec();
                args.extend([text(key), "--spool".to_owned(), text(spool)]);
                args.extend(listen);
                args.extend(self.setup.stage_args.iter().cloned());
                self.start_executable(&self.setup.product, name, &args, &self.env())
            }
            Start::Bundle(folder) => {
                let mut args = vec!["pdp".to_owned(), "--bundle".to_owned(), text(folder)];
                args.extend(listen);
                self.start_executable(&self.setup.product, "pdp-bundle", &args, &self.env())
            }
            Start::Gateway(config) => {
                let mut args = ["gateway", "serve", "--config"].map(str::to_owned).to_vec();
                args.push(text(config));
                args.extend(self.setup.stage_args.iter().cloned());
                self.start_executable(&self.setup.product, "gateway", &args, &self.env())
            }
            Start::Constant(response_bytes) => {
                self.start_worker("constant", &WorkerTask::Constant(ConstantServer { response_bytes }))
            }
            Start::Opa(program, folder) => return self.start_opa(program, folder),
            Start::Evaluator => {
                let evaluator = self.names()?.evaluator;
                self.start_stage(evaluator, evaluator, &self.env())
            }
        }?;
        let line = process.read_line()?;
        let address = address_in(&line).ok_or_else(|| BenchError::Http {
            what: "starting a server",
            message: format!("expected a line with its URL, found {line}"),
        })?;
        self.wait_until_ready(process, address, "readyz", began)
    }

    /// Starts OPA, which does not print its address, on a port that is free now.
    fn start_opa(&self, program: &Path, folder: &Path) -> Result<RunningServer, BenchError> {
        let began = Instant::now();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = free.map_err(BenchError::io("finding a free port"))?;
        let args = [
            "run".to_owned(),
            "--server".to_owned(),
            "--skip-version-check".to_owned(),
            "--log-level=error".to_owned(),
            format!("--addr={address}"),
            folder.display().to_string(),
        ];
        let process = self.start_executable(program, "opa", &args, &self.env())?;
        self.wait_until_ready(process, address, "health", began)
    }

    fn wait_until_ready(
        &self,
        mut process: Process,
        address: SocketAddr,
        path: &str,
        began: Instant,
    ) -> Result<RunningServer, BenchError> {
        let url = format!("http://{address}/{path}");
        wait_until_done(&format!("{} to be ready", process.name), READY_INTERVAL, || {
            process.check()?;
            let is_ready = self.http.get(&url).send().is_ok_and(|answer| answer.status().is_success());
            Ok((!is_ready).then(|| "it is not".to_owned()))
        })?;
        Ok(RunningServer { process, address, ready_after: began.elapsed() })
    }

    /// Starts every stage and waits until all are ready.
    ///
    /// # Errors
    /// If one ends, or is not ready in time.
    pub fn start_all_stages(&self) -> Result<RunningStages, BenchError> {
        self.start_stages(1).map(RunningStages)
    }

    /// Waits until the stages have processed everything.
    ///
    /// # Errors
    /// If one ends, or is not done in time.
    pub fn settle(&self, stages: &mut RunningStages) -> Result<(), BenchError> {
        self.wait_for_stages(&self.names()?, &mut stages.0)
    }

    /// Publishes a load without waiting for the stages.
    ///
    /// # Errors
    /// If the publisher fails.
    pub fn publish(&mut self, load: Load) -> Result<(), BenchError> {
        self.runs += 1;
        let mut publisher = self.start_publisher(load)?;
        publisher.read_line()?;
        publisher.write_line("go")?;
        let line = publisher.read_line()?;
        let published = serde_json::from_str::<PublishResult>(&line);
        published.map(drop).map_err(|error| BenchError::io("decoding a result")(error.into()))
    }

    /// Records at most `count` sessions up to a call that depends on their facts. Returns the questions about these calls.
    ///
    /// # Errors
    /// If the events cannot be recorded.
    pub fn record_open_calls(&self, count: usize) -> Result<Vec<serde_json::Value>, BenchError> {
        let scripts = Scripts::new(self.setup.seed);
        let recorder = self.recorder()?;
        let (tenant, environment, agent) = (self.setup.tenant, self.setup.environment, self.setup.agent);
        let mut questions = Vec::new();
        for session in scripts.interrupted(&format!("open-{}", recorder.source_id())).take(count) {
            session
                .record(agent, |event| recorder.record(event).map(drop))
                .map_err(|error: RecordError| BenchError::Recorder(error.to_string()))?;
            questions.push(session.question(tenant, environment, agent));
        }
        recorder
            .close(RECORD_TIMEOUT)
            .map_err(|error: FlushError| BenchError::Recorder(error.to_string()))?;
        Ok(questions)
    }

    /// Starts a recorder of the load's tenant that sends each event at once.
    pub(super) fn recorder(&self) -> Result<Recorder, BenchError> {
        let endpoints = self.setup.endpoints;
        let options = RecorderOptions::new(
            endpoints.kafka.clone(),
            endpoints.schema_registry.clone(),
            Arc::new(self.setup.topology.clone()),
            self.setup.tenant,
            self.setup.environment,
        );
        Recorder::start(RecorderOptions { linger: Duration::ZERO, ..options })
            .map_err(|error: StartError| BenchError::Recorder(error.to_string()))
    }

    /// Returns the folder for files of a measurement, beside the logs.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.setup.recordings.join(name)
    }
}

/// Returns the first address of a URL `http://HOST:PORT` in a line.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("http://")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':')).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_in_each_form() {
        for line in [
            "decisions on http://127.0.0.1:8181, on the state of the log",
            "\"http://127.0.0.1:8181\"",
            "evaluator: health on http://127.0.0.1:8181",
        ] {
            assert_eq!(address_in(line), Some(([127, 0, 0, 1], 8181).into()), "{line}");
        }
        assert_eq!(address_in("no address"), None);
    }
}
