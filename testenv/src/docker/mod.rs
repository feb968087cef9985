//! The docker backend: the parts as containers, through testcontainers.
//!
//! The containers live on a thread of their own with its own runtime, so that a stack can be started and dropped
//! anywhere. The supervisor knows their label and removes them when the owner is killed.

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
use start::Plan;

/// Marks the containers of one stack.
const LABEL: &str = "agentgov.testenv";
/// An engine that takes longer to say hello is none to build on.
const HELLO: Duration = Duration::from_secs(3);

/// A running stack of containers.
pub(crate) struct Docker {
    keeper: Mutex<Option<Keeper>>,
    supervisor: Supervisor,
    logs: PathBuf,
}

/// The thread that owns the containers.
struct Keeper {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Docker {
    /// Pulls what is missing and starts the three containers side by side.
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
        let plan = Plan { options: options.clone(), label, images };

        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let kept = started.clone();
            let kept = run_to_end(async move {
                match start::start(&plan, &layout).await {
                    Err(error) => drop(kept.send(Err(error))),
                    Ok((containers, addresses)) => {
                        let told = kept.send(Ok(addresses));
                        // An error means that the owner is gone, which is a stop as well.
                        let _ = (told, stopped.await);
                        containers.remove().await;
                    }
                }
            });
            if let Err(error) = kept {
                // Nobody listens when the start was over already.
                let _ = started.send(Err(failed("starting a runtime")(error)));
            }
        });
        let gone = || Error::Docker { what: "starting".to_owned(), reason: "its thread ended".to_owned() };
        let addresses = outcome.recv().map_err(|_| gone())??;
        let docker = Self { keeper: Mutex::new(Some(Keeper { stop, thread })), supervisor, logs };
        Ok((docker, addresses))
    }

    /// Where the containers' logs are copied to.
    pub(crate) fn logs(&self) -> PathBuf {
        self.logs.clone()
    }

    /// Removes the containers; returns when all is gone.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Keeper { stop, thread }) = keeper {
            let _ = stop.send(());
            // A panic there has been printed; the supervisor removes what is left.
            let _ = thread.join();
        }
        self.supervisor.stop()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.stop();
    }
}

/// Whether a Docker engine answers.
pub(crate) fn answers() -> bool {
    on_its_own_thread(async {
        let hello = async { docker_client_instance().await.ok()?.ping().await.ok() };
        tokio::time::timeout(HELLO, hello).await.ok().flatten().is_some()
    })
    .unwrap_or(false)
}

/// Runs async work from anywhere, an async runtime included; `None` when it could not be run.
fn on_its_own_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    std::thread::spawn(move || run_to_end(work).ok()).join().ok().flatten()
}

fn run_to_end<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| runtime.block_on(work))
}

/// For `map_err` on what Docker or its client refuses.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Error {
    let what = what.to_owned();
    move |reason| Error::Docker { what, reason: reason.to_string() }
}
