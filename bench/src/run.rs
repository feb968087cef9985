//! Runs: the pipeline, and the bare processes, each from the first event to the last row.

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
use crate::floor::copy::BareCopy;
use crate::floor::insert::{BareInsert, Blocks, Inserted};
use crate::floor::publish::BarePublish;
use crate::hops::Judged;
use crate::kafka::{Ends, Group, Kafka, Offsets};
use crate::latency::{Latency, Watch, Watched};
use crate::part::{Part, Publish, Published};
use crate::process::{Env, Process, Usage};
use crate::store::Store;
use crate::tape::{self, Taped};

/// How long everything may take to be through after the last event.
const SETTLE: Duration = Duration::from_secs(300);
/// Rows of a block of the bare insert: the pipeline's most.
const BLOCK: u64 = 50_000;
/// Rows that the bare insert holds in memory and repeats, at most.
const TAPED_ROWS: u64 = 200_000;
/// Records of a transaction of the bare copy: so many that its commit is no cost, which is measured to be so from some 50,000.
const BATCH: usize = 50_000;

/// What runs need.
pub struct Setup<'a> {
    /// The stack; native, so that its parts' processes can be measured.
    pub env: &'a TestEnv,
    /// Where it is.
    pub endpoints: &'a Endpoints,
    /// The topology; applied, with the registry and a bundle pushed.
    pub topology: &'a Topology,
    /// What follows `run STAGE` on the command line of a stage.
    pub stage_args: Vec<String>,
    /// Whose sessions the load is.
    pub tenant: &'a str,
    /// Who acts in them; registered.
    pub agent: &'a str,
    /// Where; the bundle judges there.
    pub environment: &'a str,
    /// The product's executable, whose `run STAGE` the stages are.
    pub product: PathBuf,
    /// The bench's own, whose `part` the other processes are.
    pub bench: PathBuf,
    /// Where tapes are kept while it runs.
    pub tapes: PathBuf,
    /// What the sessions are made from.
    pub seed: u64,
}

/// What is published, and by how many it is worked on.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events; the closing one comes on top.
    pub events: u64,
    /// Events a second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Sessions that are open side by side.
    pub open_sessions: usize,
    /// Processes of each stage.
    pub processes: usize,
}

impl Load {
    /// So many events as fast as they go, of 1,000 sessions, worked on by one process of each stage.
    pub const fn of(events: u64) -> Self {
        Self { events, rate: None, open_sessions: 1_000, processes: 1 }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Events that went through.
    pub events: u64,
    /// From the first event to the last row, or to the last copy of a floor without rows.
    pub seconds: f64,
    /// What each process used meanwhile.
    pub usage: BTreeMap<String, Usage>,
    /// From publishing to what came of it, where it was watched.
    pub latency: Option<Latency>,
}

impl Run {
    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    /// Seconds of CPU of all processes for a million events.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.values().map(|usage| usage.cpu_s).sum::<f64>() / self.events as f64 * 1e6
    }
}

/// Memory at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Since the first event.
    pub seconds: f64,
    /// Resident bytes by process.
    pub resident: BTreeMap<String, u64>,
}

/// A run, and its memory meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Soak {
    /// The run.
    pub run: Run,
    /// Looks, in order.
    pub samples: Vec<Sample>,
}

/// What the bare processes repeat.
pub struct Tape {
    events: u64,
    hops: [Hop; 2],
    tables: Vec<Blocks>,
}

/// A processor's step.
struct Hop {
    /// How many records went in, by partition.
    read: BTreeMap<i32, u64>,
}

const EVENTS_TAPE: &str = "events.tape";
const HOP_TAPES: [&str; 2] = ["evaluator.tape", "alerter.tape"];
/// Topics of a floor: what goes in, what comes out of each hop in the order of the tape's topics.
const FLOOR_TOPICS: [&str; 5] = ["actions", "verdicts", "alerts", "sessions", "alert-windows"];

/// Measures.
pub struct Bench<'a> {
    setup: &'a Setup<'a>,
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    http: reqwest::blocking::Client,
    pub(crate) runs: u32,
}

/// The topology's names, as the bench needs them.
pub(crate) struct Names<'t> {
    pub(crate) actions: &'t str,
    verdicts: &'t str,
    alerts: &'t str,
    rejects: &'t str,
    sessions: &'t str,
    windows: &'t str,
    evaluator: &'t str,
    alerter: &'t str,
    pub(crate) sink: &'t str,
}

impl<'a> Bench<'a> {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// If a client cannot be made.
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

    fn group_of(&self, stage: &str) -> Result<Group, BenchError> {
        let stage = self.setup.topology.stage(stage).map_err(|e| BenchError::Topology(e.to_string()))?;
        self.kafka.group(&stage.group.value)
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

    /// Starts an executable with these arguments.
    fn start(&self, program: &Path, name: &str, args: &[String], env: &Env) -> Result<Process, BenchError> {
        let mut command = vec![program.display().to_string()];
        command.extend(args.iter().cloned());
        self.start_program(name, &command, env)
    }

    /// Starts a stage, which says first where it listens.
    pub(crate) fn stage(&self, stage: &str, name: &str, env: &Env) -> Result<Process, BenchError> {
        let mut args = ["run", stage, "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
        args.extend(self.setup.stage_args.iter().cloned());
        self.start(&self.setup.product, name, &args, env)
    }

    /// Starts who publishes a load with the SDK: says `ready`, is told to begin, and says what was [`Published`].
    pub(crate) fn publisher(&self, load: Load) -> Result<Process, BenchError> {
        let publish = Publish {
            tenant: self.setup.tenant.to_owned(),
            agent: self.setup.agent.to_owned(),
            environment: self.setup.environment.to_owned(),
            events: load.events,
            rate: load.rate,
            open_sessions: load.open_sessions,
            seed: self.setup.seed + u64::from(self.runs),
            run: format!("bench-{}-{}", std::process::id(), self.runs),
        };
        self.part("publisher", &Part::Publish(publish))
    }

    pub(crate) fn part(&self, name: &str, part: &Part) -> Result<Process, BenchError> {
        let spec = serde_json::to_string(part).map_err(|error| BenchError::io("telling")(error.into()))?;
        let tapes = self.setup.tapes.display().to_string();
        let mut args = vec!["part".to_owned(), "--tapes".to_owned(), tapes, spec];
        args.extend(self.setup.stage_args.iter().cloned());
        self.start(&self.setup.bench, name, &args, &self.env())
    }

    /// Starts every stage, and waits until all are ready.
    fn stages(&self, processes: usize) -> Result<Vec<Process>, BenchError> {
        let env = self.env();
        let mut stages = Vec::new();
        for stage in self.setup.topology.stages.keys() {
            for number in 0..processes {
                let name = match processes {
                    1 => stage.clone(),
                    _ => format!("{stage}-{number}"),
                };
                stages.push(self.stage(stage, &name, &env)?);
            }
        }
        let mut addresses = Vec::new();
        for stage in &mut stages {
            let line = stage.line()?;
            addresses.push(line.rsplit("http://").next().unwrap_or_default().to_owned());
        }
        let ready = |address: &String| {
            let answer = self.http.get(format!("http://{address}/readyz")).send();
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        wait("the stages to be ready", Duration::from_millis(50), || {
            let late = addresses.iter().filter(|address| !ready(address)).count();
            Ok((late > 0).then(|| format!("{late} are not")))
        })?;
        Ok(stages)
    }

    /// The stack's processes.
    fn parts(&self) -> Result<Vec<(String, u32)>, BenchError> {
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
        for (name, pid) in self.parts()? {
            let failed = |source| BenchError::Process { name: name.clone(), source };
            let used = Usage::of(pid).map_err(failed)?;
            usage.insert(name, used);
        }
        for process in processes {
            usage.insert(process.name.clone(), process.usage()?);
        }
        Ok(usage)
    }

    /// The pipeline, from the first event to the last row of the last alert.
    ///
    /// # Errors
    /// If it cannot be run, or does not come to its end.
    pub fn pipeline(&mut self, load: Load, watched: Watched) -> Result<Run, BenchError> {
        self.whole(load, watched, |_, publisher| publisher.line())
    }

    /// The pipeline, whose memory is looked at again and again while events are published.
    ///
    /// # Errors
    /// As [`Self::pipeline`].
    pub fn soak(&mut self, load: Load, every: Duration, tell: &dyn Fn(&Sample)) -> Result<Soak, BenchError> {
        let parts = self.parts()?;
        let mut samples = Vec::new();
        let run = self.whole(load, Watched::Nothing, |stages, publisher| {
            let began = Instant::now();
            let mut processes = parts.clone();
            processes.extend(stages.iter().map(|stage| (stage.name.clone(), stage.pid())));
            publisher.line_meanwhile(every, || {
                let resident = processes.iter().map(|(name, pid)| {
                    let failed = |source| BenchError::Process { name: name.clone(), source };
                    Ok((name.clone(), Usage::resident(*pid).map_err(failed)?))
                });
                let resident = resident.collect::<Result<_, BenchError>>()?;
                let sample = Sample { seconds: began.elapsed().as_secs_f64(), resident };
                tell(&sample);
                samples.push(sample);
                Ok(())
            })
        })?;
        Ok(Soak { run, samples })
    }

    /// Runs the pipeline; `until` waits until the publisher says what was published.
    fn whole(
        &mut self,
        load: Load,
        watched: Watched,
        until: impl FnOnce(&[Process], &mut Process) -> Result<String, BenchError>,
    ) -> Result<Run, BenchError> {
        self.runs += 1;
        self.merged()?;
        let names = self.names()?;
        let mut stages = self.stages(load.processes)?;
        let mut publisher = self.publisher(load)?;
        publisher.line()?;
        let watch = match watched {
            Watched::Nothing => None,
            Watched::Alerts => {
                let judged = Judged { store: self.store.clone(), table: self.table(names.verdicts)? };
                Some(Watch::alerts(&self.kafka, &self.setup.endpoints.kafka, names.alerts, judged)?)
            }
            Watched::Rows => Some(Watch::rows(&self.store, &self.table(names.actions)?)?),
        };
        let processes: Vec<&Process> = stages.iter().chain([&publisher]).collect();
        let before = self.usage(&processes)?;
        drop(processes);
        publisher.say("go")?;
        let began = Instant::now();
        let published: Published = parsed(&until(&stages, &mut publisher)?)?;
        self.all_through(&names, &mut stages)?;
        let seconds = began.elapsed().as_secs_f64();
        let processes: Vec<&Process> = stages.iter().chain([&publisher]).collect();
        let usage = difference(&before, &self.usage(&processes)?);
        let latency = watch.map(Watch::end).transpose()?;
        drop(publisher);
        for stage in stages {
            stage.end()?;
        }
        Ok(Run { events: published.events, seconds, usage, latency })
    }

    /// Waits until ClickHouse has merged what the run before left behind: the next one is not to pay for it.
    fn merged(&self) -> Result<(), BenchError> {
        wait("merges to end", Duration::from_millis(100), || {
            let merges = self.number("SELECT count() FROM system.merges")?;
            Ok((merges > 0).then(|| format!("{merges} are under way")))
        })
    }

    /// Waits until every stage has done everything.
    fn all_through(&self, names: &Names<'_>, stages: &mut [Process]) -> Result<(), BenchError> {
        let mut caught_up = |stage: &str, ends: &[(Offsets, Ends)]| {
            let group = self.group_of(stage)?;
            wait(&format!("{stage} to be through"), Duration::from_millis(5), || {
                stages.iter_mut().try_for_each(Process::check)?;
                let mut behind = 0;
                for (ends, how) in ends {
                    behind += group.behind(ends, *how)?;
                }
                Ok((behind > 0).then(|| format!("{behind} offsets are left")))
            })
        };
        let actions = (self.kafka.ends(names.actions)?, Ends::Gapless);
        caught_up(names.evaluator, std::slice::from_ref(&actions))?;
        let verdicts = (self.kafka.ends(names.verdicts)?, Ends::Markers);
        caught_up(names.alerter, std::slice::from_ref(&verdicts))?;
        let alerts = (self.kafka.ends(names.alerts)?, Ends::Markers);
        let rejects = (self.kafka.ends(names.rejects)?, Ends::Markers);
        caught_up(names.sink, &[actions, verdicts, alerts, rejects])
    }

    /// The first run, kept on tapes for the bare ones. Its figures are those of a cold start, and are not reported.
    ///
    /// # Errors
    /// As [`Self::pipeline`], and if the tapes cannot be written.
    pub fn tape(&mut self, load: Load) -> Result<Tape, BenchError> {
        let names = self.names()?;
        let topics =
            [names.actions, names.verdicts, names.alerts, names.rejects, names.sessions, names.windows];
        let start: Offsets = self.ends(&topics)?;
        let run = self.pipeline(load, Watched::Nothing)?;
        let end = self.ends(&topics)?;
        let of = |topic: &str| -> Result<Vec<rdkafka::message::OwnedMessage>, BenchError> {
            let until = end.iter().filter(|((name, _), _)| name == topic);
            let until = until.map(|(place, end)| (place.clone(), *end)).collect();
            self.kafka.records(&start, &until)
        };
        let taped = |topic: u8, message: &rdkafka::message::OwnedMessage| Taped {
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
        let hops = [Hop { read: count(&events) }, Hop { read: count(&verdicts) }];
        self.write_tape(EVENTS_TAPE, events.iter().map(|message| taped(0, message)))?;
        let evaluator = verdicts.iter().map(|message| taped(0, message));
        let sessions = of(names.sessions)?;
        self.write_tape(HOP_TAPES[0], evaluator.chain(sessions.iter().map(|message| taped(1, message))))?;
        let alerts = of(names.alerts)?;
        let windows = of(names.windows)?;
        let alerter = alerts.iter().map(|message| taped(0, message));
        self.write_tape(HOP_TAPES[1], alerter.chain(windows.iter().map(|message| taped(1, message))))?;
        let mut tables = Vec::new();
        for topic in [names.actions, names.verdicts, names.alerts] {
            let table = self.table(topic)?;
            tables.push(self.blocks(&table, &format!("bench_{table}"))?);
        }
        Ok(Tape { events: run.events, hops, tables })
    }

    /// A hop's outputs in the order in which they would come: those of each topic keep step with the others.
    fn write_tape(&self, name: &str, records: impl Iterator<Item = Taped>) -> Result<(), BenchError> {
        let mut by_topic: BTreeMap<(i32, u8), Vec<Taped>> = BTreeMap::new();
        for record in records {
            by_topic.entry((record.partition, record.topic)).or_default().push(record);
        }
        let mut placed: Vec<(f64, Taped)> = by_topic
            .into_values()
            .flat_map(|records| {
                let len = records.len() as f64;
                records.into_iter().enumerate().map(move |(at, record)| (at as f64 / len, record))
            })
            .collect();
        placed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let records: Vec<Taped> = placed.into_iter().map(|(_, record)| record).collect();
        tape::write(&self.setup.tapes.join(name), &records)
    }

    /// A table's rows as blocks on file, the first [`TAPED_ROWS`] of them, and a copy of the table, named `copy`, that takes rows
    /// from anyone.
    pub(crate) fn blocks(&self, table: &str, copy: &str) -> Result<Blocks, BenchError> {
        let rows = self.count(table)?;
        let mut files = Vec::new();
        let mut from = 0;
        while from < rows.min(TAPED_ROWS) {
            let block = self.store.run(format!(
                "SELECT * FROM {table} ORDER BY topic_partition, offset LIMIT {BLOCK} OFFSET {from} FORMAT Native"
            ))?;
            let file = format!("{table}-{from}.native");
            std::fs::write(self.setup.tapes.join(&file), block).map_err(BenchError::io("writing a block"))?;
            files.push((file, BLOCK.min(rows - from)));
            from += BLOCK;
        }
        self.open_copy(table, copy)?;
        Ok(Blocks { table: copy.to_owned(), files, rows })
    }

    /// An empty table like another, without the fence that lets only claim holders write.
    pub(crate) fn open_copy(&self, table: &str, copy: &str) -> Result<(), BenchError> {
        self.store.run(format!("DROP TABLE IF EXISTS {copy} SYNC"))?;
        self.store.run(format!("CREATE TABLE {copy} AS {table}"))?;
        self.store.run(format!("ALTER TABLE {copy} DROP CONSTRAINT fence")).map(drop)
    }

    /// How many rows a table has.
    pub(crate) fn count(&self, table: &str) -> Result<u64, BenchError> {
        self.number(&format!("SELECT count() FROM {table}"))
    }

    /// What a statement answers that answers one number.
    pub(crate) fn number(&self, sql: &str) -> Result<u64, BenchError> {
        let answer = self.store.lines(sql)?;
        Ok(answer.first().and_then(|row| row.first()?.parse().ok()).unwrap_or_default())
    }

    fn ends(&self, topics: &[&str]) -> Result<Offsets, BenchError> {
        let mut ends = Offsets::new();
        for topic in topics {
            ends.extend(self.kafka.ends(topic)?);
        }
        Ok(ends)
    }

    pub(crate) fn table(&self, topic: &str) -> Result<String, BenchError> {
        let found = self.setup.topology.table_from(topic).map_err(|e| BenchError::Topology(e.to_string()))?;
        Ok(found.1.to_owned())
    }

    /// Bare processes: the copy through both hops, the insert, or both at once.
    ///
    /// # Errors
    /// If they cannot be run.
    pub fn floor(&mut self, tape: &Tape, load: Load, what: Floor, watched: bool) -> Result<Run, BenchError> {
        self.runs += 1;
        self.merged()?;
        let prefix = format!("bench-floor-{}", self.runs);
        let topics = FLOOR_TOPICS.map(|topic| format!("{prefix}.{topic}"));
        let [actions, verdicts, alerts, sessions, windows] = &topics;
        let mut processes = Vec::new();
        let copies = what != Floor::Insert;
        if copies {
            let partitions = self.kafka.ends(self.names()?.actions)?.len();
            self.kafka.create(&topics, i32::try_from(partitions).unwrap_or(1))?;
            for ((hop, tape), (name, from, to)) in tape.hops.iter().zip(HOP_TAPES).zip([
                ("copy-1", actions, vec![verdicts.clone(), sessions.clone()]),
                ("copy-2", verdicts, vec![alerts.clone(), windows.clone()]),
            ]) {
                let copy = BareCopy {
                    group: format!("{prefix}-{name}"),
                    from: from.clone(),
                    whole: from != actions,
                    tape: tape.to_owned(),
                    read: hop.read.clone(),
                    to,
                    batch: BATCH,
                };
                processes.push(self.part(name, &Part::BareCopy(copy))?);
            }
            let tape = EVENTS_TAPE.to_owned();
            let publish = BarePublish { tape, topic: actions.clone(), events: load.events, rate: load.rate };
            processes.push(self.part("bare-publisher", &Part::BarePublish(publish))?);
        }
        if what != Floor::Copy {
            let scale = |rows: u64| (rows as f64 * load.events as f64 / tape.events as f64) as u64;
            let tables =
                tape.tables.iter().map(|blocks| Blocks { rows: scale(blocks.rows), ..blocks.clone() });
            let insert = BareInsert { tables: tables.filter(|blocks| blocks.rows > 0).collect() };
            processes.push(self.part("bare-insert", &Part::BareInsert(insert))?);
        }
        for process in &mut processes {
            process.line()?;
        }
        let watch = if watched {
            Some(Watch::floor(&self.kafka, &self.setup.endpoints.kafka, alerts)?)
        } else {
            None
        };
        let before = self.usage(&processes.iter().collect::<Vec<_>>())?;
        let began = Instant::now();
        for process in processes.iter_mut().filter(|process| process.name.starts_with("bare-")) {
            process.say("go")?;
        }
        for process in &mut processes {
            match process.name.as_str() {
                "bare-publisher" => drop(parsed::<Published>(&process.line()?)?),
                "bare-insert" => drop(parsed::<Inserted>(&process.line()?)?),
                _ => {}
            }
        }
        if copies {
            for (name, topic, how) in
                [("copy-1", actions, Ends::Gapless), ("copy-2", verdicts, Ends::Markers)]
            {
                let ends = self.kafka.ends(topic)?;
                let group = self.kafka.group(&format!("{prefix}-{name}"))?;
                wait(&format!("{name} to be through"), Duration::from_millis(5), || {
                    processes.iter_mut().try_for_each(Process::check)?;
                    let behind = group.behind(&ends, how)?;
                    Ok((behind > 0).then(|| format!("{behind} offsets are left")))
                })?;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let usage = difference(&before, &self.usage(&processes.iter().collect::<Vec<_>>())?);
        let latency = watch.map(Watch::end).transpose()?;
        drop(processes);
        if copies {
            self.kafka.delete(&topics)?;
        }
        if what != Floor::Copy {
            for blocks in &tape.tables {
                self.store.run(format!("TRUNCATE TABLE {}", blocks.table))?;
            }
        }
        Ok(Run { events: load.events, seconds, usage, latency })
    }
}

/// Which bare processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// (a) The copy, with its publisher.
    Copy,
    /// (b) The insert.
    Insert,
    /// (c) Both.
    Both,
}

pub(crate) fn parsed<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, BenchError> {
    serde_json::from_str(line).map_err(|error| BenchError::io("listening to a process")(error.into()))
}

/// What was used between.
pub(crate) fn difference(
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

/// Waits until there is nothing left to say.
pub(crate) fn wait(
    what: &str,
    between: Duration,
    mut left: impl FnMut() -> Result<Option<String>, BenchError>,
) -> Result<(), BenchError> {
    let began = Instant::now();
    loop {
        let Some(state) = left()? else { return Ok(()) };
        if began.elapsed() > SETTLE {
            let seconds = SETTLE.as_secs();
            return Err(BenchError::Late { what: what.to_owned(), seconds, state });
        }
        std::thread::sleep(between);
    }
}

/// Where tapes go: a folder of their own in `logs`.
pub fn tapes(logs: &Path) -> std::io::Result<PathBuf> {
    let tapes = logs.join("tapes");
    std::fs::create_dir_all(&tapes)?;
    Ok(tapes)
}
