//! Recordings: files with the records of a pipeline run, which the baseline repeats.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::BenchError;

/// Record of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordingEntry {
    /// Index of the topic in the recording.
    pub(crate) topic: u8,
    pub(crate) partition: i32,
    pub(crate) key: Vec<u8>,
    /// `None` for a tombstone.
    pub(crate) value: Option<Vec<u8>>,
}

const TOMBSTONE: u32 = u32::MAX;

/// Writes a recording.
pub(crate) fn write(path: &Path, records: &[RecordingEntry]) -> Result<(), BenchError> {
    let failed = BenchError::io("writing a recording");
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        for RecordingEntry { topic, partition, key, value } in records {
            file.write_all(&[*topic])?;
            file.write_all(&partition.to_le_bytes())?;
            file.write_all(&len(key)?.to_le_bytes())?;
            file.write_all(key)?;
            match value {
                Some(value) => {
                    file.write_all(&len(value)?.to_le_bytes())?;
                    file.write_all(value)?;
                }
                None => file.write_all(&TOMBSTONE.to_le_bytes())?,
            }
        }
        file.flush()
    };
    write().map_err(failed)
}

fn len(bytes: &[u8]) -> std::io::Result<u32> {
    u32::try_from(bytes.len()).map_err(std::io::Error::other)
}

/// Reads a recording.
pub(crate) fn read(path: &Path) -> Result<Vec<RecordingEntry>, BenchError> {
    let read = || {
        let mut file = BufReader::new(File::open(path)?);
        let mut records = Vec::new();
        let mut topic = [0];
        while file.read(&mut topic)? == 1 {
            let partition = i32::from_le_bytes(word(&mut file)?);
            let key = u32::from_le_bytes(word(&mut file)?);
            let key = bytes(&mut file, key)?;
            let value = match u32::from_le_bytes(word(&mut file)?) {
                TOMBSTONE => None,
                len => Some(bytes(&mut file, len)?),
            };
            records.push(RecordingEntry { topic: topic[0], partition, key, value });
        }
        Ok(records)
    };
    read().map_err(BenchError::io("reading a recording"))
}

fn word(file: &mut impl Read) -> std::io::Result<[u8; 4]> {
    let mut word = [0; 4];
    file.read_exact(&mut word).map(|()| word)
}

fn bytes(file: &mut impl Read, len: u32) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
    file.read_exact(&mut bytes).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_is_read_as_written() {
        let records = vec![
            RecordingEntry { topic: 0, partition: 11, key: b"k".to_vec(), value: Some(Vec::new()) },
            RecordingEntry { topic: 1, partition: 0, key: Vec::new(), value: None },
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &records).unwrap();
        assert_eq!(read(file.path()).unwrap(), records);
    }
}
