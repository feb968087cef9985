//! What the stack is made of: the lock, the programs that fetch it, and the cache that keeps it.

mod cache;
mod digest;
mod fetch;
mod generate;
mod lock;
mod tools;
mod unpack;

pub(crate) use cache::{Installed, install};
pub use generate::lock;
pub(crate) use lock::Lock;
pub use tools::MissingTools;
