//! The pure kernel of agentgov: what a policy bundle says of each judged action. No I/O, no clock, no thread.
//!
//! ```text
//!   governance.bundles ──► BundleTable ─┐
//!   governance.agents ───► AgentTable ──┼──► Kernel::step(session, event, origin) ──► Step { verdict, changes }
//!   agent.actions ──────► event ────────┘         1. seen before?   a duplicate: nothing changes
//!                                                 2. judged?        known facts + policies ──► Judgement
//!                                                 3. applied        the session knows what the event said
//! ```
//!
//! [`Kernel::step`] is the one entry point: the evaluator, policy tests, replays and decision points call it. Same
//! events and same positions of the tables give the same verdict, bit for bit.
//!
//! - [`BundleFiles`]: a bundle as files; [`Bundle`]: compiled, or every [`Problem`] of it at once
//! - [`BundleTable`]: the bundles that were pushed, folded from their topic
//! - [`Kernel`], [`Step`], [`Judgement`]: judging; [`RequestCache`]: requests kept from event to event, which changes no verdict
//! - [`check`]: what an author sees of a bundle: the mistakes of its tests as well, and names that are probably mistakes
//! - [`testing`]: a bundle's own tests

mod bundle;
mod cedar;
mod check;
mod depth;
mod draft;
mod files;
mod index;
mod internal;
mod judgement;
mod kernel;
mod manifest;
mod names;
mod partial_eval;
mod policy;
mod request_cache;
mod rewrite;
mod schema;
mod source;
mod table;
pub mod testing;

pub use agentgov_schemas::yaml::Problem;
pub use bundle::Bundle;
pub use check::{CheckReport, check};
pub use draft::generated_schema;
pub use files::BundleFiles;
pub use internal::InternalError;
pub use judgement::Judgement;
pub use kernel::{Kernel, Step};
pub use policy::{OnError, Policy, PolicyKind};
pub use request_cache::RequestCache;
pub use schema::SCHEMA_FILE;
pub use table::{BundleTable, CompileSummary, FoldOutcome, RefusedBundle};
