//! Start of one part: free ports, a process, and a wait until it responds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{broker, engine, ports, registry};
use crate::Error;
use crate::events::Event;
use crate::files::tail;
use crate::layout::Layout;
use crate::part::Part;
use crate::probe::{self, NotReady};
use crate::stack::Installed;
use crate::supervisor::{Launch, Supervisor};

/// Long, because another start may occupy most of the cores.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(180);
/// Maximum number of starts of a part that lost its port to another process.
const MAX_ATTEMPTS: usize = 4;

/// Parameters of all starts.
pub(super) struct Context<'a> {
    pub(super) helper: &'a Path,
    pub(super) installed: &'a Installed,
    pub(super) layout: &'a Layout,
    pub(super) supervisor: &'a Supervisor,
    pub(super) broker_properties: &'a [(String, String)],
    pub(super) broker_listeners: &'a [(String, String)],
    pub(super) broker_jvm: &'a [String],
    pub(super) progress: &'a (dyn Fn(Event) + Send + Sync),
}

/// Part that responds.
#[derive(Debug, Clone)]
pub(super) struct RunningPart {
    /// Launch for a restart on the same port and data.
    pub(super) launch: Launch,
    pub(super) pid: u32,
    /// Address in the form of [`crate::Addresses`].
    pub(super) address: String,
    /// Additional listeners of the broker, by name.
    pub(super) listeners: BTreeMap<String, String>,
}

impl Context<'_> {
    /// Starts the part on free ports, and again if another process took one of them.
    pub(super) fn start(&self, part: Part) -> Result<RunningPart, Error> {
        (self.progress)(Event::Starting { part });
        let begin = Instant::now();
        let mut attempt = 1;
        let running_part = loop {
            match self.start_once(part) {
                Err(Error::PartDied { tail, .. }) if attempt < MAX_ATTEMPTS && port_was_taken(&tail) => {
                    attempt += 1
                }
                outcome => break outcome?,
            }
        };
        (self.progress)(Event::Ready { part, after: begin.elapsed() });
        Ok(running_part)
    }

    fn start_once(&self, part: Part) -> Result<RunningPart, Error> {
        let free = || ports::free_port().map_err(Error::io("find a free port for", Path::new(part.name())));
        let port = free()?;
        let mut listeners = BTreeMap::new();
        let (launch, address) = match part {
            Part::Broker => {
                for (name, _) in self.broker_listeners {
                    listeners.insert(name.clone(), format!("127.0.0.1:{}", free()?));
                }
                (broker::prepare(self, port, free()?, &listeners)?, format!("127.0.0.1:{port}"))
            }
            Part::Registry => {
                (registry::launch(self, port)?, format!("http://127.0.0.1:{port}{}", registry::PATH))
            }
            Part::Engine => (engine::launch(self, port), format!("http://127.0.0.1:{port}")),
        };
        let pid = self.supervisor.spawn(launch.clone())?;
        wait_until_ready(self.supervisor, part, pid, &address, &launch.log)?;
        Ok(RunningPart { launch, pid, address, listeners })
    }

    /// Returns an empty folder for files that a JVM unpacks, such as liblz4-java's library. In the system's folder they
    /// would remain after a kill.
    pub(super) fn temporary_folder(&self, part: Part) -> Result<PathBuf, Error> {
        let folder = self.layout.folder(part).join("tmp");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &folder)(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder)
    }

    /// Runs a program that prepares a part.
    pub(super) fn run_to_end(&self, part: Part, launch: Launch) -> Result<(), Error> {
        let log = launch.log.clone();
        let pid = self.supervisor.spawn(launch)?;
        match self.supervisor.wait_for_exit(pid, STARTUP_TIMEOUT) {
            Some(status) if status == "exit status: 0" => Ok(()),
            Some(status) => Err(Error::PartDied { part, status, tail: tail(&log), log }),
            None => {
                let last = "its preparation did not end".to_owned();
                Err(Error::PartLate { part, seconds: STARTUP_TIMEOUT.as_secs(), last, tail: tail(&log), log })
            }
        }
    }
}

/// Waits until the part responds to a real request.
pub(super) fn wait_until_ready(
    supervisor: &Supervisor,
    part: Part,
    pid: u32,
    address: &str,
    log: &Path,
) -> Result<(), Error> {
    let attempt = || match part {
        Part::Broker => probe::kafka(address),
        Part::Registry => probe::http(&format!("{address}/subjects")),
        Part::Engine => probe::http(&format!("{address}/?query=SELECT%201")),
    };
    probe::wait_until(STARTUP_TIMEOUT, || supervisor.exit_of(pid), attempt).map_err(|outcome| {
        let (log, tail) = (log.to_path_buf(), tail(log));
        match outcome {
            NotReady::Ended(status) => Error::PartDied { part, status, log, tail },
            NotReady::Late(last) => {
                Error::PartLate { part, seconds: STARTUP_TIMEOUT.as_secs(), last, log, tail }
            }
        }
    })
}

/// Returns true if the end of a part's log says that its port was taken, in the wording of Kafka, ClickHouse and Quarkus.
fn port_was_taken(log: &str) -> bool {
    let log = log.to_lowercase();
    [
        "address already in use",
        "failed to bind",
        "port already bound",
        "seems to be in use by another process",
    ]
    .iter()
    .any(|text| log.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_port_is_recognised_in_logs() {
        let registry = "ERROR [io.quarkus.runtime.ApplicationLifecycleManager] (main) Port 18771 seems to be in use by another process. \
                        Quarkus may already be running or the port is used by another application.";
        let broker = "org.apache.kafka.common.KafkaException: Socket server failed to bind to 127.0.0.1:12000: Address already in use.";
        assert!(port_was_taken(registry));
        assert!(port_was_taken(broker));
        assert!(!port_was_taken("java.lang.OutOfMemoryError: Java heap space"));
    }
}
