//! What is known of an action before the policies judge it. Pure: no I/O, no clock, no thread.
//!
//! ```text
//!   event ──► Session::apply ──► facts, calls, counters ──► Change (what the changelog must say)
//!                  ▲                     │
//!      tools.yaml ─┴─ Tools::derive ◄────┘  the state before the event
//!                          │
//!                          ▼
//!                        CallContext: derived values, facts referred to, errors
//! ```
//!
//! - [`Session`]: what one session of one tenant knows; [`Change`]: which of its entries an event changed
//! - [`AgentTable`]: the registered agents, folded from their topic
//! - [`Tools`]: a bundle's `tools.yaml`, compiled: which results state facts, which facts a call refers to, which values
//!   are derived from them
//! - [`CallContext`]: the outcome for one call, with every [`Finding`] on the way
//! - [`json`]: payloads as CEL values; [`expression`]: CEL, compiled, checked and bounded; `evaluate`: what it comes to;
//!   `number`: how numbers compare

pub mod agents;
mod evaluate;
pub mod expression;
mod functions;
pub mod json;
pub mod known;
mod number;
mod scope;
pub mod session;
pub mod tools;

pub use agents::{Agent, AgentTable};
pub use known::{CallContext, FactRef, Scalar};
pub use session::{Change, InvalidEntry, SequenceCheck, Session};
pub use tools::{Finding, Tools, ToolsDraft, ValueType};
