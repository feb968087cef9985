//! Starts the containers concurrently and waits until their parts respond.

use std::path::Path;
use std::time::{Duration, Instant};

use testcontainers::bollard::Docker;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, Image};
use testcontainers_modules::kafka::apache;
use uuid::Uuid;

use super::failed;
use super::images::ImageName;
use super::requests::{self, CLICKHOUSE_PORT, ContainerContext, KAFKA_PORT, REGISTRY_PORT};
use crate::addresses::Addresses;
use crate::events::Event;
use crate::files::tail;
use crate::native::REGISTRY_PATH;
use crate::options::Options;
use crate::part::Part;
use crate::probe::{self, NotReady};
use crate::{Error, layout::Layout};

/// Startup timeout, without pulling.
pub(super) const STARTUP_TIMEOUT: Duration = Duration::from_secs(120);
/// ClickHouse's container has its own account: without a password it accepts no logins from outside.
const USER: &str = "agentgov";

/// Running containers, removed on drop.
pub(super) struct Containers {
    broker: ContainerAsync<apache::Kafka>,
    registry: ContainerAsync<GenericImage>,
    engine: ContainerAsync<GenericImage>,
}

/// Parameters of a start.
pub(super) struct StartPlan {
    pub(super) options: Options,
    pub(super) label: String,
    /// In the order broker, registry, engine.
    pub(super) images: [ImageName; 3],
}

/// Starts all containers; on failure, none remains.
pub(super) async fn start(plan: &StartPlan, layout: &Layout) -> Result<(Containers, Addresses), Error> {
    let docker = docker_client_instance().await.map_err(failed("connecting"))?;
    let [broker_image, registry_image, engine_image] = plan.images.clone();
    let logs = Part::ALL.map(|part| layout.log(part));
    let [broker_log, registry_log, engine_log] = &logs;
    let password = Uuid::now_v7().simple().to_string();
    let context = |image, log| ContainerContext { label: &plan.label, image, log };

    let broker = async {
        let context = context(broker_image, broker_log);
        let request = requests::broker(&context, &plan.options.broker_properties);
        start_container(plan, &docker, Part::Broker, &context, request, KAFKA_PORT, |port| {
            probe::kafka(&kafka(port))
        })
        .await
    };
    let registry = async {
        let context = context(registry_image, registry_log);
        let request = requests::registry(&context);
        let probe_port = |port| probe::http(&format!("{}/subjects", registry_url(port)));
        start_container(plan, &docker, Part::Registry, &context, request, REGISTRY_PORT, probe_port).await
    };
    let engine = async {
        let context = context(engine_image, engine_log);
        let request = requests::engine(&context, USER, &password, USER);
        let probe_port = |port| probe::http(&format!("{}/ping", http(port)));
        start_container(plan, &docker, Part::Engine, &context, request, CLICKHOUSE_PORT, probe_port).await
    };
    let (broker, registry, engine) = tokio::join!(broker, registry, engine);
    let ((broker, kafka_port), (registry, registry_port), (engine, engine_port)) =
        (broker?, registry?, engine?);
    let addresses = Addresses {
        kafka: kafka(kafka_port),
        registry: registry_url(registry_port),
        clickhouse: http(engine_port),
        clickhouse_user: USER.to_owned(),
        clickhouse_password: password,
        clickhouse_database: USER.to_owned(),
    };
    Ok((Containers { broker, registry, engine }, addresses))
}

impl Containers {
    /// Removes all containers; the supervisor removes any that remain.
    pub(super) async fn remove(self) {
        let _ = tokio::join!(self.broker.rm(), self.registry.rm(), self.engine.rm());
    }
}

fn http(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn kafka(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn registry_url(port: u16) -> String {
    format!("{}{REGISTRY_PATH}", http(port))
}

async fn start_container<I: Image>(
    plan: &StartPlan,
    docker: &Docker,
    part: Part,
    context: &ContainerContext<'_>,
    request: ContainerRequest<I>,
    port: u16,
    probe_port: impl Fn(u16) -> Result<(), String> + Send + 'static,
) -> Result<(ContainerAsync<I>, u16), Error> {
    let progress = &plan.options.progress;
    let image = context.image.full();
    let mut request = request;
    if docker.inspect_image(&image).await.is_err() {
        progress(Event::Downloading { part, what: image.clone(), bytes: None });
        request = request.pull_image().await.map_err(failed(&format!("pulling {image} for the {part}")))?;
        progress(Event::Installed { part });
    }
    progress(Event::Starting { part });
    let begin = Instant::now();
    let container = match request.start().await {
        Ok(container) => container,
        Err(error) => return Err(start_failure(part, &image, &error, context.log).await),
    };
    let mapped = container.get_host_port_ipv4(port).await;
    let mapped = mapped.map_err(failed(&format!("reading the port of the {part}")))?;
    let waited = wait_until_ready(move || probe_port(mapped), &container).await;
    if let Err(reason) = waited {
        return Err(start_failure(part, &image, &reason, context.log).await);
    }
    progress(Event::Ready { part, after: begin.elapsed() });
    Ok((container, mapped))
}

/// Probes block, so they run in a thread; meanwhile the container's state is polled.
async fn wait_until_ready<I: Image>(
    probe_port: impl Fn() -> Result<(), String> + Send + 'static,
    container: &ContainerAsync<I>,
) -> Result<(), String> {
    let (ended, has_ended) = std::sync::mpsc::channel::<String>();
    let probing = tokio::task::spawn_blocking(move || {
        probe::wait_until(STARTUP_TIMEOUT, || has_ended.try_recv().ok(), probe_port).map_err(|outcome| {
            match outcome {
                NotReady::Ended(status) => status,
                NotReady::Late(last) => format!("not ready within {} s: {last}", STARTUP_TIMEOUT.as_secs()),
            }
        })
    });
    tokio::pin!(probing);
    loop {
        tokio::select! {
            outcome = &mut probing => return outcome.unwrap_or_else(|error| Err(error.to_string())),
            () = tokio::time::sleep(Duration::from_millis(250)) => {
                if !container.is_running().await.unwrap_or(true) {
                    // The probe stops at its next check; it may have finished already.
                    let _ = ended.send("the container ended".to_owned());
                }
            }
        }
    }
}

/// Docker only reports that the stream ended. The reason is in the log, which may arrive a little later.
async fn start_failure(part: Part, image: &str, reason: &dyn std::fmt::Display, log: &Path) -> Error {
    let deadline = Instant::now() + Duration::from_secs(1);
    let length = || std::fs::metadata(log).map_or(0, |file| file.len());
    while length() == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = format!("{reason}; the end of its log:\n{}", tail(log));
    Error::Docker { what: format!("starting the {part} from {image}"), reason }
}
