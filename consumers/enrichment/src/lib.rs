//! Computes the context of an action for the policies. Pure: no I/O, no clock, no threads.
//!
//! ```text
//!   event ──► Session::apply ──► facts, calls, counters ──► Change (entries to write to the changelog)
//!                  ▲                     │
//!      tools.yaml ─┴─ Tools::derive ◄────┘  the state before the event
//!                          │
//!                          ▼
//!                     CallContext: derived values, referenced facts, errors
//! ```
//!
//! - [`Session`]: state of one session of one tenant; [`Change`]: an entry of the session that an event changed
//! - [`AgentTable`]: registered agents, folded from the topic of agents; [`ToolTable`]: registered tools and servers
//! - [`Tools`]: a compiled `tools.yaml`: rules that extract facts from results, references from calls to facts, and
//!   derived values
//! - [`CallContext`]: result for one call, with a [`Finding`] for each error
//! - [`json`]: payloads as CEL values; [`expression`]: compiles and checks CEL expressions; `evaluate`: evaluates them
//!   within a budget; `number`: compares numbers

pub mod agents;
pub mod call_context;
mod evaluate;
pub mod expression;
mod functions;
pub mod json;
mod number;
pub mod registered_tools;
mod scope;
pub mod session;
pub mod tools;

pub use agents::{Agent, AgentTable};
pub use call_context::{CallContext, FactRef, Scalar};
pub use registered_tools::{RegisteredTool, ToolTable};
pub use session::{
    Approval, ApprovalFault, Change, InvalidEntry, MAX_APPROVALS, RefusedCall, SequenceCheck, Session,
    TokenUse,
};
pub use tools::{Finding, Tools, ToolsDraft, ValueType};
