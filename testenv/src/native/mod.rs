//! Native backend: the parts as processes of this machine.
//!
//! ```text
//! lock ─► cache (download once, verify) ─► supervisor ─┬─► broker     Java
//!                                                      ├─► registry   Java
//!                                                      └─► engine     this crate's server, ClickHouse's library
//! ```

mod broker;
mod engine;
mod ports;
mod process;
mod registry;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::addresses::{Addresses, default_name};
use crate::layout::Layout;
use crate::options::Options;
use crate::part::Part;
use crate::probe::{self, NotReady};
use crate::stack::{self, Lock};
use crate::supervisor::{Signal, Supervisor};
use crate::{Error, files};

#[cfg(feature = "docker")]
pub(crate) use broker::BROKER_PROPERTIES;
#[cfg(feature = "docker")]
pub(crate) use registry::PATH as REGISTRY_PATH;
use start::{Context, RunningPart, wait_until_ready};

/// Grace period of a stack with kept data; temporary data needs no clean shutdown.
const GRACE_PERIOD_KEPT_DATA: Duration = Duration::from_secs(15);
const GRACE_PERIOD_TEMPORARY_DATA: Duration = Duration::from_millis(100);
/// Timeout until the system reports that a signalled process has ended or stopped.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Running native stack.
pub(crate) struct Native {
    supervisor: Supervisor,
    parts: Mutex<BTreeMap<Part, RunningPart>>,
    layout: Layout,
}

impl Native {
    /// Installs missing parts and starts the three parts concurrently.
    pub(crate) fn start(options: &Options) -> Result<(Self, Addresses), Error> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            let found = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
            return Err(Error::Platform { found });
        }
        let helper = options.helper.canonicalize().map_err(Error::io("find the helper", &options.helper))?;
        let progress = options.progress.as_ref();
        let installed = stack::install(&Lock::embedded()?, &|event| progress(event))?;
        let layout = Layout::open(options.data_dir.as_deref())?;
        let grace = if layout.temporary { GRACE_PERIOD_TEMPORARY_DATA } else { GRACE_PERIOD_KEPT_DATA };
        let supervisor = Supervisor::start(&helper, layout.root(), grace, layout.temporary)
            .inspect_err(|_| layout.discard())?;
        let context = Context {
            helper: &helper,
            installed: &installed,
            layout: &layout,
            supervisor: &supervisor,
            broker_properties: &options.broker_properties,
            broker_listeners: &options.broker_listeners,
            broker_jvm: &options.broker_jvm,
            progress,
        };
        let parts = start_all(&context)?;
        let address = |part| {
            parts
                .get(&part)
                .map(|running_part: &RunningPart| running_part.address.clone())
                .unwrap_or_default()
        };
        let addresses = Addresses {
            kafka: address(Part::Broker),
            registry: address(Part::Registry),
            clickhouse: address(Part::Engine),
            clickhouse_user: default_name(),
            clickhouse_password: String::new(),
            clickhouse_database: default_name(),
        };
        Ok((Self { supervisor, parts: Mutex::new(parts), layout }, addresses))
    }

    /// Returns the folder of the parts' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// Returns the address of an additional listener of the broker.
    pub(crate) fn listener(&self, name: &str) -> Option<String> {
        self.running(Part::Broker).ok()?.listeners.get(name).cloned()
    }

    /// Returns the process id of the part.
    pub(crate) fn pid(&self, part: Part) -> Result<u32, Error> {
        self.running(part).map(|running_part| running_part.pid)
    }

    /// Sends a signal and waits until it takes effect.
    pub(crate) fn signal(&self, part: Part, signal: Signal) -> Result<(), Error> {
        let running_part = self.running(part)?;
        self.supervisor.signal(running_part.pid, signal)?;
        let ended = || self.supervisor.exit_of(running_part.pid);
        let outcome = match signal {
            Signal::Resume => Ok(()),
            Signal::Kill | Signal::Terminate => self
                .supervisor
                .wait_for_exit(running_part.pid, SIGNAL_TIMEOUT)
                .map(drop)
                .ok_or("it does not end".to_owned()),
            Signal::Pause => probe::wait_until(SIGNAL_TIMEOUT, ended, || {
                process::is_stopped(running_part.pid)
                    .then_some(())
                    .ok_or_else(|| "it does not stop".to_owned())
            })
            .map_err(|outcome| match outcome {
                NotReady::Ended(reason) | NotReady::Late(reason) => reason,
            }),
        };
        let log = running_part.launch.log;
        outcome.map_err(|last| Error::PartLate {
            part,
            seconds: SIGNAL_TIMEOUT.as_secs(),
            last,
            tail: files::tail(&log),
            log,
        })
    }

    /// Ends the part if it runs, and starts it on the same port and data.
    pub(crate) fn restart(&self, part: Part) -> Result<(), Error> {
        let mut running_part = self.running(part)?;
        if self.supervisor.exit_of(running_part.pid).is_none() {
            self.signal(part, Signal::Kill)?;
        }
        running_part.pid = self.supervisor.spawn(running_part.launch.clone())?;
        self.parts().insert(part, running_part.clone());
        wait_until_ready(
            &self.supervisor,
            part,
            running_part.pid,
            &running_part.address,
            &running_part.launch.log,
        )
    }

    /// Ends everything and waits until it is gone.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        self.supervisor.stop()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, RunningPart>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self, part: Part) -> Result<RunningPart, Error> {
        let running_part = self.parts().get(&part).cloned();
        running_part.ok_or_else(|| Error::Io {
            what: "find the process of",
            path: Path::new(part.name()).to_path_buf(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

fn start_all(context: &Context<'_>) -> Result<BTreeMap<Part, RunningPart>, Error> {
    std::thread::scope(|scope| {
        let threads = Part::ALL.map(|part| (part, scope.spawn(move || context.start(part))));
        let outcomes = threads.map(|(part, thread)| {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.map(|running_part| (part, running_part))
        });
        outcomes.into_iter().collect()
    })
}
