//! Limit of open files. Kafka clients, ClickHouse's engine and the parts of a stack need hundreds.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Measured: a pipeline with its stack needs fewer.
const MIN_OPEN_FILES: u64 = 1024;

/// Raises the soft limit to the hard limit; child processes inherit it. Returns a warning if the limit is still too low.
pub fn raise() -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // If the system refuses, the limit stays unchanged and is checked below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    warning(getrlimit(Resource::Nofile).current)
}

/// Returns a warning for a low limit. `None` means unlimited.
fn warning(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < MIN_OPEN_FILES)?;
    Some(format!(
        "expected to be allowed at least {MIN_OPEN_FILES} open files, found a limit of {limit}; if anything fails to open a file or a \
         connection, raise the limit (`ulimit -n {MIN_OPEN_FILES}`, or LimitNOFILE= of a systemd unit)"
    ))
}

/// Explains a failure that an exhausted file limit caused.
pub fn explain(message: &str) -> Option<String> {
    // Messages of Rust, the C library, Java and ClickHouse.
    let is_limit_error = ["os error 24", "Too many open files", "too many open files"]
        .iter()
        .any(|text| message.contains(text));
    let limit = getrlimit(Resource::Nofile).current;
    is_limit_error.then(|| {
        let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
        format!(
            "this process's limit of open files is {limit}; raise it (`ulimit -n`, or LimitNOFILE= of a systemd unit), and try \
             again"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limit_and_errors_caused_by_it_are_explained() {
        assert!(warning(Some(256)).is_some_and(|text| text.contains("a limit of 256")));
        assert!(warning(Some(MIN_OPEN_FILES)).is_none() && warning(None).is_none());
        assert!(
            explain("socket: Too many open files (os error 24)").is_some_and(|text| text.contains("ulimit"))
        );
        assert!(explain("connection refused (os error 111)").is_none());
    }
}
