//! Bare processes that move the bytes that the pipeline moves, and do nothing else: what the machine can do.

pub mod copy;
pub mod insert;
pub mod publish;
