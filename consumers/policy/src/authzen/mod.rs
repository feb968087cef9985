//! The second kind of bundle: `model: authzen` in bundle.yaml. It has a Cedar schema of its own, the entities that it knows, and
//! policies about any subject, action and resource. It keeps no session, so one request has all that a decision depends on.
//!
//! ```text
//!   bundle.yaml ─ schema.cedarschema ─ entities.yaml ─ *.cedar ──► AccessBundle::compile
//!                                                                      │
//!   AccessRequest { subject, action, resource, context } ──► AccessBundle::evaluate ──► Evaluation
//! ```
//!
//! The schema types the request: a declared property of another type makes the evaluation indeterminate, and properties that are
//! not declared are ignored. The index selects the candidates by types, action, resource and principal, so policies about other
//! resources cost nothing.

mod attributes;
mod bundle;
mod check;
mod entities;
mod evaluate;
mod index;
mod model;
mod request;
mod testing;
mod value;

pub use bundle::AccessBundle;
pub use check::{AccessReport, check};
pub use evaluate::{Evaluation, EvaluationError, EvaluationReason};
pub use request::{AccessAction, AccessEntity, AccessRequest, Properties};
pub use testing::test;
