//! Removal of containers whose owner is gone.

use std::collections::HashMap;
use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;

use super::{LABEL, run_in_thread};

/// Docker may still be creating a container that the owner requested last, so removal is repeated.
const ATTEMPTS: usize = 3;
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// Removes every container with this label, with its volumes. Errors are not reported, since the owner is gone.
pub(crate) fn remove_labelled(label: &str) {
    let filter = format!("{LABEL}={label}");
    run_in_thread(async move {
        let Ok(docker) = docker_client_instance().await else { return };
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            // Errors may be temporary, for example while Docker restarts.
            let _ = remove_all(&docker, &filter).await;
        }
    });
}

async fn remove_all(docker: &Docker, filter: &str) -> Result<(), Error> {
    let filters = HashMap::from([("label", vec![filter])]);
    let list = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for id in docker.list_containers(Some(list)).await?.into_iter().filter_map(|container| container.id) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        docker.remove_container(&id, Some(options)).await?;
    }
    Ok(())
}
