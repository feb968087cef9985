//! Policy kernel of agentgov: judges actions by a policy bundle. Pure: no I/O, no clock, no threads.
//!
//! ```text
//!   governance.bundles ──► BundleTable ─┐
//!   governance.agents ───► AgentTable ──┼──► Kernel::step(session, event, origin) ──► Step { verdict, changes }
//!   governance.keys ─────► KeySet ──────┤         0. approval?    change of the session's approvals
//!   agent.actions ──────► event ────────┘         1. repeat?      verdict `duplicate`, no change
//!                                                 2. judged type? call context + policies ──► Judgement
//!                                                 3. apply the event to the session
//! ```
//!
//! [`Kernel::step`] is the only entry point; the evaluator, policy tests, replays and decision points call it. The same
//! events and table positions give the same verdict, bit for bit.
//!
//! - [`BundleFiles`]: files of a bundle; [`Bundle`]: a compiled bundle; [`Problem`]: a mistake in a file
//! - [`BundleTable`]: pushed bundles, folded from the topic of bundles
//! - [`Kernel`], [`Step`], [`Judgement`]: judging an event; [`RequestCache`]: a cache of Cedar requests
//! - [`ApprovalClaim`], [`JudgedApproval`]: approvals of persons, which turn `ask` into `allow` for one call
//! - [`check`]: checks a bundle for its author: also its tests, and names that are probably misspelt
//! - [`testing`]: runs the tests of a bundle
//! - [`authzen`]: the second kind of bundle, about any subject, action and resource

mod approvals;
pub mod authzen;
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
mod listing;
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
pub use agentgov_token::KeySet;
pub use approvals::{
    ApprovalClaim, ClaimedApproval, JudgedApproval, MAX_APPROVAL_MILLIS, approval_of, difference_from_call,
    forged_cause, is_same_person,
};
pub use bundle::Bundle;
pub use check::{CheckReport, check};
pub use draft::generated_schema;
pub use files::BundleFiles;
pub use internal::InternalError;
pub use judgement::Judgement;
pub use kernel::{Kernel, RULES_VERSION, Step};
pub use manifest::BundleModel;
pub use policy::{OnError, Policy, PolicyKind};
pub use request_cache::RequestCache;
pub use schema::SCHEMA_FILE;
pub use table::{BundleTable, CompileSummary, FoldOutcome, RefusedBundle};
