//! The two protocols that nothing is lost or doubled by, as models small enough to try every interleaving:
//!
//! - [`sink`]: claim, drain, look, insert (ADR 0005), against zombies, late inserts, lost answers and restarts
//! - [`processor`]: a processor's restore order and transactions, against zombies, kills and markers that come late
//!
//! Each model also comes with a step left out or misplaced ([`sink::Flaw`], [`processor::Flaw`]): a step is needed
//! if [`explore`] finds a counterexample without it. docs/reliability.md says what is explored, and what is left out.
//!
//! The models restate the protocols; they do not run the code of consumers/runtime. Who changes a step there changes
//! it here.
#![expect(clippy::indexing_slicing, reason = "a wrong index is a mistake of the model and must stop the run")]

mod explore;
pub mod processor;
pub mod sink;

pub use explore::{Exploration, explore, find_counterexample};
