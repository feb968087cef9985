//! [`TestEnv`]: a running stack, whatever runs it.

use std::path::{Path, PathBuf};

use crate::backend::{Choice, choose, deciding, external};
use crate::docker::{self, Docker};
use crate::events::Event;
use crate::native::Native;
use crate::supervisor::Signal;
use crate::{Addresses, BackendKind, Error, Options, Part};

/// A running stack. It ends with [`TestEnv::stop`], when it is dropped, and when this process ends in any way.
pub struct TestEnv {
    addresses: Addresses,
    logs: PathBuf,
    running: Running,
}

enum Running {
    External,
    Docker(Docker),
    Native(Native),
}

impl TestEnv {
    /// Chooses a backend and starts the stack; returns when every part answers. It blocks, and may be called from
    /// anywhere, an async runtime included.
    pub fn start(options: Options) -> Result<Self, Error> {
        let given = options.given.clone();
        let variable = move |name: &str| {
            given.get(name).cloned().or_else(|| std::env::var(name).ok()).filter(|value| !value.is_empty())
        };
        let choice = choose(options.backend, &variable, docker::answers)?;
        let because = match options.backend {
            Some(_) => Vec::new(),
            None => deciding(&variable),
        };
        let chosen = |backend| (options.progress)(Event::Chosen { backend, because: because.clone() });
        let (running, addresses) = match choice {
            Choice::External(addresses) => {
                chosen(BackendKind::External);
                external::check(&addresses, &variable)?;
                (Running::External, addresses)
            }
            Choice::Docker => {
                chosen(BackendKind::Docker);
                let (docker, addresses) = Docker::start(&options, &variable)?;
                (Running::Docker(docker), addresses)
            }
            Choice::Native => {
                chosen(BackendKind::Native);
                let (native, addresses) = Native::start(&options)?;
                (Running::Native(native), addresses)
            }
        };
        let logs = match &running {
            Running::External => PathBuf::new(),
            Running::Docker(docker) => docker.logs(),
            Running::Native(native) => native.logs(),
        };
        Ok(Self { addresses, logs, running })
    }

    /// Where the parts answer.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The directory of the parts' logs; empty for an external stack.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// What runs the stack.
    pub fn backend(&self) -> BackendKind {
        match self.running {
            Running::External => BackendKind::External,
            Running::Docker(_) => BackendKind::Docker,
            Running::Native(_) => BackendKind::Native,
        }
    }

    /// Ends the stack, and returns when all of it is gone. An external stack stays.
    pub fn stop(self) -> Result<(), Error> {
        match &self.running {
            Running::External => Ok(()),
            Running::Docker(docker) => docker.stop(),
            Running::Native(native) => native.stop(),
        }
    }

    /// Where a listener of [`Options::broker_listeners`] is, `host:port`. Native backend only.
    pub fn listener(&self, name: &str) -> Option<String> {
        match &self.running {
            Running::Native(native) => native.listener(name),
            _ => None,
        }
    }

    /// The process id of a part. Native backend only, as are all of the following.
    pub fn pid(&self, part: Part) -> Result<u32, Error> {
        self.native("asking for a pid")?.pid(part)
    }

    /// Kills a part (SIGKILL) and returns when it is gone.
    pub fn kill(&self, part: Part) -> Result<(), Error> {
        self.native("killing a part")?.signal(part, Signal::Kill)
    }

    /// Has a part end in order (SIGTERM) and returns when it is gone.
    pub fn terminate(&self, part: Part) -> Result<(), Error> {
        self.native("terminating a part")?.signal(part, Signal::Terminate)
    }

    /// Stops a part in its tracks (SIGSTOP) and returns when it stands still: connections stay open, nothing
    /// answers.
    pub fn pause(&self, part: Part) -> Result<(), Error> {
        self.native("pausing a part")?.signal(part, Signal::Pause)
    }

    /// Lets a paused part go on (SIGCONT).
    pub fn resume(&self, part: Part) -> Result<(), Error> {
        self.native("resuming a part")?.signal(part, Signal::Resume)
    }

    /// Starts a part again on the same port and data, and returns when it answers. One that still runs is killed
    /// first.
    pub fn restart(&self, part: Part) -> Result<(), Error> {
        self.native("restarting a part")?.restart(part)
    }

    fn native(&self, operation: &'static str) -> Result<&Native, Error> {
        match &self.running {
            Running::Native(native) => Ok(native),
            _ => Err(Error::NativeOnly { operation, backend: self.backend() }),
        }
    }
}
