//! log-sink
