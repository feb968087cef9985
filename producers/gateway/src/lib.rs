//! Enforcement point for MCP: stands between a client and a server, asks the decision point before each call, records call and
//! result, and sends on only what is allowed.
//!
//! - [`frame`]: lines within a bound · [`envelope`]: JSON-RPC over their bytes · [`json`]: JSON that every parser reads alike
//! - [`methods`]: the methods that pass
//! - [`hooks`]: the same for the calls that coding agents announce to their hooks

mod call;
pub mod envelope;
pub mod frame;
pub mod hooks;
pub mod http;
pub mod json;
pub mod methods;
pub mod process;
pub mod proxy;
mod reply;
mod seal;
pub mod session;
pub mod sessions;
pub mod stdio;

pub use reply::DECISION_META;
