//! Fuzz check: any bytes as the files of a bundle, each after a line `=== PATH`. Compiles to a bundle whose tests finish,
//! or returns problems with positions.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_policy::{Bundle, BundleFiles, testing};
use agentgov_schemas::bounds::STACK_BYTES;

/// Runs with the stack size of threads that compile bundles.
pub fn check(data: &[u8]) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let checking = thread.spawn_scoped(scope, || compile_and_test(data)).expect("a thread");
        checking.join().expect("no panic");
    });
}

fn compile_and_test(data: &[u8]) {
    let files = files(data);
    let checked = agentgov_policy::check(&files);
    for problem in checked.problems.iter().chain(&checked.warnings) {
        assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
    }
    match Bundle::compile(&files) {
        Ok(bundle) => {
            assert!(checked.bundle.is_some());
            let report = testing::run(&Arc::new(bundle), &files);
            assert!(report.cases.iter().all(|case| files.0.contains_key(&case.file)));
        }
        Err(problems) => {
            assert!(!problems.is_empty() && checked.bundle.is_none());
            assert!(problems.iter().all(|problem| checked.problems.contains(problem)));
            for problem in problems {
                assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
            }
        }
    }
}

fn files(data: &[u8]) -> BundleFiles {
    let mut files = BTreeMap::new();
    let mut rest = data;
    while let Some(at) = find(rest, b"=== ") {
        let named = &rest[at + 4..];
        let end = named.iter().position(|byte| *byte == b'\n').unwrap_or(named.len());
        let path = String::from_utf8_lossy(&named[..end]).into_owned();
        let content = named.get(end + 1..).unwrap_or_default();
        let until = find(content, b"=== ").unwrap_or(content.len());
        files.insert(path, content[..until].to_vec());
        rest = &content[until..];
    }
    BundleFiles(files)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
