//! Service parts of a long-running process.
//!
//! - [`health`]: liveness, readiness and progress of a stage
//! - [`metrics`]: every metric, by name · [`lag`]: lag of a consumer group, measured from outside the group
//! - [`serve`]: health and metrics over HTTP
//! - [`error`]: errors that end a stage, and exit codes · [`panics`]: ends the process after a panic in any thread
//! - [`shutdown`]: shutdown signal, and calls that it cancels · [`backoff`]: pauses between retries
//! - [`logged_at`]: append time of a record
//! - [`failpoint`]: edges at which the fault harness interferes, through a hook that the product never sets

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
