//! Corpora of the fuzz targets, for tests that run them unchanged and mutated.

use std::fs;

use proptest::prelude::*;

/// Returns the files of a corpus with their paths.
pub fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

/// Runs a check on every file of a corpus.
pub fn check_all(folder: &str, check: fn(&[u8])) {
    for (file, data) in files(folder) {
        // Names the file in the output of a failure.
        println!("{file}");
        check(&data);
    }
}

/// Generates mutations of a corpus file: one changed byte, a truncation, or a duplicated piece.
pub fn mutations(folder: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let files = files(folder);
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..3_u8).prop_map(
        move |(file, at, to, how)| {
            let mut data = file.get(&files).1.clone();
            let at = at.index(data.len().max(1));
            match how {
                0 => data.iter_mut().skip(at).take(1).for_each(|byte| *byte = to),
                1 => data.truncate(at),
                _ => {
                    let piece = data.iter().copied().skip(at).take(usize::from(to)).collect::<Vec<_>>();
                    data.splice(at..at, piece);
                }
            }
            data
        },
    )
}
