//! The agent registry: pushes agents, tools and policy bundles from files to the governance topics, and lists them.
//!
//! ```text
//!  registry.yaml ──► RegistryFile ──► push_agents, push_tools ──► governance topics ──► list_agents, list_tools
//!  suspension    ──► change_suspension, change_tool_suspension ►
//!  MCP server    ──► list_server_tools, accept_definitions ────►                    ──► tool_history
//!  new key       ──► create_key_file, publish_key ──────────►                    ──► list_keys
//!  bundle folder ──► BundleFolder ──► push_bundle ─────────────►                    ──► list_bundles
//! ```
//!
//! A push first reads the topic and appends only entries that differ, so that a repeated push changes nothing, and no push ends
//! the suspension of an agent. When it returns, all in-sync replicas have acknowledged the appended entries. All functions that take [`RegistryContext`] block;
//! never call them from async code.
//!
//! This crate treats a bundle as files with a digest. The policy crate compiles and checks it before the push.

mod bundle;
mod control;
mod entry;
mod error;
mod file;
mod fold;
mod folder;
mod history;
mod keys;
mod pin;
mod push;
mod server;
mod settle;
mod source;
mod suspension;

pub use agentgov_schemas::governance::{AgentState, ToolEffect, ToolState};
pub use bundle::{
    BundleEntry, BundleOutcome, BundlePush, BundleToPush, ReplacedBundle, list_bundles, other_bundles,
    push_bundle,
};
pub use control::send_resume;
pub use entry::{AcceptedDefinition, Agent, RegisteredAgent, RegisteredTool, Tool};
pub use error::Error;
pub use file::RegistryFile;
pub use fold::{Listing, UnreadableRecord};
pub use folder::{BundleFolder, FolderError, MAX_BUNDLE_BYTES, read_bundle_folder};
pub use history::{LoggedChange, TopicHistory, agent_history, tool_history};
pub use keys::{
    Key, KeyHolder, Revocation, RevocationOutcome, create_key_file, generate_key, list_keys, publish_key,
    published_keys, read_key_file, revoke_key,
};
pub use pin::{
    DefinitionChange, DefinitionDiff, MemberDiff, accept_definitions, compare_definitions, list_digest,
};
pub use push::{PushSummary, list_agents, list_tools, push_agents, push_tools};
pub use server::{ServerError, ServerLimits, list_server_tools};
pub use source::RegistryContext;
pub use suspension::{
    Suspension, SuspensionOutcome, SuspensionRefusal, ToolTarget, change_suspension, change_tool_suspension,
    check_entry,
};
