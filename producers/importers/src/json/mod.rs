//! A JSON scanner that keeps the bytes of values.
//!
//! A [`Value`] is a slice of the file, so payloads keep their bytes and an unused field costs only its scan. Beyond RFC 8259
//! the scanner accepts `NaN`, `Infinity` and `-Infinity`, which Python's `json.dumps` writes, numbers of any size, lone
//! surrogates, and any depth, since it does not recurse.

mod scan;
mod value;

pub(crate) use scan::{Mistake, skip_whitespace};
pub(crate) use value::{Kind, Object, Value, has_lone_surrogate};
