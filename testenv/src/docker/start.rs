//! Starting the containers, side by side, and waiting until the parts in them answer.

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
use super::requests::{self, CLICKHOUSE_PORT, Common, KAFKA_PORT, REGISTRY_PORT};
use crate::addresses::Addresses;
use crate::events::Event;
use crate::files::tail;
use crate::native::REGISTRY_PATH;
use crate::options::Options;
use crate::part::Part;
use crate::probe::{self, NotReady};
use crate::{Error, layout::Layout};

/// Pulling is not part of it.
pub(super) const READY: Duration = Duration::from_secs(120);
/// ClickHouse's container gets an account of its own: without a password it takes no logins from outside.
const USER: &str = "agentgov";

/// The running containers; dropping them removes them.
pub(super) struct Containers {
    broker: ContainerAsync<apache::Kafka>,
    registry: ContainerAsync<GenericImage>,
    engine: ContainerAsync<GenericImage>,
}

/// Everything that a start goes by.
pub(super) struct Plan {
    pub(super) options: Options,
    pub(super) label: String,
    /// In the order broker, registry, engine.
    pub(super) images: [ImageName; 3],
}

/// Starts all, or nothing.
pub(super) async fn start(plan: &Plan, layout: &Layout) -> Result<(Containers, Addresses), Error> {
    let docker = docker_client_instance().await.map_err(failed("connecting"))?;
    let [broker_image, registry_image, engine_image] = plan.images.clone();
    let logs = Part::ALL.map(|part| layout.log(part));
    let [broker_log, registry_log, engine_log] = &logs;
    let password = Uuid::now_v7().simple().to_string();
    let common = |image, log| Common { label: &plan.label, image, log };

    let broker = async {
        let common = common(broker_image, broker_log);
        let request = requests::broker(&common, &plan.options.broker_properties);
        run(plan, &docker, Part::Broker, &common, request, KAFKA_PORT, |port| probe::kafka(&kafka(port)))
            .await
    };
    let registry = async {
        let common = common(registry_image, registry_log);
        let request = requests::registry(&common);
        let ask = |port| probe::http(&format!("{}/subjects", registry_url(port)));
        run(plan, &docker, Part::Registry, &common, request, REGISTRY_PORT, ask).await
    };
    let engine = async {
        let common = common(engine_image, engine_log);
        let request = requests::engine(&common, USER, &password, USER);
        let ask = |port| probe::http(&format!("{}/ping", http(port)));
        run(plan, &docker, Part::Engine, &common, request, CLICKHOUSE_PORT, ask).await
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
    /// Removes all; what is left is the supervisor's.
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

async fn run<I: Image>(
    plan: &Plan,
    docker: &Docker,
    part: Part,
    common: &Common<'_>,
    request: ContainerRequest<I>,
    port: u16,
    ask: impl Fn(u16) -> Result<(), String> + Send + 'static,
) -> Result<(ContainerAsync<I>, u16), Error> {
    let progress = &plan.options.progress;
    let image = common.image.full();
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
        Err(error) => return Err(died(part, &image, &error, common.log).await),
    };
    let mapped = container.get_host_port_ipv4(port).await;
    let mapped = mapped.map_err(failed(&format!("asking for the port of the {part}")))?;
    let waited = wait(move || ask(mapped), &container).await;
    if let Err(reason) = waited {
        return Err(died(part, &image, &reason, common.log).await);
    }
    progress(Event::Ready { part, after: begin.elapsed() });
    Ok((container, mapped))
}

/// The probes block, so they get a thread; between them the container's state is looked at.
async fn wait<I: Image>(
    ask: impl Fn() -> Result<(), String> + Send + 'static,
    container: &ContainerAsync<I>,
) -> Result<(), String> {
    let (ended, has_ended) = std::sync::mpsc::channel::<String>();
    let probing = tokio::task::spawn_blocking(move || {
        probe::wait_until(READY, || has_ended.try_recv().ok(), ask).map_err(|outcome| match outcome {
            NotReady::Ended(status) => status,
            NotReady::Late(last) => format!("not ready within {} s: {last}", READY.as_secs()),
        })
    });
    tokio::pin!(probing);
    loop {
        tokio::select! {
            outcome = &mut probing => return outcome.unwrap_or_else(|error| Err(error.to_string())),
            () = tokio::time::sleep(Duration::from_millis(250)) => {
                if !container.is_running().await.unwrap_or(true) {
                    // The probe stops at its next look; it may be done already.
                    let _ = ended.send("the container ended".to_owned());
                }
            }
        }
    }
}

/// Docker only says that the stream ended; the reason is in the log, which may still be on its way.
async fn died(part: Part, image: &str, reason: &dyn std::fmt::Display, log: &Path) -> Error {
    let deadline = Instant::now() + Duration::from_secs(1);
    let length = || std::fs::metadata(log).map_or(0, |file| file.len());
    while length() == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = format!("{reason}; the end of its log:\n{}", tail(log));
    Error::Docker { what: format!("starting the {part} from {image}"), reason }
}
