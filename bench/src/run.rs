//! Runs of the pipeline and of the baseline, each from the first event to the last row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentgov_connect::Endpoints;
use agentgov_schemas::subject;
use agentgov_schemas::topology::Topology;
use agentgov_testenv::{Part as StackPart, TestEnv};
use rdkafka::Message as _;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::baseline::copy::BareCopy;
use crate::baseline::insert::{BareInsert, Blocks, InsertResult};
use crate::baseline::publish::BarePublish;
use crate::kafka::{GroupClient, Kafka, Offsets, TailEntry};
use crate::latency::{Latency, LatencyProbe, ObservedResult};
use crate::process::{Env, Process, Usage};
use crate::recording::{self, RecordingEntry};
use crate::stage_latency::VerdictTable;
use crate::store::Store;
use crate::worker::{PublishResult, PublishTask, WorkerTask};

/// Timeout for a run to process everything after its last event.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Rows per block of the baseline insert: the maximum of the pipeline.
const BLOCK_ROWS: u64 = 50_000;
/// Maximum number of rows that the baseline insert holds in memory and repeats.
const MAX_RECORDED_ROWS: u64 = 200_000;
/// Records per transaction of the baseline copy. From about 50,000 on, commits cost nothing measurable.
const BATCH_RECORDS: usize = 50_000;

/// Stack, executables and seed of a benchmark.
pub struct Setup<'a> {
    /// Native stack, whose processes can be measured.
    pub env: &'a TestEnv,
    /// Addresses and logins of the stack.
    pub endpoints: &'a Endpoints,
    /// Applied topology; the registry and a bundle are pushed.
    pub topology: &'a Topology,
    /// Arguments after `run STAGE` of a stage.
    pub stage_args: Vec<String>,
    /// Tenant of the load.
    pub tenant: &'a str,
    /// Registered agent of the load.
    pub agent: &'a str,
    /// Environment in which the bundle is active.
    pub environment: &'a str,
    /// Executable of the product, which runs the stages.
    pub product: PathBuf,
    /// Executable of the benchmark, which runs the workers.
    pub bench: PathBuf,
    /// Folder of the recordings.
    pub recordings: PathBuf,
    /// Seed of the sessions.
    pub seed: u64,
}

/// Load of a run, and the number of processes that handle it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Number of events, without the closing event of the source.
    pub events: u64,
    /// Events per second; `None` for full speed.
    pub rate: Option<f64>,
    /// Concurrently open sessions.
    pub open_sessions: usize,
    /// Processes of each stage.
    pub processes: usize,
}

impl Load {
    /// Returns a load at full speed, with 1,000 open sessions and one process of each stage.
    pub const fn of(events: u64) -> Self {
        Self { events, rate: None, open_sessions: 1_000, processes: 1 }
    }
}

/// Result of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Number of processed events.
    pub events: u64,
    /// Seconds from the first event to the last row, or to the last copy of a baseline without rows.
    pub seconds: f64,
    /// Usage of each process during the run.
    pub usage: BTreeMap<String, Usage>,
    /// Observed latency, if any.
    pub latency: Option<Latency>,
}

impl Run {
    /// Returns the events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    /// Returns the CPU-seconds of all processes per million events.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.values().map(|usage| usage.cpu_s).sum::<f64>() / self.events as f64 * 1e6
    }
}

/// Memory at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the first event.
    pub seconds: f64,
    /// Resident bytes by process.
    pub resident: BTreeMap<String, u64>,
}

/// A run with its memory over time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Soak {
    /// Result of the run.
    pub run: Run,
    /// Samples in order.
    pub samples: Vec<Sample>,
}

/// Recording of a pipeline run, which the baseline repeats.
pub struct Recording {
    events: u64,
    inputs: [StageInput; 2],
    tables: Vec<Blocks>,
}

/// Input of a recorded stage.
struct StageInput {
    /// Number of records read, by partition.
    read: BTreeMap<i32, u64>,
}

const EVENTS_RECORDING: &str = "events.recording";
const STAGE_RECORDINGS: [&str; 2] = ["evaluator.recording", "alerter.recording"];
/// Topics of the baseline: the input, then the outputs of each copy in the recording's order.
const BASELINE_TOPICS: [&str; 5] = ["actions", "verdicts", "alerts", "sessions", "alert-windows"];

/// Runs benchmarks on a stack.
pub struct Bench<'a> {
    pub(crate) setup: &'a Setup<'a>,
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    pub(crate) http: reqwest::blocking::Client,
    pub(crate) runs: u32,
}

/// Names of topics and stages in the topology.
pub(crate) struct Names<'t> {
    pub(crate) actions: &'t str,
    verdicts: &'t str,
    alerts: &'t str,
    rejects: &'t str,
    sessions: &'t str,
    windows: &'t str,
    pub(crate) evaluator: &'t str,
    alerter: &'t str,
    pub(crate) sink: &'t str,
}

impl<'a> Bench<'a> {
    /// Creates the clients, without connecting.
    ///
    /// # Errors
    /// If a client cannot be created.
    pub fn new(setup: &'a Setup<'a>) -> Result<Self, BenchError> {
        let http = reqwest::blocking::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .map_err(BenchError::store("client"))?;
        let kafka = Kafka::new(&setup.endpoints.kafka)?;
        let store = Store::new(&setup.endpoints.clickhouse)?;
        Ok(Self { setup, kafka, store, http, runs: 0 })
    }

    pub(crate) fn names(&self) -> Result<Names<'a>, BenchError> {
        let topology = self.setup.topology;
        let topic = |subject| {
            topology
                .topic_of(subject)
                .map(|(name, _)| name)
                .map_err(|error| BenchError::Topology(error.to_string()))
        };
        let actions = topic(subject::ACTION_EVENT)?;
        let verdicts = topic(subject::VERDICT)?;
        let processor = |from: &str| {
            topology
                .stages
                .iter()
                .find(|(_, stage)| {
                    stage.value.state.is_some() && stage.value.reads.iter().any(|read| read.value == from)
                })
                .map(|(name, _)| name.as_str())
                .ok_or_else(|| BenchError::Topology(format!("no processor reads {from}")))
        };
        let sink = topology
            .stages
            .iter()
            .find(|(_, stage)| !stage.value.stores.is_empty())
            .map(|(name, _)| name.as_str())
            .ok_or_else(|| BenchError::Topology("no stage writes a store".to_owned()))?;
        Ok(Names {
            actions,
            verdicts,
            alerts: topic(subject::ALERT)?,
            rejects: topic(subject::REJECT)?,
            sessions: topic(subject::SESSION_STATE)?,
            windows: topic(subject::ALERT_STATE)?,
            evaluator: processor(actions)?,
            alerter: processor(verdicts)?,
            sink,
        })
    }

    pub(crate) fn group_of(&self, stage: &str) -> Result<GroupClient, BenchError> {
        let stage = self.setup.topology.stage(stage).map_err(|e| BenchError::Topology(e.to_string()))?;
        self.kafka.group_client(&stage.group.value)
    }

    pub(crate) fn env(&self) -> Env {
        let clickhouse = &self.setup.endpoints.clickhouse;
        [
            ("AGENTGOV_KAFKA", self.setup.endpoints.kafka.bootstrap.clone()),
            ("AGENTGOV_SCHEMA_REGISTRY", self.setup.endpoints.schema_registry.url.clone()),
            ("AGENTGOV_CLICKHOUSE", clickhouse.url.clone()),
            ("AGENTGOV_CLICKHOUSE_USER", clickhouse.user.clone()),
            ("AGENTGOV_CLICKHOUSE_PASSWORD", clickhouse.password.expose().to_owned()),
            ("AGENTGOV_CLICKHOUSE_DATABASE", clickhouse.database.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub(crate) fn start_program(
        &self,
        name: &str,
        command: &[String],
        env: &Env,
    ) -> Result<Process, BenchError> {
        Process::start(&self.setup.bench, name, command, env, self.setup.env.logs())
    }

    /// Starts an executable with arguments.
    pub(crate) fn start_executable(
        &self,
        program: &Path,
        name: &str,
        args: &[String],
        env: &Env,
    ) -> Result<Process, BenchError> {
        let mut command = vec![program.display().to_string()];
        command.extend(args.iter().cloned());
        self.start_program(name, &command, env)
    }

    /// Starts a stage; its first line names its HTTP address.
    pub(crate) fn start_stage(&self, stage: &str, name: &str, env: &Env) -> Result<Process, BenchError> {
        let mut args = ["run", stage, "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
        args.extend(self.setup.stage_args.iter().cloned());
        self.start_executable(&self.setup.product, name, &args, env)
    }

    /// Starts a worker that publishes a load with the SDK. It prints `ready`, waits for the start line, and prints a
    /// [`PublishResult`].
    pub(crate) fn start_publisher(&self, load: Load) -> Result<Process, BenchError> {
        self.start_worker("publisher", &WorkerTask::Publish(self.publish_task(load)))
    }

    pub(crate) fn publish_task(&self, load: Load) -> PublishTask {
        PublishTask {
            tenant: self.setup.tenant.to_owned(),
            agent: self.setup.agent.to_owned(),
            environment: self.setup.environment.to_owned(),
            events: load.events,
            rate: load.rate,
            open_sessions: load.open_sessions,
            seed: self.setup.seed + u64::from(self.runs),
            run: format!("bench-{}-{}", std::process::id(), self.runs),
            visits_each: false,
        }
    }

    pub(crate) fn start_worker(&self, name: &str, task: &WorkerTask) -> Result<Process, BenchError> {
        let spec =
            serde_json::to_string(task).map_err(|error| BenchError::io("encoding a task")(error.into()))?;
        let recordings = self.setup.recordings.display().to_string();
        let mut args = vec!["worker".to_owned(), "--recordings".to_owned(), recordings, spec];
        args.extend(self.setup.stage_args.iter().cloned());
        self.start_executable(&self.setup.bench, name, &args, &self.env())
    }

    /// Starts every stage and waits until all are ready.
    pub(crate) fn start_stages(&self, processes: usize) -> Result<Vec<Process>, BenchError> {
        let env = self.env();
        let mut stages = Vec::new();
        for stage in self.setup.topology.stages.keys() {
            for number in 0..processes {
                let name = match processes {
                    1 => stage.clone(),
                    _ => format!("{stage}-{number}"),
                };
                stages.push(self.start_stage(stage, &name, &env)?);
            }
        }
        let mut addresses = Vec::new();
        for stage in &mut stages {
            let line = stage.read_line()?;
            addresses.push(line.rsplit("http://").next().unwrap_or_default().to_owned());
        }
        let ready = |address: &String| {
            let answer = self.http.get(format!("http://{address}/readyz")).send();
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        wait_until_done("the stages to be ready", Duration::from_millis(50), || {
            let late = addresses.iter().filter(|address| !ready(address)).count();
            Ok((late > 0).then(|| format!("{late} are not")))
        })?;
        Ok(stages)
    }

    /// Returns the process ids of the stack's parts.
    fn stack_pids(&self) -> Result<Vec<(String, u32)>, BenchError> {
        let parts = [
            ("broker", StackPart::Broker),
            ("clickhouse", StackPart::Engine),
            ("registry", StackPart::Registry),
        ];
        let pid = |(name, part): (&str, StackPart)| {
            let failed = |error: agentgov_testenv::Error| BenchError::Process {
                name: name.to_owned(),
                source: std::io::Error::other(error.to_string()),
            };
            Ok((name.to_owned(), self.setup.env.pid(part).map_err(failed)?))
        };
        parts.into_iter().map(pid).collect()
    }

    pub(crate) fn usage(&self, processes: &[&Process]) -> Result<BTreeMap<String, Usage>, BenchError> {
        let mut usage = BTreeMap::new();
        for (name, pid) in self.stack_pids()? {
            let failed = |source| BenchError::Process { name: name.clone(), source };
            let used = Usage::of(pid).map_err(failed)?;
            usage.insert(name, used);
        }
        for process in processes {
            usage.insert(process.name.clone(), process.usage()?);
        }
        Ok(usage)
    }

    /// Runs the pipeline from the first event to the last alert's row.
    ///
    /// # Errors
    /// If a process fails or the run misses its deadline.
    pub fn pipeline(&mut self, load: Load, observed: ObservedResult) -> Result<Run, BenchError> {
        self.run_pipeline(load, observed, |_, publisher| publisher.read_line())
    }

    /// Runs the pipeline and samples its memory while events are published.
    ///
    /// # Errors
    /// As [`Self::pipeline`].
    pub fn soak(
        &mut self,
        load: Load,
        every: Duration,
        on_sample: &dyn Fn(&Sample),
    ) -> Result<Soak, BenchError> {
        let parts = self.stack_pids()?;
        let mut samples = Vec::new();
        let run = self.run_pipeline(load, ObservedResult::Nothing, |stages, publisher| {
            let began = Instant::now();
            let mut processes = parts.clone();
            processes.extend(stages.iter().map(|stage| (stage.name.clone(), stage.pid())));
            publisher.read_line_while_sampling(every, || {
                let resident = processes.iter().map(|(name, pid)| {
                    let failed = |source| BenchError::Process { name: name.clone(), source };
                    Ok((name.clone(), Usage::resident(*pid).map_err(failed)?))
                });
                let resident = resident.collect::<Result<_, BenchError>>()?;
                let sample = Sample { seconds: began.elapsed().as_secs_f64(), resident };
                on_sample(&sample);
                samples.push(sample);
                Ok(())
            })
        })?;
        Ok(Soak { run, samples })
    }

    /// Runs the pipeline; `await_publisher` returns the publisher's result.
    fn run_pipeline(
        &mut self,
        load: Load,
        observed: ObservedResult,
        await_publisher: impl FnOnce(&[Process], &mut Process) -> Result<String, BenchError>,
    ) -> Result<Run, BenchError> {
        self.runs += 1;
        self.wait_for_merges()?;
        let names = self.names()?;
        let mut stages = self.start_stages(load.processes)?;
        let mut publisher = self.start_publisher(load)?;
        publisher.read_line()?;
        let probe = match observed {
            ObservedResult::Nothing => None,
            ObservedResult::Alerts => {
                let verdicts = VerdictTable { store: self.store.clone(), table: self.table(names.verdicts)? };
                Some(LatencyProbe::alerts(&self.kafka, &self.setup.endpoints.kafka, names.alerts, verdicts)?)
            }
            ObservedResult::Rows => Some(LatencyProbe::rows(&self.store, &self.table(names.actions)?)?),
        };
        let processes: Vec<&Process> = stages.iter().chain([&publisher]).collect();
        let before = self.usage(&processes)?;
        drop(processes);
        publisher.write_line("go")?;
        let began = Instant::now();
        let published: PublishResult = parse_result(&await_publisher(&stages, &mut publisher)?)?;
        self.wait_for_stages(&names, &mut stages)?;
        let seconds = began.elapsed().as_secs_f64();
        let processes: Vec<&Process> = stages.iter().chain([&publisher]).collect();
        let usage = usage_between(&before, &self.usage(&processes)?);
        let latency = probe.map(LatencyProbe::stop).transpose()?;
        drop(publisher);
        for stage in stages {
            stage.terminate()?;
        }
        Ok(Run { events: published.events, seconds, usage, latency })
    }

    /// Waits until ClickHouse has merged the parts of the previous run, so that they do not slow down the next one.
    fn wait_for_merges(&self) -> Result<(), BenchError> {
        wait_until_done("merges to end", Duration::from_millis(100), || {
            let merges = self.query_number("SELECT count() FROM system.merges")?;
            Ok((merges > 0).then(|| format!("{merges} are in progress")))
        })
    }

    /// Waits until every stage has processed everything.
    pub(crate) fn wait_for_stages(
        &self,
        names: &Names<'_>,
        stages: &mut [Process],
    ) -> Result<(), BenchError> {
        let mut wait_for_stage = |stage: &str, ends: &[(Offsets, TailEntry)]| {
            let group = self.group_of(stage)?;
            wait_until_done(&format!("{stage} to catch up"), Duration::from_millis(5), || {
                stages.iter_mut().try_for_each(Process::check)?;
                let mut behind = 0;
                for (ends, tail) in ends {
                    behind += group.lag(ends, *tail)?;
                }
                Ok((behind > 0).then(|| format!("{behind} offsets are left")))
            })
        };
        let actions = (self.kafka.end_offsets(names.actions)?, TailEntry::Record);
        wait_for_stage(names.evaluator, std::slice::from_ref(&actions))?;
        let verdicts = (self.kafka.end_offsets(names.verdicts)?, TailEntry::Marker);
        wait_for_stage(names.alerter, std::slice::from_ref(&verdicts))?;
        let alerts = (self.kafka.end_offsets(names.alerts)?, TailEntry::Marker);
        let rejects = (self.kafka.end_offsets(names.rejects)?, TailEntry::Marker);
        wait_for_stage(names.sink, &[actions, verdicts, alerts, rejects])
    }

    /// Records the first run for the baseline. Its own figures are those of a cold start and are not reported.
    ///
    /// # Errors
    /// As [`Self::pipeline`], and if the recording cannot be written.
    pub fn record(&mut self, load: Load) -> Result<Recording, BenchError> {
        let names = self.names()?;
        let topics =
            [names.actions, names.verdicts, names.alerts, names.rejects, names.sessions, names.windows];
        let start: Offsets = self.end_offsets(&topics)?;
        let run = self.pipeline(load, ObservedResult::Nothing)?;
        let end = self.end_offsets(&topics)?;
        let of = |topic: &str| -> Result<Vec<rdkafka::message::OwnedMessage>, BenchError> {
            let until = end.iter().filter(|((name, _), _)| name == topic);
            let until = until.map(|(place, end)| (place.clone(), *end)).collect();
            self.kafka.read_records(&start, &until)
        };
        let entry = |topic: u8, message: &rdkafka::message::OwnedMessage| RecordingEntry {
            topic,
            partition: message.partition(),
            key: message.key().unwrap_or_default().to_vec(),
            value: message.payload().map(<[u8]>::to_vec),
        };
        let events = of(names.actions)?;
        let verdicts = of(names.verdicts)?;
        let count = |messages: &[rdkafka::message::OwnedMessage]| {
            let mut read: BTreeMap<i32, u64> = BTreeMap::new();
            for message in messages {
                *read.entry(message.partition()).or_default() += 1;
            }
            read
        };
        let inputs = [StageInput { read: count(&events) }, StageInput { read: count(&verdicts) }];
        self.write_recording(EVENTS_RECORDING, events.iter().map(|message| entry(0, message)))?;
        let evaluator = verdicts.iter().map(|message| entry(0, message));
        let sessions = of(names.sessions)?;
        self.write_recording(
            STAGE_RECORDINGS[0],
            evaluator.chain(sessions.iter().map(|message| entry(1, message))),
        )?;
        let alerts = of(names.alerts)?;
        let windows = of(names.windows)?;
        let alerter = alerts.iter().map(|message| entry(0, message));
        self.write_recording(
            STAGE_RECORDINGS[1],
            alerter.chain(windows.iter().map(|message| entry(1, message))),
        )?;
        let mut tables = Vec::new();
        for topic in [names.actions, names.verdicts, names.alerts] {
            let table = self.table(topic)?;
            tables.push(self.save_blocks(&table, &format!("bench_{table}"))?);
        }
        Ok(Recording { events: run.events, inputs, tables })
    }

    /// Writes a stage's outputs in their original order: the topics' records are interleaved evenly.
    fn write_recording(
        &self,
        name: &str,
        records: impl Iterator<Item = RecordingEntry>,
    ) -> Result<(), BenchError> {
        let mut by_topic: BTreeMap<(i32, u8), Vec<RecordingEntry>> = BTreeMap::new();
        for record in records {
            by_topic.entry((record.partition, record.topic)).or_default().push(record);
        }
        let mut placed: Vec<(f64, RecordingEntry)> = by_topic
            .into_values()
            .flat_map(|records| {
                let len = records.len() as f64;
                records.into_iter().enumerate().map(move |(at, record)| (at as f64 / len, record))
            })
            .collect();
        placed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let records: Vec<RecordingEntry> = placed.into_iter().map(|(_, record)| record).collect();
        recording::write(&self.setup.recordings.join(name), &records)
    }

    /// Saves the first [`MAX_RECORDED_ROWS`] rows of a table as block files, and creates an empty table `copy` without the
    /// fence.
    pub(crate) fn save_blocks(&self, table: &str, copy: &str) -> Result<Blocks, BenchError> {
        let rows = self.count_rows(table)?;
        let mut files = Vec::new();
        let mut from = 0;
        while from < rows.min(MAX_RECORDED_ROWS) {
            let block = self.store.run(format!(
                "SELECT * FROM {table} ORDER BY topic_partition, offset LIMIT {BLOCK_ROWS} OFFSET {from} FORMAT Native"
            ))?;
            let file = format!("{table}-{from}.native");
            std::fs::write(self.setup.recordings.join(&file), block)
                .map_err(BenchError::io("writing a block"))?;
            files.push((file, BLOCK_ROWS.min(rows - from)));
            from += BLOCK_ROWS;
        }
        self.create_unfenced_copy(table, copy)?;
        Ok(Blocks { table: copy.to_owned(), files, rows })
    }

    /// Creates an empty copy of a table without the fence that admits only claim holders.
    pub(crate) fn create_unfenced_copy(&self, table: &str, copy: &str) -> Result<(), BenchError> {
        self.store.run(format!("DROP TABLE IF EXISTS {copy} SYNC"))?;
        self.store.run(format!("CREATE TABLE {copy} AS {table}"))?;
        self.store.run(format!("ALTER TABLE {copy} DROP CONSTRAINT fence")).map(drop)
    }

    /// Counts the rows of a table.
    pub(crate) fn count_rows(&self, table: &str) -> Result<u64, BenchError> {
        self.query_number(&format!("SELECT count() FROM {table}"))
    }

    /// Returns the number that a statement selects.
    pub(crate) fn query_number(&self, sql: &str) -> Result<u64, BenchError> {
        let answer = self.store.lines(sql)?;
        Ok(answer.first().and_then(|row| row.first()?.parse().ok()).unwrap_or_default())
    }

    fn end_offsets(&self, topics: &[&str]) -> Result<Offsets, BenchError> {
        let mut ends = Offsets::new();
        for topic in topics {
            ends.extend(self.kafka.end_offsets(topic)?);
        }
        Ok(ends)
    }

    pub(crate) fn table(&self, topic: &str) -> Result<String, BenchError> {
        let found = self.setup.topology.table_from(topic).map_err(|e| BenchError::Topology(e.to_string()))?;
        Ok(found.1.to_owned())
    }

    /// Runs the baseline: the copies, the insert, or both.
    ///
    /// # Errors
    /// If a worker fails or the run misses its deadline.
    pub fn run_baseline(
        &mut self,
        recording: &Recording,
        load: Load,
        baseline: Baseline,
        observed: bool,
    ) -> Result<Run, BenchError> {
        self.runs += 1;
        self.wait_for_merges()?;
        let prefix = format!("bench-baseline-{}", self.runs);
        let topics = BASELINE_TOPICS.map(|topic| format!("{prefix}.{topic}"));
        let [actions, verdicts, alerts, sessions, windows] = &topics;
        let mut processes = Vec::new();
        let copies = baseline != Baseline::Insert;
        if copies {
            let partitions = self.kafka.end_offsets(self.names()?.actions)?.len();
            self.kafka.create(&topics, i32::try_from(partitions).unwrap_or(1))?;
            for ((input, file), (name, from, to)) in recording.inputs.iter().zip(STAGE_RECORDINGS).zip([
                ("copy-1", actions, vec![verdicts.clone(), sessions.clone()]),
                ("copy-2", verdicts, vec![alerts.clone(), windows.clone()]),
            ]) {
                let copy = BareCopy {
                    group: format!("{prefix}-{name}"),
                    from: from.clone(),
                    transactional: from != actions,
                    recording: file.to_owned(),
                    inputs: input.read.clone(),
                    to,
                    batch: BATCH_RECORDS,
                };
                processes.push(self.start_worker(name, &WorkerTask::BareCopy(copy))?);
            }
            let recording = EVENTS_RECORDING.to_owned();
            let publish =
                BarePublish { recording, topic: actions.clone(), events: load.events, rate: load.rate };
            processes.push(self.start_worker("bare-publisher", &WorkerTask::BarePublish(publish))?);
        }
        if baseline != Baseline::Copy {
            let scale = |rows: u64| (rows as f64 * load.events as f64 / recording.events as f64) as u64;
            let tables =
                recording.tables.iter().map(|blocks| Blocks { rows: scale(blocks.rows), ..blocks.clone() });
            let insert = BareInsert { tables: tables.filter(|blocks| blocks.rows > 0).collect() };
            processes.push(self.start_worker("bare-insert", &WorkerTask::BareInsert(insert))?);
        }
        for process in &mut processes {
            process.read_line()?;
        }
        let probe = if observed {
            Some(LatencyProbe::baseline(&self.kafka, &self.setup.endpoints.kafka, alerts)?)
        } else {
            None
        };
        let before = self.usage(&processes.iter().collect::<Vec<_>>())?;
        let began = Instant::now();
        for process in processes.iter_mut().filter(|process| process.name.starts_with("bare-")) {
            process.write_line("go")?;
        }
        for process in &mut processes {
            match process.name.as_str() {
                "bare-publisher" => drop(parse_result::<PublishResult>(&process.read_line()?)?),
                "bare-insert" => drop(parse_result::<InsertResult>(&process.read_line()?)?),
                _ => {}
            }
        }
        if copies {
            for (name, topic, tail) in
                [("copy-1", actions, TailEntry::Record), ("copy-2", verdicts, TailEntry::Marker)]
            {
                let ends = self.kafka.end_offsets(topic)?;
                let group = self.kafka.group_client(&format!("{prefix}-{name}"))?;
                wait_until_done(&format!("{name} to catch up"), Duration::from_millis(5), || {
                    processes.iter_mut().try_for_each(Process::check)?;
                    let behind = group.lag(&ends, tail)?;
                    Ok((behind > 0).then(|| format!("{behind} offsets are left")))
                })?;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let usage = usage_between(&before, &self.usage(&processes.iter().collect::<Vec<_>>())?);
        let latency = probe.map(LatencyProbe::stop).transpose()?;
        drop(processes);
        if copies {
            self.kafka.delete(&topics)?;
        }
        if baseline != Baseline::Copy {
            for blocks in &recording.tables {
                self.store.run(format!("TRUNCATE TABLE {}", blocks.table))?;
            }
        }
        Ok(Run { events: load.events, seconds, usage, latency })
    }
}

/// Processes of a baseline run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// (a) Publisher and copies.
    Copy,
    /// (b) Insert.
    Insert,
    /// (c) Both.
    Both,
}

pub(crate) fn parse_result<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, BenchError> {
    serde_json::from_str(line).map_err(|error| BenchError::io("reading a result")(error.into()))
}

/// Returns the usage between two readings.
pub(crate) fn usage_between(
    before: &BTreeMap<String, Usage>,
    after: &BTreeMap<String, Usage>,
) -> BTreeMap<String, Usage> {
    after
        .iter()
        .map(|(name, after)| {
            let before = before.get(name).map_or(0.0, |before| before.cpu_s);
            (name.clone(), Usage { cpu_s: after.cpu_s - before, rss_bytes: after.rss_bytes })
        })
        .collect()
}

/// Waits until `pending` returns `None`.
pub(crate) fn wait_until_done(
    what: &str,
    between: Duration,
    mut pending: impl FnMut() -> Result<Option<String>, BenchError>,
) -> Result<(), BenchError> {
    let began = Instant::now();
    loop {
        let Some(state) = pending()? else { return Ok(()) };
        if began.elapsed() > SETTLE_TIMEOUT {
            let seconds = SETTLE_TIMEOUT.as_secs();
            return Err(BenchError::Late { what: what.to_owned(), seconds, state });
        }
        std::thread::sleep(between);
    }
}

/// Creates the folder of the recordings in `logs`.
pub fn create_recordings_folder(logs: &Path) -> std::io::Result<PathBuf> {
    let recordings = logs.join("recordings");
    std::fs::create_dir_all(&recordings)?;
    Ok(recordings)
}
