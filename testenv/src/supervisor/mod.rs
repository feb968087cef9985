//! The process between an owner and what it started, so that nothing is left behind when the owner is killed.

mod become_part;
mod client;
mod protocol;
mod server;
mod slice;

pub(crate) use become_part::become_part;
pub(crate) use client::Supervisor;
pub(crate) use protocol::{Launch, Signal};
pub(crate) use server::{Settings, supervise};
