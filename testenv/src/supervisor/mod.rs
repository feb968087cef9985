//! Supervisor: a process between an owner and its stack, so that nothing remains if the owner is killed.

mod become_part;
mod client;
mod protocol;
mod server;
mod slice;

pub(crate) use become_part::become_part;
pub(crate) use client::Supervisor;
pub(crate) use protocol::{Launch, Signal};
pub(crate) use server::{Settings, supervise};
