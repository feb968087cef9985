//! Library of the executables `agentgov` and `agentgov-bench`.
//!
//! - [`process`]: entry point, from arguments to exit code
//! - [`cli`], [`commands`]: command line of the product and its commands
//! - [`context`]: addresses of the stack, and the topology
//! - [`failure`]: errors of commands
//! - [`print`], [`progress`]: output with escaping of outside text; progress of long steps

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
