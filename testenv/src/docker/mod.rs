//! Docker backend: the parts as containers, through testcontainers.
//!
//! A thread with its own async runtime owns the containers, so that a stack can be started and dropped anywhere. The
//! supervisor knows their label and removes them if the owner is killed.

mod images;
mod remove;
mod requests;
mod start;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use testcontainers::core::client::docker_client_instance;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Error;
use crate::addresses::Addresses;
use crate::backend::external::Variables;
use crate::layout::Layout;
use crate::options::Options;
use crate::part::Part;
use crate::supervisor::Supervisor;

use images::ImageName;
pub(crate) use remove::remove_labelled;
use start::StartPlan;

/// Label of the containers of a stack.
const LABEL: &str = "agentgov.testenv";
/// Timeout of the first response; a slower engine is not usable.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A running stack of containers.
pub(crate) struct Docker {
    container_thread: Mutex<Option<ContainerThread>>,
    supervisor: Supervisor,
    logs: PathBuf,
}

/// Thread that owns the containers.
struct ContainerThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Docker {
    /// Pulls missing images and starts the three containers concurrently.
    pub(crate) fn start(options: &Options, variable: Variables<'_>) -> Result<(Self, Addresses), Error> {
        let helper = options.helper.canonicalize().map_err(Error::io("find the helper", &options.helper))?;
        let [broker, registry, engine] = Part::ALL.map(|part| ImageName::of(part, variable));
        let images = [broker?, registry?, engine?];
        let layout = Layout::open(options.data_dir.as_deref())?;
        let supervisor = Supervisor::start(&helper, layout.root(), Duration::ZERO, layout.temporary)
            .inspect_err(|_| layout.discard())?;
        let label = Uuid::now_v7().to_string();
        supervisor.own_containers(label.clone())?;
        let logs = layout.logs();
        let plan = StartPlan { options: options.clone(), label, images };

        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let started_sender = started.clone();
            let outcome_of_thread = block_on(async move {
                match start::start(&plan, &layout).await {
                    Err(error) => drop(started_sender.send(Err(error))),
                    Ok((containers, addresses)) => {
                        let sent = started_sender.send(Ok(addresses));
                        // An error means that the owner is gone, which also ends the stack.
                        let _ = (sent, stopped.await);
                        containers.remove().await;
                    }
                }
            });
            if let Err(error) = outcome_of_thread {
                // The receiver is gone if the start was already over.
                let _ = started.send(Err(failed("starting a runtime")(error)));
            }
        });
        let thread_ended =
            || Error::Docker { what: "starting".to_owned(), reason: "its thread ended".to_owned() };
        let addresses = outcome.recv().map_err(|_| thread_ended())??;
        let docker =
            Self { container_thread: Mutex::new(Some(ContainerThread { stop, thread })), supervisor, logs };
        Ok((docker, addresses))
    }

    /// Returns the folder that the containers' logs are copied to.
    pub(crate) fn logs(&self) -> PathBuf {
        self.logs.clone()
    }

    /// Removes the containers and waits until they are gone.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let container_thread = self.container_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ContainerThread { stop, thread }) = container_thread {
            let _ = stop.send(());
            // A panic of the thread was already printed; the supervisor removes the remaining containers.
            let _ = thread.join();
        }
        self.supervisor.stop()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Errors cannot be reported from drop.
        let _ = self.stop();
    }
}

/// Returns true if a Docker engine responds.
pub(crate) fn responds() -> bool {
    run_in_thread(async {
        let ping = async { docker_client_instance().await.ok()?.ping().await.ok() };
        tokio::time::timeout(PING_TIMEOUT, ping).await.ok().flatten().is_some()
    })
    .unwrap_or(false)
}

/// Runs async work in a new thread, so that callers may be async themselves; `None` if it could not run.
fn run_in_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    std::thread::spawn(move || block_on(work).ok()).join().ok().flatten()
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(work))
}

/// Converts an error of Docker or its client, for `map_err`.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Error {
    let what = what.to_owned();
    move |reason| Error::Docker { what, reason: reason.to_string() }
}
