//! `agentgov-bench decide`: measures decision points, in turn with contenders on the same stack.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agentgov::cli::Global;
use agentgov::commands::example::{AGENT, TENANT};
use agentgov::commands::pipeline::Stack;
use agentgov::commands::policy::current_user;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{
    AccessSet, Bench, BenchError, Client, DecideReport, DecideRound, HookProbe, HttpFigures, KnownProbe,
    Load, Pair, Questions, Ratios, RunningServer, Scripts, Spread, Start, closed_loop,
};
use agentgov_registry::{
    KeyHolder, RegistryContext, Suspension, SuspensionOutcome, change_suspension, create_key_file,
    generate_key, publish_key,
};
use agentgov_schemas::governance::KeyKind;
use agentgov_service::ExitCode;
use serde_json::{Value, json};

use super::results::ResultsFolder;
use super::{BenchStack, policies, print_result, product};
use crate::cli;

const EVALUATION: &str = "/access/v1/evaluation";
/// Texts in a decision that is recorded and that knows the state of the session.
const KNOWN_AND_RECORDED: &[&str] = &["\"recorded\":true", "\"known_through\":"];
/// OPA's path of the decision.
const OPA_DECISION: &str = "/v1/data/access/allow";
/// Connections of the throughput measurements.
const CONNECTIONS: usize = 32;
/// Policies of the bundle that decides alone.
const POLICIES: usize = 1_000;
/// Policies of the two bundles on the log, and the environments in which they are active.
const FEW: (usize, &str) = (10, "few");
const MANY: (usize, &str) = (1_000, "many");
/// Sessions about which the load asks.
const OPEN_CALLS: usize = 500;
/// Results of a round whose time to be known is measured.
const KNOWN_SAMPLES: usize = 100;
/// Hooks of a round.
const HOOK_SAMPLES: usize = 30;
const SUSPENSIONS: usize = 50;
/// Time in which each decision point must deny the calls of a suspended agent.
const SUSPENSION_LIMIT: Duration = Duration::from_secs(1);
/// Time after which the measurement of a suspension fails.
const SUSPENSION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two questions about a suspension: the error of its measured time.
const SUSPENSION_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Decision points on the log.
const PDPS: [&str; 2] = ["pdp-1", "pdp-2"];

pub fn decide(args: &cli::Decide, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let opa = args.opa.clone().or_else(opa_in_path);
    let progress = Arc::new(Progress::new(global.json));
    let bench_stack = BenchStack::start(args.env.data.as_ref(), global, &progress)?;
    let setup = bench_stack.setup(&product, args.env.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    for (count, environment) in [FEW, MANY] {
        policies::push_for(&bench_stack.stack, count, environment)?;
    }
    let mut rounds = Rounds {
        rounds: vec![DecideRound::default(); args.rounds],
        duration: Duration::from_secs_f64(args.seconds),
        progress: &progress,
    };
    let answers_differ = by_bundle(&bench, opa.as_deref(), args.env.seed, &mut rounds)?;
    let on_log = OnLog::record(&bench_stack.stack, &mut bench, args, &progress)?;
    on_log.restores(&mut rounds)?;
    let suspended = on_log.changes(args.env.seed, &mut rounds)?;
    on_log.http(&mut rounds)?;
    let report = DecideReport {
        answers_differ,
        suspended_within_1s: suspended.iter().filter(|after| **after <= SUSPENSION_LIMIT).count(),
        suspended_ms: Spread::of(suspended.iter().map(|after| after.as_secs_f64() * 1e3)),
        ratios: Ratios::of(&rounds.rounds),
        rounds: rounds.rounds,
    };
    bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("decide", "decide", args, &report)?;
    }
    print_result(&report, global, print_report)
}

/// The rounds, filled measurement by measurement.
struct Rounds<'a> {
    rounds: Vec<DecideRound>,
    /// Duration of a closed loop.
    duration: Duration,
    progress: &'a Progress,
}

impl Rounds<'_> {
    /// Runs a measurement once per round.
    fn measure(
        &mut self,
        name: &str,
        mut measure: impl FnMut(&mut DecideRound, Duration) -> Result<Pair, BenchError>,
    ) -> Result<(), Failure> {
        let step = self.progress.step(name);
        let mut ratios = Vec::new();
        for round in &mut self.rounds {
            let Pair { ours, other } = measure(round, self.duration).or_exit(ExitCode::Failed)?;
            ratios.push(format!("{ours:.3}/{other:.3}"));
        }
        step.done(ratios.join(", "));
        Ok(())
    }
}

/// Measures decisions by a bundle alone. Returns the number of requests whose answers differ.
fn by_bundle(
    bench: &Bench<'_>,
    opa: Option<&Path>,
    seed: u64,
    rounds: &mut Rounds<'_>,
) -> Result<usize, Failure> {
    let set = AccessSet::new(POLICIES, seed).map_err(failed)?;
    let (folder, opa_folder) = (bench.folder("access"), bench.folder("access-opa"));
    set.write(&folder, &opa_folder).map_err(failed)?;
    let bundle = set.compile().map_err(failed)?;
    rounds.measure("decisions in process, beside Cedar's authorizer", |round, duration| {
        let [ours, other] = set.in_process(&bundle, duration)?;
        Ok(*round.in_process_per_second.insert(Pair { ours, other }))
    })?;
    let pdp = bench.start(Start::Bundle(&folder)).map_err(failed)?;
    let opa = opa.map(|program| bench.start(Start::Opa(program, &opa_folder))).transpose().map_err(failed)?;
    let differing = differing_answers(&set, &pdp, opa.as_ref()).map_err(failed)?;
    if let Some(opa) = &opa {
        let ours = questions(EVALUATION, set.authzen_bodies(), &["\"decision\":"]);
        let other = questions(OPA_DECISION, set.opa_bodies(), &["\"result\":"]);
        rounds.measure("decisions by a bundle, beside OPA, a second", |round, duration| {
            let ours = closed_loop(pdp.address, &ours, CONNECTIONS, duration)?.per_second;
            let other = closed_loop(opa.address, &other, CONNECTIONS, duration)?.per_second;
            Ok(*round.opa_per_second.insert(Pair { ours, other }))
        })?;
    }
    pdp.stop().map_err(failed)?;
    opa.map_or(Ok(()), RunningServer::stop).map_err(failed)?;
    Ok(differing)
}

/// Returns the number of requests on which the decision point, Cedar's authorizer and OPA do not agree.
fn differing_answers(
    set: &AccessSet,
    pdp: &RunningServer,
    opa: Option<&RunningServer>,
) -> Result<usize, BenchError> {
    // Before the connections are open, which the servers close when they are idle.
    let plain = set.plain_answers();
    let mut ours = Client::connect(pdp.address)?;
    let mut other = opa.map(|opa| Client::connect(opa.address)).transpose()?;
    let mut differing = 0;
    for ((authzen, rego), plain) in set.authzen_bodies().iter().zip(set.opa_bodies()).zip(plain) {
        let answer = ours.ask_json(EVALUATION, authzen)?;
        let decision = answer.get("decision").and_then(Value::as_bool);
        let of_opa = match &mut other {
            Some(opa) => opa.ask_json(OPA_DECISION, &rego)?.get("result").and_then(Value::as_bool),
            None => decision,
        };
        differing += usize::from(decision != Some(plain) || decision != of_opa);
    }
    Ok(differing)
}

/// Measurements on the log.
struct OnLog<'a, 's> {
    stack: &'a Stack,
    bench: &'a Bench<'s>,
    /// Questions about calls of recorded sessions.
    asked: Vec<Value>,
    /// Name, key and spool of each decision point.
    pdps: Vec<(&'static str, PathBuf, PathBuf)>,
}

impl<'a, 's> OnLog<'a, 's> {
    /// Records the sessions that the evaluator and the decision points then know.
    fn record(
        stack: &'a Stack,
        bench: &'a mut Bench<'s>,
        args: &cli::Decide,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        let mut pdps = Vec::new();
        for name in PDPS {
            let key = bench.folder(&format!("{name}.jwk"));
            create_key(stack, name, &key)?;
            pdps.push((name, key, bench.folder(&format!("{name}-spool"))));
        }
        let step = progress.step("recording sessions");
        let mut stages = bench.start_all_stages().map_err(failed)?;
        let load = Load { open_sessions: args.sessions, ..Load::of(args.events) };
        bench.publish(load).map_err(failed)?;
        let asked = bench.record_open_calls(OPEN_CALLS).map_err(failed)?;
        bench.settle(&mut stages).map_err(failed)?;
        stages.stop().map_err(failed)?;
        step.done(format!("{} events", args.events));
        Ok(Self { stack, bench, asked, pdps })
    }

    fn start_pdp(&self, number: usize) -> Result<RunningServer, BenchError> {
        let pdp = self.pdps.get(number);
        let (name, key, spool) =
            pdp.ok_or_else(|| BenchError::Topology(format!("no decision point {number}")))?;
        self.bench.start(Start::Pdp { name, key, spool })
    }

    /// Measures the start of a decision point and of the evaluator, which read the same state.
    fn restores(&self, rounds: &mut Rounds<'_>) -> Result<(), Failure> {
        let ready_after = |server: RunningServer| {
            let after = server.ready_after.as_secs_f64();
            server.stop().map(|()| after)
        };
        rounds.measure("seconds until ready, beside the evaluator", |round, _| {
            let ours = ready_after(self.start_pdp(0)?)?;
            let other = ready_after(self.bench.start(Start::Evaluator)?)?;
            Ok(*round.ready_s.insert(Pair { ours, other }))
        })
    }

    /// Measures how soon decision points know results and suspensions while the stages run. Returns the time of each
    /// suspension until all decision points applied it.
    fn changes(&self, seed: u64, rounds: &mut Rounds<'_>) -> Result<Vec<Duration>, Failure> {
        let mut stages = self.bench.start_all_stages().map_err(failed)?;
        let (first, second) = (self.start_pdp(0).map_err(failed)?, self.start_pdp(1).map_err(failed)?);
        let scripts = Scripts::new(seed);
        let mut probe = KnownProbe::new(self.bench, first.address).map_err(failed)?;
        rounds.measure("ms until a result is known, beside a bare consumer", |round, _| {
            Ok(*round.known_p50_ms.insert(probe.round(&scripts, KNOWN_SAMPLES)?))
        })?;
        drop(probe);
        let suspended = self.suspensions(&[&first, &second], rounds.progress)?;
        [first, second].into_iter().try_for_each(RunningServer::stop).map_err(failed)?;
        self.bench.settle(&mut stages).map_err(failed)?;
        stages.stop().map_err(failed)?;
        Ok(suspended)
    }

    fn suspensions(&self, pdps: &[&RunningServer], progress: &Progress) -> Result<Vec<Duration>, Failure> {
        let step = progress.step("suspensions");
        let mut clients = Vec::new();
        for pdp in pdps {
            clients.push(Client::connect(pdp.address).map_err(failed)?);
        }
        let question = self.asked.first().map(ToString::to_string).unwrap_or_default();
        let mut suspended = Vec::new();
        for _ in 0..SUSPENSIONS {
            for suspension in [Suspension::Suspend, Suspension::Resume] {
                // The change reads the topic again after its acknowledgement. Meanwhile the decision points are asked.
                let (acknowledged, applied) = thread::scope(|scope| {
                    let change = scope.spawn(|| self.change(suspension));
                    let is_suspended = suspension == Suspension::Suspend;
                    let applied =
                        clients.iter_mut().try_for_each(|client| wait_for(client, &question, is_suspended));
                    let applied = applied.map(|()| Instant::now());
                    (change.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), applied)
                });
                let (acknowledged, applied) = (acknowledged?, applied.map_err(failed)?);
                if suspension == Suspension::Suspend {
                    suspended.push(applied.saturating_duration_since(acknowledged));
                }
            }
        }
        let longest = suspended.iter().max().copied().unwrap_or_default();
        step.done(format!("{}, the longest took {longest:?}", suspended.len()));
        Ok(suspended)
    }

    /// Changes the agent's state, and returns when all in-sync replicas had the change.
    fn change(&self, suspension: Suspension) -> Result<Instant, Failure> {
        let context = RegistryContext { endpoints: &self.stack.endpoints, topology: &self.stack.topology };
        match change_suspension(context, suspension, (TENANT, AGENT), "a measurement", &current_user())
            .or_exit(ExitCode::Failed)?
        {
            SuspensionOutcome::Changed { acknowledged } => Ok(acknowledged),
            SuspensionOutcome::Unchanged => Err(Failure::new(
                ExitCode::Failed,
                format!(
                    "agent {TENANT}/{AGENT}: expected another state than {} before the measurement changes it; change it with \
                     `agentgov registry` or start a new stack",
                    suspension.state().as_str()
                ),
            )),
        }
    }

    /// Measures decisions on the log over HTTP. No stage runs, since the cores are for client, decision point and broker.
    fn http(&self, rounds: &mut Rounds<'_>) -> Result<(), Failure> {
        let pdp = self.start_pdp(0).map_err(failed)?;
        let response_bytes = self.response_bytes(&pdp).map_err(failed)?;
        let constant = self.bench.start(Start::Constant(response_bytes)).map_err(failed)?;
        let bodies: Vec<String> = self.asked.iter().map(ToString::to_string).collect();
        let ours = questions(EVALUATION, bodies.clone(), KNOWN_AND_RECORDED);
        let other = questions(EVALUATION, bodies, &["\"padding\":"]);
        let both = |connections, duration, of: fn(HttpFigures) -> f64| {
            let ours = of(closed_loop(pdp.address, &ours, connections, duration)?);
            let other = of(closed_loop(constant.address, &other, connections, duration)?);
            Ok::<_, BenchError>(Pair { ours, other })
        };
        let p50 = |figures: HttpFigures| figures.latency.p50_ms;
        rounds.measure("ms of a decision, beside a constant one", |round, duration| {
            Ok(*round.http_p50_ms.insert(both(1, duration, p50)?))
        })?;
        rounds.measure("decisions a second, beside constant ones", |round, duration| {
            Ok(*round.http_per_second.insert(both(CONNECTIONS, duration, |figures| figures.per_second)?))
        })?;
        let [many, few] = [MANY, FEW].map(|(_, environment)| {
            let bodies = self.asked.iter().map(|question| in_environment(question, environment));
            questions(EVALUATION, bodies.collect(), KNOWN_AND_RECORDED)
        });
        rounds.measure("ms of a decision by 1,000 policies, beside 10", |round, duration| {
            let ours = p50(closed_loop(pdp.address, &many, 1, duration)?);
            let other = p50(closed_loop(pdp.address, &few, 1, duration)?);
            Ok(*round.policies_p50_ms.insert(Pair { ours, other }))
        })?;
        constant.stop().map_err(failed)?;
        if let Some(question) = self.asked.first() {
            let mut probe = HookProbe::start(self.bench, pdp.address, question).map_err(failed)?;
            rounds.measure("ms of a hook, beside Python and a decision", |round, _| {
                Ok(*round.hook_p50_ms.insert(probe.round(HOOK_SAMPLES)?))
            })?;
            probe.stop().map_err(failed)?;
        }
        pdp.stop().map_err(failed)
    }

    /// Asks each question once, with every bundle, and checks that the session was known. Returns the bytes of an average
    /// response.
    fn response_bytes(&self, pdp: &RunningServer) -> Result<usize, BenchError> {
        let mut client = Client::connect(pdp.address)?;
        let mut bytes = 0;
        for question in &self.asked {
            bytes += client.ask(EVALUATION, &question.to_string())?.len();
            for (_, environment) in [FEW, MANY] {
                let answer = client.ask_json(EVALUATION, &in_environment(question, environment))?;
                let context = answer.get("context");
                let has = |member: &str| context.is_some_and(|context| context.get(member).is_some());
                if !has("known_through") || !has("token") || !has("bundle") {
                    let message = format!("expected a signed decision on a known session, found {answer}");
                    return Err(BenchError::Http { what: "asking", message });
                }
            }
        }
        Ok(bytes / self.asked.len().max(1))
    }
}

fn failed(error: BenchError) -> Failure {
    Failure::new(ExitCode::Failed, error.to_string())
}

fn questions(path: &'static str, bodies: Vec<String>, expected: &'static [&'static str]) -> Questions {
    Questions { path, bodies: bodies.into(), expected }
}

fn in_environment(question: &Value, environment: &str) -> String {
    let mut question = question.clone();
    if let Some(Value::Object(context)) = question.get_mut("context") {
        context.insert("environment".to_owned(), json!(environment));
    }
    question.to_string()
}

/// Asks until the agent is suspended, or no longer.
fn wait_for(client: &mut Client, question: &str, is_suspended: bool) -> Result<(), BenchError> {
    let began = Instant::now();
    loop {
        let answer = client.ask_json(EVALUATION, question)?;
        let reason = answer.pointer("/context/reason").and_then(Value::as_str);
        if (reason == Some("suspended")) == is_suspended {
            return Ok(());
        }
        if began.elapsed() > SUSPENSION_TIMEOUT {
            return Err(BenchError::Late {
                what: format!("the agent to be suspended: {is_suspended}"),
                seconds: SUSPENSION_TIMEOUT.as_secs(),
                state: answer.to_string(),
            });
        }
        thread::sleep(SUSPENSION_POLL_INTERVAL);
    }
}

/// Creates the signing key of a decision point and publishes its public half.
pub(super) fn create_key(stack: &Stack, name: &str, file: &Path) -> Result<(), Failure> {
    let context = RegistryContext { endpoints: &stack.endpoints, topology: &stack.topology };
    let key = generate_key().or_exit(ExitCode::Failed)?;
    create_key_file(file, &key).or_exit(ExitCode::Failed)?;
    let holder = KeyHolder { kind: KeyKind::Pdp, name, tenant_id: None };
    publish_key(context, key.public_key(), holder, &current_user()).or_exit(ExitCode::Failed)
}

/// Returns the executable `opa` in the PATH.
fn opa_in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("opa")).find(|program| program.is_file())
}

fn print_report(report: &DecideReport) {
    let DecideReport { answers_differ, suspended_within_1s, suspended_ms, ratios, .. } = report;
    outln!("{:<24} {:>8} {:>8}", "ratio", "median", "goal");
    for (name, ratio, goal) in [
        ("http_p50", ratios.http_p50, "<= 3"),
        ("http_throughput_32", ratios.http_throughput_32, ">= 0.35"),
        ("opa_throughput_32", ratios.opa_throughput_32, ">= 3"),
        ("plain_in_process", ratios.plain_in_process, ">= 30"),
        ("policies_10_to_1000", ratios.policies_10_to_1000, "<= 1.3"),
        ("recorded_to_known", ratios.recorded_to_known, "<= 2"),
        ("hook", ratios.hook, "<= 0.5"),
        ("pdp_restore", ratios.pdp_restore, "<= 1.5"),
    ] {
        let ratio = ratio.map_or_else(|| "none".to_owned(), |ratio| format!("{ratio:.2}"));
        outln!("{:<24} {:>8} {:>8}", name, ratio, goal);
    }
    outln!("answers that differ: {}", answers_differ);
    outln!(
        "suspensions within a second: {} of {}; {:.0} ms (at most {:.0})",
        suspended_within_1s,
        SUSPENSIONS,
        suspended_ms.median,
        suspended_ms.most
    );
}
