//! The corpora, for the tests that run them through the functions that fuzzing calls: as they are, and with a mistake.

use std::fs;

use proptest::prelude::*;

/// The files of a corpus, with their paths.
pub fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

/// Every file, as it is.
pub fn hold(folder: &str, check: fn(&[u8])) {
    for (file, data) in files(folder) {
        // Its name shows if it fails.
        println!("{file}");
        check(&data);
    }
}

/// Any of the files with one change: a byte, a cut, or a piece that is there twice.
pub fn mistaken(folder: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
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
