//! How many files this process may have open: Kafka clients, ClickHouse's engine and the parts of a stack need hundreds.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A pipeline with its stack was seen to need fewer.
const ENOUGH: u64 = 1024;

/// Raises the soft limit to the hard one, as servers do; children inherit it. Returns a warning if that is too little.
pub fn raise() -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // A system that refuses leaves the limit as it was, which the next lines judge.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    warning(getrlimit(Resource::Nofile).current)
}

/// `None` stands for no limit.
fn warning(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < ENOUGH)?;
    Some(format!(
        "expected to be allowed at least {ENOUGH} open files, found a limit of {limit}; if anything fails to open a file or a \
         connection, raise the limit (`ulimit -n {ENOUGH}`, or LimitNOFILE= of a systemd unit)"
    ))
}

/// Explains a failure that the limit is behind.
pub fn explain(message: &str) -> Option<String> {
    // Rust, the C library, Java and ClickHouse; the last with its own code.
    let is_of_the_limit = ["os error 24", "Too many open files", "too many open files"]
        .iter()
        .any(|text| message.contains(text));
    let limit = getrlimit(Resource::Nofile).current;
    is_of_the_limit.then(|| {
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
    fn a_limit_that_is_too_low_is_named_and_so_is_an_error_that_comes_of_it() {
        assert!(warning(Some(256)).is_some_and(|text| text.contains("a limit of 256")));
        assert!(warning(Some(ENOUGH)).is_none() && warning(None).is_none());
        assert!(
            explain("socket: Too many open files (os error 24)").is_some_and(|text| text.contains("ulimit"))
        );
        assert!(explain("connection refused (os error 111)").is_none());
    }
}
