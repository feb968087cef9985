//! Removing the containers of a stack whose owner is gone.

use std::collections::HashMap;
use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;

use super::{LABEL, on_its_own_thread};

/// Docker may still be making a container that the owner asked for in its last moment, so it is asked again.
const ROUNDS: usize = 3;
const BETWEEN: Duration = Duration::from_millis(300);

/// Removes every container with this label, with its volumes. Says nothing: the owner is gone.
pub(crate) fn remove_labelled(label: &str) {
    let filter = format!("{LABEL}={label}");
    on_its_own_thread(async move {
        let Ok(docker) = docker_client_instance().await else { return };
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(BETWEEN).await;
            }
            // An error may pass, as when Docker is being restarted.
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
