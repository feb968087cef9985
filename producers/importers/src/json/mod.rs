//! JSON as people's tools write it, where it stands in a file.
//!
//! A [`Value`] is a slice of the file: payloads keep their bytes, and a field that nobody asks for costs a scan and nothing
//! else. Beyond RFC 8259 the scanner takes `NaN`, `Infinity` and `-Infinity`, which Python's `json.dumps` writes, numbers of
//! any size, lone surrogates and any depth: it does not recurse.

mod scan;
mod value;

pub(crate) use scan::{Mistake, blank};
pub(crate) use value::{Kind, Object, Value};
