//! A pipeline on a local stack: topology applied, the example's registry and bundle pushed, every stage running.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::Endpoints;
use agentgov_pdp::ServerConfig;
use agentgov_policy::{Bundle, BundleFiles};
use agentgov_registry::{KeyHolder, RegistryContext, ReplacedBundle, list_bundles, other_bundles};
use agentgov_schemas::governance::KeyKind;
use agentgov_schemas::topology::Topology;
use agentgov_service::{ExitCode, Health, ShutdownSignal};
use agentgov_testenv::{BackendKind, Options, TestEnv};

use super::example::{self, Example};
use super::pdp_folder::PdpFolder;
use super::pdp_log::{self, PdpOptions, RunningPdp};
use super::{keys, policy, registry};
use crate::cli::{APPROVAL_SECONDS, Global};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::errln;
use crate::progress::Progress;
use crate::stages::RunningStages;

/// Name of the decision point of `up`.
const PDP: &str = "pdp";
/// Port of the decision point, unless it is taken.
const PDP_PORT: u16 = 8181;

/// Handling of an environment of the example's bundle in which another bundle is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherBundles {
    /// The other bundle stays active, and the example's is not pushed.
    Keep,
    /// The start fails.
    Refuse,
    /// The example's bundle replaces the other one.
    Replace,
}

/// Registry and bundle of an example, as they are pushed.
pub struct Pushed {
    registry_name: String,
    registry: String,
    bundle: BundleFiles,
    /// Path of the example.
    name: &'static str,
    others: OtherBundles,
}

impl Pushed {
    /// Returns those of an example.
    pub fn of(example: &Example, others: OtherBundles) -> Result<Self, Failure> {
        Self::in_environment(example, example.environment, others)
    }

    /// Returns those of an example that names one environment, for another one.
    pub fn in_environment(
        example: &Example,
        environment: &str,
        others: OtherBundles,
    ) -> Result<Self, Failure> {
        let named = |text: &str| {
            // The example's own text keeps its bytes, and so its digest.
            if environment == example.environment {
                return text.to_owned();
            }
            let from = format!("environments: [{}]", example.environment);
            // A JSON text is a scalar of YAML: no name can add an environment.
            text.replace(&from, &format!("environments: [{}]", serde_json::Value::from(environment)))
        };
        let mut bundle = example.bundle_files();
        if let Some(manifest) = bundle.0.get_mut("bundle.yaml") {
            *manifest = named(&String::from_utf8_lossy(manifest)).into_bytes();
        }
        Ok(Self {
            registry_name: format!("examples/{}/registry.yaml", example.name),
            registry: named(example.text("registry.yaml")?),
            bundle,
            name: example.name,
            others,
        })
    }
}

/// A stack that is ready for stages: topology applied, the example's registry and bundle pushed.
pub struct Stack {
    /// Addresses and logins of the stack.
    pub endpoints: Endpoints,
    /// Topology of the pipeline.
    pub topology: Arc<Topology>,
    /// The example's bundle. It is active, unless another one was kept.
    pub bundle: Bundle,
    /// Handle of the running stack.
    pub env: TestEnv,
}

impl Stack {
    /// Starts a stack. Without `backend`, the environment selects one.
    pub fn start(
        topology: Arc<Topology>,
        data: Option<PathBuf>,
        backend: Option<BackendKind>,
        pushed: &Pushed,
        global: &Global,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let helper = std::env::current_exe().or_exit(ExitCode::Failed)?;
        let listener = Arc::clone(progress);
        let mut options = Options::new(helper).progress(move |event| listener.show_stack_event(&event));
        options.data_dir.clone_from(&data);
        options.backend = backend;
        options.given = given_addresses(global);
        let env = TestEnv::start(options).or_report(ExitCode::TryAgain)?;
        if let (Some(data), BackendKind::External) = (data, env.backend()) {
            return Err(Failure::new(
                ExitCode::Usage,
                format!(
                    "expected a local stack for --data {}, found the address of an external one; unset AGENTGOV_KAFKA, \
                     AGENTGOV_SCHEMA_REGISTRY, AGENTGOV_CLICKHOUSE, AGENTGOV_STACK and AGENTGOV_BACKEND, or omit --data",
                    data.display()
                ),
            ));
        }
        let endpoints = match env.backend() {
            // Logins of an external stack come from the settings only.
            BackendKind::External => context::endpoints(global)?,
            BackendKind::Docker | BackendKind::Native => env.addresses().into(),
        };

        let step = progress.step("applying the topology");
        let applied =
            agentgov_topology::apply(&topology, &endpoints, &mut |_| {}).or_report(ExitCode::TryAgain)?;
        step.done(match applied.removed.len() {
            0 => "nothing to do".to_owned(),
            n => format!("{} topics, {n} changes", topology.topics.len()),
        });

        let step = progress.step("pushing agents, tools and policies");
        let entries = registry::parse(&pushed.registry_name, &pushed.registry)?;
        let summaries = registry::push(&entries, &endpoints, &topology)?;
        let bundle = example::compiled(&pushed.bundle)?;
        let kept = push_example(&bundle, pushed, (&endpoints, &topology))?;
        let example = format!("bundle {} {}", bundle.name(), bundle.version());
        step.done(match kept.is_empty() {
            true => format!("{example}, {} policies", bundle.policies().count()),
            false => format!("the {example} of the example was not pushed"),
        });
        for kept in &kept {
            errln!(
                "bundle {} stays active; `agentgov policy push --replace examples/{}/bundle` replaces it",
                kept,
                pushed.name
            );
        }
        registry::print_still_stopped(&summaries);
        Ok(Self { endpoints, topology, bundle, env })
    }
}

/// Pushes the example's bundle. Returns the bundles that stay active in its environments instead.
fn push_example(
    bundle: &Bundle,
    example: &Pushed,
    (endpoints, topology): (&Endpoints, &Topology),
) -> Result<Vec<ReplacedBundle>, Failure> {
    let pushed = list_bundles(RegistryContext { endpoints, topology }).or_exit(ExitCode::TryAgain)?;
    let active = other_bundles(&pushed.entries, bundle.environments(), bundle.digest());
    match example.others {
        OtherBundles::Keep if !active.is_empty() => return Ok(active),
        OtherBundles::Refuse if !active.is_empty() => {
            let active: Vec<String> = active.iter().map(ToString::to_string).collect();
            let message = format!(
                "expected a stack in which no other bundle is active in the environments of the example, found {}; use another \
                 stack, or run `agentgov policy push --replace examples/{}/bundle` first",
                active.join(", "),
                example.name
            );
            return Err(Failure::new(ExitCode::Usage, message));
        }
        OtherBundles::Keep | OtherBundles::Refuse | OtherBundles::Replace => {}
    }
    policy::push(bundle, &example.bundle, (endpoints, topology), true)?;
    Ok(Vec::new())
}

/// Returns the addresses that command-line options or their variables set.
fn given_addresses(global: &Global) -> BTreeMap<&'static str, String> {
    let stack = global.stack.as_ref().map(|path| path.display().to_string());
    let named = [
        ("AGENTGOV_KAFKA", global.kafka.clone()),
        ("AGENTGOV_SCHEMA_REGISTRY", global.schema_registry.clone()),
        ("AGENTGOV_CLICKHOUSE", global.clickhouse.clone()),
        ("AGENTGOV_STACK", stack),
    ];
    named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A running pipeline.
pub struct Pipeline {
    /// Addresses and logins of the stack.
    pub endpoints: Endpoints,
    /// Topology of the pipeline.
    pub topology: Arc<Topology>,
    /// The example's bundle. It is active, unless another one was kept.
    pub bundle: Bundle,
    // Declared in shutdown order: the stages before the stack.
    running: RunningStages,
    pdp: Option<RunningPdp>,
    pdp_folder: Option<PdpFolder>,
    env: TestEnv,
}

impl Pipeline {
    /// Starts the stack and every stage, and waits until the stages are ready.
    pub fn start(
        topology: Arc<Topology>,
        data: Option<PathBuf>,
        accept_gap: bool,
        pushed: &Pushed,
        global: &Global,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let Stack { endpoints, topology, bundle, env } =
            Stack::start(topology, data, None, pushed, global, progress)?;
        let step = progress.step("starting the stages");
        let running = RunningStages::start(&["all".to_owned()], &endpoints, &topology, accept_gap)?;
        let pipeline = Self { endpoints, topology, bundle, running, pdp: None, pdp_folder: None, env };
        pipeline.wait("the stages to be ready", Duration::from_secs(60), |running| {
            Ok(running.health().iter().all(|stage| stage.not_ready.is_empty()))
        })?;
        let names: Vec<&str> = pipeline.topology.stages.keys().map(String::as_str).collect();
        step.done(names.join(", "));
        Ok(pipeline)
    }

    /// Returns the signal that shuts the stages down.
    pub fn stop_handle(&self) -> ShutdownSignal {
        self.running.stop().clone()
    }

    /// Returns true if this process started the stack.
    pub fn is_ours(&self) -> bool {
        self.env.backend() != BackendKind::External
    }

    /// Returns the folder of the parts' logs; empty for an external stack.
    pub fn logs(&self) -> &std::path::Path {
        self.env.logs()
    }

    /// Waits for a condition. Fails at once if a stage has ended.
    pub fn wait(
        &self,
        what: &str,
        within: Duration,
        met: impl FnMut(&RunningStages) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.running.wait(what, within, met)
    }

    /// Starts a decision point on this log, for any client of this machine, and waits until it is ready, unless it runs
    /// already. Returns its URL.
    pub fn start_pdp(&mut self) -> Result<String, Failure> {
        if let Some(pdp) = &self.pdp {
            return Ok(pdp.url());
        }
        let stack = self.logs().parent().filter(|_| !self.logs().as_os_str().is_empty());
        let folder = PdpFolder::create(stack)?;
        let (key, spool) = (folder.key(), folder.spool());
        // Removed at the end, also after an error.
        self.pdp_folder = Some(folder);
        if !key.exists() {
            let context = RegistryContext { endpoints: &self.endpoints, topology: &self.topology };
            keys::create(context, KeyHolder { kind: KeyKind::Pdp, name: PDP, tenant_id: None }, &key)?;
        }
        let listen = [PDP_PORT, 0].map(|port| (Ipv4Addr::LOCALHOST, port).into()).to_vec();
        let health = Health::new(PDP);
        let options = PdpOptions {
            name: PDP,
            health: health.clone(),
            signing_key: Some(pdp_log::read_key(&key)?),
            approval_lifetime: Duration::from_secs(APPROVAL_SECONDS),
            spool: &spool,
            server: ServerConfig { listen, tls: None, callers: None, url: None },
        };
        let stop = self.running.stop().clone();
        let pdp = RunningPdp::start(options, &self.endpoints, &self.topology, stop)?;
        let url = pdp.url();
        self.pdp = Some(pdp);
        self.wait("the decision point to be ready", Duration::from_secs(60), |_| {
            Ok(health.snapshot().not_ready.is_empty())
        })?;
        Ok(url)
    }

    /// Shuts the stages down, then the stack.
    pub fn stop(self) -> Result<(), Failure> {
        self.running.stop().request();
        self.join()
    }

    /// Waits until the stages end, after a failure or after [`Self::stop_handle`] was triggered, then stops the stack.
    pub fn join(self) -> Result<(), Failure> {
        let stages = self.running.join();
        let pdp = self.pdp.map_or(Ok(()), RunningPdp::join);
        drop(self.pdp_folder);
        let stack = self.env.stop().or_report(ExitCode::Failed);
        stages.and(pdp).and(stack)
    }
}
