//! Reads a file of JSON documents: opens it as often as needed, unpacks it and splits it into documents.
//!
//! Uses the memory of the largest document, at most [`MAX_DOCUMENT_BYTES`].

mod bytes;
mod documents;
mod input;
mod layout;
mod sniff;

pub(crate) use documents::{Document, Documents};
pub(crate) use input::{Ending, Reader};
pub use input::{Input, MAX_UNPACKED_BYTES};

/// Maximum bytes of one document: a line, an element of an array, or an object over several lines.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 20;
