//! What the executables share: `agentgov`, and `agentgov-bench`, which measures and breaks the same stages.
//!
//! - [`process`]: a command line's process, from its arguments to its exit code
//! - [`cli`], [`commands`]: the product's command line, and what its commands do
//! - [`context`]: where the stack is, and what the topology says
//! - [`failure`]: how a command fails
//! - [`print`], [`progress`]: output that escapes outside text; steps of long work

pub mod cli;
pub mod commands;
pub mod context;
pub mod failure;
mod file_limit;
mod local;
pub mod print;
pub mod process;
pub mod progress;
mod stages;
