//! [`TestEnv`]: a running stack of any backend.

use std::path::{Path, PathBuf};

use crate::backend::{SelectedBackend, deciding_variables, external, select_backend};
use crate::docker::{self, Docker};
use crate::events::Event;
use crate::native::Native;
use crate::supervisor::Signal;
use crate::{Addresses, BackendKind, Error, Options, Part};

/// Running stack. It ends with [`TestEnv::stop`], on drop, and when this process ends for any reason.
pub struct TestEnv {
    addresses: Addresses,
    logs: PathBuf,
    running: RunningBackend,
}

enum RunningBackend {
    External,
    Docker(Docker),
    Native(Native),
}

impl TestEnv {
    /// Selects a backend, starts the stack, and waits until every part responds. Blocks; may be called from async code.
    pub fn start(options: Options) -> Result<Self, Error> {
        let overrides = options.given.clone();
        let variable = move |name: &str| {
            overrides
                .get(name)
                .cloned()
                .or_else(|| std::env::var(name).ok())
                .filter(|value| !value.is_empty())
        };
        let selected = select_backend(options.backend, &variable, docker::responds)?;
        let because = match options.backend {
            Some(_) => Vec::new(),
            None => deciding_variables(&variable),
        };
        let report_backend =
            |backend| (options.progress)(Event::Chosen { backend, because: because.clone() });
        let (running, addresses) = match selected {
            SelectedBackend::External(addresses) => {
                report_backend(BackendKind::External);
                external::check(&addresses, &variable)?;
                (RunningBackend::External, addresses)
            }
            SelectedBackend::Docker => {
                report_backend(BackendKind::Docker);
                let (docker, addresses) = Docker::start(&options, &variable)?;
                (RunningBackend::Docker(docker), addresses)
            }
            SelectedBackend::Native => {
                report_backend(BackendKind::Native);
                let (native, addresses) = Native::start(&options)?;
                (RunningBackend::Native(native), addresses)
            }
        };
        let logs = match &running {
            RunningBackend::External => PathBuf::new(),
            RunningBackend::Docker(docker) => docker.logs(),
            RunningBackend::Native(native) => native.logs(),
        };
        Ok(Self { addresses, logs, running })
    }

    /// Returns the addresses of the stack.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns the directory of the parts' logs; empty for an external stack.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Returns the backend.
    pub fn backend(&self) -> BackendKind {
        match self.running {
            RunningBackend::External => BackendKind::External,
            RunningBackend::Docker(_) => BackendKind::Docker,
            RunningBackend::Native(_) => BackendKind::Native,
        }
    }

    /// Ends the stack and waits until it is gone. An external stack keeps running.
    pub fn stop(self) -> Result<(), Error> {
        match &self.running {
            RunningBackend::External => Ok(()),
            RunningBackend::Docker(docker) => docker.stop(),
            RunningBackend::Native(native) => native.stop(),
        }
    }

    /// Returns the address of a listener of [`Options::broker_listeners`], `host:port`. Native backend only.
    pub fn listener(&self, name: &str) -> Option<String> {
        match &self.running {
            RunningBackend::Native(native) => native.listener(name),
            _ => None,
        }
    }

    /// Returns the process id of a part. Native backend only, as are the following methods.
    pub fn pid(&self, part: Part) -> Result<u32, Error> {
        self.native("reading a process id")?.pid(part)
    }

    /// Kills a part (SIGKILL) and waits until it is gone.
    pub fn kill(&self, part: Part) -> Result<(), Error> {
        self.native("killing a part")?.signal(part, Signal::Kill)
    }

    /// Terminates a part (SIGTERM) and waits until it is gone.
    pub fn terminate(&self, part: Part) -> Result<(), Error> {
        self.native("terminating a part")?.signal(part, Signal::Terminate)
    }

    /// Suspends a part (SIGSTOP) and waits until it is stopped: its connections stay open without responses.
    pub fn pause(&self, part: Part) -> Result<(), Error> {
        self.native("pausing a part")?.signal(part, Signal::Pause)
    }

    /// Resumes a suspended part (SIGCONT).
    pub fn resume(&self, part: Part) -> Result<(), Error> {
        self.native("resuming a part")?.signal(part, Signal::Resume)
    }

    /// Starts a part again on the same port and data, and waits until it responds. A running part is killed first.
    pub fn restart(&self, part: Part) -> Result<(), Error> {
        self.native("restarting a part")?.restart(part)
    }

    fn native(&self, operation: &'static str) -> Result<&Native, Error> {
        match &self.running {
            RunningBackend::Native(native) => Ok(native),
            _ => Err(Error::NativeOnly { operation, backend: self.backend() }),
        }
    }
}
