//! Content of the stack: the lock, the programs that download it, and the cache.

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
