//! Measurements of decision points, each in turn with a contender that does less, or the same by other means.
//!
//! - [`DecideReport`]: figures of the rounds, and ratios
//! - [`Questions`], [`closed_loop`], [`Client`]: HTTP clients
//! - [`AccessSet`]: a bundle of `model: authzen` with any number of policies, the same rules in Rego, and requests
//! - [`KnownProbe`]: time from the record of a result until a decision point knows it
//! - [`HookProbe`]: time of a hook of a coding agent
//! - [`ConstantServer`]: the HTTP server of decision points with a constant decision

mod access;
pub(crate) mod constant;
mod hook;
mod http;
mod known;
mod process;
mod report;

pub use access::AccessSet;
pub use constant::ConstantServer;
pub use hook::HookProbe;
pub use http::{Client, HttpFigures, Questions, closed_loop};
pub use known::KnownProbe;
pub use process::{RunningServer, RunningStages, Start};
pub use report::{DecideReport, DecideRound, Pair, Ratios};
