//! Models of the two exactly-once protocols, small enough to explore every interleaving:
//!
//! - [`sink`]: claim, drain, tail read, insert (ADR 0005), against zombies, late inserts, lost responses and restarts
//! - [`processor`]: restore order and transactions of a processor, against zombies, kills and late markers
//!
//! Each model also has variants that omit or misplace a step ([`sink::Flaw`], [`processor::Flaw`]): a step is needed if
//! [`explore`] finds a counterexample without it. docs/reliability.md describes the explored bounds and the omissions.
//!
//! The models restate the protocols and do not run the code of consumers/runtime. A change of a step there requires the
//! same change here.
#![expect(clippy::indexing_slicing, reason = "a wrong index is a bug of the model and must stop the run")]

mod explore;
pub mod processor;
pub mod sink;

pub use explore::{Exploration, explore, find_counterexample};
