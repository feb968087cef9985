//! A whole pipeline on a stack: the topology applied, the airline's registry and bundle pushed, every stage running.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{ClickHouseEndpoint, Endpoints, KafkaEndpoint, RegistryEndpoint, Secret};
use agentgov_policy::{Bundle, BundleFiles};
use agentgov_schemas::topology::Topology;
use agentgov_service::{ExitCode, Stop};
use agentgov_testenv::{Addresses, BackendKind, Options, TestEnv};
use include_dir::{Dir, include_dir};

use super::{policy, registry};
use crate::cli::Global;
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;
use crate::stages::Running;

/// The example that the demo shows, part of the binary so that it needs nothing else.
static AIRLINE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/airline");

/// The tenant and agent that the example registers.
pub const TENANT: &str = "airline";
/// See [`TENANT`].
pub const AGENT: &str = "airline-service";
/// Where the example's bundle judges.
pub const ENVIRONMENT: &str = "demo";

/// A stack on which stages can run: the topology applied, the airline's registry and bundle pushed.
pub struct Stack {
    /// Where it is.
    pub endpoints: Endpoints,
    /// Its map.
    pub topology: Arc<Topology>,
    /// The bundle that judges.
    pub bundle: Bundle,
    /// What runs it.
    pub env: TestEnv,
}

impl Stack {
    /// Starts it. Without a `backend` the environment chooses.
    pub fn start(
        topology: Arc<Topology>,
        data: Option<PathBuf>,
        backend: Option<BackendKind>,
        global: &Global,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let helper = std::env::current_exe().or_exit(ExitCode::Failed)?;
        let listener = Arc::clone(progress);
        let mut options = Options::new(helper).progress(move |event| listener.stack(&event));
        options.data_dir.clone_from(&data);
        options.backend = backend;
        options.given = given(global);
        let env = TestEnv::start(options).or_report(ExitCode::TryAgain)?;
        if let (Some(data), BackendKind::External) = (data, env.backend()) {
            return Err(Failure::new(
                ExitCode::Usage,
                format!(
                    "--data {} is for a stack that is started here, and AGENTGOV_KAFKA and its like, AGENTGOV_STACK or AGENTGOV_BACKEND \
                     name one that runs already; unset them, or leave --data out",
                    data.display()
                ),
            ));
        }
        let endpoints = match env.backend() {
            // Only its owner knows how to log in.
            BackendKind::External => context::endpoints(global)?,
            BackendKind::Docker | BackendKind::Native => endpoints_of(env.addresses()),
        };

        let step = progress.step("applying the topology");
        let applied =
            agentgov_topology::apply(&topology, &endpoints, &mut |_| {}).or_report(ExitCode::TryAgain)?;
        step.done(match applied.removed.len() {
            0 => "nothing to do".to_owned(),
            n => format!("{} topics, {n} changes", topology.topics.len()),
        });

        let step = progress.step("pushing agents, tools and policies");
        let entries = registry::parse("examples/airline/registry.yaml", text("registry.yaml")?)?;
        registry::push(&entries, &endpoints, &topology)?;
        let files = bundle_files();
        let bundle = compiled_bundle()?;
        policy::push(&bundle, &files, &endpoints, &topology)?;
        step.done(format!(
            "bundle {} {}, {} policies",
            bundle.name(),
            bundle.version(),
            bundle.policies().count()
        ));
        Ok(Self { endpoints, topology, bundle, env })
    }
}

/// Addresses that options of the command line or their variables name.
fn given(global: &Global) -> BTreeMap<&'static str, String> {
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
    /// Where its stack is.
    pub endpoints: Endpoints,
    /// Its map.
    pub topology: Arc<Topology>,
    /// The bundle that judges.
    pub bundle: Bundle,
    // In the order in which they are to end: the stages before what they stand on.
    running: Running,
    env: TestEnv,
}

impl Pipeline {
    /// Starts everything. `stop` is asked by a signal; the start itself ends early then.
    pub fn start(
        topology: Arc<Topology>,
        data: Option<PathBuf>,
        accept_gap: bool,
        global: &Global,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let Stack { endpoints, topology, bundle, env } =
            Stack::start(topology, data, None, global, progress)?;
        let step = progress.step("starting the stages");
        let running = Running::start(&["all".to_owned()], &endpoints, &topology, accept_gap)?;
        let pipeline = Self { endpoints, topology, bundle, running, env };
        pipeline.wait("the stages to be ready", Duration::from_secs(60), |running| {
            Ok(running.health().iter().all(|stage| stage.not_ready.is_empty()))
        })?;
        let names: Vec<&str> = pipeline.topology.stages.keys().map(String::as_str).collect();
        step.done(names.join(", "));
        Ok(pipeline)
    }

    /// To ask the stages to end.
    pub fn stop_handle(&self) -> Stop {
        self.running.stop().clone()
    }

    /// True of a stack that this process started.
    pub fn is_ours(&self) -> bool {
        self.env.backend() != BackendKind::External
    }

    /// Where the parts' logs are; empty for a stack that somebody else runs.
    pub fn logs(&self) -> &std::path::Path {
        self.env.logs()
    }

    /// Waits for a condition. Fails at once if a stage has ended.
    pub fn wait(
        &self,
        what: &str,
        within: Duration,
        met: impl FnMut(&Running) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.running.wait(what, within, met)
    }

    /// Ends stages, then the stack.
    pub fn stop(self) -> Result<(), Failure> {
        self.running.stop().ask();
        let stages = self.running.join();
        let stack = self.env.stop().or_report(ExitCode::Failed);
        stages.and(stack)
    }

    /// Waits until the stages end, because one failed or because [`Self::stop_handle`] was asked; then ends the stack.
    pub fn join(self) -> Result<(), Failure> {
        let stages = self.running.join();
        let stack = self.env.stop().or_report(ExitCode::Failed);
        stages.and(stack)
    }
}

/// Where a stack of testenv is, in the words of those who use it.
fn endpoints_of(addresses: &Addresses) -> Endpoints {
    Endpoints {
        kafka: KafkaEndpoint::at(addresses.kafka.clone()),
        registry: RegistryEndpoint::at(addresses.registry.clone()),
        clickhouse: ClickHouseEndpoint {
            url: addresses.clickhouse.clone(),
            user: addresses.clickhouse_user.clone(),
            password: Secret::new(addresses.clickhouse_password.clone()),
            database: addresses.clickhouse_database.clone(),
            ..ClickHouseEndpoint::default()
        },
    }
}

/// The sample runs.
pub fn sample_runs() -> Result<&'static [u8], Failure> {
    text("runs.jsonl").map(str::as_bytes)
}

fn text(path: &str) -> Result<&'static str, Failure> {
    AIRLINE.get_file(path).and_then(include_dir::File::contents_utf8).ok_or_else(|| {
        Failure::new(ExitCode::Failed, format!("examples/airline/{path} is missing from this build"))
    })
}

/// The example's bundle, compiled.
pub fn compiled_bundle() -> Result<Bundle, Failure> {
    Bundle::compile(&bundle_files())
        .map_err(|problems| Failure::all(ExitCode::Config, "the example's bundle has errors:", problems))
}

/// The example's bundle.
pub fn bundle_files() -> BundleFiles {
    fn add(dir: &Dir<'_>, files: &mut std::collections::BTreeMap<String, Vec<u8>>) {
        for file in dir.files() {
            if let Ok(path) = file.path().strip_prefix("bundle") {
                files.insert(path.to_string_lossy().replace('\\', "/"), file.contents().to_vec());
            }
        }
        dir.dirs().for_each(|dir| add(dir, files));
    }
    let mut files = std::collections::BTreeMap::new();
    if let Some(bundle) = AIRLINE.get_dir("bundle") {
        add(bundle, &mut files);
    }
    BundleFiles(files)
}
