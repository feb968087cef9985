//! Container requests of the parts.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use testcontainers::bollard::models::{HostConfig, PortBinding};
use testcontainers::core::logs::LogFrame;
use testcontainers::core::{ContainerPort, IntoContainerPort};
use testcontainers::{ContainerRequest, GenericImage, Image, ImageExt};
use testcontainers_modules::kafka::apache;
use uuid::Uuid;

use super::LABEL;
use super::images::ImageName;
use super::start::STARTUP_TIMEOUT;
use crate::native::BROKER_PROPERTIES;

/// Ports of the parts inside their containers.
pub(super) const KAFKA_PORT: u16 = 9092;
pub(super) const REGISTRY_PORT: u16 = 8080;
pub(super) const CLICKHOUSE_PORT: u16 = 8123;

/// Properties that all containers of a stack share.
pub(super) struct ContainerContext<'a> {
    pub(super) label: &'a str,
    pub(super) image: ImageName,
    pub(super) log: &'a Path,
}

pub(super) fn broker(
    context: &ContainerContext<'_>,
    extra: &[(String, String)],
) -> ContainerRequest<apache::Kafka> {
    let mut request = context
        .apply(apache::Kafka::default().with_jvm_image(), KAFKA_PORT)
        // Each stack has its own cluster id, so that clients can distinguish stacks.
        .with_env_var("CLUSTER_ID", Uuid::now_v7().simple().to_string())
        .with_env_var("KAFKA_NODE_ID", "1")
        .with_env_var("KAFKA_HEAP_OPTS", "-Xms256m -Xmx512m");
    for (name, value) in BROKER_PROPERTIES {
        request = request.with_env_var(variable_of(name), value);
    }
    for (name, value) in extra {
        request = request.with_env_var(variable_of(name), value);
    }
    request
}

pub(super) fn registry(context: &ContainerContext<'_>) -> ContainerRequest<GenericImage> {
    let image = GenericImage::new(&context.image.name, &context.image.tag);
    context.apply(image.with_exposed_port(REGISTRY_PORT.tcp()), REGISTRY_PORT)
}

pub(super) fn engine(
    context: &ContainerContext<'_>,
    user: &str,
    password: &str,
    database: &str,
) -> ContainerRequest<GenericImage> {
    let image = GenericImage::new(&context.image.name, &context.image.tag);
    context
        .apply(image.with_exposed_port(CLICKHOUSE_PORT.tcp()), CLICKHOUSE_PORT)
        .with_env_var("CLICKHOUSE_USER", user)
        .with_env_var("CLICKHOUSE_PASSWORD", password)
        .with_env_var("CLICKHOUSE_DB", database)
        .with_env_var("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1")
}

impl ContainerContext<'_> {
    fn apply<I: Image, R: Into<ContainerRequest<I>>>(&self, request: R, port: u16) -> ContainerRequest<I>
    where
        ContainerRequest<I>: ImageExt<I>,
    {
        let log = self.log.to_path_buf();
        let file = Mutex::new(File::create(&log).ok());
        request
            .into()
            .with_name(&self.image.name)
            .with_tag(&self.image.tag)
            .with_label(LABEL, self.label)
            .with_startup_timeout(STARTUP_TIMEOUT)
            .with_host_config_modifier(move |config| only_on_loopback(config, port.tcp()))
            .with_log_consumer(move |frame: &LogFrame| {
                if let Some(file) = file.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    // A write error, for example on a full disk, truncates the log; it must not end the stack.
                    let _ = file.write_all(frame.bytes());
                }
            })
    }
}

/// By default Docker publishes ports on all interfaces and bypasses the host's firewall.
fn only_on_loopback(config: &mut HostConfig, port: ContainerPort) {
    let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
    config.publish_all_ports = Some(false);
    config.port_bindings = Some(HashMap::from([(port.to_string(), Some(vec![binding]))]));
}

/// Returns the environment variable that the image maps to a property: dots, underscores and dashes become one, two and
/// three underscores.
fn variable_of(property: &str) -> String {
    let name = property.chars().map(|c| match c {
        '.' => "_".to_owned(),
        '_' => "__".to_owned(),
        '-' => "___".to_owned(),
        c => c.to_uppercase().to_string(),
    });
    format!("KAFKA_{}", name.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_variables() {
        assert_eq!(variable_of("auto.create.topics.enable"), "KAFKA_AUTO_CREATE_TOPICS_ENABLE");
        assert_eq!(variable_of("a-b_c.d"), "KAFKA_A___B__C_D");
    }
}
