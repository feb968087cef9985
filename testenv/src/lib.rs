//! Real stack for tests, the demo and development: a Kafka broker, a Confluent-compatible schema registry and ClickHouse's
//! engine.
//!
//! ```no_run
//! # fn main() -> Result<(), agentgov_testenv::Error> {
//! use agentgov_testenv::{Options, TestEnv};
//!
//! let stack = TestEnv::start(Options::for_tests()?)?;
//! println!("{}", stack.addresses().kafka);
//! stack.stop()
//! # }
//! ```
//!
//! The stack runs on the first available backend, or on the one that `AGENTGOV_BACKEND` or [`Options::backend`] names:
//!
//! | backend | stack | condition |
//! | --- | --- | --- |
//! | external | an existing stack | `AGENTGOV_KAFKA`, `AGENTGOV_SCHEMA_REGISTRY`, `AGENTGOV_CLICKHOUSE` are set |
//! | docker | containers of the official images | a Docker engine responds |
//! | native | processes of this machine, downloaded once from the package registries | otherwise |
//!
//! A supervisor process watches the owner and cleans up even if the owner is killed. `docs/testenv.md` has the details.

mod addresses;
mod backend;
#[cfg(feature = "docker")]
mod docker;
#[cfg(not(feature = "docker"))]
#[path = "no_docker.rs"]
mod docker;
mod engine;
mod env;
mod error;
mod events;
mod files;
mod helper;
mod layout;
mod native;
mod options;
mod part;
mod probe;
mod stack;
mod supervisor;

pub use addresses::Addresses;
pub use env::TestEnv;
pub use error::Error;
pub use events::Event;
pub use helper::{HelperCommand, SupervisorCommand, owned_command, run_helper};
pub use options::{BackendKind, Options};
pub use part::Part;
pub use stack::{MissingTools, lock};
