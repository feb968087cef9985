//! The parts of a long-running process that are not its work.
//!
//! - [`health`]: live, ready and why not, progress
//! - [`metrics`]: every metric, by name · [`lag`]: how far a consumer group is behind, read from outside the group
//! - [`serve`]: health and metrics over HTTP
//! - [`error`]: how a stage ends, and the exit code · [`panics`]: a panic in any thread ends the process
//! - [`shutdown`]: a request to stop, and calls that it interrupts · [`backoff`]: pauses between tries
//! - [`logged_at`]: when the broker appended a record
//! - [`failpoint`]: edges at which the fault harness interferes; by a hook that the product does not set

mod appended;
pub mod backoff;
pub mod error;
pub mod failpoint;
pub mod health;
pub mod lag;
pub mod metrics;
pub mod panics;
pub mod serve;
pub mod shutdown;

pub use appended::{NO_TIMESTAMP, logged_at};
pub use error::{ExitCode, StageError};
pub use health::Health;
pub use metrics::Metrics;
pub use serve::HealthServer;
pub use shutdown::ShutdownSignal;
