//! The native backend: the parts as processes of this machine.
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
pub(crate) use broker::PROPERTIES as BROKER_PROPERTIES;
#[cfg(feature = "docker")]
pub(crate) use registry::PATH as REGISTRY_PATH;
use start::{Context, Started, wait_until_ready};

/// Data that stays deserves an orderly end; data that goes does not.
const GRACE_KEPT: Duration = Duration::from_secs(15);
const GRACE_TEMPORARY: Duration = Duration::from_millis(100);
/// After a signal, until the system says that the process is gone or stopped.
const GONE: Duration = Duration::from_secs(20);

/// A running native stack.
pub(crate) struct Native {
    supervisor: Supervisor,
    parts: Mutex<BTreeMap<Part, Started>>,
    layout: Layout,
}

impl Native {
    /// Installs what is missing and starts the three parts side by side.
    pub(crate) fn start(options: &Options) -> Result<(Self, Addresses), Error> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
            let found = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
            return Err(Error::Platform { found });
        }
        let helper = options.helper.canonicalize().map_err(Error::io("find the helper", &options.helper))?;
        let progress = options.progress.as_ref();
        let installed = stack::install(&Lock::embedded()?, &|event| progress(event))?;
        let layout = Layout::open(options.data_dir.as_deref())?;
        let grace = if layout.temporary { GRACE_TEMPORARY } else { GRACE_KEPT };
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
        let address =
            |part| parts.get(&part).map(|started: &Started| started.address.clone()).unwrap_or_default();
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

    /// Where the parts' logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// Where a further listener of the broker is.
    pub(crate) fn listener(&self, name: &str) -> Option<String> {
        self.known(Part::Broker).ok()?.listeners.get(name).cloned()
    }

    /// The part's process.
    pub(crate) fn pid(&self, part: Part) -> Result<u32, Error> {
        self.known(part).map(|started| started.pid)
    }

    /// Sends a signal and waits until it has its effect.
    pub(crate) fn signal(&self, part: Part, signal: Signal) -> Result<(), Error> {
        let started = self.known(part)?;
        self.supervisor.signal(started.pid, signal)?;
        let ended = || self.supervisor.exit_of(started.pid);
        let outcome = match signal {
            Signal::Resume => Ok(()),
            Signal::Kill | Signal::Terminate => {
                self.supervisor.wait_for_exit(started.pid, GONE).map(drop).ok_or("it does not end".to_owned())
            }
            Signal::Pause => probe::wait_until(GONE, ended, || {
                process::is_stopped(started.pid).then_some(()).ok_or_else(|| "it does not stop".to_owned())
            })
            .map_err(|outcome| match outcome {
                NotReady::Ended(reason) | NotReady::Late(reason) => reason,
            }),
        };
        let log = started.launch.log;
        outcome.map_err(|last| Error::PartLate {
            part,
            seconds: GONE.as_secs(),
            last,
            tail: files::tail(&log),
            log,
        })
    }

    /// Ends the part if it still runs, and starts it on the same port and data.
    pub(crate) fn restart(&self, part: Part) -> Result<(), Error> {
        let mut started = self.known(part)?;
        if self.supervisor.exit_of(started.pid).is_none() {
            self.signal(part, Signal::Kill)?;
        }
        started.pid = self.supervisor.spawn(started.launch.clone())?;
        self.parts().insert(part, started.clone());
        wait_until_ready(&self.supervisor, part, started.pid, &started.address, &started.launch.log)
    }

    /// Ends everything; returns when all is gone.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        self.supervisor.stop()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, Started>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, part: Part) -> Result<Started, Error> {
        let started = self.parts().get(&part).cloned();
        started.ok_or_else(|| Error::Io {
            what: "find the process of",
            path: Path::new(part.name()).to_path_buf(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

fn start_all(context: &Context<'_>) -> Result<BTreeMap<Part, Started>, Error> {
    std::thread::scope(|scope| {
        let threads = Part::ALL.map(|part| (part, scope.spawn(move || context.start(part))));
        let outcomes = threads.map(|(part, thread)| {
            let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.map(|started| (part, started))
        });
        outcomes.into_iter().collect()
    })
}
