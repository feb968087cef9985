//! The note that a running `up` or `demo --keep` leaves, so that other commands find its stack without being told.
//! It counts only while its writer holds it locked: a note of a stack that is gone misleads nobody.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use agentgov_connect::{Endpoints, Settings};
use agentgov_runtime::ExitCode;
use agentgov_testenv::Addresses;

use crate::failure::{Failure, OrExit as _};

/// A note that counts until it is dropped.
#[derive(Debug)]
pub struct Note {
    file: File,
    path: PathBuf,
}

/// Leaves a note of a stack that this process runs. `None` if another process has left one.
pub fn note(endpoints: &Endpoints) -> Result<Option<Note>, Failure> {
    let path = path();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).or_exit(ExitCode::Failed)?;
    }
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let mut file = open.or_exit(ExitCode::Failed)?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    let text = serde_json::to_string(&endpoints.to_settings()).or_exit(ExitCode::Failed)?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()))
        .or_exit(ExitCode::Failed)?;
    Ok(Some(Note { file, path }))
}

/// The stack of the note, if there is one that counts.
pub fn noted() -> Option<Endpoints> {
    let file = File::open(path()).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    Settings::read(&|_| None, Some(&path())).ok()?.endpoints().ok()
}

impl Drop for Note {
    fn drop(&mut self) {
        // Still locked: nobody else's note can be there.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("agentgov/stack.json")
}

/// Where a stack of testenv is, in the words of those who use it.
pub fn endpoints_of(addresses: &Addresses) -> Endpoints {
    use agentgov_connect::{ClickHouseEndpoint, KafkaEndpoint, RegistryEndpoint, Secret};
    Endpoints {
        kafka: KafkaEndpoint::at(addresses.kafka.clone()),
        registry: RegistryEndpoint::at(addresses.registry.clone()),
        clickhouse: ClickHouseEndpoint {
            url: addresses.clickhouse.clone(),
            user: addresses.clickhouse_user.clone(),
            password: Secret::new(addresses.clickhouse_password.clone()),
            database: addresses.clickhouse_database.clone(),
            ..ClickHouseEndpoint::default()
        },
    }
}
