//! Engine part: an HTTP server with ClickHouse's interface in front of ClickHouse's library.
//!
//! ```text
//! HTTP ─► handle ─┬─ request   URL keys and form fields
//!                 ├─ sql       INSERT with data, or not
//!                 ├─ framing   compressed bodies
//!                 ├─ insert    rows while they arrive
//!                 └─ storage ─► session ─► library (C)
//! ```

mod error;
mod framing;
mod handle;
mod insert;
mod library;
mod request;
mod server;
mod session;
mod sql;
mod storage;

pub(crate) use error::EngineError;
pub(crate) use server::{Settings, serve};
