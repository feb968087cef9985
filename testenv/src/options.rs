//! Options of a stack.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::events::Event;

/// Source of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Existing parts, known by their addresses only.
    External,
    /// Containers, through testcontainers.
    Docker,
    /// Processes of this machine, from files in the user's cache.
    Native,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::External => "external",
            Self::Docker => "docker",
            Self::Native => "native",
        })
    }
}

/// Options for starting a stack.
#[derive(Clone)]
pub struct Options {
    /// Executable whose `testenv` subcommands call [`crate::run_helper`].
    pub helper: PathBuf,
    /// Backend; `None` leaves the selection to the environment (see the crate's documentation).
    pub backend: Option<BackendKind>,
    /// Addresses from a command line, by the variable that they replace, as in `("AGENTGOV_KAFKA", …)`.
    pub given: BTreeMap<&'static str, String>,
    /// Directory of data and logs; `None` for a temporary one that is removed at the end. An existing directory is opened
    /// with its data (native backend).
    pub data_dir: Option<PathBuf>,
    /// Broker properties, in addition to those for one small node, as in `("authorizer.class.name", …)`.
    pub broker_properties: Vec<(String, String)>,
    /// Additional listeners of the native broker by name, as in `("SECURED", "SASL_SSL")`.
    /// [`TestEnv::listener`](crate::TestEnv::listener) returns their addresses; further settings of a listener are broker
    /// properties.
    pub broker_listeners: Vec<(String, String)>,
    /// JVM flags of the native broker, in addition to those for a fast start, as in `-XX:TieredStopAtLevel=4`.
    pub broker_jvm: Vec<String>,
    /// Receives events of downloads and starts, from several threads.
    pub progress: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Options {
    /// Returns the defaults with a helper executable.
    pub fn new(helper: impl Into<PathBuf>) -> Self {
        Self {
            helper: helper.into(),
            backend: None,
            given: BTreeMap::new(),
            data_dir: None,
            broker_properties: Vec::new(),
            broker_listeners: Vec::new(),
            broker_jvm: Vec::new(),
            progress: Arc::new(|_| {}),
        }
    }

    /// Returns the defaults for a test of any crate. The helper is the one that `AGENTGOV_HELPER` names, or
    /// `testenv-helper` or `agentgov` in the build directory of the test.
    pub fn for_tests() -> Result<Self, Error> {
        if let Some(helper) = std::env::var_os("AGENTGOV_HELPER") {
            return Ok(Self::new(helper));
        }
        let test = std::env::current_exe().unwrap_or_default();
        let searched: Vec<PathBuf> = test
            .ancestors()
            .skip(1)
            .take(2)
            .flat_map(|folder| ["testenv-helper", "agentgov"].map(|name| folder.join(name)))
            .collect();
        match searched.iter().find(|path| path.is_file()) {
            Some(helper) => Ok(Self::new(helper)),
            None => {
                let searched: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
                Err(Error::Helper { searched: searched.join(", ") })
            }
        }
    }

    /// Selects the backend.
    pub fn backend(mut self, backend: BackendKind) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Keeps data and logs in `directory`.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Adds a broker property.
    pub fn broker_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.broker_properties.push((name.into(), value.into()));
        self
    }

    /// Adds a listener of the native broker.
    pub fn broker_listener(mut self, name: impl Into<String>, protocol: impl Into<String>) -> Self {
        self.broker_listeners.push((name.into(), protocol.into()));
        self
    }

    /// Sets the receiver of progress events.
    pub fn progress(mut self, listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(listener);
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("helper", &self.helper)
            .field("backend", &self.backend)
            .field("data_dir", &self.data_dir)
            // Values may be passwords.
            .field(
                "broker_properties",
                &self.broker_properties.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            )
            .field("broker_listeners", &self.broker_listeners)
            .field("broker_jvm", &self.broker_jvm)
            .finish_non_exhaustive()
    }
}
