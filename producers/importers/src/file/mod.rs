//! A file of JSON documents: opened as often as it is needed, unpacked, and cut into documents.
//!
//! Memory is that of the largest document, at most [`MAX_DOCUMENT`].

mod bytes;
mod documents;
mod input;
mod layout;
mod sniff;

pub(crate) use documents::{Document, Documents};
pub(crate) use input::{Ending, Reader};
pub use input::{Input, MAX_UNPACKED};

/// Most bytes of one document: a line, an element of an array, or an object over several lines.
pub const MAX_DOCUMENT: usize = 256 << 20;
