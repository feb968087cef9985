//! The decision point: answers "may this subject do this to that resource?" before it happens, by OpenID AuthZEN's Authorization
//! API 1.0.
//!
//! ```text
//!   PEP ──HTTP──► [http] reads the request, knows the caller ──► DecisionPoint ──► Answer
//!                                                                  │
//!                                                ├─ BundleOnly: a bundle of `model: authzen`, and nothing else
//!                                                └─ LogPoint: policies, facts and counters of the log, with a record
//! ```
//!
//! - [`DecisionPoint`]: the interface between the HTTP server and what decides; [`BundleOnly`]: decides by a bundle alone
//! - [`DecisionServer`]: the HTTP server, with TLS and health; [`Callers`]: bearer tokens of those who may ask
//! - [`hooks`]: a hook of the fault harness, which the product never sets
//!
//! An error is never an allow: `decision` is true only for [`Decision::Allow`](agentgov_schemas::verdict::Decision::Allow).

mod answer;
mod bundle_only;
mod callers;
pub mod hooks;
mod http;
mod json;
mod log_point;
mod point;
mod request;
mod tls;

pub use answer::{Answer, BundleId};
pub use bundle_only::BundleOnly;
pub use callers::{Caller, Callers};
pub use http::{DecisionServer, MAX_BODY_BYTES, MAX_EVALUATIONS, ServerConfig, ServerError};
pub use log_point::{AskedApproval, DecisionLog, LogPoint, LogPointConfig, NotRecorded, RecordedDecision};
pub use point::{DecisionPoint, Found, FoundResult, Question, Refusal, Search, SearchTarget};
pub use tls::TlsFiles;
