//! testenv
mod engine;
mod helper;
pub use helper::helper_main;
