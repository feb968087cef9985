//! Client of a decision point on the log, over OpenID AuthZEN's Authorization API (docs/CONTROL.md). Enforcement points ask
//! before each call of a tool.
//!
//! - [`CallQuestion`]: the call, with the exact bytes of its arguments
//! - [`DecisionClient`]: blocking client with a bounded time-out
//! - [`Decision`]: the answer; [`Decision::is_allowed`] is the only way to an allow
//!
//! It fails closed: a decision point that is away, slow, or whose answer is not consistent is an [`AskError`], never an allow.

mod answer;
mod client;
mod question;

pub use answer::{AccessRequest, Decision, DecisionContext, PermittedTool, PolicyRef, Unavailable};
pub use client::{AskError, ClientError, DecisionClient};
pub use question::{After, CallQuestion, MessageContext};
